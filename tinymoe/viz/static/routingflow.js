// Which expert follows which: ribbons from the experts of one layer to those of the next.

import { card, choice, count, fixed, h, onResize, percent, s, typed } from "./common.js";
import { badge, fill, frequent, looks, sum } from "./routingbase.js";

const DRAWN = 300; // ribbons at most while none is chosen: more would be a tangle
const EDGE = 40; // pixels beside the two columns, for the numbers
const NODE = 14;
const TOP = 26;

// The patterns of routingbase.css as masks: a tile's width and height, its stripes [x, y, width, height], the angle.
const TILES = [
  [5, 9, [[0, 0, 3, 9]], 45],
  [4, 4, [[0, 0, 2, 4]], 0],
  [4, 4, [[0, 0, 4, 2]], 0],
  [11, 4, [[0, 0, 8, 4]], 0],
  [8, 8, [[0, 0, 4, 8]], -45],
  [9, 4, [[0, 0, 3, 4]], 0],
  [13, 4, [[0, 0, 7, 4], [9, 0, 2, 4]], 0],
];

/** The masks as <defs>, and the name of an expert's. */
function patterns(experts) {
  const view = Math.random().toString(36).slice(2); // names in a page are shared by all its views
  const defs = TILES.slice(0, Math.ceil(experts / 4) - 1).map(([width, height, stripes, angle], i) => [
    s("pattern", { id: `tm-tile-${view}-${i}`, width, height, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` },
      s("rect", { width, height, fill: "#444" }), stripes.map(([x, y, w, tall]) => s("rect", { x, y, width: w, height: tall, fill: "white" }))),
    s("mask", { id: `tm-mask-${view}-${i}` }, s("rect", { width: NODE, height: 9999, fill: `url(#tm-tile-${view}-${i})` }))]);
  const mask = (e) => (fill(e) ? `url(#tm-mask-${view}-${fill(e) - 1})` : undefined);
  return { defs: s("defs", {}, defs), mask };
}

/** How many ways lead from each expert of one layer to each of the next: experts × experts, row by row; -1 is none. */
export function flows(first, second, k, experts) {
  const counts = new Uint32Array(experts * experts);
  for (let i = 0; i < first.length; i += k) {
    for (let a = 0; a < k; a++) {
      for (let b = 0; b < k; b++) {
        if (first[i + a] >= 0 && second[i + b] >= 0) counts[first[i + a] * experts + second[i + b]]++;
      }
    }
  }
  return counts;
}

/** The ribbons { a, b, n, left, right }, largest first; left and right say after how many ways of its expert it begins. */
export function ribbons(counts, experts) {
  const arrived = new Uint32Array(experts);
  const out = [];
  for (let a = 0; a < experts; a++) {
    let left = 0;
    for (let b = 0; b < experts; b++) {
      const n = counts[a * experts + b];
      if (!n) continue;
      out.push({ a, b, n, left, right: arrived[b] });
      left += n;
      arrived[b] += n;
    }
  }
  return out.sort((one, other) => other.n - one.n);
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "routingflow", model.get("title"));
  const tokens = model.get("tokens");
  const layers = model.get("layers");
  const { experts, k } = model.get("shape");
  const n = tokens.length;
  const choices = typed(Int16Array, model.get("choices"));
  const information = model.get("information");
  const slot = Math.max(11, Math.min(46, 440 / experts)); // pixels for an expert of average load, with its gap
  const gap = slot < 20 ? 2 : 8;
  const height = TOP + experts * slot;
  let traffic = 0; // all ways between the two layers
  let scale = 1;
  let pair = 0;
  let pinned = null; // { side, e } or { a, b }
  let width = 0;
  let ways = [];
  let sums = [];
  let tops = [];

  const ofLayer = (l) => choices.subarray(l * n * k, (l + 1) * n * k);
  const pairs = choice({ label: "two neighboring layers", options: layers.slice(1).map((name, l) => [l, `${layers[l]} → ${name}`]), value: 0, onchange: (l) => {
    pair = l;
    pinned = null;
    recount();
    draw();
  } });
  const svg = s("svg", { class: "tm-flow", tabindex: 0, role: "group", "aria-label": "experts of two layers and the ways between them; up and down arrow keys choose an expert, left and right the layer, Escape none" });
  const figure = h("div", { class: "tm-figure" }, svg);
  const note = h("p", { class: "tm-said", role: "status" });
  const fact = h("p", { class: "tm-note" });
  const { defs, mask } = patterns(experts);
  const base = s("g", { class: "tm-ways" });
  const lit = s("g", { class: "tm-ways tm-lit" });
  const nodes = s("g", {});
  if (layers.length > 2) root.append(h("div", { class: "tm-line" }, h("span", { class: "tm-label" }, "layers"), pairs.el));
  root.append(figure, note, fact);

  /** Count what goes between the two layers. */
  function recount() {
    const counts = flows(ofLayer(pair), ofLayer(pair + 1), k, experts);
    ways = ribbons(counts, experts);
    sums = [new Float64Array(experts), new Float64Array(experts)];
    for (const way of ways) {
      sums[0][way.a] += way.n;
      sums[1][way.b] += way.n;
    }
    traffic = sum(sums[0]);
    scale = (experts * (slot - gap)) / traffic;
    tops = sums.map((column) => column.map((_, e) => TOP + column.slice(0, e).reduce((y, x) => y + x * scale + gap, 0)));
    const [bits, shuffled] = information[pair];
    fact.textContent = `A token's expert in layer ${layers[pair]} tells ${fixed(bits, 2)} bits about its expert in layer ${layers[pair + 1]}, of ${fixed(Math.log2(experts), 2)} at most; shuffling the choices leaves ${fixed(shuffled, 2)}.`;
  }

  function ribbon({ a, b, n: size, left, right }) {
    const [x0, x1] = [EDGE + NODE, width - EDGE - NODE];
    const [y0, y1] = [tops[0][a] + left * scale, tops[1][b] + right * scale];
    const thick = Math.max(0.7, size * scale);
    const middle = (x0 + x1) / 2;
    return s("path", { class: `tm-hue${a % 8}`, "data-a": a, "data-b": b,
      d: `M${x0} ${y0}C${middle} ${y0},${middle} ${y1},${x1} ${y1}V${y1 + thick}C${middle} ${y1 + thick},${middle} ${y0 + thick},${x0} ${y0 + thick}Z` });
  }

  function draw() {
    if (!width) return;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    base.replaceChildren(...ways.slice(0, DRAWN).map(ribbon));
    nodes.replaceChildren(...[0, 1].flatMap((side) => Array.from({ length: experts }, (_, e) => {
      const [x, text] = side ? [width - EDGE - NODE, width - EDGE + 7] : [EDGE, EDGE - 7];
      const [y, size] = [tops[side][e], sums[side][e] * scale];
      const shape = { transform: `translate(${x} ${y})`, width: NODE, height: Math.max(1, size), rx: Math.min(2, size / 3) };
      return s("g", { class: `tm-node ${looks(e)}${size + gap < 9 ? " tm-thin" : ""}`, "data-side": side, "data-e": e },
        s("title", {}, `expert ${e}: ${percent(sums[side][e] / traffic)}`),
        s("rect", { class: "tm-grab", x: side ? x : 0, y: y - gap / 2, width: EDGE + NODE, height: size + gap }),
        s("rect", { class: "tm-load", ...shape, mask: mask(e) }), // a mask's pattern begins where the shape is moved to
        s("rect", { class: "tm-frame", ...shape }),
        s("text", { x: text, y: y + size / 2, dy: "0.34em", "text-anchor": side ? "start" : "end", "font-size": size + gap < 14 ? 9.5 : 12 }, e));
    })));
    const title = (x, anchor, l) => s("text", { class: "tm-axis-name", x, y: 12, "text-anchor": anchor }, `layer ${layers[l]}`);
    svg.replaceChildren(defs, title(0, "start", pair), title(width, "end", pair + 1), base, lit, nodes);
    show(pinned);
  }

  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  /** Bring out an expert's ways, or a single one; null brings out none. */
  function show(what) {
    const chosen = what === null ? [] : ways.filter(({ a, b }) => (what.side === undefined ? a === what.a && b === what.b : (what.side ? b : a) === what.e));
    lit.replaceChildren(...chosen.map(ribbon));
    base.classList.toggle("tm-dim", what !== null);
    const on = new Set(chosen.flatMap(({ a, b }) => [`0 ${a}`, `1 ${b}`]));
    for (const node of nodes.children) {
      const me = { side: Number(node.dataset.side), e: Number(node.dataset.e) };
      node.classList.toggle("tm-marked", same(me, what));
      node.classList.toggle("tm-on", on.has(`${me.side} ${me.e}`) || same(me, what));
    }
    note.replaceChildren(...(what === null ? idle() : what.side === undefined ? tellWay(what, chosen[0]) : tellExpert(what, chosen)));
  }

  function idle() {
    const some = sum(ways.slice(0, DRAWN).map((way) => way.n)) / traffic;
    return [ways.length > DRAWN ? `Drawn are the ${DRAWN} widest of ${count(ways.length)} ways, ${percent(some)} of the traffic. ` : "", "Point at an expert or a ribbon; click to keep it."];
  }

  /** The tokens that an expert, or the two of a way, have. */
  const tokensOf = (tests) => Array.from({ length: n }, (_, i) => i).filter((i) => tests.every(([l, e]) => choices.subarray((l * n + i) * k, (l * n + i + 1) * k).includes(e)));

  function tellWay({ a, b }, way) {
    const its = tokensOf([[pair, a], [pair + 1, b]]);
    const expected = (sums[0][a] * sums[1][b]) / traffic;
    return ["From expert ", badge(a), " to ", badge(b), `: ${count(its.length)} token${its.length === 1 ? "" : "s"}, ${fixed((way?.n ?? 0) / expected, 1)} times as many as if the layers chose independently: `, ...frequent(tokens, its, 8)];
  }

  function tellExpert({ side, e }, chosen) {
    const its = tokensOf([[pair + side, e]]);
    if (!its.length) return ["Expert ", badge(e), ` of layer ${layers[pair + side]} has no token.`];
    const best = chosen.slice(0, 4).flatMap((way, i) => [i ? ", " : "", badge(side ? way.a : way.b), ` (${percent(way.n / sums[side][e])})`]);
    return ["Expert ", badge(e), ` of layer ${layers[pair + side]} has ${count(its.length)} of ${count(n)} tokens: `, ...frequent(tokens, its, 6), ` They ${side ? "come from" : "go on to"} `, ...best, chosen.length > 4 ? ", …" : "."];
  }

  const under = (event) => {
    const at = event.target.closest?.("[data-e], [data-a]");
    if (!at) return null;
    return at.dataset.e === undefined ? { a: Number(at.dataset.a), b: Number(at.dataset.b) } : { side: Number(at.dataset.side), e: Number(at.dataset.e) };
  };
  svg.addEventListener("pointerover", (event) => show(under(event) ?? pinned));
  svg.addEventListener("pointerleave", () => show(pinned));
  svg.addEventListener("click", (event) => {
    const what = under(event);
    show((pinned = same(what, pinned) ? null : what));
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Escape: [0, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const from = pinned?.side === undefined ? { side: pinned ? 0 : Math.max(0, move[1]), e: pinned ? pinned.a - move[0] : move[0] > 0 ? -1 : 0 } : pinned;
    pinned = event.key === "Escape" ? null : { side: Math.max(0, Math.min(1, from.side + move[1])), e: Math.max(0, Math.min(experts - 1, from.e + move[0])) };
    show(pinned);
  });
  onResize(figure, life.signal, (now) => {
    width = now;
    draw();
  });
  recount();
  return () => life.abort();
}

export default { render };
