// Learning rate, warm-up, schedule and batch size to play with; recorded runs to browse, new ones to train.

import { rates } from "./schedule.js";
import { LineChart, smooth } from "./chart.js";
import { card, choice, count, fixed, follow, h, kernelBadge, listenForKernel, number, formatRate, send, slider, typed } from "./common.js";

const NAMES = { constant: "constant", cosine: "cosine", wsd: "warm-up, stable, decay" };
const COLUMNS = 3; // step, loss, val_loss

/** A run's rows as curves, and how it ended: the last validation loss, or else the last training loss. */
export function unpackRun({ settings, count: n }, rows) {
  const column = (k, keep) => Float32Array.from(keep, (i) => rows[i * COLUMNS + k]);
  const have = (k) => [...Array(n).keys()].filter((i) => Number.isFinite(rows[i * COLUMNS + k]));
  const [loss, val] = [have(1), have(2)];
  // A loss that ended as NaN diverged, whatever it was before.
  const diverged = n > 0 && !Number.isFinite(rows[(n - 1) * COLUMNS + 1]);
  const end = diverged ? Infinity : val.length ? rows[val.at(-1) * COLUMNS + 2] : loss.length ? rows[loss.at(-1) * COLUMNS + 1] : NaN;
  return { settings, end, loss: { x: column(0, loss), y: column(1, loss) }, val: { x: column(0, val), y: column(2, val) } };
}

const variant = (settings) => `${settings.schedule}/${settings.warmup}`;
const same = (a, b) => variant(a) === variant(b) && a.batch_size === b.batch_size && Math.abs(a.lr / b.lr - 1) < 1e-3;

function render({ model, el }) {
  const life = new AbortController();
  const badge = kernelBadge();
  const root = card(el, "scheduleplay", model.get("title"), badge.el);
  const batchSizes = model.get("batch_sizes");
  const [lowest, highest] = model.get("lr_range").map(Math.log10);
  const callable = model.get("callable");
  let settings = { ...model.get("settings") };
  const { steps } = settings;
  let recorded = [];
  let fresh = null;
  let live = false;
  let running = false;

  const position = (lr) => Math.log10(lr);
  const controls = {
    lr: slider({ label: "peak learning rate", min: lowest, max: highest, step: 0.01, value: position(settings.lr), show: (x) => formatRate(10 ** x), oninput: (x) => set({ lr: 10 ** x, min_lr: (10 ** x * settings.min_lr) / settings.lr }) }),
    warmup: slider({ label: "warm-up", min: 0, max: Math.floor(steps / 2), step: 1, value: settings.warmup, show: (k) => `${count(k)} steps`, oninput: (warmup) => set({ warmup }) }),
    batch: slider({ label: "batch size", min: 0, max: batchSizes.length - 1, step: 1, value: batchSizes.indexOf(settings.batch_size), show: (i) => `${batchSizes[i]} sequences`, oninput: (i) => set({ batch_size: batchSizes[i] }) }),
    schedule: choice({ label: "schedule", options: Object.entries(NAMES), value: settings.schedule, onchange: (schedule) => set({ schedule }) }),
  };
  const run = h("button", { type: "button", class: "tm-button", onclick: train }, "Train with these settings");
  const hint = h("p", { class: "tm-note", role: "status" });
  const shared = { xLabel: "step", xFormat: count, signal: life.signal };
  const rate = new LineChart({ ...shared, label: "Learning rate over steps", yLabel: "learning rate", height: 160, yTicks: 3, yFormat: (y, exact) => formatRate(y, exact ? 3 : 2), oncursor: (x) => loss.showCursor(x) });
  const loss = new LineChart({ ...shared, label: "Loss over steps", yLabel: "loss (nats per token)", height: 250, yFormat: (y, exact) => (exact ? fixed(y, 3) : number(y, 3)), oncursor: (x) => rate.showCursor(x) });
  const key = (color, text) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${color}` }), text);
  const keys = h("div", {}, key("var(--tm-c0)", "training"), key("var(--tm-c1)", "validation"), key("var(--tm-strong)", "other recorded runs of this schedule"));
  const table = h("div", { class: "tm-runs" });
  root.append(h("div", { class: "tm-play" },
    h("div", { class: "tm-controls" }, h("div", {}, h("div", { class: "tm-slider-label" }, "schedule"), controls.schedule.el), controls.lr.el, controls.warmup.el, controls.batch.el, run, hint),
    h("div", { class: "tm-curves" }, rate.el, loss.el, keys)), table);

  function set(change) {
    settings = { ...settings, ...change };
    draw();
  }

  function load() {
    const rows = typed(Float32Array, model.get("rows"));
    let start = 0;
    recorded = model.get("runs").map((one) => {
      const part = rows.subarray(start, start + one.count * COLUMNS);
      start += one.count * COLUMNS;
      return unpackRun(one, part);
    });
    draw();
  }

  function jump(to) {
    settings = { ...settings, ...to };
    controls.lr.set(position(settings.lr));
    controls.warmup.set(settings.warmup);
    controls.batch.set(batchSizes.indexOf(settings.batch_size));
    controls.schedule.set(settings.schedule);
    draw();
  }

  function draw() {
    const y = rates({ ...settings, decay: Math.floor(steps / 5) });
    rate.draw([{ name: "learning rate", color: "var(--tm-c0)", kind: "line", x: Float32Array.from(y.keys()), y }], { xMax: steps, yMin: 0, yMax: settings.lr * 1.08 });
    drawLoss();
    drawTable();
    run.hidden = !live;
    run.textContent = running ? "Stop" : "Train with these settings";
    badge.show(live, live ? "kernel connected" : recorded.length ? "recorded runs" : "");
    if (running) return;
    const here = recorded.some((one) => same(one.settings, settings));
    hint.textContent = live ? (here ? "This run is recorded; training repeats it." : "")
      : here ? "The solid curve is the recorded run with these settings."
        : recorded.length ? `No recorded run has exactly these settings: pick one from the table.${callable ? " To train others, open the chapter in Jupyter and run its cells." : ""}` : "";
  }

  function drawLoss() {
    const series = [];
    let low = Infinity;
    let high = -Infinity;
    const focus = fresh ?? recorded.find((one) => same(one.settings, settings));
    for (const one of recorded) {
      const mean = smooth(one.loss.y, one.loss.y.length / 40);
      if (Number.isFinite(one.end)) {
        low = Math.min(low, one.end, ...mean);
        high = Math.max(high, mean[0] ?? -Infinity, one.end);
      }
      if (one !== focus && variant(one.settings) === variant(settings)) series.push({ color: "var(--tm-strong)", kind: "ghost", x: one.loss.x, y: mean });
    }
    if (focus) {
      series.push({ color: "var(--tm-c0)", kind: "faint", ...focus.loss });
      series.push({ name: "training", color: "var(--tm-c0)", kind: "line", x: focus.loss.x, y: smooth(focus.loss.y, focus.loss.y.length / 40) });
      if (focus.val.x.length) series.push({ name: "validation", color: "var(--tm-c1)", kind: "dots", ...focus.val });
    }
    loss.el.hidden = keys.hidden = !series.length;
    // Diverging runs leave through the top; the scale is that of the runs that learn.
    loss.draw(Number.isFinite(high) ? series.map((one) => ({ ...one, y: one.y.map((v) => Math.min(v, high * 1.15)) })) : series, { xMax: steps });
  }

  let picked = null;
  function drawTable() {
    table.hidden = !recorded.length;
    if (!recorded.length) return;
    const variants = [...new Map(recorded.map((one) => [variant(one.settings), one.settings])).values()];
    const current = variants.find((one) => variant(one) === variant(settings)) ?? variants.find((one) => variant(one) === picked) ?? variants[0];
    picked = variant(current);
    const cells = recorded.filter((one) => variant(one.settings) === picked);
    const lrs = [...new Set(cells.map((one) => one.settings.lr))].sort((a, b) => a - b);
    const sizes = [...new Set(cells.map((one) => one.settings.batch_size))].sort((a, b) => a - b);
    const ends = recorded.map((one) => one.end).filter(Number.isFinite).sort((a, b) => a - b);
    const shade = (end) => (Number.isFinite(end) && ends.length > 1 ? 1 - ends.indexOf(end) / (ends.length - 1) : 0);
    const name = (one) => `${NAMES[one.schedule]}${one.warmup ? `, warm-up ${one.warmup}` : ", no warm-up"}`;
    const focus = table.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const tabs = choice({ label: "recorded schedules", options: variants.map((one) => [variant(one), name(one)]), value: picked, onchange: (key) => {
      const to = variants.find((one) => variant(one) === key);
      fresh = null;
      jump({ schedule: to.schedule, warmup: to.warmup });
    } });
    const row = (size) => h("tr", {}, h("th", { scope: "row" }, `batch ${size}`), lrs.map((lr) => {
      const one = cells.find((cell) => cell.settings.lr === lr && cell.settings.batch_size === size);
      if (!one) return h("td", {});
      const here = same(one.settings, settings);
      return h("td", {}, h("button", {
        type: "button", class: "tm-cell", "aria-pressed": String(here), "data-key": `${lr}/${size}`, style: `--p:${Math.round(46 * shade(one.end) ** 1.5)}%`,
        title: Number.isFinite(one.end) ? `final loss ${fixed(one.end, 4)}` : "the loss became NaN or infinite",
        onclick: () => {
          fresh = null;
          jump(one.settings);
        },
      }, Number.isFinite(one.end) ? fixed(one.end, 2) : "diverged"));
    }));
    table.replaceChildren(h("h4", {}, "Recorded runs: final loss (nats per token), the stronger the color, the better"), ...(variants.length > 1 ? [tabs.el] : []),
      h("div", { class: "tm-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "peak rate"), lrs.map((lr) => h("th", { scope: "col" }, formatRate(lr))))), h("tbody", {}, sizes.map(row)))));
    if (focus) table.querySelector(`[data-key="${focus}"]`)?.focus();
  }

  function train() {
    if (!live) return;
    if (running) {
      send(model, { kind: "stop" });
      return;
    }
    running = true;
    fresh = unpackRun({ settings, count: 0 }, new Float32Array(0));
    fresh.rows = new Float32Array(0);
    hint.textContent = "Waiting for Python.";
    send(model, { kind: "train", settings });
    draw();
  }

  function heard(message, buffers) {
    if (message.kind === "rows" && fresh?.rows) {
      const more = typed(Float32Array, buffers[0]);
      const rows = new Float32Array(fresh.rows.length + more.length);
      rows.set(fresh.rows);
      rows.set(more, fresh.rows.length);
      fresh = { ...unpackRun({ settings: fresh.settings, count: rows.length / COLUMNS }, rows), rows };
      hint.textContent = `step ${count(rows.at(-COLUMNS))} of ${count(steps)}`;
      drawLoss();
    } else if (message.kind === "done" || message.kind === "failed") {
      running = false;
      fresh = null;
      draw();
      if (message.kind === "failed") hint.textContent = `Python answered: ${message.text}`;
    }
  }

  follow(model, life.signal, "msg:custom", heard);
  follow(model, life.signal, "change:runs", load);
  if (callable) {
    listenForKernel(model, life.signal, () => {
      live = true;
      draw();
    });
  }
  load();
  return () => life.abort();
}

export default { render };
