// A bag of answers that a model gave to one problem: draw some, and see what each rule would make of them.

import { LineChart } from "./chart.js";
import { card, count, fixed, h, slider } from "./common.js";

const inHundred = (share) => `${Math.round(100 * share)} %`;
const ROUNDS = 16; // deals of each problem that the curves are averaged over

/** Numbers from 0 to 1, the same for the same seed: mulberry32. */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** 0 to n - 1 in an order of chance. */
export function deal(n, seed) {
  const next = uniform(seed);
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** The answer that most samples give, as the first of them; null where none can be read. */
export function majority(samples) {
  const votes = new Map();
  for (const sample of samples) {
    if (sample.answer === null) continue;
    const entry = votes.get(sample.answer) ?? { sample, votes: 0 };
    entry.votes += 1;
    votes.set(sample.answer, entry);
  }
  let won = null;
  for (const entry of votes.values()) if (!won || entry.votes > won.votes) won = entry;
  return won && won.sample;
}

/** The sample with the highest of some figure, the first of those that tie; null where none can be read. */
export function best(samples, figure) {
  let top = null;
  for (const sample of samples) {
    if (sample.answer !== null && (top === null || sample[figure] > top[figure])) top = sample;
  }
  return top;
}

/** Ways to settle on one of the samples, each with a color. The last knows the right answer. */
export const RULES = [
  { name: "the first", color: "var(--tm-c6)", take: (samples) => samples[0] },
  { name: "the likeliest", color: "var(--tm-c4)", take: (samples) => best(samples, "logp") },
  { name: "the majority", color: "var(--tm-c0)", take: majority },
  { name: "the verifier's", color: "var(--tm-c1)", take: (samples) => best(samples, "score") },
  { name: "any right one", color: "var(--tm-c2)", take: (samples) => samples.find((sample) => sample.right) ?? null },
];

/** How many problems each rule gets right on average with each number of answers: [rule][size]. */
export function curves(problems, sizes) {
  const right = RULES.map(() => sizes.map(() => 0));
  problems.forEach(({ samples }, number) => {
    for (let round = 0; round < ROUNDS; round++) {
      const order = deal(samples.length, number * ROUNDS + round).map((i) => samples[i]);
      sizes.forEach((size, s) => {
        const drawn = order.slice(0, size);
        RULES.forEach(({ take }, r) => {
          right[r][s] += take(drawn)?.right ? 1 : 0;
        });
      });
    }
  });
  return right.map((row) => row.map((sum) => sum / (ROUNDS * problems.length)));
}

/** Drawn samples by what they answer, the most frequent first: [[answer, samples]…]; unreadable ones at the end. */
export function grouped(samples) {
  const groups = new Map();
  for (const sample of samples) groups.set(sample.answer, [...(groups.get(sample.answer) ?? []), sample]);
  return [...groups].sort(([a, left], [b, right]) => (a === null) - (b === null) || right.length - left.length);
}

function render({ model, el }) {
  const life = new AbortController();
  const again = h("button", { type: "button", class: "tm-quiet", onclick: () => show({ seed: state.seed + 1 }) }, "Deal again");
  const root = card(el, "reasoning", model.get("title"), again);
  const problems = model.get("problems");
  const most = Math.min(...problems.map(({ samples }) => samples.length));
  const sizes = [...new Set([...Array.from({ length: Math.ceil(Math.log2(most)) }, (_, i) => 2 ** i), most])];
  const accuracy = curves(problems, sizes);
  const lowest = Math.floor(10 * Math.min(...accuracy.flat())) / 10;
  const mean = problems.reduce((sum, { samples }) => sum + samples.reduce((all, one) => all + one.tokens, 0) / samples.length, 0) / problems.length;
  let state = { problem: model.get("problem"), drawn: model.get("drawn"), seed: 1 };

  const controls = {
    problem: slider({ label: "problem", min: 0, max: problems.length - 1, step: 1, value: state.problem, show: (i) => problems[i].question, oninput: (problem) => show({ problem }) }),
    drawn: slider({ label: "answers drawn", min: 1, max: most, step: 1, value: state.drawn, show: (n) => `${n} of ${most}`, oninput: (drawn) => show({ drawn }) }),
  };
  const question = h("p", { class: "tm-question" });
  const bag = h("div", { class: "tm-bag" });
  const thoughts = h("pre", { class: "tm-thoughts", "aria-live": "polite" });
  const rows = RULES.map((rule) => ({ ...rule, answer: h("td", { class: "tm-answer" }), mark: h("td", {}), all: h("td", {}) }));
  const table = h("table", { class: "tm-rules" },
    h("thead", {}, h("tr", {}, ["rule", "takes", "", `right, of all ${problems.length}`].map((name) => h("th", {}, name)))),
    h("tbody", {}, rows.map(({ name, color, answer, mark, all }) => h("tr", {}, h("td", {}, h("span", { class: "tm-swatch", style: `color:${color}` }), name), answer, mark, all))));
  const spent = h("p", { class: "tm-note tm-spent", role: "status" });
  const chart = new LineChart({ label: "Accuracy by the number of answers", xLabel: "answers drawn", yLabel: "right, of all problems", signal: life.signal, height: 230,
    xFormat: (x) => (Number.isInteger(Number(x.toFixed(6))) || x === Math.log2(most) ? count(2 ** x) : ""), yFormat: inHundred });
  root.append(h("div", { class: "tm-controls" }, controls.problem.el, controls.drawn.el), question,
    h("div", { class: "tm-pair" }, bag, thoughts), h("div", { class: "tm-pair tm-below" }, h("div", {}, table, spent), chart.el));
  const lines = RULES.map(({ name, color }, r) => ({ name, color, kind: "line", x: sizes.map(Math.log2), y: accuracy[r] }));

  /** One sample's thoughts. */
  function read(sample) {
    const parts = [`${count(sample.tokens)} tokens`, `log-probability ${fixed(sample.logp, 1)}`, `verifier ${fixed(sample.score, 2)}`];
    thoughts.replaceChildren(sample.text, h("span", { class: "tm-figures" }, parts.join(" · ")));
  }

  function show(change) {
    state = { ...state, ...change };
    const { question: text, answer, samples } = problems[state.problem];
    const drawn = deal(samples.length, state.seed * 7919 + state.problem).slice(0, state.drawn).map((i) => samples[i]);
    question.replaceChildren(h("b", {}, text), h("span", { class: "tm-label" }, `right: ${answer}`));
    bag.replaceChildren(...grouped(drawn).map(([given, some]) => h("div", { class: `tm-group${some[0].right ? " tm-right" : ""}` },
      h("span", { class: "tm-given" }, given ?? "unreadable"),
      h("span", { class: "tm-dots" }, some.map((sample) => h("button", { type: "button", class: "tm-one", "aria-label": `an answer of ${given ?? "nothing readable"}`, onpointerenter: () => read(sample), onfocus: () => read(sample), onclick: () => read(sample) }))),
      h("span", { class: "tm-votes" }, count(some.length)))));
    const at = sizes.reduce((near, size, s) => (Math.abs(Math.log2(size / state.drawn)) < Math.abs(Math.log2(sizes[near] / state.drawn)) ? s : near), 0);
    rows.forEach(({ take, answer: cell, mark, all }, r) => {
      const taken = take(drawn);
      cell.textContent = taken?.answer ?? "—";
      mark.textContent = taken?.right ? "✓" : "✗";
      mark.className = taken?.right ? "tm-yes" : "tm-no";
      all.textContent = inHundred(accuracy[r][at]);
    });
    const tokens = drawn.reduce((sum, sample) => sum + sample.tokens, 0);
    spent.textContent = `${count(tokens)} tokens for this problem; on average ${count(mean * state.drawn)} for ${state.drawn} answers. The last column is for ${count(sizes[at])}.`;
    const here = RULES.map(({ color }, r) => ({ color, kind: "dots", x: [Math.log2(sizes[at])], y: [accuracy[r][at]] }));
    chart.draw([...lines, ...here], { yMin: lowest, yMax: 1 });
    read(majority(drawn) ?? drawn[0]);
  }

  show({});
  return () => life.abort();
}

export default { render };
