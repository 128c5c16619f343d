// Text colored by token, vocabularies and languages compared, and the merges of a word replayed.

import { byteLength, decode, hex, unpack } from "./bpe.js";
import { card, choice, count, fixed, follow, h, inline, slider, typed, visible, COLORS } from "./common.js";

const LIMIT = 3000; // tokens drawn per column

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "tokenizer", model.get("title"));
  const texts = model.get("texts");
  const vocabularies = model.get("tokenizers").map((one) => ({
    name: one.name,
    bpe: unpack({
      ...one, tokens: typed(Uint8Array, one.tokens), sizes: typed(Uint16Array, one.sizes), merges: typed(Uint32Array, one.merges),
    }),
  }));

  const names = Object.keys(texts);
  const samples = choice({ label: "sample texts", options: names.map((name) => [name, name]), value: names[0], onchange: (name) => setText(texts[name]) });
  samples.el.classList.add("tm-samples");
  const area = h("textarea", { class: "tm-area", rows: 3, dir: "auto", spellcheck: "false", "aria-label": "text to tokenize", oninput: () => {
    samples.set(names.find((name) => texts[name] === area.value) ?? null);
    update();
  } });
  const tip = h("div", { class: "tm-tip", hidden: true });
  const columns = vocabularies.map((one, i) => column(one, i));
  const grid = h("div", { class: "tm-columns" }, columns.map((one) => one.el));
  const replay = makeReplay();
  root.append(...(names.length > 1 ? [samples.el] : []), area, grid, tip, comparison(), replay.el);

  function setText(text) {
    area.value = text;
    update();
  }

  let queued = 0;
  function update() {
    cancelAnimationFrame(queued);
    queued = requestAnimationFrame(() => columns.forEach((one) => one.draw(area.value)));
  }

  function describe({ bpe }, id) {
    if (id < 0) return [h("b", {}, "not in this vocabulary")];
    const bytes = bpe.tokens[id];
    const name = Object.keys(bpe.special).find((one) => bpe.special[one] === id);
    const text = name ?? decode(bytes);
    const origin = name ? "special token" : bpe.born.has(id) ? `made by merge ${count(bpe.born.get(id) + 1)}` : bpe.characters ? "a character" : "a single byte";
    return [
      h("code", {}, text === null ? "part of a character" : visible(text)),
      h("table", {}, h("tbody", {}, [["id", id], ["bytes", name ? "none of its own" : bytes.length > 12 ? `${hex(bytes.subarray(0, 12))} …` : hex(bytes)], ["origin", origin]]
        .map(([k, v]) => h("tr", {}, h("td", {}, k), h("td", {}, v))))),
    ];
  }

  function showTip(vocabulary, piece) {
    tip.replaceChildren(...describe(vocabulary, Number(piece.dataset.id)));
    tip.hidden = false;
    const box = root.getBoundingClientRect();
    const at = piece.getClientRects()[0];
    tip.style.left = `${Math.max(8, Math.min(at.left - box.left, root.clientWidth - tip.offsetWidth - 12))}px`;
    tip.style.top = `${at.bottom - box.top + 6}px`;
  }

  function column(vocabulary) {
    const { bpe, name } = vocabulary;
    const facts = h("p", { class: "tm-facts" });
    const out = h("div", { class: "tm-tokens", dir: "auto", tabindex: 0, role: "listbox", "aria-label": `tokens of ${name}; arrow keys move, Enter replays the merges` });
    let current = null;
    const point = (piece, keep) => {
      out.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
      current = keep ? piece : current;
      if (!piece) {
        tip.hidden = true;
        return;
      }
      piece.setAttribute("aria-selected", "true");
      showTip(vocabulary, piece);
    };
    const pieceOf = (event) => event.target.closest?.(".tm-token");
    out.addEventListener("pointerover", (event) => point(pieceOf(event)));
    out.addEventListener("pointerleave", () => point(null));
    out.addEventListener("blur", () => point(null));
    out.addEventListener("click", (event) => {
      const piece = pieceOf(event);
      if (piece) replay.show(vocabulary, piece.dataset.word);
    });
    out.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const pieces = [...out.querySelectorAll(".tm-token")];
      if (event.key === "Enter" && current) replay.show(vocabulary, current.dataset.word);
      if (event.key === "Escape") point(null);
      if (!move || !pieces.length) return;
      event.preventDefault();
      point(pieces[Math.max(0, Math.min(pieces.length - 1, current?.isConnected ? pieces.indexOf(current) + move : 0))], true);
    });
    const draw = (text) => {
      tip.hidden = true;
      current = null;
      const pieces = [];
      let total = 0;
      for (const [word, known] of bpe.split(text)) {
        const ids = known === null ? bpe.encodePiece(word) : [known];
        ids.forEach((id) => {
          if (total++ < LIMIT) pieces.push([id, word]);
        });
      }
      const bytes = byteLength(text);
      facts.replaceChildren(h("b", {}, count(total)), total === 1 ? " token" : " tokens", h("span", {}, total ? `${fixed(bytes / total, 2)} bytes per token` : ""));
      const spans = inline(pieces.length, (i) => token(bpe, ...pieces[i], i), (i) => label(bpe, ...pieces[i]));
      out.replaceChildren(...spans, total > LIMIT ? h("span", { class: "tm-note" }, ` … and ${count(total - LIMIT)} more`) : "");
    };
    return { el: h("div", { class: "tm-column" }, h("h4", {}, name, h("span", {}, `${count(bpe.vocabSize)} tokens known`)), facts, out), draw };
  }

  function token(bpe, id, word, i) {
    const partial = id >= 0 && decode(bpe.tokens[id]) === null;
    return h("span", {
      class: `tm-token tm-tint${i % 5}${partial ? " tm-partial" : ""}${special(bpe, id) ? " tm-special" : ""}${id < 0 ? " tm-unknown" : ""}`,
      role: "option", "aria-selected": "false", "data-id": id, "data-word": word,
    });
  }

  const special = (bpe, id) => Object.values(bpe.special).includes(id);
  const label = (bpe, id, word) => (id < 0 || special(bpe, id) ? word : decode(bpe.tokens[id]) ?? hex(bpe.tokens[id]));

  /** Bytes per token of every text in every vocabulary; more is better compression. */
  function comparison() {
    if (names.length < 2) return null;
    const rows = names.map((name) => ({
      name,
      rates: vocabularies.map(({ bpe }) => byteLength(texts[name]) / Math.max(1, bpe.encode(texts[name]).length)),
    }));
    const top = Math.max(...rows.flatMap((row) => row.rates));
    return h("div", { class: "tm-compare" },
      h("h4", {}, "Bytes per token, text by text"),
      h("div", { class: "tm-legend" }, vocabularies.map((one, i) => h("span", { class: "tm-key" }, h("span", { class: "tm-swatch", style: `color:${COLORS[i % COLORS.length]}` }), one.name))),
      h("div", { class: "tm-rows" }, rows.map((row) => h("button", { type: "button", class: "tm-row", onclick: () => {
        samples.set(row.name);
        setText(texts[row.name]);
      } },
      h("span", { class: "tm-row-name" }, row.name),
      h("span", { class: "tm-row-bars" }, row.rates.map((rate, i) => h("span", { class: "tm-row-bar" },
        h("span", { style: `width:${(84 * rate) / top}%;background:${COLORS[i % COLORS.length]}` }), fixed(rate, 2))))))));
  }

  function makeReplay() {
    const merging = vocabularies.filter(({ bpe }) => !bpe.characters);
    if (!merging.length) return { el: null, show: () => {} };
    let vocabulary = merging[0];
    let stages = [];
    const word = h("input", { type: "text", dir: "auto", spellcheck: "false", "aria-label": "word whose merges are replayed", oninput: () => load(true) });
    const pick = choice({ label: "vocabulary", options: merging.map((one, i) => [i, one.name]), value: 0, onchange: (i) => {
      vocabulary = merging[i];
      load(true);
    } });
    const step = slider({ label: "merges done", min: 0, max: 0, step: 1, value: 0, show: (k) => `${k} of ${Math.max(0, stages.length - 1)}`, oninput: draw });
    const symbols = h("div", { class: "tm-symbols", dir: "auto" });
    const line = h("p", { class: "tm-note", "aria-live": "polite" });
    const el = h("div", { class: "tm-replay" }, h("h4", {}, "Replay the merges of a word"),
      h("div", { class: "tm-replay-controls" }, word, merging.length > 1 ? pick.el : null), step.el, symbols, line);

    function load(toEnd) {
      const [first] = vocabulary.bpe.split(word.value);
      stages = first ? vocabulary.bpe.history(first[0]) : [];
      step.input.max = Math.max(0, stages.length - 1);
      step.input.disabled = stages.length < 2;
      step.set(toEnd ? stages.length - 1 : 0);
      draw(Number(step.input.value));
    }

    function draw(k) {
      const { bpe } = vocabulary;
      const stage = stages[k];
      if (!stage) {
        symbols.replaceChildren();
        line.textContent = "Type a word, or click a token above.";
        return;
      }
      const next = stages[k + 1];
      symbols.replaceChildren(...stage.ids.map((id, i) => h("span", {
        class: `tm-symbol${i === stage.at ? " tm-new" : ""}${next && (i === next.at || i === next.at + 1) ? " tm-next" : ""}`,
      }, symbol(bpe, id), h("small", {}, id))));
      const made = k ? `Merge ${count(stage.rank + 1)} of the vocabulary made ${symbol(bpe, stage.ids[stage.at])}. ` : "A word starts as its bytes. ";
      const then = next
        ? `Of the pairs that stand side by side, ${symbol(bpe, stage.ids[next.at])} + ${symbol(bpe, stage.ids[next.at + 1])} was learned first (merge ${count(next.rank + 1)}): it is joined next.`
        : stages.length === 1 ? "No pair of neighbors is in the list of merges." : "No pair left is in the list: these are the tokens.";
      line.textContent = made + then;
    }

    return {
      el,
      show: (from, text) => {
        vocabulary = from;
        pick.set(merging.indexOf(from));
        word.value = text;
        load(false);
      },
      start: (text) => {
        word.value = text;
        load(false);
      },
    };
  }

  const symbol = (bpe, id) => {
    const text = decode(bpe.tokens[id]);
    return text === null ? hex(bpe.tokens[id]) : visible(text);
  };

  follow(model, life.signal, "change:text", () => setText(model.get("text")));
  setText(model.get("text"));
  samples.set(names.find((name) => texts[name] === area.value) ?? null);
  if (model.get("word")) replay.start?.(model.get("word"));
  life.signal.addEventListener("abort", () => cancelAnimationFrame(queued));
  return () => life.abort();
}

export default { render };
