// Sparse attention to play with: which tokens an indexer keeps for a query, and how much of the attention they hold.

import { LineChart } from "./chart.js";
import { card, choice, count, h, inline, percent, slider, typed, wordPointer } from "./common.js";

const CHOOSERS = [["indexer", "the indexer"], ["window", "a window"], ["best", "the best k (cheating)"]];
const COLOR = { indexer: "var(--tm-c0)", window: "var(--tm-c1)", best: "var(--tm-c2)" };

/** The keys 0…t in the order in which a chooser takes them. */
export function orderOf(chooser, t, weights, ranks) {
  const keys = Array.from({ length: t + 1 }, (_, s) => s);
  if (chooser === "indexer") return keys.sort((a, b) => ranks[a] - ranks[b]);
  if (chooser === "window") return keys.reverse();
  return keys.sort((a, b) => weights[b] - weights[a] || b - a);
}

/** The share of a query's attention that the first 0, 1, 2, … keys of an order hold. */
export function held(order, weights) {
  const total = order.reduce((sum, s) => sum + weights[s], 0) || 1;
  const shares = [0];
  for (const s of order) shares.push(shares[shares.length - 1] + weights[s] / total);
  return shares;
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "kept", model.get("title"));
  const tokens = model.get("tokens");
  const n = tokens.length;
  const layers = model.get("layers");
  const all = { weights: typed(Uint16Array, model.get("weights")), ranks: typed(Uint16Array, model.get("ranks")) };
  let layer = 0;
  let chooser = "indexer";
  let k = model.get("k");
  let query = model.get("query");

  const row = (table, t) => table.subarray((layer * n + t) * n, (layer * n + t) * n + t + 1);
  const share = (who, t, keys) => {
    const weights = row(all.weights, t);
    return held(orderOf(who, t, weights, row(all.ranks, t)), weights)[Math.min(keys, t + 1)];
  };

  const group = (label, control) => h("div", {}, h("div", { class: "tm-slider-label" }, label), control.el);
  const whichLayer = choice({ label: "layer", options: layers.map((name, i) => [i, name]), value: layer, onchange: (i) => {
    layer = i;
    drawAll();
  } });
  const whichChooser = choice({ label: "who chooses", options: CHOOSERS, value: chooser, onchange: (who) => {
    chooser = who;
    read(query);
  } });
  const howMany = slider({ label: "k, tokens kept", min: 1, max: n, step: 1, value: k, show: (x) => `${x} of ${n}`, oninput: (x) => {
    k = x;
    drawAll();
  } });
  const chips = [];
  const words = h("div", { class: "tm-words", tabindex: 0, role: "listbox", "aria-label": "tokens; arrow keys choose the query" },
    inline(n, (i) => (chips[i] = h("span", { class: "tm-word", role: "option", "data-i": i })), (i) => tokens[i]));
  const state = h("p", { class: "tm-note tm-state", role: "status" });
  const chart = (label) => new LineChart({ label, xLabel: "k (tokens kept)", yLabel: "attention held", signal: life.signal, height: 200, xFormat: count, yFormat: (y) => (y ? percent(y) : "0"), yTicks: 5, oncursor: () => {} });
  const one = chart("Attention held for this query, over k");
  const every = chart("Attention held on average over all queries, over k");
  const oneTitle = h("h4", {});
  const key = (color, text) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${color}` }), text);
  root.append(
    h("div", { class: "tm-controls" }, layers.length > 1 ? group("layer", whichLayer) : null, group("who chooses", whichChooser), howMany.el),
    words,
    h("div", { class: "tm-keys" }, h("span", { class: "tm-key" }, h("span", { class: "tm-sample tm-looked" }, "shaded"), " the more, the more attention"),
      h("span", { class: "tm-key" }, h("span", { class: "tm-sample tm-kept" }, "underlined"), " kept"),
      h("span", { class: "tm-key" }, h("span", { class: "tm-sample tm-query" }, "framed"), " the query")),
    state,
    h("div", { class: "tm-pair" }, h("div", {}, oneTitle, one.el), h("div", {}, h("h4", {}, "All queries, on average"), every.el)),
    h("div", { class: "tm-keys" }, CHOOSERS.map(([who, text]) => key(COLOR[who], text))));

  const curves = (points, of) => CHOOSERS.map(([who, name]) => ({ name, kind: "line", color: COLOR[who], x: points, y: Float32Array.from(points, (x) => of(who, x)) }));
  const mark = { color: "var(--tm-strong)", kind: "ghost" };
  const here = () => ({ ...mark, x: [k, k], y: [0, 1] });

  /** The average over the queries for which there is something to leave out. */
  function drawAll() {
    const points = Float32Array.from(new Set([1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128].filter((x) => x < n).concat(n)));
    const from = Math.floor(n / 4);
    const sums = Object.fromEntries(CHOOSERS.map(([who]) => [who, new Float64Array(points.length)]));
    for (let t = from; t < n; t++) {
      const [weights, ranks] = [row(all.weights, t), row(all.ranks, t)];
      for (const [who] of CHOOSERS) {
        const shares = held(orderOf(who, t, weights, ranks), weights);
        points.forEach((x, i) => (sums[who][i] += shares[Math.min(x, t + 1)] / (n - from)));
      }
    }
    const series = CHOOSERS.map(([who, name]) => ({ name, kind: "line", color: COLOR[who], x: points, y: Float32Array.from(sums[who]) }));
    every.draw([here(), ...series], { xMax: n, yMin: 0, yMax: 1 });
    read(query);
  }

  /** Show query `t`: how much it looks at each token, and which of them are kept. */
  function read(t) {
    query = t;
    const weights = row(all.weights, t);
    const order = orderOf(chooser, t, weights, row(all.ranks, t));
    const kept = new Set(order.slice(0, k));
    // The query often looks at itself the most; the others should not pale beside that.
    const top = Math.max(...weights.subarray(0, t), 1);
    chips.forEach((chip, s) => {
      const w = s <= t ? weights[s] / 65535 : 0;
      chip.style.setProperty("--p", s <= t ? `${Math.round(45 * Math.sqrt(Math.min(1, weights[s] / top)))}%` : "0%");
      chip.classList.toggle("tm-query", s === t);
      chip.classList.toggle("tm-kept", s <= t && kept.has(s));
      chip.classList.toggle("tm-left", s <= t && !kept.has(s));
      chip.classList.toggle("tm-future", s > t);
      chip.setAttribute("aria-selected", String(s === t));
      chip.title = s > t ? "the future" : `attention ${percent(w)}, ${kept.has(s) ? "kept" : "left out"}`;
    });
    const shares = CHOOSERS.map(([who]) => percent(share(who, t, k)).replace(" ", "\u00a0"));
    oneTitle.textContent = `This query, token ${t + 1}`;
    state.textContent = k > t ? `Token ${t + 1} has only ${t + 1} tokens to look at, and all are kept.`
      : `Token ${t + 1} looks at ${t + 1} tokens. The ${k} that the indexer keeps hold ${shares[0]} of its attention; a window of ${k} holds ${shares[1]}; the best ${k} hold ${shares[2]}.`;
    const points = Float32Array.from({ length: t + 2 }, (_, i) => i);
    const table = Object.fromEntries(CHOOSERS.map(([who]) => [who, held(orderOf(who, t, weights, row(all.ranks, t)), weights)]));
    one.draw([here(), ...curves(points, (who, x) => table[who][x])], { xMax: n, yMin: 0, yMax: 1 });
  }

  wordPointer(words, { count: n, start: query, read });
  drawAll();
  return () => life.abort();
}

export default { render };
