// A router to set by hand: logits, biases, k and capacity on sliders; choices, weights, load and drops at once.

import { card, choice, fixed, h, percent, slider, visible } from "./common.js";
import { badge, evenness, looks, share, sum, violation } from "./routingbase.js";

const STEP = 0.05; // what one step of loss-free balancing adds to a bias
const MOST = 1; // where the sliders of the biases end
const FACTORS = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2];

function softmax(row) {
  const top = Math.max(...row);
  const exps = row.map((x) => Math.exp(x - top));
  const total = sum(exps);
  return exps.map((x) => x / total);
}

/** What a router makes of logits (tokens × experts), as the routers of nn/routers.py do, and what a capacity drops. */
export function route(logits, rules) {
  const scores = logits.map((row) => (rules.scoring === "softmax" ? softmax(row) : row.map((x) => 1 / (1 + Math.exp(-x)))));
  const taken = (rules.chooser === "experts" ? byExperts : byTokens)(scores, rules);
  const load = taken.queues.map((queue) => queue.length);
  return { scores, ...taken, load, violation: violation(load), entropy: evenness(load) };
}

/** Each token takes its k best experts; those take tokens in the order of the text, as long as there is room. */
function byTokens(scores, { k, normalize, capacity, bias }) {
  const experts = bias.length;
  const choices = scores.map((row) => {
    const rank = row.map((p, e) => p + bias[e]);
    return [...row.keys()].sort((a, b) => rank[b] - rank[a] || a - b).slice(0, k);
  });
  const weights = choices.map((mine, i) => {
    const chosen = mine.map((e) => scores[i][e]);
    const total = normalize ? sum(chosen) + 1e-20 : 1;
    return chosen.map((p) => p / total);
  });
  const room = capacity === null ? Infinity : Math.ceil((capacity * k * scores.length) / experts);
  const queues = Array.from({ length: experts }, () => []);
  const kept = choices.map((mine, i) => mine.map((e) => queues[e].push(i) <= room)); // first come, first served
  return { choices, weights, kept, room, queues };
}

/** Each expert takes the tokens that score best with it, as many as its room; a score is the weight. */
function byExperts(scores, { k, capacity, bias }) {
  const experts = bias.length;
  const room = Math.min(scores.length, Math.ceil(((capacity ?? 1) * k * scores.length) / experts));
  const queues = bias.map((_, e) => [...scores.keys()].sort((a, b) => scores[b][e] - scores[a][e] || a - b).slice(0, room));
  const choices = scores.map((row, i) => [...row.keys()].filter((e) => queues[e].includes(i)).sort((a, b) => row[b] - row[a] || a - b));
  const weights = choices.map((mine, i) => mine.map((e) => scores[i][e]));
  return { choices, weights, kept: choices.map((mine) => mine.map(() => true)), room, queues };
}

/** A step of loss-free balancing: biases of experts above the average load go down, of those below it up. */
export function nudged(bias, load, step = STEP) {
  const mean = sum(load) / load.length;
  return bias.map((b, e) => Math.max(-MOST, Math.min(MOST, Number((b + step * Math.sign(mean - load[e])).toFixed(4)))));
}

const signed = (x, digits) => {
  const rounded = Number(x.toFixed(digits));
  return (rounded > 0 ? "+" : "") + fixed(rounded, digits);
};

function render({ model, el }) {
  const tokens = model.get("tokens");
  const first = model.get("logits");
  const experts = first[0].length;
  const start = () => ({ logits: first.map((row) => [...row]), rules: { ...model.get("settings"), bias: Array(experts).fill(0) } });
  let { logits, rules } = start();
  const factors = [...new Set([...FACTORS, rules.capacity ?? 1])].sort((a, b) => a - b);

  const again = h("button", { type: "button", class: "tm-quiet", onclick: () => {
    ({ logits, rules } = start());
    place();
    draw();
  } }, "start again");
  const root = card(el, "routingplay", model.get("title"), again);
  const set = (change) => {
    rules = { ...rules, ...change };
    draw();
  };
  const group = (label, control) => h("div", {}, h("div", { class: "tm-slider-label" }, label), control.el);
  const controls = {
    chooser: choice({ label: "who chooses", options: [["tokens", "the tokens"], ["experts", "the experts"]], value: rules.chooser, onchange: (chooser) => set({ chooser }) }),
    scoring: choice({ label: "scores by", options: [["softmax", "softmax"], ["sigmoid", "sigmoid"]], value: rules.scoring, onchange: (scoring) => set({ scoring }) }),
    normalize: choice({ label: "weights", options: [[true, "add up to 1"], [false, "as scored"]], value: rules.normalize, onchange: (normalize) => set({ normalize }) }),
    k: slider({ label: "k, experts a token", min: 1, max: experts, step: 1, value: rules.k, show: (k) => `${k} of ${experts}`, oninput: (k) => set({ k }) }),
    capacity: slider({ label: "capacity", min: 0, max: factors.length, step: 1, value: 0, show: (i) => (i < factors.length ? `${fixed(factors[i], 2)} × the average` : "no limit"), oninput: (i) => set({ capacity: factors[i] ?? null }) }),
  };
  const nudge = h("button", { type: "button", class: "tm-quiet", onclick: () => {
    set({ bias: nudged(rules.bias, route(logits, rules).load) });
    place();
  } }, "one step of loss-free balancing");
  const flat = h("button", { type: "button", class: "tm-quiet", onclick: () => {
    set({ bias: rules.bias.map(() => 0) });
    place();
  } }, "no bias");

  const range = (label, most, step, oninput) => h("input", { type: "range", min: -most, max: most, step, "aria-label": label, oninput: (event) => {
    oninput(Number(event.target.value));
    draw();
  } });
  const cells = tokens.map((token, i) => Array.from({ length: experts }, (_, e) => {
    const input = range(`logit of ${visible(token)} for expert ${e}`, 4, 0.1, (x) => (logits[i][e] = x));
    const [logit, score, verdict] = ["tm-logit", "tm-score", "tm-verdict"].map((name) => h("span", { class: name }));
    return { input, logit, score, verdict, el: h("td", { class: looks(e) }, h("div", { class: "tm-cell" }, h("div", { class: "tm-numbers" }, logit, score), input, verdict)) };
  }));
  const biases = Array.from({ length: experts }, (_, e) => {
    const input = range(`bias of expert ${e}`, MOST, 0.05, (x) => (rules.bias[e] = x));
    const shown = h("span", { class: "tm-logit" });
    return { input, shown, el: h("td", {}, h("div", { class: "tm-cell" }, h("div", { class: "tm-numbers" }, shown), input)) };
  });
  const queues = Array.from({ length: experts }, (_, e) => h("td", { class: looks(e) }, h("div", { class: "tm-queue" })));
  const table = h("table", { class: "tm-table", style: `--n: ${experts}` },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), Array.from({ length: experts }, (_, e) => h("th", { scope: "col" }, badge(e))))),
    h("tbody", {},
      tokens.map((token, i) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, visible(token))), cells[i].map((cell) => cell.el))),
      h("tr", { class: "tm-biases" }, h("th", { scope: "row" }, "bias"), biases.map((bias) => bias.el)),
      h("tr", { class: "tm-loads" }, h("th", { scope: "row" }, "load"), queues)));
  const facts = ["max violation", "entropy of the load", "dropped choices", "tokens without expert"].map((name) => ({ name, value: h("dd", {}) }));
  const said = h("p", { class: "tm-note tm-said", role: "status" });
  root.append(
    h("div", { class: "tm-controls" }, controls.k.el, controls.capacity.el),
    h("div", { class: "tm-controls" }, group("who chooses", controls.chooser), group("scores by", controls.scoring), group("weights", controls.normalize)),
    h("div", { class: "tm-scroll" }, table),
    h("dl", { class: "tm-facts" }, facts.map(({ name, value }) => h("div", {}, h("dt", {}, name), value))),
    h("div", { class: "tm-line" }, nudge, flat), said);

  /** Move every slider to where the numbers are. */
  function place() {
    cells.forEach((row, i) => row.forEach((cell, e) => (cell.input.value = logits[i][e])));
    biases.forEach((bias, e) => (bias.input.value = rules.bias[e]));
    controls.chooser.set(rules.chooser);
    controls.scoring.set(rules.scoring);
    controls.normalize.set(rules.normalize);
    controls.k.set(rules.k);
    controls.capacity.set(rules.capacity === null ? factors.length : factors.indexOf(rules.capacity));
  }

  function draw() {
    const now = route(logits, rules);
    cells.forEach((row, i) => row.forEach(({ logit, score, verdict, el: td }, e) => {
      const j = now.choices[i].indexOf(e);
      const dropped = j >= 0 && !now.kept[i][j];
      logit.textContent = signed(logits[i][e], 1);
      score.textContent = percent(now.scores[i][e]);
      verdict.textContent = j < 0 ? "\u00a0" : dropped ? "dropped" : `weight ${fixed(now.weights[i][j], 2)}`;
      td.classList.toggle("tm-in", j >= 0 && !dropped);
      td.classList.toggle("tm-out", dropped);
    }));
    biases.forEach(({ shown }, e) => (shown.textContent = signed(rules.bias[e], 2)));
    queues.forEach((td, e) => {
      const queue = now.queues[e].map((i, turn) => h("span", { class: `tm-member${turn >= now.room ? " tm-late" : ""}` }, visible(tokens[i])));
      const free = Number.isFinite(now.room) ? Math.max(0, now.room - queue.length) : 0;
      const slots = Array.from({ length: free }, () => h("span", { class: "tm-member tm-free" }, "free"));
      td.firstChild.replaceChildren(h("b", {}, String(now.load[e])), ...queue, ...slots);
    });
    const theirs = rules.chooser === "experts"; // who take scores as they are
    [...biases.map(({ input }) => input), nudge, flat, ...controls.normalize.el.children].forEach((one) => (one.disabled = theirs));
    const lost = now.kept.flat().filter((yes) => !yes).length;
    const alone = now.kept.filter((mine) => !mine.some(Boolean)).length;
    [fixed(now.violation, 2), share(now.entropy), `${lost} of ${sum(now.load)}`, `${alone} of ${tokens.length}`].forEach((text, i) => (facts[i].value.textContent = text));
    said.textContent = rules.chooser === "experts" ? tellExperts(now, alone) : tellTokens(now, lost);
  }

  const roomFor = (room) => `room for ${room} each, ceil(${fixed(rules.capacity ?? 1, 2)} · ${rules.k} · ${tokens.length} / ${experts})`;

  function tellTokens({ load, room }, lost) {
    const mean = (tokens.length * rules.k) / experts;
    const busiest = load.indexOf(Math.max(...load));
    const biased = rules.bias.some((b) => b) ? "Biases move the choices, never the weights. " : "";
    const limit = Number.isFinite(room)
      ? `There is ${roomFor(room)}: ${lost ? "who comes later is dropped, and the weight is lost" : "nothing is dropped"}.`
      : "Without a limit nothing is dropped.";
    return `On average an expert has ${fixed(mean, mean % 1 ? 1 : 0)} tokens; expert ${busiest} has ${load[busiest]}. ${biased}${limit}`;
  }

  function tellExperts({ room }, alone) {
    const without = alone ? `${alone === 1 ? "a token that nobody wants gets" : `${alone} tokens that nobody wants get`} none` : "here every token gets one";
    return `Each expert takes the tokens that score best with it; there is ${roomFor(room)}. All have as many, without any bias; but a token has k experts only on average: ${without}.`;
  }

  place();
  draw();
  return () => {};
}

export default { render };
