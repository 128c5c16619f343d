// RoPE's clocks: hands to drag, ways to stretch them, turns against the trained length, scores against distance.

import { LineChart } from "./chart.js";
import { card, choice, count, fixed, h, number, s, slider } from "./common.js";

const KINDS = { none: "as trained", linear: "linear", ntk: "NTK", yarn: "YaRN", llama3: "Llama 3.1" };
const TURN = 2 * Math.PI;
const DIALS = 8;

/** Radians a token of each clock, as trained. */
export function clocks({ head_dim, theta }) {
  return Array.from({ length: head_dim / 2 }, (_, i) => theta ** ((-2 * i) / head_dim));
}

const clip = (x) => Math.min(1, Math.max(0, x));

/** How far each clock is slowed by YaRN, from 0 to 1: as `yarn_ramp` in nn/scaling.py. */
function ramp({ head_dim, theta, trained }) {
  const clockOf = (turns) => (head_dim * Math.log(trained / (turns * TURN))) / (2 * Math.log(theta));
  const first = Math.max(Math.floor(clockOf(32)), 0);
  const last = Math.min(Math.ceil(clockOf(1)), head_dim - 1);
  return Array.from({ length: head_dim / 2 }, (_, i) => clip((i - first) / (last - first || 0.001)));
}

/** Radians a token of each clock, stretched: as the classes of nn/scaling.py compute them. */
export function stretched({ kind, factor, ...shape }) {
  const before = clocks(shape);
  const mix = (slowed) => before.map((f, i) => f * (1 - slowed[i]) + (f / factor) * slowed[i]);
  if (kind === "linear") return before.map((f) => f / factor);
  if (kind === "ntk") return clocks({ ...shape, theta: shape.theta * factor ** (shape.head_dim / (shape.head_dim - 2)) });
  if (kind === "yarn") return mix(ramp(shape));
  if (kind === "llama3") return mix(before.map((f) => 1 - clip(((shape.trained * f) / TURN - 1) / (4 - 1))));
  return before;
}

/** What YaRN multiplies scores by: its factor on queries, and again on keys. */
export const sharpness = ({ kind, factor }) => (kind === "yarn" ? (0.1 * Math.log(factor) + 1) ** 2 : 1);

/** The score of a query with an equal key so many tokens before it; 1 at distance 0 before any sharpening. */
export const score = (frequencies, distance) => frequencies.reduce((sum, f) => sum + Math.cos(distance * f), 0) / frequencies.length;

/** Whether a hand points where the clock, as trained, pointed too at some position of the trained text. */
export function known(angle, frequency, trained) {
  const seen = frequency * (trained - 1);
  return seen >= TURN || angle % TURN <= seen + 1e-9;
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const tokens = (x) => (x < 10 ? fixed(x, 1) : x < 10000 ? count(x) : compact.format(x));

const at = (angle, radius) => [radius * Math.sin(angle), -radius * Math.cos(angle)]; // from the top, clockwise

function sector(angle, radius) {
  const [x, y] = at(angle, radius);
  return `M0 0L0 ${-radius}A${radius} ${radius} 0 ${angle > Math.PI ? 1 : 0} 1 ${x} ${y}Z`;
}

/** One clock face. `turned(delta)` hears by how many radians the reader drags the hand. */
function dial(pair, seen, turned) {
  const hand = s("line", { class: "tm-hand", x1: 0, y1: 0 });
  const tip = s("circle", { class: "tm-hand-tip", r: 5.5 });
  const known = seen >= TURN ? s("circle", { class: "tm-seen", r: 40 }) : s("path", { class: "tm-seen", d: sector(seen, 40) });
  const face = s("svg", { class: "tm-face", viewBox: "-48 -48 96 96", "aria-hidden": "true" },
    s("circle", { class: "tm-rim", r: 44 }), known, s("line", { class: "tm-noon", x1: 0, x2: 0, y1: -44, y2: -37 }), hand, tip, s("circle", { class: "tm-pin", r: 2.5 }));
  const period = h("span", {});
  const slower = h("span", { class: "tm-slower" });
  const el = h("div", { class: "tm-dial" }, face, h("b", {}, `pair ${pair}`), h("span", { class: "tm-period" }, period, " ", h("span", {}, "tokens/turn")), slower);
  let last = null;
  const pointed = (event) => {
    const box = face.getBoundingClientRect();
    return Math.atan2(event.clientX - box.left - box.width / 2, box.top + box.height / 2 - event.clientY);
  };
  face.addEventListener("pointerdown", (event) => {
    last = pointed(event);
    face.setPointerCapture(event.pointerId);
  });
  face.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const now = pointed(event);
    turned(((now - last + 3 * Math.PI) % TURN) - Math.PI);
    last = now;
  });
  for (const end of ["pointerup", "pointercancel"]) face.addEventListener(end, () => (last = null));
  const draw = (angle, inside, turn, ratio) => {
    const [x, y] = at(angle, 38);
    hand.setAttribute("x2", x);
    hand.setAttribute("y2", y);
    tip.setAttribute("cx", x);
    tip.setAttribute("cy", y);
    el.classList.toggle("tm-new", !inside);
    period.textContent = tokens(turn);
    slower.textContent = ratio > 1.005 ? `${fixed(ratio, ratio < 9.95 ? 1 : 0)}× slower` : "\u00a0";
  };
  return { el, pair, draw };
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "positions", model.get("title"));
  let settings = { ...model.get("settings") };
  const { head_dim, trained, longest } = settings;
  const pairs = head_dim / 2;
  let position = settings.position;

  const drawn = Array.from({ length: Math.min(DIALS, pairs) }, (_, k, n = Math.min(DIALS, pairs)) => Math.round((k * (pairs - 1)) / Math.max(1, n - 1)));
  const faces = h("div", { class: "tm-dials" });
  let dials = [];

  const controls = {
    kind: choice({ label: "way to stretch", options: Object.entries(KINDS), value: settings.kind, onchange: (kind) => set({ kind }) }),
    position: slider({ label: "position", min: 0, max: longest - 1, step: 1, value: position, show: (p) => count(p), oninput: move }),
    factor: slider({ label: "factor", min: 1, max: longest / trained, step: 0.5, value: settings.factor, show: (f) => `${number(f)}×`, oninput: (factor) => set({ factor }) }),
    theta: slider({ label: "theta", min: 2, max: 6, step: 0.05, value: Math.log10(settings.theta), show: (x) => count(Number((10 ** x).toPrecision(2))), oninput: (x) => set({ theta: Number((10 ** x).toPrecision(2)) }) }),
  };
  const status = h("p", { class: "tm-note tm-state", role: "status" });
  const scores = new LineChart({ label: "Score over distance", xLabel: "distance (tokens)", yLabel: "score of a query with an equal key", signal: life.signal, height: 220, xFormat: count, yFormat: (y, exact) => (exact ? fixed(y, 3) : number(y, 2)), yTicks: 4, oncursor: (x) => x !== null && move(Math.max(0, Math.min(longest - 1, Math.round(x)))) });
  const turns = new LineChart({ label: "Tokens for a turn of each clock", xLabel: "pair", yLabel: "tokens for a turn", signal: life.signal, height: 220, xFormat: (x) => number(x), yFormat: (y, exact) => (exact ? tokens(10 ** y) : compact.format(Number((10 ** y).toPrecision(2)))), yTicks: 5 });
  const key = (color, text) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${color}` }), text);
  const [chosenKey, trainedKey] = [key("var(--tm-c0)", ""), key("var(--tm-c6)", "as trained")];
  root.append(controls.kind.el,
    h("div", { class: "tm-sliders" }, controls.position.el, controls.factor.el, controls.theta.el),
    faces, status, h("div", { class: "tm-pair" }, turns.el, scores.el),
    h("div", { class: "tm-keys" }, chosenKey, trainedKey, key("var(--tm-seen)", "directions seen in training"), key("var(--tm-warm)", "a hand where it never was")));

  function set(change) {
    settings = { ...settings, ...change };
    if (change.theta) layDials();
    draw();
  }

  function move(next) {
    position = next;
    controls.position.set(Math.round(position));
    drawHands();
    scores.showCursor(Math.round(position));
  }

  /** New faces: which directions were seen depends on the clocks as trained. */
  function layDials() {
    const before = clocks(settings);
    dials = drawn.map((pair) => dial(pair, before[pair] * (trained - 1), (delta) => move(Math.max(0, Math.min(longest - 1, position + delta / stretched(settings)[pair])))));
    faces.replaceChildren(...dials.map((one) => one.el));
  }

  function drawHands() {
    const [before, now] = [clocks(settings), stretched(settings)];
    const place = Math.round(position);
    const inside = now.map((f, i) => known(place * f, before[i], trained));
    // A fraction of a position lets the hand follow the pointer while it is dragged.
    for (const { pair, draw: show } of dials) show(position * now[pair], inside[pair], TURN / now[pair], before[pair] / now[pair]);
    const lost = inside.filter((yes) => !yes).length;
    const where = place < trained ? "inside the text trained on" : `${number(place / trained, 2)} times as far as the text trained on`;
    status.textContent = `Position ${count(place)}, ${where}. ${lost ? `${lost} of ${pairs} hands point where they never pointed in training.` : "Every hand points where it has pointed in training."} ` +
      `From token to token the fastest clock moves ${fixed(now[0], 2)} radians${now[0] < 0.995 * before[0] ? `, not ${fixed(before[0], 2)}: neighbors look more alike` : ", as in training"}.`;
  }

  function draw() {
    controls.factor.el.classList.toggle("tm-idle", settings.kind === "none");
    drawHands();
    const [before, now] = [clocks(settings), stretched(settings)];
    const far = Math.round(longest / 2);
    const x = Float32Array.from({ length: far + 1 }, (_, d) => d);
    const line = (frequencies, by) => x.map((d) => by * score(frequencies, d));
    const chosen = settings.kind !== "none";
    chosenKey.lastChild.textContent = KINDS[settings.kind];
    trainedKey.hidden = !chosen;
    const series = [{ color: "var(--tm-strong)", kind: "ghost", x: [trained, trained], y: [-0.55, 1.7] }];
    const asTrained = { name: "as trained", color: "var(--tm-c6)", x, y: line(before, 1) };
    series.push({ ...asTrained, kind: chosen ? "ghost" : "line", color: chosen ? "var(--tm-c6)" : "var(--tm-c0)" });
    if (chosen) series.push({ name: KINDS[settings.kind], color: "var(--tm-c0)", kind: "line", x, y: line(now, sharpness(settings)) });
    scores.draw(series, { xMax: far, yMin: -0.6, yMax: 1.75 });
    const index = before.map((_, i) => i);
    const log = (frequencies) => frequencies.map((f) => Math.log10(TURN / f));
    const spokes = [{ name: "as trained", color: chosen ? "var(--tm-c6)" : "var(--tm-c0)", kind: "dots", x: index, y: log(before) }];
    if (chosen) spokes.push({ name: KINDS[settings.kind], color: "var(--tm-c0)", kind: "dots", x: index, y: log(now) });
    const lengths = { [`trained on ${count(trained)}`]: Math.log10(trained) };
    if (chosen && settings.factor > 1) lengths[`stretched to ${count(trained * settings.factor)}`] = Math.log10(trained * settings.factor);
    turns.draw(spokes, { references: lengths, xMax: pairs - 0.9 });
  }

  layDials();
  draw();
  return () => life.abort();
}

export default { render };
