// One conversation in every chat template: its signs, and what a model learns of it.

import { card, choice, count, h, percent } from "./common.js";

/** Of the pieces of a rendering: how many characters of text, how many signs, and which share of both is learned. */
export function measure(pieces) {
  const sizes = pieces.map(([text, kind]) => (kind.includes("s") ? 1 : text.length));
  const sum = (some) => pieces.reduce((total, [, kind], i) => total + (some(kind) ? sizes[i] : 0), 0);
  return {
    characters: sum((kind) => !kind.includes("s")),
    signs: sum((kind) => kind.includes("s")),
    learned: sum((kind) => kind.includes("m")) / sum(() => true),
  };
}

/** Line feeds end a line on the screen too, and blanks at its end stay visible. */
export function shown(text) {
  return text.replaceAll("\n", "↵\n");
}

function render({ model, el }) {
  const root = card(el, "chats", model.get("title"));
  const [talks, templates] = [model.get("talks"), model.get("templates")];
  const renderings = model.get("renderings");
  let [talk, template] = [0, 0];

  const names = (list) => list.map((name, i) => [i, name]);
  const chosenTalk = choice({ label: "conversation", options: names(talks), value: 0, onchange: (i) => draw((talk = i), template) });
  const chosenTemplate = choice({ label: "template", options: names(templates), value: 0, onchange: (i) => draw(talk, (template = i)) });
  const group = (label, control) => h("div", {}, h("div", { class: "tm-slider-label" }, label), control.el);
  const text = h("div", { class: "tm-text", tabindex: 0, role: "region", "aria-label": "the conversation as text" });
  const note = h("p", { class: "tm-note", role: "status" });
  const sample = (kind, words) => h("span", { class: "tm-key" }, h("span", { class: `tm-piece ${kind}` }, "abc"), words);
  root.append(
    h("div", { class: "tm-controls" }, talks.length > 1 ? group("conversation", chosenTalk) : null, group("template of", chosenTemplate)),
    h("div", { class: "tm-keys" }, sample("tm-mine", "the assistant's: learned"), sample("", "given: read, not learned"), sample("tm-sign", "a special token: one token")),
    text, note);

  function draw() {
    const { pieces, error, stop, left } = renderings[talk][template];
    text.classList.toggle("tm-failed", Boolean(error));
    if (error) {
      text.replaceChildren(error);
      note.textContent = "This format has no place for something in the conversation, and its model was not trained on it.";
      return;
    }
    text.replaceChildren(...pieces.map(([piece, kind]) => h("span", {
      class: `tm-piece ${kind.includes("m") ? "tm-mine" : ""} ${kind.includes("s") ? "tm-sign" : ""}`,
      title: `${kind.includes("s") ? "a special token" : "text"}, ${kind.includes("m") ? "learned" : "only read"}`,
    }, kind.includes("s") ? piece : shown(piece))));
    const { characters, signs, learned } = measure(pieces);
    note.textContent = `${count(characters)} characters of text and ${count(signs)} special tokens; ${percent(learned)} of them `
      + `are learned. A reply ends at ${stop.join(" or ")}.`
      + (left.length ? ` Left out, as this format has no place for it: ${left.join(", ")}.` : "");
  }

  draw();
}

export default { render };
