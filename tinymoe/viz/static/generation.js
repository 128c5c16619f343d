// Text that appears token by token, each token with the distribution it was drawn from.

import { bars, card, choice, follow, h, inline, kernelBadge, listenForKernel, percent, send, visible } from "./common.js";

function render({ model, el }) {
  const life = new AbortController();
  const badge = kernelBadge();
  const root = card(el, "generation", model.get("title"), badge.el);
  const callable = model.get("callable");
  let live = false;
  let shown = { prompt: "", steps: [] };
  let chosen = 0;
  let running = false;
  let ended = false;
  let waiting = [];
  let timer = 0;

  const input = h("input", {
    type: "text", class: "tm-prompt", "aria-label": "prompt", placeholder: "Once upon a time", spellcheck: "false",
    onkeydown: (event) => {
      if (event.key === "Enter") generate();
    },
  });
  const button = h("button", { type: "button", class: "tm-button", onclick: generate }, "Generate");
  const form = h("div", { class: "tm-form" }, input, button);
  const hint = h("p", { class: "tm-note tm-hint" });
  const shelf = h("div", { class: "tm-shelf" });
  const text = h("div", { class: "tm-text", tabindex: 0, role: "listbox", "aria-label": "generated tokens; arrow keys move", onkeydown: key });
  const chart = bars();
  const heading = h("h4", { "aria-live": "polite" });
  const replay = h("button", { type: "button", class: "tm-quiet", onclick: () => play() }, "Replay");
  const panel = h("div", { class: "tm-panel" }, heading, chart.el);
  root.append(form, hint, shelf, text, panel);

  function status() {
    const recorded = model.get("recorded").length > 0;
    form.hidden = !live;
    badge.show(live, live ? "kernel connected" : recorded ? "recorded run" : "");
    hint.textContent = live ? "" : callable
      ? "This page shows recorded runs. To type a prompt of your own, open the chapter in Jupyter and run its cells."
      : "These are recorded runs.";
    hint.hidden = live;
  }

  function drawShelf() {
    const recorded = model.get("recorded");
    if (!recorded.length) return shelf.replaceChildren();
    const options = recorded.map((one, i) => [i, one.prompt]);
    const pick = choice({ label: "recorded prompts", options, value: recorded.indexOf(shown), onchange: (i) => show(recorded[i], true) });
    shelf.replaceChildren(pick.el, replay);
  }

  /** Lay out `generation`; with `animate`, token by token. */
  function show(generation, animate = false) {
    shown = generation;
    input.value = generation.prompt;
    chosen = 0;
    if (animate && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
    else {
      clearTimeout(timer);
      draw(shown.steps.length);
    }
  }

  function play(from = 0) {
    clearTimeout(timer);
    chosen = from;
    draw(from + 1);
    if (from + 1 < shown.steps.length && !life.signal.aborted) timer = setTimeout(() => play(from + 1), 90);
  }

  function draw(upTo) {
    text.replaceChildren(h("span", { class: "tm-given" }, shown.prompt));
    for (let i = 0; i < Math.min(upTo, shown.steps.length); i++) append(i);
    select(Math.min(chosen, upTo - 1));
  }

  function append(i) {
    const [token, probability] = shown.steps[i];
    text.append(...inline(1, () => h("span", {
      class: "tm-piece", role: "option", style: `--p:${Math.round(6 + 38 * probability)}%`,
      title: `${visible(token)}  ${percent(probability)}`, onclick: () => select(i),
    }), () => token));
  }

  function select(i) {
    const pieces = text.querySelectorAll(".tm-piece");
    panel.hidden = !pieces.length;
    if (!pieces.length) return;
    chosen = Math.max(0, Math.min(pieces.length - 1, i));
    pieces.forEach((piece, k) => piece.setAttribute("aria-selected", String(k === chosen)));
    const [token, probability, top] = shown.steps[chosen];
    const rows = top.map(([other, p]) => [visible(other), p, other === token]);
    if (!rows.some((row) => row[2])) rows.push([visible(token), probability, true]);
    const rest = 1 - rows.reduce((sum, row) => sum + row[1], 0);
    heading.replaceChildren("Token ", h("b", {}, String(chosen + 1)), ": ", h("code", {}, visible(token)), ` was drawn with probability ${percent(probability)}. `,
      rest > 0.0005 ? `All tokens not listed share ${percent(rest)}.` : "");
    chart.draw(rows);
  }

  function key(event) {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    clearTimeout(timer);
    select(chosen + move);
  }

  function generate() {
    if (!live) return;
    if (running) {
      send(model, { kind: "stop" });
      return;
    }
    clearTimeout(timer);
    running = true;
    ended = false;
    button.textContent = "Stop";
    hint.textContent = "Waiting for Python, which answers when no cell is running.";
    hint.hidden = false;
    shown = { prompt: input.value, steps: [] };
    waiting = [];
    chosen = 0;
    draw(0);
    shelf.querySelector("[aria-checked=true]")?.setAttribute("aria-checked", "false");
    send(model, { kind: "generate", prompt: shown.prompt });
  }

  function heard(message) {
    if (!running) return;
    if (message.kind !== "failed") hint.hidden = true;
    if (message.kind === "steps") {
      waiting.push(...message.steps);
      drain();
    } else if (message.kind === "done" || message.kind === "failed") {
      ended = true;
      if (message.kind === "failed") {
        hint.textContent = `Python answered: ${message.text}`;
        hint.hidden = false;
      }
      drain();
    }
  }

  /** Tokens may come faster than one can follow: show them one by one, faster the more are waiting. */
  function drain() {
    clearTimeout(timer);
    if (life.signal.aborted) return;
    if (waiting.length) {
      shown.steps.push(waiting.shift());
      append(shown.steps.length - 1);
      select(shown.steps.length - 1);
      timer = setTimeout(drain, Math.max(12, Math.min(60, 1200 / (waiting.length + 1))));
    } else if (ended) {
      running = false;
      button.textContent = "Generate";
      const kept = model.get("recorded").at(-1);
      if (kept?.prompt === shown.prompt) shown = kept;
      drawShelf();
    }
  }

  follow(model, life.signal, "msg:custom", heard);
  follow(model, life.signal, "change:recorded", () => {
    if (!running) drawShelf();
  });
  if (callable) {
    listenForKernel(model, life.signal, () => {
      live = true;
      status();
    });
  }
  status();
  drawShelf();
  const first = model.get("recorded")[0];
  if (first) {
    show(first);
    drawShelf();
  } else panel.hidden = true;
  life.signal.addEventListener("abort", () => clearTimeout(timer));
  return () => life.abort();
}

export default { render };
