// A line chart in SVG: crisp at any width, colored by the style sheet, readable by keyboard.

import { h, s, number, onResize } from "./common.js";

/** About `n` round positions from `low` to `high`. */
export function ticks(low, high, n) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, n);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power >= 7.07 ? 10 : rough / power >= 3.16 ? 5 : rough / power >= 1.41 ? 2 : 1);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

/** Mean over a window of `span` on each side, which shrinks at the start so that a steep fall is not smeared out. */
export function smooth(values, span) {
  const sums = new Float64Array(values.length + 1);
  for (let i = 0; i < values.length; i++) sums[i + 1] = sums[i] + values[i];
  return Float32Array.from(values, (_, i) => {
    const half = Math.floor(Math.min(span, i / 4));
    const to = Math.min(values.length, i + half + 1);
    const from = i - half;
    return (sums[to] - sums[from]) / (to - from);
  });
}

/** Index of the entry of ascending `xs` nearest to `x`. */
export function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

/** An SVG path; where points are denser than pixels, each pixel column keeps its lowest and highest. */
export function path(xs, ys, toX, toY) {
  const parts = [];
  let pen = "M";
  const dot = (px, py) => {
    parts.push(`${pen}${px.toFixed(1)} ${py.toFixed(1)}`);
    pen = "L";
  };
  const dense = xs.length > 2 * Math.abs(toX(xs[xs.length - 1]) - toX(xs[0]));
  let column = NaN;
  let low = 0;
  let high = 0;
  const flush = () => {
    if (Number.isNaN(column)) return;
    dot(column, toY(low));
    if (high !== low) dot(column, toY(high));
  };
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) {
      if (dense) continue;
      pen = "M";
      continue;
    }
    if (!dense) {
      dot(toX(xs[i]), toY(ys[i]));
      continue;
    }
    const at = Math.round(toX(xs[i]));
    if (at === column) {
      low = Math.min(low, ys[i]);
      high = Math.max(high, ys[i]);
    } else {
      flush();
      column = at;
      low = high = ys[i];
    }
  }
  flush();
  return parts.join("");
}

/**
 * draw(series, options) shows series of { name, color, x, y, kind } with kind "line", "faint" or "dots".
 * Options: xMax, references {label: y}, yMin, yMax. Named series answer to the cursor; `oncursor(x)` links charts.
 */
export class LineChart {
  constructor({ label, xLabel, yLabel, signal, height = 250, yFormat = number, xFormat = number, yTicks = 4, oncursor = () => {} }) {
    Object.assign(this, { label, xLabel, yLabel, height, yFormat, xFormat, yTicks, oncursor });
    this.series = [];
    this.options = {};
    this.cursor = null;
    this.svg = s("svg", { class: "tm-chart", tabindex: 0, role: "group", "aria-label": `${label}. Left and right arrow keys read the values.` });
    this.tip = h("div", { class: "tm-tip", hidden: true });
    this.spoken = h("div", { class: "tm-hidden", "aria-live": "polite" });
    this.el = h("figure", { class: "tm-figure" }, this.svg, this.tip, this.spoken);
    this.svg.addEventListener("pointermove", (event) => this.pointAt(event));
    this.svg.addEventListener("pointerleave", () => this.setCursor(null));
    this.svg.addEventListener("blur", () => this.setCursor(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    onResize(this.el, signal, (width) => {
      this.width = width;
      this.redraw();
    });
  }

  draw(series, options = {}) {
    this.series = series;
    this.options = options;
    if (this.width && !this.queued) {
      this.queued = true;
      requestAnimationFrame(() => {
        this.queued = false;
        this.redraw();
      });
    }
  }

  ranges() {
    const { xMax, yMin, yMax, references = {} } = this.options;
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { x, y, kind } of this.series) {
      for (let i = 0; i < x.length; i++) {
        x0 = Math.min(x0, x[i]);
        x1 = Math.max(x1, x[i]);
        if (kind === "faint" && this.series.length > 1) continue;
        if (Number.isFinite(y[i])) {
          y0 = Math.min(y0, y[i]);
          y1 = Math.max(y1, y[i]);
        }
      }
    }
    for (const y of Object.values(references)) {
      y0 = Math.min(y0, y);
      y1 = Math.max(y1, y);
    }
    if (!(x1 >= x0)) [x0, x1] = [0, xMax || 1];
    if (!(y1 >= y0)) [y0, y1] = [0, 1];
    const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
    return { x0: Math.min(x0, 0), x1: Math.max(xMax || x1, x1, x0 + 1e-9), y0: yMin ?? y0 - pad, y1: Math.max(yMax ?? -Infinity, y1 + pad) };
  }

  redraw() {
    const { width, height } = this;
    const { references = {} } = this.options;
    const margin = { left: 48, right: 24, top: 26, bottom: 38 };
    const range = this.ranges();
    const right = width - margin.right;
    const bottom = height - margin.bottom;
    this.toX = (x) => margin.left + ((x - range.x0) / (range.x1 - range.x0)) * (right - margin.left);
    this.toY = (y) => bottom - ((y - range.y0) / (range.y1 - range.y0)) * (bottom - margin.top);
    this.fromX = (px) => range.x0 + ((px - margin.left) / (right - margin.left)) * (range.x1 - range.x0);
    const axes = s("g", { class: "tm-axes" });
    for (const y of ticks(range.y0, range.y1, this.yTicks)) {
      axes.append(s("line", { class: "tm-grid", x1: margin.left, x2: right, y1: this.toY(y), y2: this.toY(y) }),
        s("text", { x: margin.left - 9, y: this.toY(y), dy: "0.32em", "text-anchor": "end" }, this.yFormat(y)));
    }
    for (const x of ticks(range.x0, range.x1, width / 95)) {
      axes.append(s("text", { x: this.toX(x), y: bottom + 17, "text-anchor": "middle" }, this.xFormat(x)));
    }
    axes.append(s("line", { class: "tm-base", x1: margin.left, x2: right, y1: bottom, y2: bottom }),
      s("text", { class: "tm-axis-name", x: 0, y: 11 }, this.yLabel),
      s("text", { class: "tm-axis-name", x: right, y: height - 3, "text-anchor": "end" }, this.xLabel));
    for (const [name, y] of Object.entries(references)) {
      axes.append(s("line", { class: "tm-reference", x1: margin.left, x2: right, y1: this.toY(y), y2: this.toY(y) }),
        s("text", { x: right, y: this.toY(y) - 5, "text-anchor": "end" }, name));
    }
    // A spike above the frame is cut, not drawn over the labels.
    const clip = `tm-clip-${Math.random().toString(36).slice(2)}`;
    const marks = s("g", { "clip-path": `url(#${clip})` });
    for (const { x, y, kind, color } of this.series) {
      if (!x.length) continue;
      marks.append(s("path", { class: `tm-mark tm-mark-${kind}`, stroke: color, d: path(x, y, this.toX, this.toY) }));
      if (kind !== "dots") continue;
      const every = Math.ceil(x.length / 40);
      for (let i = (x.length - 1) % every; i < x.length; i += every) {
        if (Number.isFinite(y[i])) marks.append(s("circle", { cx: this.toX(x[i]), cy: this.toY(y[i]), r: 3.2, fill: color }));
      }
    }
    this.cross = s("g", { class: "tm-cross" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.replaceChildren(s("clipPath", { id: clip }, s("rect", { x: margin.left - 2, y: margin.top - 8, width: right - margin.left + 4, height: bottom - margin.top + 9 })), axes, marks, this.cross);
    if (this.cursor !== null) this.showCursor(this.cursor);
  }

  pointAt(event) {
    const box = this.svg.getBoundingClientRect();
    this.setCursor(this.fromX(((event.clientX - box.left) * this.width) / box.width));
  }

  key(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    const named = this.series.find((one) => one.name && one.x.length);
    if (event.key === "Escape") this.setCursor(null);
    if (!move || !named) return;
    event.preventDefault();
    const last = named.x.length - 1;
    const stride = Math.max(1, Math.round(last / 50));
    const at = this.cursor === null ? last : nearest(named.x, this.cursor) + move * stride;
    this.setCursor(named.x[Math.min(last, Math.max(0, at))]);
  }

  setCursor(x) {
    this.showCursor(x);
    this.oncursor(x);
  }

  /** Put the cross-hair at data position `x` (null takes it away). */
  showCursor(x) {
    this.cursor = x;
    if (!this.cross) return;
    this.cross.replaceChildren();
    const rows = [];
    const named = x === null ? [] : this.series.filter((one) => one.name && one.x.length);
    let at = null;
    for (const one of named) {
      const i = nearest(one.x, x);
      // A series that ended long before the cursor has nothing to say there.
      if (Math.abs(this.toX(one.x[i]) - this.toX(x)) > Math.max(12, (this.toX(one.x.at(-1)) - this.toX(one.x[0])) / one.x.length)) continue;
      if (at === null) at = one.x[i];
      if (!Number.isFinite(one.y[i])) continue;
      rows.push([one, one.y[i]]);
      this.cross.append(s("circle", { cx: this.toX(one.x[i]), cy: this.toY(one.y[i]), r: 4, fill: one.color }));
    }
    this.tip.hidden = !rows.length;
    if (!rows.length) return;
    const px = this.toX(at);
    this.cross.prepend(s("line", { x1: px, x2: px, y1: 18, y2: this.height - 38 }));
    const heading = `${this.xLabel} ${this.xFormat(at)}`;
    this.tip.replaceChildren(heading, h("table", {}, h("tbody", {}, rows.map(([one, y]) => h("tr", {},
      h("td", {}, h("span", { class: "tm-swatch", style: `color:${one.color}` }), one.name), h("td", {}, this.yFormat(y, true)))))));
    this.spoken.textContent = document.activeElement === this.svg ? `${heading}: ${rows.map(([one, y]) => `${one.name} ${this.yFormat(y, true)}`).join(", ")}` : "";
    const room = this.width - px - 14;
    this.tip.style.left = `${this.tip.offsetWidth > room ? Math.max(0, px - this.tip.offsetWidth - 12) : px + 12}px`;
    this.tip.style.top = "24px";
  }
}
