// Attention maps, token by token: pick a head among all of them, point at a query, see the keys it reads.

import { Maps, strongest } from "./attentiondata.js";
import { bars, card, follow, h, onColors, onResize, rgb, s, typed, visible, wordPointer } from "./common.js";

const ARCS = 16; // more would be a tangle

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "attention", model.get("title"));
  const tokens = model.get("tokens");
  const shape = model.get("shape");
  const maps = new Maps(typed(Uint16Array, model.get("weights")), { ...shape, tokens: tokens.length });
  let layer = model.get("layer");
  let head = model.get("head");
  let query = Math.min(tokens.length - 1, 39); // far enough to have much to read, near enough to be in sight
  let places = null;
  let ramp = [];

  const thumbs = [];
  const side = Math.min(tokens.length, 72);
  const wide = Math.max(26, Math.min(84, Math.floor(430 / shape.heads)));
  const gallery = h("div", { class: "tm-heads", role: "grid", "aria-label": "all heads; arrow keys move" },
    Array.from({ length: shape.layers }, (_, l) => h("div", { class: "tm-layer", role: "row" },
      h("span", { class: "tm-label", role: "rowheader" }, `layer ${l}`),
      Array.from({ length: shape.heads }, (_, k) => {
        const canvas = h("canvas", { width: side, height: side, "aria-hidden": "true" });
        const button = h("button", { type: "button", role: "gridcell", class: "tm-thumb", style: `width:clamp(26px, calc((100cqw - 116px) / ${shape.heads} - 5px), ${wide}px)`, "aria-label": `layer ${l}, head ${k}`, title: `layer ${l}, head ${k}`, onclick: () => choose(l, k) }, canvas);
        thumbs.push({ button, canvas, layer: l, head: k });
        return button;
      }))));
  gallery.addEventListener("keydown", (event) => {
    const [dl, dh] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [0, 0];
    if (!dl && !dh) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(shape.layers - 1, layer + dl)), Math.max(0, Math.min(shape.heads - 1, head + dh)));
    thumbs.find((one) => one.layer === layer && one.head === head).button.focus();
  });

  // A space before a word becomes distance; what is left of blanks and line ends is made visible.
  const chips = tokens.map((token, i) => h("span", {
    class: `tm-word${token.startsWith(" ") && i ? " tm-first" : ""}`, role: "option", "data-i": i,
  }, visible(token.replace(/^ (?=\S)/, ""))));
  const words = h("div", { class: "tm-words", tabindex: 0, role: "listbox", "aria-label": "tokens; arrow keys choose the query" }, chips.map((chip, i) => (tokens[i].includes("\n") ? [chip, h("br")] : chip)));
  const arcs = s("svg", { class: "tm-arcs", "aria-hidden": "true" });
  const reading = h("div", { class: "tm-reading" }, arcs, words);
  const chart = bars();
  const heading = h("h4", { "aria-live": "polite" });
  const big = h("canvas", { class: "tm-map", width: tokens.length, height: tokens.length, role: "img", "aria-label": "the whole map: rows are queries, columns are keys" });
  const line = h("span", { class: "tm-map-row" });
  const mapName = h("h4", {});
  root.append(
    h("div", { class: "tm-top" },
      h("div", { class: "tm-all" }, h("h4", {}, "Every head: choose one"), h("div", { class: "tm-scroll" }, gallery)),
      h("div", { class: "tm-side" }, mapName, h("div", { class: "tm-frame" }, big, line),
        h("div", { class: "tm-map-axis" }, h("span", {}, "↓ queries"), h("span", {}, "keys →")))),
    h("p", { class: "tm-note tm-guide" }, "Point at a token, or click to keep it: shading and arcs show how much it reads from each key."),
    reading, h("div", { class: "tm-panel" }, heading, chart.el));

  function colors() {
    const [from, to] = [rgb(root, "var(--tm-well)"), rgb(root, "var(--tm-accent)")];
    ramp = Array.from({ length: 256 }, (_, i) => from.map((c, k) => c + ((to[k] - c) * i) / 255));
  }

  function paint(canvas, levels) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    levels.forEach((level, i) => {
      const [r, g, b] = ramp[level];
      image.data.set([r, g, b, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }

  /** Thumbnails are painted a layer per frame, so that a large model does not hold the page up. */
  function paintAll(from = 0) {
    if (life.signal.aborted) return;
    const now = thumbs.filter((one) => one.layer === from);
    now.forEach((one) => paint(one.canvas, maps.picture(one.layer, one.head, side)));
    if (from + 1 < shape.layers) requestAnimationFrame(() => paintAll(from + 1));
  }

  function choose(l, k) {
    [layer, head] = [l, k];
    for (const one of thumbs) {
      const here = one.layer === l && one.head === k;
      one.button.setAttribute("aria-selected", String(here));
      one.button.tabIndex = here ? 0 : -1;
    }
    mapName.textContent = `Layer ${l}, head ${k}`;
    paint(big, maps.picture(l, k, tokens.length));
    read(query);
  }

  /** Show what `q` attends to. */
  function read(q) {
    query = q;
    const row = maps.row(layer, head, q);
    chips.forEach((chip, i) => {
      const weight = row[i];
      chip.style.setProperty("--p", weight === undefined ? "0%" : `${Math.round(78 * Math.sqrt(weight))}%`);
      chip.classList.toggle("tm-query", i === q);
      chip.classList.toggle("tm-unseen", weight === undefined);
      chip.setAttribute("aria-selected", String(i === q));
    });
    const best = strongest(row, 8);
    heading.replaceChildren("From ", h("code", {}, visible(tokens[q])), ` (token ${q + 1}) the head looks most at`);
    chart.draw(best.map(([key, weight]) => [`${visible(tokens[key])}  ${key + 1}`, weight, key === best[0][0]]));
    line.style.top = `${(100 * q) / tokens.length}%`;
    line.style.height = `max(2px, ${100 / tokens.length}%)`;
    drawArcs(row);
  }

  function measure() {
    places = chips.map((chip) => ({ x: chip.offsetLeft + chip.offsetWidth / 2, y: chip.offsetTop, h: chip.offsetHeight }));
    arcs.setAttribute("width", words.scrollWidth);
    arcs.setAttribute("height", words.scrollHeight);
  }

  function drawArcs(row) {
    if (!places) return;
    const from = places[query];
    arcs.replaceChildren(...strongest(row, ARCS).filter(([key, weight]) => weight > 0.02 && key !== query).map(([key, weight]) => {
      const to = places[key];
      const sameLine = Math.abs(from.y - to.y) < 4;
      const lift = sameLine ? Math.min(24, 8 + Math.abs(from.x - to.x) / 9) : 0;
      const start = from.y - 1;
      const end = sameLine ? to.y - 1 : to.y + (to.y < from.y ? to.h + 1 : -1);
      const middle = (start + end) / 2;
      const d = sameLine
        ? `M${from.x} ${start}C${from.x} ${start - lift},${to.x} ${end - lift},${to.x} ${end}`
        : `M${from.x} ${start}C${from.x} ${middle},${to.x} ${middle},${to.x} ${end}`;
      return s("path", { d, "stroke-width": 1 + 3.5 * weight, opacity: Math.min(1, 0.2 + weight) });
    }));
  }

  const { look, keep, back } = wordPointer(words, { count: tokens.length, start: query, read });
  const rowAt = (event) => {
    const box = big.getBoundingClientRect();
    return Math.max(0, Math.min(tokens.length - 1, Math.floor(((event.clientY - box.top) / box.height) * tokens.length)));
  };
  big.addEventListener("pointermove", (event) => look(rowAt(event)));
  big.addEventListener("pointerleave", back);
  big.addEventListener("click", (event) => keep(rowAt(event)));

  onResize(reading, life.signal, () => {
    measure();
    read(query);
  });
  onColors(root, life.signal, () => {
    colors();
    paintAll();
    choose(layer, head);
  });
  follow(model, life.signal, "change:layer", () => choose(model.get("layer"), head));
  follow(model, life.signal, "change:head", () => choose(layer, model.get("head")));
  return () => life.abort();
}

export default { render };
