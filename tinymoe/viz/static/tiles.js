// Causal attention in tiles: which are computed, in what order, and what each query knows after each of them.

import { card, count, fixed, h, onColors, rgb, slider, typed } from "./common.js";

/** The tiles that have anything to compute, row by row: [[row of tiles, column of tiles, cut by the diagonal]…]. */
export function causalTiles(tokens, rows, columns) {
  const tiles = [];
  for (let i = 0; i * rows < tokens; i++) {
    const last = Math.min((i + 1) * rows, tokens) - 1;
    for (let j = 0; j * columns <= last; j++) {
      tiles.push([i, j, Math.min((j + 1) * columns, tokens) - 1 > i * rows]);
    }
  }
  return tiles;
}

/** Two parts of a softmax as one: each has the largest score `top`, and `total`, the sum of exp(score − top). */
export function merge(a, b) {
  const top = Math.max(a.top, b.top);
  if (top === -Infinity) return { top, total: 0, shrink: 1 };
  const shrink = a.top === -Infinity ? 1 : Math.exp(a.top - top);
  return { top, total: a.total * shrink + b.total * Math.exp(b.top - top), shrink };
}

/** What is known of each query after the first `done` tiles: [{ top, total, shrink }…]; shrink is the last merge's. */
export function known(scores, tokens, tiles, rows, columns, done) {
  const state = Array.from({ length: tokens }, () => ({ top: -Infinity, total: 0, shrink: 1 }));
  for (const [i, j] of tiles.slice(0, done)) {
    for (let t = i * rows; t < Math.min((i + 1) * rows, tokens); t++) {
      const seen = Array.from(scores.subarray(t * tokens + j * columns, t * tokens + Math.min((j + 1) * columns, t + 1)));
      const top = Math.max(...seen, -Infinity);
      const total = seen.reduce((sum, x) => sum + Math.exp(x - top), 0);
      state[t] = merge(state[t], { top, total });
    }
  }
  return state;
}

function render({ model, el }) {
  const life = new AbortController();
  const n = model.get("tokens");
  const scores = typed(Float32Array, model.get("scores"));
  const next = h("button", { type: "button", class: "tm-button", onclick: () => go(done < tiles.length ? done + 1 : 1) }, "Next tile");
  const root = card(el, "tiles", model.get("title"), next);
  let [rows, columns, done] = ["rows", "columns", "done"].map((name) => model.get(name));
  let tiles = causalTiles(n, rows, columns);
  let paints = null;

  const size = (name, value, change) => slider({ label: name, min: 1, max: n, step: 1, value, show: (k) => `${k} of ${n}`, oninput: change });
  const controls = {
    rows: size("queries a tile", rows, (k) => cut(k, columns)),
    columns: size("keys a tile", columns, (k) => cut(rows, k)),
    done: slider({ label: "tiles done", min: 1, max: tiles.length, step: 1, value: done, show: (k) => `${k} of ${tiles.length}`, oninput: (k) => go(k) }),
  };
  const map = h("canvas", { class: "tm-map", width: 32 * n, height: 32 * n, role: "img", "aria-label": "the table of scores in tiles: rows are queries, columns are keys; a click goes to a tile" });
  const heading = h("h4", {});
  const body = h("tbody", {});
  const table = h("table", {}, h("thead", {}, h("tr", {}, ["query", "top", "total", "last merge", "keys seen"].map((name) => h("th", {}, name)))), body);
  const facts = h("p", { class: "tm-note", role: "status" });
  const legend = [["done", "in use, the stronger the more weight so far"], ["waste", "computed and then hidden"], ["skipped", "never computed"]];
  root.append(
    h("div", { class: "tm-sliders" }, controls.rows.el, controls.columns.el, controls.done.el),
    h("div", { class: "tm-below" },
      h("div", {}, map, h("div", { class: "tm-map-axis" }, h("span", {}, "↓ queries"), h("span", {}, "keys →")),
        h("ul", { class: "tm-legend" }, legend.map(([name, text]) => h("li", {}, h("span", { class: `tm-swatch tm-${name}` }), text)))),
      h("div", { class: "tm-panel" }, heading, table, facts)));

  /** Other tiles: all is computed anew, from the first one on. */
  function cut(newRows, newColumns) {
    [rows, columns] = [newRows, newColumns];
    tiles = causalTiles(n, rows, columns);
    controls.done.input.max = tiles.length;
    go(Math.min(done, tiles.length));
  }

  function go(step) {
    done = step;
    controls.done.set(step);
    draw();
  }

  function colors() {
    const [card_, well, accent, warm, line] = ["card", "well", "accent", "warm", "line"].map((name) => rgb(root, `var(--tm-${name})`));
    const mix = (a, b, p) => `rgb(${a.map((c, k) => Math.round(c + (b[k] - c) * p)).join(",")})`;
    paints = { later: mix(card_, card_, 0), skipped: mix(card_, line, 0.75), waste: mix(card_, warm, 0.42), done: (p) => mix(mix(well, accent, 0.22).match(/\d+/g).map(Number), accent, p), line: mix(line, card_, 0.2), now: mix(warm, warm, 0) };
    root.style.setProperty("--tm-skipped", paints.skipped);
    root.style.setProperty("--tm-waste", paints.waste);
  }

  function draw() {
    const state = known(scores, n, tiles, rows, columns, done);
    const computed = new Map(tiles.map(([i, j], number) => [`${i} ${j}`, number]));
    const brush = map.getContext("2d");
    const side = map.width / n;
    let wasted = 0;
    for (let t = 0; t < n; t++) {
      for (let s = 0; s < n; s++) {
        const number = computed.get(`${Math.floor(t / rows)} ${Math.floor(s / columns)}`);
        if (number !== undefined && s > t) wasted += 1;
        if (number === undefined) brush.fillStyle = paints.skipped;
        else if (number >= done) brush.fillStyle = paints.later;
        else if (s > t) brush.fillStyle = paints.waste;
        else brush.fillStyle = paints.done(Math.sqrt(Math.exp(scores[t * n + s] - state[t].top) / state[t].total));
        brush.fillRect(s * side, t * side, side, side);
      }
    }
    brush.lineWidth = 2;
    brush.strokeStyle = paints.line;
    for (let i = 0; i * rows < n; i++) {
      for (let j = 0; j * columns < n; j++) outline(brush, side, i, j);
    }
    const [i, j, isCut] = tiles[done - 1];
    brush.lineWidth = 6;
    brush.strokeStyle = paints.now;
    outline(brush, side, i, j);
    tell(state, i, j, isCut, wasted);
  }

  function outline(brush, side, i, j) {
    const [top, left] = [i * rows, j * columns];
    brush.strokeRect(left * side, top * side, (Math.min(left + columns, n) - left) * side, (Math.min(top + rows, n) - top) * side);
  }

  function tell(state, i, j, isCut, wasted) {
    const [first, end] = [i * rows, Math.min((i + 1) * rows, n)];
    const keys = Math.min((j + 1) * columns, n);
    heading.textContent = `Queries ${first + 1} to ${end}, after keys up to ${keys}${isCut ? ": a mask is needed" : ""}`;
    const shown = Array.from({ length: Math.min(end - first, 8) }, (_, k) => first + k);
    body.replaceChildren(...shown.map((t) => {
      const { top, total, shrink } = state[t];
      const unseen = top === -Infinity;
      const cells = [t + 1, unseen ? "−∞" : fixed(top, 2), fixed(total, 2), unseen || shrink === 1 ? "" : `× ${fixed(shrink, 2)}`, `${Math.min(keys, t + 1)} of ${t + 1}`];
      return h("tr", {}, cells.map((cell) => h("td", {}, String(cell))));
    }));
    const all = Math.ceil(n / rows) * Math.ceil(n / columns);
    const held = Math.min(rows, n) * Math.min(columns, n);
    facts.textContent = `Tile ${done} of ${tiles.length}; ${all - tiles.length} more are never computed. ${count(wasted)} scores are computed for nothing. Held at a time: ${count(held)} scores instead of ${count(n * n)}, and two numbers a query.`;
    next.textContent = done < tiles.length ? "Next tile" : "From the start";
  }

  map.addEventListener("click", (event) => {
    const box = map.getBoundingClientRect();
    const place = (at, from, length, step) => Math.floor(Math.max(0, Math.min(n - 1, ((at - from) / length) * n)) / step);
    const [i, j] = [place(event.clientY, box.top, box.height, rows), place(event.clientX, box.left, box.width, columns)];
    const number = tiles.findIndex(([row, column]) => row === i && column === j);
    if (number >= 0) go(number + 1);
  });
  onColors(root, life.signal, () => {
    colors();
    go(Math.min(done, tiles.length));
  });
  return () => life.abort();
}

export default { render };
