// What a long text costs: the KV cache, and the operations for the next token, of models side by side.

import { amount, billions, tokens } from "./amounts.js";
import { LineChart, nearest } from "./chart.js";
import { card, choice, COLORS, count, h, slider, typed } from "./common.js";

const WIDTHS = [[2, "16 bits"], [1, "8 bits"], [0.5, "4 bits"]];

/** Costs of model `m` at length number `i`: bytes of cache and weights, operations of the weights and of attention. */
export function costs({ models, points, cached, work }, m, i, { bytes, texts }) {
  const { operations, parameters } = models[m];
  return { cache: cached[m * points + i] * bytes * texts, weights: parameters * 2, operations, attention: work[m * points + i] };
}

/** Where the axis of a chart of these values begins and ends, in whole powers of ten. */
export const decades = (values) => [Math.floor(Math.log10(Math.min(...values)) + 1e-9), Math.ceil(Math.log10(Math.max(...values)) - 1e-9)];

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "calculator", model.get("title"));
  const lengths = model.get("lengths");
  const data = { models: model.get("models"), points: lengths.length, cached: typed(Float64Array, model.get("cached")), work: typed(Float64Array, model.get("work")) };
  const most = model.get("most");
  // A model keeps its color for as long as it is shown.
  const colorOf = new Map(model.get("chosen").map((m, i) => [m, i]));
  let settings = { bytes: 2, texts: 1 };
  let at = nearest(lengths, model.get("context"));

  const chips = data.models.map(({ name }, m) => h("button", { type: "button", role: "checkbox", class: "tm-chip tm-model", onclick: () => toggle(m) }, h("span", { class: "tm-swatch" }), name));
  const controls = {
    context: slider({ label: "tokens read so far", min: 0, max: lengths.length - 1, step: 1, value: at, show: (i) => `${count(lengths[i])} (${tokens(lengths[i])})`, oninput: (i) => move(i) }),
    texts: slider({ label: "texts at once", min: 0, max: 8, step: 1, value: 0, show: (i) => count(2 ** i), oninput: (i) => set({ texts: 2 ** i }) }),
    bytes: choice({ label: "a number in the cache takes", options: WIDTHS, value: 2, onchange: (bytes) => set({ bytes }) }),
  };
  const chart = (label, unit, yLabel) => new LineChart({
    label, yLabel, xLabel: "tokens read so far", signal: life.signal, height: 240, xFormat: (x) => tokens(1024 * 2 ** x),
    yFormat: (y, exact) => (exact ? amount(10 ** y, unit) : amount(10 ** y).replace(" ", "")), oncursor: (x) => x !== null && move(nearest(lengths, 1024 * 2 ** x)),
  });
  const memory = chart("KV cache over length", "B", "KV cache (bytes)");
  const effort = chart("Operations over length", "FLOP", "operations for the next token (FLOP)");
  const rows = h("div", { class: "tm-costs", role: "table", "aria-label": "costs at this length" });
  const facts = h("p", { class: "tm-note", role: "status" });
  root.append(
    h("div", { class: "tm-models", role: "group", "aria-label": "models" }, chips),
    h("div", { class: "tm-sliders" }, controls.context.el, controls.texts.el, h("div", {}, h("div", { class: "tm-slider-label" }, "a number in the cache takes"), controls.bytes.el)),
    h("div", { class: "tm-pair" }, memory.el, effort.el), rows, facts);

  function toggle(m) {
    if (colorOf.has(m)) {
      if (colorOf.size > 1) colorOf.delete(m);
    } else if (colorOf.size < most) {
      const used = new Set(colorOf.values());
      colorOf.set(m, COLORS.findIndex((_, i) => !used.has(i)));
    }
    draw();
  }

  function set(change) {
    settings = { ...settings, ...change };
    draw();
  }

  function move(i) {
    at = i;
    controls.context.set(i);
    draw();
  }

  function draw() {
    const shown = [...colorOf.keys()].sort((a, b) => a - b);
    chips.forEach((chip, m) => {
      chip.setAttribute("aria-checked", String(colorOf.has(m)));
      chip.disabled = !colorOf.has(m) && colorOf.size >= most;
      chip.style.setProperty("--c", colorOf.has(m) ? COLORS[colorOf.get(m)] : "var(--tm-strong)");
    });
    const xs = lengths.map((n) => Math.log2(n / 1024));
    const plot = (line, value) => {
      const all = shown.map((m) => lengths.map((_, i) => value(costs(data, m, i, settings))));
      const [low, high] = decades(all.flat());
      const series = [{ color: "var(--tm-strong)", kind: "ghost", x: [xs[at], xs[at]], y: [low, high] }];
      shown.forEach((m, k) => {
        const color = COLORS[colorOf.get(m)];
        const y = all[k].map(Math.log10);
        const made = lengths.filter((n) => n <= data.models[m].context).length;
        // Thin where the text is longer than the model was made for.
        series.push({ name: data.models[m].name, color, kind: "ghost", x: xs, y }, { color, kind: "line", x: xs.slice(0, made), y: y.slice(0, made) });
      });
      line.yTicks = high - low;
      line.draw(series, { yMin: low, yMax: high });
    };
    plot(memory, ({ cache }) => cache);
    plot(effort, ({ operations, attention }) => operations + attention);
    table(shown);
  }

  function table(shown) {
    const now = shown.map((m) => [m, costs(data, m, at, settings)]);
    const top = { cache: Math.max(...now.map(([, one]) => one.cache)), effort: Math.max(...now.map(([, one]) => one.operations + one.attention)) };
    const bar = (color, ...parts) => h("span", { class: "tm-cost-bar", style: `--c:${color}` }, parts.map((share, i) => h("span", { class: i ? "tm-more" : "", style: `width:${100 * share}%` })));
    const cell = (name, ...inside) => h("div", { class: `tm-cost-${name}`, role: "cell" }, inside);
    const head = (text) => h("div", { class: "tm-label", role: "columnheader" }, text);
    rows.replaceChildren(
      h("div", { role: "row" }, head(""), head("KV cache"), head("operations: weights and, paler, attention")),
      ...now.map(([m, { cache, weights, operations, attention }]) => {
        const { name, parameters, active } = data.models[m];
        const color = COLORS[colorOf.get(m)];
        const size = active < 0.9 * parameters ? `${billions(parameters)} parameters, ${billions(active)} active` : `${billions(parameters)} parameters`;
        return h("div", { role: "row" },
          cell("name", h("b", { style: `color: color-mix(in srgb, ${color} 65%, var(--tm-ink))` }, name), h("span", {}, size)),
          cell("value", bar(color, cache / top.cache), h("span", {}, h("b", {}, amount(cache, "B")), ` + ${amount(weights, "B")} of weights`)),
          cell("value", bar(color, operations / top.effort, attention / top.effort), h("span", {}, h("b", {}, amount(operations + attention, "FLOP")), `, ${Math.round((100 * attention) / (operations + attention))} % attention`)));
      }));
    const beyond = shown.filter((m) => lengths[at] > data.models[m].context).map((m) => `${data.models[m].name} (${tokens(data.models[m].context)})`);
    facts.textContent = `${colorOf.size >= most ? `${most} models are as many as can be told apart. ` : ""}Weights in 16 bits. ${beyond.length ? `Made for shorter texts, thin lines: ${beyond.join(", ")}.` : "All of these were made for texts of this length."}`;
  }

  draw();
  return () => life.abort();
}

export default { render };
