// Low rank to play with: what training added to a matrix, its best approximation of rank r, and what that leaves out.

import { LineChart } from "./chart.js";
import { card, choice, count, fixed, h, onColors, percent, rgb, slider, typed } from "./common.js";

/** The matrices out of their factors: [{ out, into, most, left (out × most), right (most × into), sizes }…]. */
export function unpack(shapes, factors, units) {
  let at = 0;
  const take = (n, unit) => Float32Array.from(factors.subarray(at, (at += n)), (x) => x * unit);
  return shapes.map(([out, into], i) => {
    const most = Math.min(out, into);
    const left = take(out * most, units[2 * i]);
    const right = take(most * into, units[2 * i + 1]);
    const sizes = Array.from({ length: most }, (_, k) => {
      let sum = 0;
      for (let i = 0; i < out; i++) sum += left[i * most + k] ** 2;
      return Math.sqrt(sum);
    });
    return { out, into, most, left, right, sizes };
  });
}

/** The sum of the directions from..to of a matrix, row by row. */
export function partial({ out, into, most, left, right }, from, to) {
  const sum = new Float32Array(out * into);
  for (let i = 0; i < out; i++) {
    for (let k = from; k < to; k++) {
      const weight = left[i * most + k];
      for (let j = 0; j < into; j++) sum[i * into + j] += weight * right[k * into + j];
    }
  }
  return sum;
}

/** The share of the squares of a matrix that its first 0, 1, 2, … directions hold. */
export function held(sizes) {
  const squares = sizes.map((x) => x * x);
  const total = squares.reduce((a, b) => a + b, 0);
  let sum = 0;
  return [0, ...squares.map((x) => (sum += x) / total)];
}

/** A score at a rank, between those measured on a line. */
export function between(ranks, values, rank) {
  const last = ranks.length - 1;
  if (rank <= ranks[0]) return values[0];
  if (rank >= ranks[last]) return values[last];
  const next = ranks.findIndex((other) => other >= rank);
  const part = (rank - ranks[next - 1]) / (ranks[next] - ranks[next - 1]);
  return values[next - 1] + part * (values[next] - values[next - 1]);
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "adapters", model.get("title"));
  const names = model.get("names");
  const matrices = unpack(model.get("shapes"), typed(Int16Array, model.get("factors")), model.get("units"));
  const scores = model.get("scores");
  const most = Math.min(...matrices.map((one) => one.most));
  let which = 0;
  let rank = model.get("rank");
  let paint = () => [0, 0, 0];

  const whichMatrix = choice({ label: "matrix", options: names.map((name, i) => [i, name]), value: which, onchange: (i) => {
    which = i;
    draw();
  } });
  const howMany = slider({ label: "rank r", min: 0, max: most, step: 1, value: rank, show: (r) => `${r} of ${most}`, oninput: (r) => {
    rank = r;
    draw();
  } });
  const picture = (caption, about) => {
    const canvas = h("canvas", { width: 1, height: 1, role: "img", "aria-label": about });
    const under = h("figcaption", {}, caption);
    return { canvas, under, el: h("figure", {}, canvas, under) };
  };
  const pictures = [
    picture("what training added, ΔW", "the change of the matrix"),
    picture("", "its approximation"),
    picture("", "what the approximation leaves out"),
  ];
  const state = h("p", { class: "tm-note tm-state", role: "status" });
  const chart = (label, yLabel, options) => new LineChart({ label, xLabel: "rank r", yLabel, signal: life.signal, height: 190, xFormat: count, yTicks: 5, oncursor: () => {}, ...options });
  const sizes = chart("How much of the change the first directions hold, over the rank", "share of the change", { yFormat: (y) => (y ? percent(y) : "0") });
  const measured = scores.map(([name]) => chart(`${name}, over the rank`, name, { yFormat: (y) => fixed(y, 2) }));
  const block = (title, one) => h("div", {}, h("h4", {}, title), one.el);
  root.append(
    h("div", { class: "tm-controls" }, h("div", {}, h("div", { class: "tm-slider-label" }, "matrix"), whichMatrix.el), howMany.el),
    h("div", { class: "tm-pictures" }, pictures.map((one) => one.el)),
    state,
    h("div", { class: "tm-charts" }, block("This matrix", sizes), scores.map(([name], i) => block(`All matrices cut to rank r: ${name}`, measured[i]))));

  function colors() {
    const [ground, plus, minus] = ["card", "c1", "c0"].map((name) => rgb(root, `var(--tm-${name})`));
    paint = (x) => ground.map((c, k) => c + ((x > 0 ? plus : minus)[k] - c) * Math.min(1, Math.abs(x)));
  }

  function show({ canvas }, values, { out, into }, scale) {
    canvas.width = into;
    canvas.height = out;
    const context = canvas.getContext("2d");
    const image = context.createImageData(into, out);
    // The square root shows small changes beside large ones.
    values.forEach((x, i) => image.data.set([...paint(Math.sign(x) * Math.sqrt(Math.abs(x) / scale)), 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  function draw() {
    const matrix = matrices[which];
    const { out, into } = matrix;
    const whole = partial(matrix, 0, matrix.most);
    const near = partial(matrix, 0, rank);
    const scale = whole.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
    show(pictures[0], whole, matrix, scale);
    show(pictures[1], near, matrix, scale);
    show(pictures[2], whole.map((x, i) => x - near[i]), matrix, scale);
    pictures[1].under.textContent = `the best B A of rank ${rank}`;
    pictures[2].under.textContent = "what it leaves out";
    const shares = held(matrix.sizes);
    const [few, all] = [rank * (out + into), out * into];
    const figures = scores.map(([name, ranks, values]) => ` With all matrices cut so, ${name}: ${fixed(between(ranks, values, rank), 3)}.`);
    state.textContent = `Rank ${rank} keeps ${shares[rank] > 0.9995 ? "all" : percent(shares[rank])} of the change (of its squares) with ${count(few)} numbers${few < all ? `, ${percent(few / all)} of the ${count(all)} in the matrix` : `, more than the ${count(all)} in the matrix`}.${figures.join("")}`;
    const mark = (low, high) => ({ color: "var(--tm-strong)", kind: "ghost", x: [rank, rank], y: [low, high] });
    const points = Float32Array.from({ length: matrix.most + 1 }, (_, i) => i);
    const line = { name: "held", kind: "line", color: "var(--tm-c0)" };
    sizes.draw([mark(0, 1), { ...line, x: points, y: Float32Array.from(shares) }], { xMax: most, yMin: 0, yMax: 1 });
    scores.forEach(([name, ranks, values], i) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      measured[i].draw([mark(low, high), { ...line, name, color: "var(--tm-c1)", x: Float32Array.from(ranks), y: Float32Array.from(values) }], { xMax: most, yMin: low, yMax: high });
    });
  }

  onColors(root, life.signal, () => {
    colors();
    draw();
  });
  return () => life.abort();
}

export default { render };
