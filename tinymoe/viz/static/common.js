// What every tinymoe widget shares: element builders, number formats, theme colors, the line to the kernel.

const SVG = "http://www.w3.org/2000/svg";

/** h("button", { class: "tm-button", onclick: run }, "Run") makes an HTML element. */
export function h(tag, props = {}, ...children) {
  return build(document.createElement(tag), props, children);
}

/** The same for an SVG element. */
export function s(tag, props = {}, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(node, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The card a widget draws in. */
export function card(el, name, title, ...aside) {
  const head = title || aside.length
    ? h("header", { class: "tm-head" }, h("h3", { class: "tm-title" }, title), h("div", { class: "tm-aside" }, aside))
    : null;
  const root = h("section", { class: `tm tm-${name}`, "aria-label": title || name, onkeydown: keepKey }, head);
  el.append(root);
  return root;
}

/** JupyterLab takes single keys for commands (x cuts the cell): those pressed in a widget stay in it. */
function keepKey(event) {
  const command = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
  if (!command) event.stopPropagation();
}

/** A number in at most `digits` significant digits, with a true minus sign. */
export function number(x, digits = 4) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e6 || size < 1e-3
    ? x.toExponential(Math.max(0, digits - 2)).replace(/\.?0*e\+?/, "e")
    : String(Number(x.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

export const fixed = (x, digits) => (Number.isFinite(x) ? x.toFixed(digits).replace("-", "−") : number(x));
export const count = (x) => Math.round(x).toLocaleString("en-US");
export const percent = (p) => (p >= 0.0995 ? `${Math.round(p * 100)} %` : p >= 0.001 ? `${(p * 100).toFixed(1)} %` : "< 0.1 %");

/** A learning rate: 3e−4 rather than 0.0003. */
export const formatRate = (x, digits = 2) => (x > 0 && x < 0.1 ? Number(x.toPrecision(digits)).toExponential().replace("-", "−") : number(x, digits));

/** 1234567 → "1.2M": for rates. */
export function short(x) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (x >= size) return `${(x / size).toFixed(x < 10 * size ? 1 : 0)}${unit}`;
  }
  return x < 10 ? x.toFixed(1) : x.toFixed(0);
}

/** Seconds as "7 s", "1 min 05 s" or "2 h 10 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

/** What a token looks like on screen: blanks and control characters made visible. */
export function visible(text) {
  return text
    .replaceAll(" ", "·")
    .replaceAll("\n", "↵")
    .replaceAll("\t", "→")
    .replaceAll("\r", "␍")
    .replace(/[\u0000-\u001f\u007f]/g, (c) => String.fromCharCode(0x2400 + (c.charCodeAt(0) & 0x7f)));
}

/**
 * A row of inline tokens: their spaces neither vanish nor break, and lines may break before a token that begins a word.
 * `make(i)` gives the element of token i and `text(i)` what it reads; the element's own text is set here.
 */
export function inline(n, make, text) {
  return Array.from({ length: n }, (_, i) => {
    const shown = text(i);
    const el = make(i);
    if (!shown.trim() && el.hasAttribute("role")) el.setAttribute("aria-label", "blank");
    el.append(shown.replaceAll(" ", "\u00a0").replaceAll("\n", "↵\n").replaceAll("\t", "→\u00a0\u00a0"));
    return shown.startsWith(" ") ? [h("wbr"), el] : el;
  }).flat();
}

/** Bytes arrive as a DataView at any offset; typed arrays want their own aligned buffer. */
export function typed(Type, view) {
  if (!view) return new Type(0);
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Tell `changed(true)` once Python answers. A static page has nobody to answer, and nothing happens. */
export function listenForKernel(model, signal, changed) {
  const heard = (message) => {
    if (message.kind === "pong") changed(true);
  };
  model.on("msg:custom", heard);
  signal.addEventListener("abort", () => model.off("msg:custom", heard));
  send(model, { kind: "ping" });
}

/** Send to Python; without a kernel this is silence, not an error. */
export function send(model, message) {
  try {
    Promise.resolve(model.send(message)).catch(() => {});
  } catch {
    // A model restored from a saved page has no comm.
  }
}

/** Follow a model's event until the view goes away. */
export function follow(model, signal, event, callback) {
  model.on(event, callback);
  signal.addEventListener("abort", () => model.off(event, callback));
}

/** Call back on every change of width, and at first when the element gets one. */
export function onResize(el, signal, callback) {
  let width = 0;
  const observer = new ResizeObserver(() => {
    const now = Math.floor(el.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      // Not at once: the new drawing may change the very size that is being reported.
      requestAnimationFrame(() => !signal.aborted && callback(now));
    }
  });
  observer.observe(el);
  signal.addEventListener("abort", () => observer.disconnect());
}

/** Call back when the page turns light or dark: canvases hold colors that style sheets cannot reach. */
export function onTheme(signal, callback) {
  const observer = new MutationObserver(callback);
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] });
  }
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", callback, { signal });
  signal.addEventListener("abort", () => observer.disconnect());
}

/**
 * Call back when the element's colors can first be read, and whenever the page turns light or dark.
 * An element that is not on the page yet has no colors, and a page may take its time to take it in.
 */
export function onColors(el, signal, callback) {
  let shown = false;
  const redraw = () => shown && el.isConnected && callback();
  onTheme(signal, redraw);
  onResize(el, signal, () => {
    if (shown) return;
    shown = true;
    redraw();
  });
}

/** The red, green and blue that a style-sheet color such as "var(--tm-ink)" has here and now. */
export function rgb(el, color) {
  const probe = h("span", { style: `color:${color};display:none` });
  el.append(probe);
  const parts = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return parts;
}

/** A dot and a word that say whether Python is listening. */
export function kernelBadge() {
  const el = h("span", { class: "tm-badge", role: "status" });
  const show = (live, text) => {
    el.classList.toggle("tm-live", live);
    el.textContent = text;
  };
  return { el, show };
}

/** A labelled slider; `show` turns its position into text. Returns { el, input, set }. */
export function slider({ label, min, max, step, value, show, oninput }) {
  const output = h("output", { class: "tm-slider-value" }, show(value));
  const input = h("input", {
    type: "range", min, max, step, value, "aria-label": label, "aria-valuetext": show(value),
    oninput: () => {
      update();
      oninput(Number(input.value));
    },
  });
  const update = () => {
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const set = (next) => {
    input.value = next;
    update();
  };
  const el = h("label", { class: "tm-slider" }, h("span", { class: "tm-slider-label" }, label, output), input);
  return { el, input, set };
}

/** One of several choices as a row of buttons; arrow keys move. Returns { el, set }. */
export function choice({ label, options, value, onchange }) {
  const el = h("div", { class: "tm-choice", role: "radiogroup", "aria-label": label });
  const buttons = options.map(([key, text]) => h("button", {
    type: "button", role: "radio", class: "tm-chip", onclick: () => pick(key),
  }, text));
  const set = (key) => {
    value = key;
    options.forEach(([other], i) => {
      buttons[i].setAttribute("aria-checked", String(other === key));
      buttons[i].tabIndex = other === key ? 0 : -1;
    });
    if (!options.some(([other]) => other === key) && buttons.length) buttons[0].tabIndex = 0;
  };
  const pick = (key) => {
    set(key);
    onchange(key);
  };
  el.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const at = buttons.indexOf(event.target);
    const next = (at + move + buttons.length) % buttons.length;
    buttons[next].focus();
    pick(options[next][0]);
  });
  el.append(...buttons);
  set(value);
  return { el, set };
}

/**
 * Reading a text word by word: pointing looks at a word, a click or an arrow key keeps it. `words` holds elements of the
 * class tm-word with their number in data-i; `read` is told which of the `count` to show. Returns { look, keep, back }.
 */
export function wordPointer(words, { count, start, read }) {
  let [kept, at] = [start, start];
  const look = (i) => read((at = i));
  const keep = (i) => look((kept = Math.max(0, Math.min(count - 1, i))));
  const back = () => look(kept);
  const onWord = (act) => (event) => {
    const word = event.target.closest?.(".tm-word");
    if (word) act(Number(word.dataset.i));
  };
  words.addEventListener("pointerover", onWord(look));
  words.addEventListener("pointerleave", back);
  words.addEventListener("click", onWord(keep));
  words.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    keep(at + move);
    words.querySelector(`[data-i="${kept}"]`)?.scrollIntoView({ block: "nearest" });
  });
  return { look, keep, back };
}

/** Probabilities as labelled bars. `rows` is [[text, probability, chosen]…]; bars keep their place and glide. */
export function bars() {
  const el = h("ol", { class: "tm-bars" });
  const draw = (rows) => {
    while (el.children.length > rows.length) el.lastChild.remove();
    const top = Math.max(...rows.map((row) => row[1]), 1e-9);
    rows.forEach(([text, probability, chosen], i) => {
      let item = el.children[i];
      if (!item) {
        item = h("li", {}, h("code", { class: "tm-bar-label" }), h("span", { class: "tm-bar-track" },
          h("span", { class: "tm-bar-fill" })), h("span", { class: "tm-bar-value" }));
        el.append(item);
      }
      const [label, track, value] = item.children;
      item.classList.toggle("tm-chosen", Boolean(chosen));
      label.textContent = text;
      label.title = text;
      track.firstChild.style.width = `${(100 * probability) / top}%`;
      value.textContent = percent(probability);
    });
  };
  return { el, draw };
}

export const COLORS = ["var(--tm-c0)", "var(--tm-c1)", "var(--tm-c2)", "var(--tm-c3)", "var(--tm-c4)", "var(--tm-c5)", "var(--tm-c6)"];
