// A text colored by expert: layers to choose, a token's scores and every expert's load above one another.

import { card, choice, fixed, follow, h, inline, percent, typed, visible, wordPointer } from "./common.js";
import { badge, evenness, frequent, looks, share, sum, tally, violation } from "./routingbase.js";

const ORDINALS = ["1st", "2nd", "3rd"];
const SHOWN = 2; // experts of a token in each layer's button

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "routing", model.get("title"));
  const tokens = model.get("tokens");
  const layers = model.get("layers");
  const { experts, k } = model.get("shape");
  const n = tokens.length;
  const scores = typed(Uint16Array, model.get("scores"));
  const choices = typed(Int16Array, model.get("choices")); // -1 where a choice was dropped
  let layer = model.get("layer");
  let token = model.get("token");
  let expert = model.get("expert");
  let rank = 0;

  const chosen = (l, i) => choices.subarray((l * n + i) * k, (l * n + i + 1) * k);
  const ofLayer = (l) => choices.subarray(l * n * k, (l + 1) * n * k);
  const scoresOf = (i) => Array.from(scores.subarray((layer * n + i) * experts, (layer * n + i + 1) * experts), (x) => x / 65535);
  const ordinal = (i) => ORDINALS[i] ?? `${i + 1}th`;

  const stops = layers.map((name) => h("span", { class: "tm-stop" }, h("span", {}, `layer ${name}`), h("span", { class: "tm-went" })));
  const layerChoice = choice({ label: "layer; below each, where the token goes", options: stops.map((stop, i) => [i, stop]), value: layer, onchange: (i) => {
    layer = i;
    draw();
  } });
  layerChoice.el.classList.add("tm-way");
  const rankChoice = choice({ label: "colored by", options: Array.from({ length: k }, (_, i) => [i, `${ordinal(i)} choice`]), value: rank, onchange: (i) => {
    rank = i;
    color();
  } });
  const all = h("button", { type: "button", class: "tm-quiet", onclick: () => pick(null) });
  const room = experts > 10 ? "4px" : "2px"; // for the number below a single character
  const chips = [];
  const words = h("div", { class: "tm-words", tabindex: 0, role: "listbox", "aria-label": "tokens, colored by expert; arrow keys choose one" },
    inline(n, (i) => (chips[i] = h("span", { role: "option", "data-i": i, style: /^.$/.test(tokens[i]) && `padding-inline: ${room}` })), (i) => tokens[i]));
  const tokenNote = h("p", { class: "tm-said", role: "status" });
  const expertNote = h("p", { class: "tm-said", role: "status" });
  const columns = Array.from({ length: experts }, (_, e) => h("span", { class: `tm-column ${looks(e)}`, role: "option", "data-e": e },
    h("span", { class: "tm-space" }, h("span", { class: "tm-amount" }), h("span", { class: "tm-bar" })),
    h("span", { class: "tm-name" }, String(e)),
    h("span", { class: "tm-space" }, h("span", { class: "tm-amount" }), h("span", { class: "tm-bar" }))));
  const scoreTitle = h("span", { class: "tm-over" });
  const loadTitle = h("span", { class: "tm-over tm-second" });
  const mean = h("span", { class: "tm-mean" });
  const chart = h("div", { class: `tm-columns${experts > 20 ? " tm-many" : experts > 10 ? " tm-several" : ""}`, style: `--n: ${experts}`, tabindex: 0, role: "listbox", "aria-label": "experts; arrow keys choose one, Escape shows all" }, columns, mean);
  root.append(
    h("div", { class: "tm-slider-label tm-caption" }, "choose a layer; below each, where the marked token goes"), layerChoice.el,
    h("div", { class: "tm-line" }, k > 1 ? [h("span", { class: "tm-label" }, "colored by the"), rankChoice.el] : null, all),
    words, tokenNote,
    h("div", { class: "tm-scroll" }, h("div", { class: "tm-charts" }, scoreTitle, loadTitle, chart)), expertNote);

  /** All of a layer: its colors and its load. */
  function draw() {
    layerChoice.set(layer);
    const counts = tally(ofLayer(layer), experts);
    const most = Math.max(...counts);
    const total = sum(counts);
    columns.forEach((column, e) => {
      column.lastChild.style.setProperty("--size", counts[e] / most);
      column.lastChild.firstChild.textContent = share(counts[e] / total);
    });
    mean.style.setProperty("--size", total / experts / most);
    loadTitle.textContent = `load in layer ${layers[layer]}: max violation ${fixed(violation(counts), 2)}, entropy ${share(evenness(counts))}`;
    color();
    readExpert();
  }

  /** The colors of the text: of the choice asked for, or of one expert alone. */
  function color() {
    chips.forEach((chip, i) => {
      const mine = chosen(layer, i);
      const e = expert === null ? mine[rank] : expert;
      const away = e < 0 || !mine.includes(e);
      chip.className = `tm-word ${away ? "tm-away" : looks(e)}`;
      chip.dataset.e = away ? "" : e;
    });
    all.textContent = expert === null ? "click an expert below to see its tokens alone" : `only expert ${expert}: show all (Esc)`;
    all.disabled = expert === null;
    read(token);
  }

  /** One token: its scores, and its experts in every layer. */
  function read(i) {
    chips[token].classList.remove("tm-marked");
    chips[token].setAttribute("aria-selected", "false");
    token = i;
    chips[i].classList.add("tm-marked");
    chips[i].setAttribute("aria-selected", "true");
    const p = scoresOf(i);
    const top = Math.max(...p, 1e-9);
    const mine = chosen(layer, i).filter((e) => e >= 0);
    columns.forEach((column, e) => {
      column.firstChild.style.setProperty("--size", p[e] / top);
      column.firstChild.firstChild.textContent = percent(p[e]);
      column.classList.toggle("tm-taken", mine.includes(e));
      column.title = `expert ${e}: score ${percent(p[e])} for this token`;
    });
    scoreTitle.replaceChildren("router's scores for ", h("code", {}, visible(tokens[i])));
    tokenNote.replaceChildren("Token ", h("code", {}, visible(tokens[i])), ` (number ${i + 1}) goes to ${mine.length ? "expert " : "no expert"}`,
      ...Array.from(mine).flatMap((e, j) => [j ? (j === mine.length - 1 ? " and " : ", ") : "", badge(e), ` (${percent(p[e])})`]), ".");
    stops.forEach((stop, l) => {
      const there = Array.from(chosen(l, i)).filter((e) => e >= 0);
      stop.lastChild.replaceChildren(...(there.length ? there.slice(0, SHOWN).map(badge) : ["none"]), there.length > SHOWN ? "…" : "");
    });
  }

  function readExpert() {
    columns.forEach((column, e) => {
      column.classList.toggle("tm-picked", e === expert);
      column.setAttribute("aria-selected", String(e === expert));
    });
    const counts = tally(ofLayer(layer), experts);
    const most = expert ?? counts.indexOf(Math.max(...counts));
    const its = chips.map((_, i) => i).filter((i) => chosen(layer, i).includes(most));
    const times = (counts[most] * experts) / sum(counts);
    expertNote.replaceChildren(...(expert === null ? ["The busiest, expert "] : ["Expert "]), badge(most), ` has ${its.length} of ${n} tokens, ${fixed(times, times < 10 ? 1 : 0)} times the average`,
      ...(its.length ? [": ", ...frequent(tokens, its, 8)] : ["."]));
  }

  function pick(e) {
    expert = e;
    color();
    readExpert();
  }

  const { keep } = wordPointer(words, { count: n, start: token, read });
  chart.addEventListener("click", (event) => {
    const column = event.target.closest?.(".tm-column");
    if (column) pick(Number(column.dataset.e) === expert ? null : Number(column.dataset.e));
  });
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    pick(Math.max(0, Math.min(experts - 1, (expert ?? (move > 0 ? -1 : experts)) + move)));
  });
  root.addEventListener("keydown", (event) => event.key === "Escape" && pick(null));
  follow(model, life.signal, "change:layer", () => {
    layer = model.get("layer");
    draw();
  });
  follow(model, life.signal, "change:token", () => keep(model.get("token")));
  follow(model, life.signal, "change:expert", () => pick(model.get("expert")));
  draw();
  return () => life.abort();
}

export default { render };
