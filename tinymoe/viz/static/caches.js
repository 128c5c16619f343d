// A text read token by token into three caches: a row that grows, a ring, and a row of latents.

import { card, choice, count, h, slider, visible } from "./common.js";

const LONG = 131072; // tokens of the long text that sizes are given for
const PACE = 550; // milliseconds a token

/** The token in each slot of a ring after `length` tokens, null where it is empty. */
export function ring(length, window) {
  return Array.from({ length: window }, (_, slot) => {
    const last = length - 1 - ((((length - 1 - slot) % window) + window) % window);
    return last >= 0 ? last : null;
  });
}

/** Slots that a row has room for when tokens come one by one and its room is doubled. */
export const room = (length) => (length ? 2 ** Math.ceil(Math.log2(length)) : 0);

/** Numbers that one token leaves in one layer, by what they are. */
export function parts(kind, { kv_heads, head_dim, rank, rope }) {
  if (kind === "latents") return { "rope key": rope, latent: rank };
  return { keys: kv_heads * head_dim, values: kv_heads * head_dim };
}

const sum = (numbers) => Object.values(numbers).reduce((a, b) => a + b, 0);

/** Bytes in all layers of one token, and of `length` tokens; a ring keeps at most `window` of them. */
export function bytes(kind, shape, length, window) {
  const kept = kind === "ring" ? Math.min(length, window) : length;
  return kept * shape.layers * sum(parts(kind, shape)) * shape.bytes;
}

/** Numbers of key/value heads that divide the query heads. */
export const divisors = (heads) => Array.from({ length: heads }, (_, i) => i + 1).filter((k) => heads % k === 0);

/** Bytes as people say them: 70,272 B are "68.6 KiB". */
export function size(x) {
  const unit = x < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(x) / 10));
  const scaled = x / 1024 ** unit;
  return `${unit && scaled < 100 ? String(Number(scaled.toPrecision(3))) : count(scaled)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

const PAINT = { keys: "var(--tm-c0)", values: "var(--tm-c1)", "rope key": "var(--tm-c4)", latent: "var(--tm-c2)" };
const LANES = [
  ["row", "Every token's keys and values"],
  ["ring", "A ring: only the last tokens'"],
  ["latents", "Latents"],
];

/** One cache: a heading with its size, and its slots in columns. */
function lane(kind, title, n, look) {
  const now = h("b", { class: "tm-now" });
  const stats = h("span", { class: "tm-stats" });
  const slots = Array.from({ length: n }, (_, slot) => {
    const bar = h("div", { class: "tm-stack" });
    const name = h("span", { class: "tm-of" });
    const el = h("div", { class: "tm-slot", onpointerenter: () => look(kind, slot), onclick: () => look(kind, slot) }, h("div", { class: "tm-well" }, bar), name);
    return { el, bar, name };
  });
  const row = h("div", { class: "tm-slots", style: `--n:${n}` }, slots.map((one) => one.el));
  const el = h("div", { class: "tm-lane" }, h("div", { class: "tm-lane-head" }, h("h4", {}, title), now, stats), row);
  /** `held` is the token of each slot (null: empty, undefined: no slot), `fresh` the slot just written. */
  const draw = (tokens, held, fresh, numbers, full) => {
    slots.forEach(({ el: cell, bar, name }, slot) => {
      const token = held[slot];
      cell.classList.toggle("tm-none", token === undefined);
      cell.classList.toggle("tm-empty", token === null);
      cell.classList.toggle("tm-fresh", slot === fresh);
      const filled = token !== null && token !== undefined;
      name.textContent = filled ? visible(tokens[token].trim() || tokens[token]) : "";
      bar.replaceChildren(...(filled ? Object.entries(numbers).reverse().map(([part, x]) => h("i", { style: `height:${(100 * x) / full}%;background:${PAINT[part]}` })) : []));
    });
  };
  return { el, kind, now, stats, draw };
}

function render({ model, el }) {
  const life = new AbortController();
  const play = h("button", { type: "button", class: "tm-button", onclick: () => (timer === null ? start() : stop()) });
  const root = card(el, "caches", model.get("title"), play);
  const tokens = model.get("tokens");
  const n = tokens.length;
  const shapes = model.get("shapes");
  let shape = { ...shapes[0] };
  let window = model.get("window");
  let read = model.get("read");
  let timer = null;

  const models = choice({ label: "model", options: shapes.map((one, i) => [i, one.name]), value: 0, onchange: (i) => {
    shape = { ...shapes[i] };
    const heads = divisors(shape.heads);
    controls.heads.input.max = heads.length - 1;
    controls.heads.set(heads.indexOf(shape.kv_heads));
    draw();
  } });
  const headsAt = (i) => divisors(shape.heads)[i];
  const controls = {
    read: slider({ label: "tokens read", min: 1, max: n, step: 1, value: read, show: (x) => `${x} of ${n}`, oninput: (x) => go(x) }),
    heads: slider({ label: "key/value heads", min: 0, max: divisors(shape.heads).length - 1, step: 1, value: divisors(shape.heads).indexOf(shape.kv_heads), show: (i) => `${headsAt(i)} of ${shape.heads}`, oninput: (i) => {
      shape = { ...shape, kv_heads: headsAt(i) };
      draw();
    } }),
    window: slider({ label: "slots of the ring", min: 1, max: n, step: 1, value: window, show: count, oninput: (x) => {
      window = x;
      draw();
    } }),
  };
  const words = tokens.map((token, i) => h("span", { class: "tm-word", title: `token ${i}`, onclick: () => go(i + 1) }, visible(token)));
  const note = h("p", { class: "tm-note", role: "status" });
  const lanes = LANES.map(([kind, title]) => lane(kind, title, n, look));
  const key = (part) => h("span", { class: "tm-key" }, h("span", { class: "tm-dot", style: `background:${PAINT[part]}` }), part);
  root.append(models.el,
    h("div", { class: "tm-sliders" }, controls.read.el, controls.heads.el, controls.window.el),
    h("div", { class: "tm-words" }, words), ...lanes.map((one) => one.el),
    h("div", { class: "tm-keys" }, Object.keys(PAINT).map(key), h("span", { class: "tm-label" }, "heights are true to scale; a full well is all query heads' keys and values")),
    note);

  const held = {
    row: () => Array.from({ length: Math.min(n, room(read)) }, (_, i) => (i < read ? i : null)),
    ring: () => ring(read, window),
    latents: () => Array.from({ length: Math.min(n, room(read)) }, (_, i) => (i < read ? i : null)),
  };

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = read < n ? "Read on" : "Again";
  }

  function start() {
    if (read === n) show(1);
    play.textContent = "Stop";
    timer = setInterval(() => {
      show(Math.min(n, read + 1));
      if (read === n) stop();
    }, PACE);
  }

  function go(to) {
    show(to);
    stop();
  }

  function show(to) {
    read = to;
    controls.read.set(read);
    draw();
  }

  function draw() {
    const full = 2 * shape.heads * shape.head_dim;
    words.forEach((word, i) => {
      word.classList.toggle("tm-read", i < read);
      word.classList.toggle("tm-in-ring", i < read && i >= read - window);
      word.classList.toggle("tm-newest", i === read - 1);
    });
    for (const { kind, now, stats, draw: fill } of lanes) {
      const fresh = kind === "ring" ? (read - 1) % window : read - 1;
      fill(tokens, held[kind](), fresh, parts(kind, shape), full);
      now.textContent = size(bytes(kind, shape, read, window));
      const long = `${size(bytes(kind, shape, LONG, shape.window))} at ${count(LONG)}`;
      stats.textContent = `${size(bytes(kind, shape, 1, 1))} a token · ${kind === "ring" ? `with a window of ${count(shape.window)}, ${long}` : long}`;
    }
    tell();
  }

  function tell() {
    const newest = visible(tokens[read - 1]);
    const moved = read > 2 && room(read) > room(read - 1) ? ` There was no room left: the ${read - 1} before it moved to a row of ${room(read)} slots.` : "";
    const old = read > window ? ` In the ring it took the place of token ${read - 1 - window}, “${visible(tokens[read - 1 - window])}”, which nobody can see any more.` : "";
    note.textContent = `Token ${read - 1}, “${newest}”, has been written.${moved}${old}`;
  }

  /** Say what a slot holds. */
  function look(kind, slot) {
    const token = held[kind]()[slot];
    const place = kind === "ring" ? `Slot ${slot} of the ring` : `Slot ${slot}`;
    if (token === undefined) note.textContent = "No slot yet: the row grows when it is full.";
    else if (token === null) note.textContent = `${place}: empty, waiting for a token.`;
    else {
      const numbers = Object.entries(parts(kind, shape)).map(([part, x]) => `${count(x)} of ${part}`).join(", ");
      note.textContent = `${place}: token ${token}, “${visible(tokens[token])}”. In each of ${shape.layers} layers ${numbers}: together ${size(bytes(kind, shape, 1, 1))}.`;
    }
  }

  for (const { el: one } of lanes) one.addEventListener("pointerleave", tell, { signal: life.signal });
  life.signal.addEventListener("abort", stop);
  go(read);
  return () => life.abort();
}

export default { render };
