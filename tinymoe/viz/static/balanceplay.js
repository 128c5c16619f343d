// Balance without a loss: biases that move against the load, step by step, at a speed that the reader sets.

import { LineChart } from "./chart.js";
import { card, choice, count, fixed, h, number, onColors, rgb, slider } from "./common.js";
import { sum, violation } from "./routingbase.js";

const [SLOWEST, FASTEST] = [-4, -0.5]; // where the slider ends, in exponents of ten; left of it stands 0
const NOTCH = 0.1;
const LAST = 100; // steps that the figures are about

/** Normal numbers, the same for the same seed: mulberry32, and Box and Muller's method. */
export function normals(n, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Scores (steps, most, experts) of a router with lasting preferences, from unpopular to popular, and noise on top. */
export function scoresOf({ experts, steps }, most, seed = 1) {
  const noise = normals(steps * most * experts, seed);
  return noise.map((x, i) => 1 / (1 + Math.exp(-(x - 1 + (2 * (i % experts)) / (experts - 1)))));
}

/** Loads and biases, an array a step each, of the first `tokens` of every step; two experts a token. */
export function simulate(scores, { experts, steps, tokens, speed, fading }) {
  const most = scores.length / steps / experts;
  const bias = new Float64Array(experts);
  const [loads, biases] = [[], []];
  for (let step = 0; step < steps; step++) {
    const load = new Float64Array(experts);
    for (let token = 0; token < tokens; token++) {
      const at = (step * most + token) * experts;
      let [first, second] = [-1, -1];
      let [best, next] = [-Infinity, -Infinity];
      for (let e = 0; e < experts; e++) {
        const rank = scores[at + e] + bias[e];
        if (rank > best) [second, next, first, best] = [first, best, e, rank];
        else if (rank > next) [second, next] = [e, rank];
      }
      load[first]++;
      load[second]++;
    }
    loads.push(load);
    biases.push(bias.slice());
    const mean = (2 * tokens) / experts;
    const pace = speed * (fading ? 1 - step / steps : 1);
    for (let e = 0; e < experts; e++) bias[e] += pace * Math.sign(mean - load[e]);
  }
  return { loads, biases };
}

/** About how far the busiest is over the average when every token takes 2 experts blindly: the largest of n normals. */
export function chance({ experts, tokens }) {
  const a = Math.sqrt(2 * Math.log(experts));
  const largest = a + (0.577 - (Math.log(Math.log(experts)) + Math.log(4 * Math.PI)) / 2) / a;
  return largest * Math.sqrt((experts - 2) / (2 * tokens));
}

/** The sum of some loads, expert by expert. */
export const together = (loads) => loads[0].map((_, e) => sum(loads.map((load) => load[e])));

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "balanceplay", model.get("title"));
  let settings = { ...model.get("settings") };
  const { experts, steps } = settings;
  const scores = scoresOf(settings, 256);
  const notchOf = (speed) => (speed > 0 ? Math.log10(speed) : SLOWEST - NOTCH);
  const speedAt = (notch) => (notch < SLOWEST - NOTCH / 2 ? 0 : Number((10 ** notch).toPrecision(2)));
  const set = (change) => {
    settings = { ...settings, ...change };
    draw();
  };
  const controls = {
    speed: slider({ label: "speed of the biases", min: SLOWEST - NOTCH, max: FASTEST, step: NOTCH, value: notchOf(settings.speed), show: (x) => (speedAt(x) ? String(speedAt(x)) : "0, no balancing"), oninput: (x) => set({ speed: speedAt(x) }) }),
    tokens: slider({ label: "tokens in a step", min: 16, max: 256, step: 16, value: settings.tokens, show: count, oninput: (tokens) => set({ tokens }) }),
    fading: choice({ label: "speed over the steps", options: [[false, "steady"], [true, "fading to 0"]], value: settings.fading, onchange: (fading) => set({ fading }) }),
  };
  const map = h("canvas", { class: "tm-map", width: steps, height: experts, role: "img", "aria-label": "load of each expert, the most popular on top, over the steps" });
  const chart = (label, yLabel, height) => new LineChart({ label, xLabel: "step", yLabel, signal: life.signal, height, xFormat: count, yFormat: (y) => number(y, 2), yTicks: 3 });
  const [biasChart, violationChart] = [chart("Biases over the steps", "biases, less their mean", 190), chart("Max violation over the steps", "max violation", 190)];
  const facts = ["in a batch, on average", "all together"].map((name) => ({ name, value: h("dd", {}) }));
  const said = h("p", { class: "tm-note tm-said", role: "status" });
  const key = (kind, text) => h("span", { class: "tm-key" }, h("span", { class: `tm-swatch ${kind}` }), text);
  root.append(
    h("div", { class: "tm-controls" }, controls.speed.el, controls.tokens.el, h("div", {}, h("div", { class: "tm-slider-label" }, "speed over the steps"), controls.fading.el)),
    h("h4", {}, `Load of ${experts} experts, the most popular on top`), map,
    h("div", { class: "tm-keys" }, key("tm-idle", "idle"), key("tm-fair", "a fair share"), key("tm-busy", "twice as much, or more")),
    h("div", { class: "tm-pair" }, biasChart.el, violationChart.el),
    h("div", { class: "tm-facts" }, h("div", { class: "tm-which" }, `Max violation of the last ${LAST} steps`),
      h("dl", {}, facts.map(({ name, value }) => h("div", {}, h("dt", {}, name), value)))),
    said);

  let run;

  /** A pixel for each expert and step, from idle by way of fair to busy. */
  function paint() {
    if (!root.isConnected) return; // colors are known only within a page
    const context = map.getContext("2d");
    const image = context.createImageData(steps, experts);
    const [idle, fair, busy] = ["var(--tm-c0)", "var(--tm-well)", "var(--tm-c1)"].map((color) => rgb(root, color));
    run.loads.forEach((load, step) => load.forEach((n, e) => {
      const times = (n * experts) / (2 * settings.tokens);
      const [end, share] = times < 1 ? [idle, 1 - times] : [busy, Math.min(1, times - 1)];
      const at = ((experts - 1 - e) * steps + step) * 4;
      for (let c = 0; c < 3; c++) image.data[at + c] = fair[c] + (end[c] - fair[c]) * share;
      image.data[at + 3] = 255;
    }));
    context.putImageData(image, 0, 0);
  }

  function draw() {
    run = simulate(scores, settings);
    const x = Float32Array.from({ length: steps }, (_, step) => step);
    const shown = (e) => ({ name: e === experts - 1 ? "most popular" : e === 0 ? "least popular" : undefined, color: e === experts - 1 ? "var(--tm-c1)" : e === 0 ? "var(--tm-c0)" : "var(--tm-c6)", kind: "line", x, y: Float32Array.from(run.biases, (bias) => bias[e] - sum(bias) / experts) });
    biasChart.draw([...Array(experts).keys()].map(shown));
    violationChart.draw([{ name: "max violation", color: "var(--tm-c1)", kind: "line", x, y: Float32Array.from(run.loads, (load) => violation(load)) }], { yMin: 0, yMax: 2 });
    const last = run.loads.slice(-LAST);
    const [batch, all] = [sum(last.map((load) => violation(load))) / LAST, violation(together(last))];
    [batch, all].forEach((value, i) => (facts[i].value.textContent = fixed(value, 2)));
    const blind = chance(settings);
    said.textContent = `With ${settings.tokens} tokens in a step, chance alone makes the busiest of ${experts} experts about ${fixed(blind, 2)} too busy in a batch. ` +
      (settings.speed === 0 ? "No bias moves." : batch - all > 2 * blind ? "Each batch is more uneven than all of them together: the biases jump to and fro." : all > 0.2 ? "Even all together the load is uneven: the biases are still on their way." : "That is about as even as it gets.");
    paint();
  }

  onColors(map, life.signal, paint);
  draw();
  return () => life.abort();
}

export default { render };
