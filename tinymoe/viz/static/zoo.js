// The published models as points on axes of one's choice, with a card to read for each.

import { amount, billions, tokens } from "./amounts.js";
import { ticks } from "./chart.js";
import { card, choice, COLORS, count, follow, h, onResize, s, slider, typed } from "./common.js";

// Paths around (0, 0), alike in area, one for each series: told apart without color.
const SHAPES = [
  "M5.2 0A5.2 5.2 0 1 1 -5.2 0A5.2 5.2 0 1 1 5.2 0Z",
  "M-4.7 -4.7H4.7V4.7H-4.7Z",
  "M0 -6.6L6.2 4.4H-6.2Z",
  "M0 -6.8L5.6 0L0 6.8L-5.6 0Z",
  "M0 6.6L6.2 -4.4H-6.2Z",
  "M-2.1 -6.2H2.1V-2.1H6.2V2.1H2.1V6.2H-2.1V2.1H-6.2V-2.1H-2.1Z",
  "M0 -6.4L5.6 -3.2V3.2L0 6.4L-5.6 3.2V-3.2Z",
];
const KINDS = [["all", "all"], ["dense", "dense"], ["experts", "with experts"]];
const LICENSES = [["all", "any"], ["open source", "open source"], ["conditions", "with conditions"], ["research only", "research only"]];
const MARGIN = { left: 62, right: 26, top: 30, bottom: 42 };

export const sizes = (x) => (x >= 9.995e11 ? amount(x) : billions(x));
const FORMATS = {
  parameters: sizes, active: sizes, flops: (x) => amount(x, "FLOP"), kv: (x) => amount(x, "B"), context: tokens, year: String,
};

/** What an axis shows of model number `m`; `at` is the number of the chosen context among the lengths. */
export function valueOf(data, key, m, at) {
  if (key === "flops" || key === "kv") return data[key][m * data.lengths.length + at];
  return data.models[m][key];
}

/** Numbers of the models that the filters let through. */
export function shownModels(models, { series, kind, license }) {
  const fits = (one) => series.has(one.series) && (kind === "all" || (kind === "dense") === !one.experts) && (license === "all" || one.openness === license);
  return models.map((_, m) => m).filter((m) => fits(models[m]));
}

/** Round places for the ticks of a logarithmic axis: powers of two for contexts, else 1, 2 and 5 times powers of ten. */
export function logTicks(low, high, most, base = 10) {
  const from = Math.floor(Math.log(low) / Math.log(base));
  const to = Math.ceil(Math.log(high) / Math.log(base));
  const inside = (values) => values.filter((x) => x >= low * 0.999 && x <= high * 1.001);
  const powers = inside(Array.from({ length: to - from + 1 }, (_, i) => base ** (from + i)));
  if (base === 10) {
    const fine = inside(powers.length ? Array.from({ length: to - from + 1 }, (_, i) => [1, 2, 5].map((k) => k * 10 ** (from + i))).flat() : [low, high]);
    if (fine.length <= most) return fine;
  }
  const every = Math.ceil(powers.length / most);
  return powers.filter((_, i) => i % every === 0);
}

/** A scale { low, high, to } of values onto pixels from `a` to `b`, with some room at both ends. */
export function scale(values, isLog, a, b) {
  const change = isLog ? Math.log : (x) => x;
  const back = isLog ? Math.exp : (x) => x;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(change);
  const room = (high - low || 1) * 0.06;
  [low, high] = [low - room, high + room];
  return { low: back(low), high: back(high), to: (x) => a + ((change(x) - low) / (high - low)) * (b - a) };
}

/** The point that an arrow key leads to from `from`: the next one along that axis, by the place on screen. */
export function nextPoint(points, from, key) {
  const axis = key === "ArrowUp" || key === "ArrowDown" ? "y" : "x";
  const other = axis === "x" ? "y" : "x";
  const order = [...points].sort((a, b) => a[axis] - b[axis] || a[other] - b[other] || a.m - b.m);
  const at = order.findIndex((point) => point.m === from);
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  const to = key === "Home" ? 0 : key === "End" || at < 0 ? order.length - 1 : at + move;
  return order[Math.max(0, Math.min(order.length - 1, to))]?.m;
}

/** Places { m, x, y } for as many of the names as fit beside their points, and touch neither others nor `taken`. */
export function placeLabels(points, first, box, taken) {
  const free = ([x0, y0, x1, y1]) => x0 >= box[0] && y0 >= box[1] && x1 <= box[2] && y1 <= box[3] && !taken.some((t) => x0 < t[2] && x1 > t[0] && y0 < t[3] && y1 > t[1]);
  const placed = [];
  for (const { m, x, y, name } of [...points].sort((a, b) => (b.m === first) - (a.m === first))) {
    const width = name.length * 6.8 + 2;
    const spots = [[x + 9, y], [x - 9 - width, y], [x - width / 2, y - 14], [x - width / 2, y + 14]];
    const fitting = spots.find(([left, middle]) => free([left, middle - 7, left + width, middle + 7]));
    const spot = fitting ?? (m === first ? [x - width / 2, y - 18] : null);
    if (!spot) continue;
    taken.push([spot[0], spot[1] - 7, spot[0] + width, spot[1] + 7]);
    placed.push({ m, x: spot[0], y: spot[1] });
  }
  return placed;
}

const mark = (series, hasExperts) => [
  s("path", { d: SHAPES[series % SHAPES.length], class: hasExperts ? "tm-hollow" : "tm-solid", style: `--c:${COLORS[series % COLORS.length]}` }),
  hasExperts ? s("circle", { r: 1.7, class: "tm-solid", style: `--c:${COLORS[series % COLORS.length]}` }) : null,
];

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "zoo", model.get("title"));
  const series = model.get("series");
  const axes = model.get("axes");
  const data = { models: model.get("models"), lengths: model.get("lengths"), flops: typed(Float64Array, model.get("flops")), kv: typed(Float64Array, model.get("kv")) };
  const state = { x: model.get("x"), y: model.get("y"), at: data.lengths.indexOf(model.get("context")), series: new Set(series), kind: "all", license: "all" };
  let selected = model.get("selected");
  let looked = null;
  let points = [];
  let width = 0;

  const names = Object.entries(axes);
  const axisChoice = (axis, label) => choice({ label, options: names, value: state[axis], onchange: (key) => set({ [axis]: key }) });
  const toggles = series.map((name, i) => h("button", { type: "button", role: "checkbox", class: "tm-chip tm-series", onclick: () => toggle(name) },
    s("svg", { viewBox: "-8 -8 16 16", width: 15, height: 15, "aria-hidden": true }, mark(i, false)), name));
  const labelled = (label, ...inside) => h("div", { class: "tm-row" }, h("span", { class: "tm-label" }, label), inside);
  const context = slider({ label: "tokens of context", min: 0, max: data.lengths.length - 1, step: 1, value: state.at, show: (i) => tokens(data.lengths[i]), oninput: (i) => set({ at: i }) });

  const svg = s("svg", { class: "tm-chart tm-map", tabindex: 0, role: "group" });
  const spoken = h("div", { class: "tm-hidden", "aria-live": "polite" });
  const facts = h("div", { class: "tm-facts", role: "region", "aria-label": "the model pointed at" });
  const note = h("p", { class: "tm-note", role: "status" });
  const figure = h("figure", { class: "tm-figure" }, svg, spoken);
  root.append(
    h("div", { class: "tm-rows" },
      labelled("across", axisChoice("x", "axis across").el), labelled("up", axisChoice("y", "axis up").el),
      labelled("families", h("div", { class: "tm-choice", role: "group", "aria-label": "families" }, toggles)),
      h("div", { class: "tm-two" },
        labelled("kind", choice({ label: "kind", options: KINDS, value: "all", onchange: (kind) => set({ kind }) }).el),
        labelled("license", choice({ label: "license", options: LICENSES, value: "all", onchange: (license) => set({ license }) }).el))),
    h("div", { class: "tm-context" }, context.el),
    h("div", { class: "tm-view" }, figure, facts), note);

  svg.addEventListener("pointermove", (event) => look(nearestTo(event, 26)));
  svg.addEventListener("pointerleave", () => look(null));
  svg.addEventListener("click", (event) => {
    const m = nearestTo(event, 26);
    if (m !== null) select(m);
  });
  svg.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key) || !points.length) return;
    event.preventDefault();
    select(nextPoint(points, selected, event.key));
    spoken.textContent = spokenOf(selected);
  });
  follow(model, life.signal, "change:selected", () => select(model.get("selected")));
  onResize(figure, life.signal, (now) => {
    width = now;
    draw();
  });

  function toggle(name) {
    const next = new Set(state.series);
    if (!next.delete(name)) next.add(name);
    set({ series: next });
  }

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  function nearestTo(event, reach) {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const away = (point) => Math.hypot(point.x - px, point.y - py);
    const best = points.reduce((a, b) => (a === null || away(b) <= away(a) ? b : a), null); // of equals the one on top
    return best && away(best) <= reach ? best.m : null;
  }

  function look(m) {
    if (m === looked) return;
    looked = m;
    ring();
    describe();
  }

  function select(m) {
    selected = m;
    looked = null;
    draw();
  }

  const isShort = (m) => [state.x, state.y].some((key) => key === "flops" || key === "kv") && data.models[m].context < data.lengths[state.at];

  function draw() {
    toggles.forEach((button, i) => button.setAttribute("aria-checked", String(state.series.has(series[i]))));
    const shown = shownModels(data.models, state);
    note.textContent = noteOf(shown);
    if (!width) return;
    const height = Math.round(Math.max(340, Math.min(520, width * 0.72)));
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", `${axes[state.y]} over ${axes[state.x]} of ${shown.length} models. Arrow keys go from model to model.`);
    const everybody = data.models.map((_, m) => m); // filters leave the axes as they are
    const [toX, toY] = [["x", MARGIN.left, right], ["y", bottom, MARGIN.top]].map(([axis, a, b]) =>
      scale(everybody.map((m) => valueOf(data, state[axis], m, state.at)), state[axis] !== "year", a, b));
    points = shown.map((m) => ({ m, name: data.models[m].name, x: toX.to(valueOf(data, state.x, m, state.at)), y: toY.to(valueOf(data, state.y, m, state.at)) }));
    const marks = s("g", {}, points.map(({ m, x, y }) => s("g", {
      class: `tm-point${isShort(m) ? " tm-short" : ""}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "data-name": data.models[m].name,
    }, mark(series.indexOf(data.models[m].series), data.models[m].experts))));
    const box = [MARGIN.left + 2, MARGIN.top - 6, right + 16, bottom - 2];
    const lines = guides(toX, toY);
    const taken = [...points.map(({ x, y }) => [x - 9, y - 7, x + 9, y + 7]), ...lines.map(({ x, y }) => [x - 84, y - 10, x, y + 4])];
    const labels = s("g", { class: "tm-names" }, placeLabels(points.filter(({ m }) => !isShort(m)), selected, box, taken).map(({ m, x, y }) =>
      s("text", { x, y, dy: "0.32em", class: m === selected ? "tm-kept" : "" }, data.models[m].name)));
    const rings = s("g", { class: "tm-rings" });
    svg.replaceChildren(axesOf(toX, toY, width, height), ...lines.map(({ el }) => el), labels, marks, rings);
    ring();
    describe();
  }

  function axesOf(toX, toY, width, height) {
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const at = ({ low, high }, key, most) => (key === "year" ? ticks(Math.ceil(low), high, most).filter(Number.isInteger) : logTicks(low, high, most, key === "context" ? 2 : 10));
    const named = (key) => axes[key] + (key === "flops" || key === "kv" ? ` at ${tokens(data.lengths[state.at])} tokens` : "");
    return s("g", { class: "tm-axes" },
      at(toY, state.y, 8).map((y) => [s("line", { class: "tm-grid", x1: MARGIN.left, x2: right, y1: toY.to(y), y2: toY.to(y) }),
        s("text", { x: MARGIN.left - 9, y: toY.to(y), dy: "0.32em", "text-anchor": "end" }, FORMATS[state.y](y))]),
      at(toX, state.x, width / 80).map((x) => [s("line", { class: "tm-grid", x1: toX.to(x), x2: toX.to(x), y1: MARGIN.top, y2: bottom }),
        s("text", { x: toX.to(x), y: bottom + 18, "text-anchor": "middle" }, FORMATS[state.x](x))]),
      s("line", { class: "tm-base", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
      s("text", { class: "tm-axis-name", x: 0, y: 12 }, named(state.y)),
      s("text", { class: "tm-axis-name", x: right, y: height - 4, "text-anchor": "end" }, named(state.x)));
  }

  /** With parameters on both axes { el, x, y }: a line where all of them are used, one where a tenth is, and their names. */
  function guides(toX, toY) {
    const up = state.y === "active";
    if (!(up ? state.x === "parameters" : state.x === "active" && state.y === "parameters")) return [];
    const [toAll, toActive] = up ? [toX, toY] : [toY, toX];
    return [1, 0.1].map((share) => {
      const ends = [Math.max(toAll.low, toActive.low / share), Math.min(toAll.high, toActive.high / share)];
      const [[x1, y1], [x2, y2]] = ends.map((all) => (up ? [toX.to(all), toY.to(all * share)] : [toX.to(all * share), toY.to(all)]));
      const [x, y] = [x2 - 12, y2 + 4];
      return { x, y, el: s("g", {}, s("line", { class: "tm-reference", x1, y1, x2, y2 }), s("text", { class: "tm-guide", x, y, "text-anchor": "end" }, share === 1 ? "all active" : "a tenth active")) };
    });
  }

  function ring() {
    const rings = svg.querySelector(".tm-rings");
    const around = (m, kind) => points.filter((point) => point.m === m).map(({ x, y }) => s("circle", { cx: x, cy: y, r: 11, class: kind }));
    rings?.replaceChildren(...around(selected, "tm-kept"), ...(looked === null ? [] : around(looked, "tm-looked")));
  }

  function describe() {
    const m = looked ?? selected;
    const one = data.models[m];
    const at = data.lengths[state.at];
    const place = points.find((point) => point.m === m);
    const same = place ? points.filter((point) => point.m !== m && Math.hypot(point.x - place.x, point.y - place.y) < 4) : [];
    const row = (term, ...words) => [h("dt", {}, term), h("dd", {}, words)];
    facts.replaceChildren(
      h("h4", {}, s("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": true }, mark(series.indexOf(one.series), one.experts)), one.name),
      h("p", { class: "tm-note" }, `${one.maker}, ${one.month}; model_type ${one.family}`),
      h("dl", {},
        row("parameters", sizes(one.parameters), one.active < 0.9 * one.parameters ? h("span", {}, `, ${sizes(one.active)} active (${Math.round((100 * one.active) / one.parameters)} %)`) : ""),
        row("experts", one.experts || "none: dense"),
        row("attention", one.attention),
        row("longest context", `${count(one.context)} tokens`),
        row(`at ${tokens(at)} tokens`, `${amount(valueOf(data, "flops", m, state.at), "FLOP")} and ${amount(valueOf(data, "kv", m, state.at), "B")} of cache a token`, at > one.context ? h("em", {}, " (made for shorter texts)") : ""),
        row("license", h("b", {}, one.license), ` (${one.openness}): ${one.terms}`)),
      ...(place ? [] : [h("p", { class: "tm-note" }, "The filters hide it.")]),
      ...(same.length ? [h("p", { class: "tm-note" }, `At the same place: ${same.map((point) => point.name).join(", ")}.`)] : []));
  }

  function spokenOf(m) {
    const say = (key) => `${axes[key]} ${key === "year" ? data.models[m].month : FORMATS[key](valueOf(data, key, m, state.at))}`;
    return `${data.models[m].name}: ${say(state.x)}, ${say(state.y)}`;
  }

  function noteOf(shown) {
    if (!shown.length) return "No model is left: choose more families, or another license.";
    const short = shown.filter(isShort).length;
    return `${shown.length} of ${data.models.length} models. Filled: dense; hollow with a dot: a mixture of experts. ${short ? `Pale: ${short} made for texts shorter than ${tokens(data.lengths[state.at])}.` : ""}`;
  }

  draw();
  describe();
  return () => life.abort();
}

export default { render };
