// Loss curves that grow while Python trains, and stay explorable when it has stopped.

import { card, h, count, duration, fixed, number, formatRate, short, follow, typed, COLORS } from "./common.js";
import { LineChart, smooth } from "./chart.js";

export const COLUMNS = 4; // step, loss, val_loss, lr

/** The columns of `rows`, a Float32Array of steps × COLUMNS; validation keeps only the steps that have one. */
export function columns(rows) {
  const n = rows.length / COLUMNS;
  const column = (k) => Float32Array.from({ length: n }, (_, i) => rows[i * COLUMNS + k]);
  const [step, loss, val, lr] = [0, 1, 2, 3].map(column);
  const keep = (values) => {
    const at = [...values.keys()].filter((i) => Number.isFinite(values[i]));
    return { x: Float32Array.from(at, (i) => step[i]), y: Float32Array.from(at, (i) => values[i]) };
  };
  return { loss: keep(loss), val: keep(val), lr: keep(lr), last: n ? step[n - 1] : 0 };
}

/** Cut the one long array of all runs' rows into a run each. */
export function split(runs, rows) {
  let start = 0;
  return runs.map((run) => {
    const part = rows.slice(start, start + run.count * COLUMNS);
    start += run.count * COLUMNS;
    return { ...run, rows: part };
  });
}

function join(a, b) {
  const out = new Float32Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "training", model.get("title"));
  const hidden = new Set();
  let runs = [];

  const tiles = h("dl", { class: "tm-tiles" });
  const bar = h("span", { class: "tm-progress-fill" });
  const progress = h("div", { class: "tm-progress", role: "progressbar", "aria-label": "training progress" }, bar);
  const legend = h("div", { class: "tm-choice tm-legend", role: "group", "aria-label": "runs shown" });
  const empty = h("p", { class: "tm-note" }, "Waiting for the first step.");
  const shared = { xLabel: "step", xFormat: count, signal: life.signal };
  const loss = new LineChart({
    ...shared, label: "Loss over steps", yLabel: "loss (nats per token)", height: 290,
    yFormat: (y, exact) => (exact ? fixed(y, 3) : number(y, 3)), oncursor: (x) => rate.showCursor(x),
  });
  const rate = new LineChart({
    ...shared, label: "Learning rate over steps", yLabel: "learning rate", height: 118, yTicks: 2,
    yFormat: (y, exact) => formatRate(y, exact ? 3 : 2), oncursor: (x) => loss.showCursor(x),
  });
  root.append(tiles, progress, legend, empty, loss.el, rate.el);

  function load() {
    runs = split(model.get("runs"), typed(Float32Array, model.get("rows")));
    draw();
  }

  function grow(message, buffers) {
    if (message.kind !== "rows") return;
    const run = runs.find((one) => one.name === message.run.name);
    // A view opened after the run began starts at the next full update.
    if (!run || run.rows.length !== message.from * COLUMNS) return;
    Object.assign(run, message.run, { rows: join(run.rows, typed(Float32Array, buffers[0])) });
    draw();
  }

  function draw() {
    const shown = [];
    const rates = [];
    const many = runs.length > 1;
    runs.forEach((run, i) => {
      run.data = columns(run.rows);
      if (hidden.has(run.name)) return;
      const color = COLORS[i % COLORS.length];
      const { loss: train, val, lr } = run.data;
      const mean = smooth(train.y, train.y.length / 60);
      shown.push({ color, ...train, kind: "faint" });
      shown.push({ name: many ? `${run.name}, training` : "training", color, x: train.x, y: mean, kind: "line" });
      if (val.x.length) {
        shown.push({ name: many ? `${run.name}, validation` : "validation", color: many ? color : "var(--tm-c1)", ...val, kind: "dots" });
      }
      if (lr.x.length) rates.push({ name: many ? run.name : "learning rate", color, ...lr, kind: "line" });
    });
    const xMax = Math.max(0, ...runs.map((run) => run.total_steps || 0)) || undefined;
    loss.draw(shown, { xMax, references: model.get("references") });
    rate.draw(rates, { xMax, yMin: 0 });
    loss.el.hidden = !runs.length;
    rate.el.hidden = !rates.length;
    empty.hidden = runs.length > 0;
    drawTiles();
    drawLegend(many);
  }

  function drawTiles() {
    const run = runs.find((one) => one.running) || runs.at(-1);
    tiles.hidden = progress.hidden = !run;
    if (!run) return;
    const { loss: train, val, lr, last } = run.data;
    const mean = smooth(train.y, train.y.length / 60).at(-1);
    const left = run.running && run.total_steps && run.steps_per_s ? (run.total_steps - last) / run.steps_per_s : null;
    const facts = [
      ["step", run.total_steps ? `${count(last)} / ${count(run.total_steps)}` : count(last)],
      mean !== undefined && ["training loss", fixed(mean, 3)],
      val.y.length && ["validation loss", fixed(val.y.at(-1), 3)],
      lr.y.length && ["learning rate", formatRate(lr.y.at(-1))],
      run.tokens_per_s && ["tokens / s", short(run.tokens_per_s)],
      left === null ? run.elapsed > 0 && ["time", duration(run.elapsed)] : ["time left", duration(left)],
    ].filter(Boolean);
    tiles.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const done = run.total_steps ? Math.min(1, last / run.total_steps) : run.running ? 0 : 1;
    bar.style.width = `${100 * done}%`;
    progress.setAttribute("aria-valuenow", Math.round(100 * done));
    progress.classList.toggle("tm-running", Boolean(run.running));
  }

  function drawLegend(many) {
    const focus = legend.contains(document.activeElement) ? document.activeElement.dataset.run : null;
    legend.replaceChildren(...(many
      ? runs.map((run, i) => h("button", {
        type: "button", class: "tm-chip", "data-run": run.name, "aria-pressed": String(!hidden.has(run.name)),
        onclick: () => {
          if (!hidden.delete(run.name)) hidden.add(run.name);
          draw();
        },
      }, h("span", { class: "tm-swatch", style: `color:${COLORS[i % COLORS.length]}` }), run.name))
      : runs.flatMap((run) => [
        key("var(--tm-c0)", "training"),
        run.data.val.x.length ? key("var(--tm-c1)", "validation") : null,
      ]).filter(Boolean)),
    many ? h("span", { class: "tm-key" }, "— training   ● validation") : "");
    if (focus !== null) legend.querySelector(`[data-run="${CSS.escape(focus)}"]`)?.focus();
  }

  const key = (color, text) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${color}` }), text);

  follow(model, life.signal, "change:runs", load);
  follow(model, life.signal, "msg:custom", grow);
  load();
  return () => life.abort();
}

export default { render };
