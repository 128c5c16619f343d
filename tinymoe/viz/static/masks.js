// Attention's rules to play with: what each token of a sentence sees, and how much of it.

import { bars, card, choice, fixed, h, onColors, percent, rgb, slider, typed, visible, wordPointer } from "./common.js";

const CAPS = [0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30, 50];

/** Whether query `t` may see key `s`: causal, inside the window, of the same document. */
export function seen(t, s, { window, documents }, numbers) {
  return s <= t && (window === null || t - s < window) && (!documents || numbers[t] === numbers[s]);
}

/** Scores of one query after cap and slope: { bent, weights } for keys 0…t, null where it may not look, and the sink's share. */
export function attend(row, t, rules, numbers) {
  const bent = Array.from({ length: t + 1 }, (_, s) => {
    if (!seen(t, s, rules, numbers)) return null;
    const capped = rules.softcap === null ? row[s] : rules.softcap * Math.tanh(row[s] / rules.softcap);
    return capped - rules.slope * (t - s);
  });
  const all = rules.sink === null ? bent : [...bent, rules.sink];
  const top = Math.max(...all.filter((x) => x !== null));
  const exps = all.map((x) => (x === null ? null : Math.exp(x - top)));
  const total = exps.reduce((sum, x) => sum + (x ?? 0), 0);
  const shares = exps.map((x) => (x === null ? null : x / total));
  return { bent, weights: shares.slice(0, t + 1), sink: rules.sink === null ? 0 : shares[t + 1] };
}

/** For each key 0…t the number of layers it takes until query `t` can know of it, or Infinity. */
export function layersTo(t, rules, numbers) {
  const steps = Array(t + 1).fill(Infinity);
  steps[t] = 0;
  for (let from = t; from >= 0; from--) {
    // Keys stand before their queries, so that going down each place is final when it is reached.
    if (steps[from] === Infinity) continue;
    for (let s = 0; s < from; s++) {
      if (seen(from, s, rules, numbers)) steps[s] = Math.min(steps[s], steps[from] + 1);
    }
  }
  return steps;
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "masks", model.get("title"));
  const tokens = model.get("tokens");
  const n = tokens.length;
  const heads = model.get("heads");
  const numbers = model.get("documents");
  const presets = model.get("presets");
  const all = typed(Float32Array, model.get("scores"));
  let head = 0;
  let rules = { ...presets[0] };
  let query = model.get("query");
  let paints = [];

  const row = (t) => all.subarray((head * n + t) * n, (head * n + t) * n + n);
  const off = (text) => (x) => (x === null ? "off" : text(x));
  const controls = {
    window: slider({ label: "window", min: 1, max: n, step: 1, value: n, show: (k) => (k >= n ? "all" : `${k} tokens`), oninput: (k) => set({ window: k >= n ? null : k }) }),
    softcap: slider({ label: "soft-cap", min: 0, max: CAPS.length, step: 1, value: CAPS.length, show: (i) => off(String)(CAPS[i] ?? null), oninput: (i) => set({ softcap: CAPS[i] ?? null }) }),
    sink: slider({ label: "sink's score", min: -6.5, max: 10, step: 0.5, value: -6.5, show: (x) => off((y) => fixed(y, 1))(x < -6 ? null : x), oninput: (x) => set({ sink: x < -6 ? null : x }) }),
    slope: slider({ label: "ALiBi's slope", min: 0, max: 1, step: 0.05, value: 0, show: (x) => (x ? fixed(x, 2) : "off"), oninput: (slope) => set({ slope }) }),
  };
  const variants = choice({ label: "variant", options: [...presets.map((one) => [one.name, one.name]), ["", "my own"]], value: presets[0].name, onchange: (name) => name && jump(presets.find((one) => one.name === name)) });
  const whichHead = choice({ label: "scores of", options: heads.map((name, i) => [i, name]), value: 0, onchange: (i) => {
    head = i;
    draw();
  } });
  const texts = choice({ label: "texts", options: [[false, "one text"], [true, "apart"]], value: false, onchange: (documents) => set({ documents }) });
  const group = (label, control) => h("div", {}, h("div", { class: "tm-slider-label" }, label), control.el);

  const map = h("canvas", { class: "tm-map", width: n, height: n, role: "img", "aria-label": "the whole table: rows are queries, columns are keys" });
  const strip = h("canvas", { class: "tm-strip", width: 1, height: n, role: "img", "aria-label": "each query's attention to the sink" });
  const line = h("span", { class: "tm-map-row" });
  const frame = h("div", { class: "tm-frame" }, strip, map, line);
  const chips = tokens.map((token, i) => h("span", { class: "tm-word", role: "option", "data-i": i }, visible(token)));
  const words = h("div", { class: "tm-words", tabindex: 0, role: "listbox", "aria-label": "tokens; arrow keys choose the query" }, chips);
  const facts = h("p", { class: "tm-note", role: "status" });
  const chart = bars();
  const heading = h("h4", {});
  root.append(
    h("div", { class: "tm-controls" }, group("like", variants), heads.length > 1 ? group("scores", whichHead) : null, new Set(numbers).size > 1 ? group("two texts in a row", texts) : null),
    h("div", { class: "tm-sliders" }, controls.window.el, controls.softcap.el, controls.sink.el, controls.slope.el),
    words,
    h("div", { class: "tm-below" },
      h("div", {}, frame, h("div", { class: "tm-map-axis" }, h("span", {}, "↓ queries"), h("span", {}, "keys →"))),
      h("div", { class: "tm-panel" }, heading, chart.el, facts)));

  function set(change) {
    rules = { ...rules, ...change };
    const same = presets.find((one) => Object.keys(one).every((key) => key === "name" || one[key] === rules[key]));
    variants.set(same ? same.name : "");
    draw();
  }

  function jump(to) {
    rules = { ...to };
    controls.window.set(rules.window ?? n);
    const cap = CAPS.findIndex((one) => one >= (rules.softcap ?? Infinity));
    controls.softcap.set(cap < 0 ? CAPS.length : cap);
    controls.sink.set(rules.sink ?? -6.5);
    controls.slope.set(rules.slope);
    texts.set(rules.documents);
    draw();
  }

  function colors() {
    const [card_, well, accent, warm] = ["card", "well", "accent", "warm"].map((name) => rgb(root, `var(--tm-${name})`));
    const mix = (a, b, p) => a.map((c, k) => c + (b[k] - c) * p);
    // A key that may be seen is tinted even where its weight is nothing: the shape of the mask stays visible.
    paints = { hidden: mix(card_, well, 0.5), key: (p) => mix(mix(well, accent, 0.16), accent, p), sink: (p) => mix(well, warm, p) };
  }

  function draw() {
    const [square, column] = [map, strip].map((one) => one.getContext("2d").createImageData(one.width, one.height));
    for (let t = 0; t < n; t++) {
      const { weights, sink } = attend(row(t), t, rules, numbers);
      for (let s = 0; s < n; s++) {
        const p = weights[s] ?? null;
        square.data.set([...(p === null ? paints.hidden : paints.key(Math.sqrt(p))), 255], 4 * (t * n + s));
      }
      column.data.set([...paints.sink(Math.sqrt(sink)), 255], 4 * t);
    }
    map.getContext("2d").putImageData(square, 0, 0);
    strip.getContext("2d").putImageData(column, 0, 0);
    strip.hidden = rules.sink === null;
    read(query);
  }

  /** Show what `t` sees. */
  function read(t) {
    query = t;
    const { bent, weights, sink } = attend(row(t), t, rules, numbers);
    const steps = layersTo(t, rules, numbers);
    chips.forEach((chip, s) => {
      const p = weights[s] ?? null;
      chip.style.setProperty("--p", p === null ? "0%" : `${Math.round(10 + 72 * Math.sqrt(p))}%`);
      chip.classList.toggle("tm-query", s === t);
      chip.classList.toggle("tm-unseen", p === null);
      chip.classList.toggle("tm-later", p === null && steps[s] < Infinity);
      chip.setAttribute("aria-selected", String(s === t));
      chip.title = s > t ? "the future" : p !== null ? `score ${fixed(bent[s], 2)}, weight ${percent(p)}` : steps[s] < Infinity ? `hidden here; known after ${steps[s]} layers` : "never seen";
    });
    const places = [...weights.keys()].filter((s) => weights[s] !== null);
    const strongest = places.sort((a, b) => weights[b] - weights[a] || b - a).slice(0, 6);
    heading.replaceChildren("Token ", h("code", {}, visible(tokens[t])), ` (number ${t + 1}) looks at`);
    chart.draw([
      ...(rules.sink === null ? [] : [["the sink", sink, false]]),
      ...strongest.map((s, i) => [`${visible(tokens[s])}  ${s + 1}`, weights[s], i === 0]),
    ]);
    const reachable = steps.filter((k) => k < Infinity).length;
    const deepest = Math.max(...steps.filter((k) => k < Infinity));
    facts.textContent = `It sees ${places.length} of ${t + 1} tokens. ${
      reachable > places.length ? `Through ${deepest} such layers it knows of ${reachable} (underlined).`
        : reachable < t + 1 ? "More layers do not help: the others are of another text." : ""}`;
    line.style.top = `${(100 * t) / n}%`;
    line.style.height = `max(3px, ${100 / n}%)`;
  }

  const { look, keep, back } = wordPointer(words, { count: n, start: query, read });
  const rowAt = (event) => {
    const box = frame.getBoundingClientRect();
    return Math.max(0, Math.min(n - 1, Math.floor(((event.clientY - box.top) / box.height) * n)));
  };
  frame.addEventListener("pointermove", (event) => look(rowAt(event)));
  frame.addEventListener("pointerleave", back);
  frame.addEventListener("click", (event) => keep(rowAt(event)));
  onColors(root, life.signal, () => {
    colors();
    jump(rules);
  });
  return () => life.abort();
}

export default { render };
