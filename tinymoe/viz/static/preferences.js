// Runs of training on a reward model: two curves, and what is written at a step, with what it is worth.

import { LineChart, nearest } from "./chart.js";
import { card, choice, count, fixed, h, slider } from "./common.js";

const COLOR = { proxy: "var(--tm-c1)", gold: "var(--tm-c2)" };
const NAME = { proxy: "the reward model", gold: "worth (gold)" };

/** The entry at which a run is best by some figure, the first of those that tie. */
export function bestOf(entries, figure) {
  return entries.reduce((best, entry, i) => (entry[figure] > entries[best][figure] ? i : best), 0);
}

/** What a note's points say, without those that are 0: [["name", "+1"], …]. */
export function reasons(points) {
  return Object.entries(points).filter(([, x]) => x).map(([name, x]) => [name, `${x > 0 ? "+" : "−"}${Math.abs(x)}`]);
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "preferences", model.get("title"));
  const runs = Object.entries(model.get("runs"));
  let run = 0;
  let at = nearest(runs[0][1].map((entry) => entry.step), model.get("step"));

  const whichRun = choice({ label: "run", options: runs.map(([name], i) => [i, name]), value: run, onchange: (i) => {
    const step = runs[run][1][at].step;
    run = i;
    at = nearest(runs[i][1].map((entry) => entry.step), step);
    show();
  } });
  const most = Math.max(...runs.map(([, entries]) => entries.length)) - 1;
  const when = slider({ label: "training", min: 0, max: most, step: 1, value: at,
    show: (i) => `step ${count(runs[run][1][Math.min(i, runs[run][1].length - 1)].step)}`, oninput: (i) => {
      at = Math.min(i, runs[run][1].length - 1);
      show();
    } });
  const chart = new LineChart({ label: "Rewards over the steps of training", xLabel: "step", yLabel: "mean reward", signal: life.signal, height: 230, xFormat: count, yFormat: (y) => fixed(y, Number.isInteger(y) ? 0 : 2) });
  const state = h("p", { class: "tm-note tm-state", role: "status" });
  const notes = h("div", { class: "tm-notes" });
  root.append(
    h("div", { class: "tm-controls" }, runs.length > 1 ? h("div", {}, h("div", { class: "tm-slider-label" }, "run"), whichRun.el) : null, when.el),
    chart.el,
    h("div", { class: "tm-keys" }, Object.keys(COLOR).map((figure) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${COLOR[figure]}` }), NAME[figure]))),
    state, notes);

  // One scale for all runs, so that they can be compared.
  const every = runs.flatMap(([, entries]) => entries.flatMap((entry) => [entry.gold, entry.proxy]));
  const [low, high] = [Math.min(...every), Math.max(...every)];

  function show() {
    const entries = runs[run][1];
    const entry = entries[at];
    const steps = entries.map(({ step }) => step);
    const lines = Object.keys(COLOR).map((figure) => ({ name: NAME[figure], color: COLOR[figure], kind: "line", x: steps, y: entries.map((one) => one[figure]) }));
    const here = { kind: "ghost", color: "var(--tm-strong)", x: [entry.step, entry.step], y: [low, high] };
    chart.draw([here, ...lines], { yMin: low - 0.06 * (high - low), yMax: high + 0.06 * (high - low) });
    const best = entries[bestOf(entries, "gold")];
    state.textContent = `Step ${count(entry.step)}: the reward model gives ${fixed(entry.proxy, 2)}, the notes are worth ${fixed(entry.gold, 2)}, and their KL divergence from the start is ${fixed(entry.kl, 1)} nats. They were worth most at step ${count(best.step)}: ${fixed(best.gold, 2)}.`;
    notes.replaceChildren(...entry.notes.map(({ prompt, text, points, gold, proxy }) => h("article", { class: "tm-written" },
      h("div", { class: "tm-label" }, prompt.trim()),
      h("div", { class: "tm-text" }, text || "(nothing)"),
      h("div", { class: "tm-points" },
        h("span", { class: "tm-worth", style: `color: color-mix(in srgb, ${COLOR.proxy} 65%, var(--tm-ink))` }, `model ${fixed(proxy, 2)}`),
        h("span", { class: "tm-worth", style: `color: color-mix(in srgb, ${COLOR.gold} 65%, var(--tm-ink))` }, `worth ${fixed(gold, 2)}`),
        reasons(points).map(([name, x]) => h("span", { class: `tm-reason${x.startsWith("−") ? " tm-bad" : ""}` }, `${name} ${x}`))))));
  }

  show();
  return () => life.abort();
}

export default { render };
