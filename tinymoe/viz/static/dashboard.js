// Reinforcement learning while it runs and afterwards: curves over the steps, and the answers of a step, group by group.

import { LineChart, nearest, smooth } from "./chart.js";
import { card, count, fixed, follow, h, number, percent, short, slider } from "./common.js";

const PANELS = [
  { key: "length", label: "Length of an answer", yLabel: "tokens", show: (y) => fixed(y, 1), yMin: 0 },
  { key: "entropy", label: "Entropy", yLabel: "nats per token", show: (y) => number(y, 3), yMin: 0 },
  { key: "kl", label: "KL from the reference", yLabel: "nats per token", show: (y) => number(y, 3), yMin: 0 },
  { key: "idle", label: "Groups that teach nothing", yLabel: "share", show: percent, yMin: 0, yMax: 1 },
];

/** The curve `key` of all steps that have it, as { x, y }. */
export function curve(steps, key) {
  const having = steps.filter((step) => Number.isFinite(step[key]));
  return { x: Float64Array.from(having, (step) => step.step), y: Float64Array.from(having, (step) => step[key]) };
}

/** A completion cut at its tags: [[text, is a tag]…], where the last part between tags, the answer, is "answer". */
export function pieces(completion) {
  const parts = completion.split(/(<\/?[a-z_|]+>)/).filter(Boolean);
  const at = parts.lastIndexOf("<answer>");
  return parts.map((part, i) => [part, /^<\/?[a-z_|]+>$/.test(part) ? "tag" : at >= 0 && i === at + 1 ? "answer" : "text"]);
}

/** Mean of a group's rewards, and how many answers and how many different ones it has. */
export function summary({ answers }) {
  const size = answers.reduce((sum, answer) => sum + answer[3], 0);
  const mean = answers.reduce((sum, answer) => sum + answer[1] * answer[3], 0) / size;
  const differ = answers.some((answer) => Math.abs(answer[1] - answers[0][1]) > 1e-9);
  return { size, mean, differ };
}

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "dashboard", model.get("title"));
  let steps = [];
  let held = []; // numbers of the steps whose answers are kept
  let chosen = null; // null follows the newest

  const tiles = h("dl", { class: "tm-tiles" });
  const bar = h("span", { class: "tm-progress-fill" });
  const progress = h("div", { class: "tm-progress", role: "progressbar", "aria-label": "training progress" }, bar);
  const empty = h("p", { class: "tm-note" }, "Waiting for the first step.");
  const charts = [];
  const make = (panel, height, yTicks) => {
    const chart = new LineChart({
      label: `${panel.label} over steps`, xLabel: "step", yLabel: panel.yLabel, signal: life.signal, height, yTicks, xFormat: count,
      yFormat: (y, exact) => (exact ? panel.show(y) : number(y, 2)), oncursor: (x) => charts.forEach((other) => other !== chart && other.showCursor(x)),
    });
    charts.push(chart);
    // A click, or Enter on the cross-hair, opens the step that it stands at.
    const open = () => chart.cursor !== null && choose(chart.cursor);
    chart.svg.addEventListener("click", open);
    chart.svg.addEventListener("keydown", (event) => event.key === "Enter" && open());
    return chart;
  };
  const reward = make({ label: "Reward", yLabel: "mean reward", show: (y) => fixed(y, 3) }, 236, 4);
  const small = PANELS.map((panel) => {
    const chart = make(panel, 140, 2);
    return { panel, chart, el: h("div", { class: "tm-small" }, h("h4", {}, panel.label), chart.el) };
  });
  const key = (kind, text) => h("span", { class: "tm-key" }, h("span", { class: `tm-swatch ${kind}` }), text);
  const held_out = key("tm-unseen", "likeliest answers to held-out problems");
  const legend = h("div", { class: "tm-keys" }, key("tm-sampled", "sampled answers (thin: each step)"), held_out);

  const move = (by) => held.length && choose(held[Math.max(0, Math.min(held.length - 1, place() + by))]);
  const back = h("button", { type: "button", class: "tm-quiet", "aria-label": "step back", onclick: () => move(-1) }, "◀");
  const forth = h("button", { type: "button", class: "tm-quiet", "aria-label": "step forth", onclick: () => move(1) }, "▶");
  const picker = slider({
    label: "answers of step", min: 0, max: 0, step: 1, value: 0, show: (i) => (held.length ? count(held[Math.min(i, held.length - 1)]) : "–"),
    oninput: (i) => choose(held[i]),
  });
  const steer = h("div", { class: "tm-steer" }, back, picker.el, forth);
  const groups = h("div", { class: "tm-groups" });
  const said = h("p", { class: "tm-note tm-legendline" },
    "Left of each answer: its reward, and as a bar its advantage over the others to the same problem. ×3: written three times.");
  const below = h("div", { class: "tm-below" }, steer, groups, said);
  root.append(tiles, progress, empty, legend, reward.el, h("div", { class: "tm-smalls" }, small.map((one) => one.el)), below);

  const place = () => (chosen === null ? held.length - 1 : held.indexOf(chosen));

  function choose(step) {
    if (!held.length) return;
    const at = nearest(held, step);
    chosen = at === held.length - 1 && model.get("running") ? null : held[at];
    drawStep();
  }

  function load() {
    steps = model.get("steps");
    draw();
  }

  function grow(message) {
    // A view opened after the run began starts at the next full update.
    if (message.kind !== "steps" || message.from !== steps.length) return;
    steps = [...steps, ...message.steps];
    draw();
  }

  function draw() {
    held = steps.filter((step) => step.groups.length).map((step) => step.step);
    if (chosen !== null && held.length && !held.includes(chosen)) chosen = held[nearest(held, chosen)];
    const xMax = model.get("total_steps") || undefined;
    const [sampled, unseen] = [curve(steps, "reward"), curve(steps, "held_out")];
    const series = [
      { color: "var(--tm-c0)", ...sampled, kind: "faint" },
      { name: "sampled answers", color: "var(--tm-c0)", x: sampled.x, y: smooth(sampled.y, sampled.y.length / 30), kind: "line" },
    ];
    if (unseen.x.length) series.push({ name: "held-out problems", color: "var(--tm-c1)", ...unseen, kind: "dots" });
    reward.draw(series, { xMax, yMin: Math.min(0, ...sampled.y), yMax: Math.max(...sampled.y, ...unseen.y) <= 1 ? 1 : undefined });
    for (const { panel, chart, el: box } of small) {
      const points = curve(steps, panel.key);
      box.hidden = !points.x.length;
      chart.draw([
        { color: "var(--tm-c0)", ...points, kind: "faint" },
        { name: panel.label.toLowerCase(), color: "var(--tm-c0)", x: points.x, y: smooth(points.y, points.y.length / 30), kind: "line" },
      ], { xMax, yMin: panel.yMin, yMax: panel.yMax });
    }
    empty.hidden = steps.length > 0;
    reward.el.hidden = legend.hidden = tiles.hidden = progress.hidden = !steps.length;
    held_out.hidden = !unseen.x.length;
    below.hidden = !held.length;
    picker.input.max = Math.max(0, held.length - 1);
    drawTiles();
    drawStep();
  }

  function drawTiles() {
    const last = steps.at(-1);
    if (!last) return;
    const total = model.get("total_steps");
    const { y } = curve(steps, "reward");
    const [from, to] = [y.slice(0, 5), y.slice(-5)].map((part) => part.reduce((a, b) => a + b, 0) / part.length);
    const unseen = curve(steps, "held_out").y;
    const speed = curve(steps, "speed").y;
    const facts = [
      ["step", total ? `${count(last.step)} / ${count(total)}` : count(last.step)],
      y.length && ["reward, first 5 → last 5 steps", `${fixed(from, 2)} → ${fixed(to, 2)}`],
      unseen.length && ["held-out, first → last", `${fixed(unseen[0], 2)} → ${fixed(unseen.at(-1), 2)}`],
      speed.length && ["tokens / s", short(speed.reduce((a, b) => a + b, 0) / speed.length)],
    ].filter(Boolean);
    tiles.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const done = total ? Math.min(1, last.step / total) : model.get("running") ? 0 : 1;
    bar.style.width = `${100 * done}%`;
    progress.setAttribute("aria-valuenow", Math.round(100 * done));
    progress.classList.toggle("tm-running", model.get("running"));
  }

  function drawStep() {
    const at = place();
    if (at < 0) return;
    picker.set(at);
    back.disabled = at === 0;
    forth.disabled = at === held.length - 1;
    const step = steps.find((one) => one.step === held[at]);
    const most = Math.max(1e-9, ...step.groups.flatMap((group) => group.answers.map((answer) => Math.abs(answer[2] ?? 0))));
    groups.replaceChildren(...step.groups.map((group) => groupBox(group, most)));
  }

  function groupBox(group, most) {
    const { size, mean, differ } = summary(group);
    return h("section", { class: "tm-group" },
      h("h4", {}, h("code", {}, group.prompt.replaceAll("\n", "↵ ")), h("span", { class: "tm-mean" }, size > 1 ? `mean ${fixed(mean, 2)}${differ ? "" : ", nothing to learn"}` : "")),
      h("ol", {}, group.answers.map(([completion, earned, advantage, times]) => {
        const kind = !advantage ? "tm-even" : advantage > 0 ? "tm-better" : "tm-worse";
        const length = 50 * (Math.abs(advantage ?? 0) / most);
        const value = advantage === null ? "" : `advantage ${fixed(advantage, 2)}`;
        return h("li", { class: kind },
          h("span", { class: "tm-earned" }, number(earned, 3)),
          h("span", { class: "tm-gain", role: "img", "aria-label": value, title: value },
            h("span", { style: `width:${length}%;left:${advantage < 0 ? 50 - length : 50}%` })),
          h("span", { class: "tm-wrote" },
            pieces(completion).map(([text, what]) => h("span", { class: `tm-${what}` }, text.replaceAll("\n", "↵\u200b"))),
            times > 1 ? h("span", { class: "tm-times" }, ` ×${times}`) : null));
      })));
  }

  follow(model, life.signal, "change:steps", load);
  follow(model, life.signal, "change:running", draw);
  follow(model, life.signal, "msg:custom", grow);
  load();
  return () => life.abort();
}

export default { render };
