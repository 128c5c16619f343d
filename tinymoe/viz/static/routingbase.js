// What the views of routing share: experts as color, pattern and number, and how even their load is.

import { h, percent, visible } from "./common.js";

/**
 * The number of an expert's pattern. Four colors that no eye confuses come plain, the next four with stripes, and so on;
 * from 32 on, the colors that go with a pattern are exchanged, so that 64 experts all look different.
 */
export const fill = (e) => (2 * (e >> 3) + (((e >> 2) ^ (e >> 5)) & 1)) % 8;

/** The classes that give an expert its color and its pattern. */
export const looks = (e) => `tm-hue${e % 8} tm-fill${fill(e)}`;

/** An expert's mark: a patch and its number. */
export const badge = (e) => h("span", { class: `tm-expert ${looks(e)}` }, String(e));

/** A share in percent, of which there may be none at all. */
export const share = (p) => (p > 0 ? percent(p) : "0 %");

export const sum = (counts) => counts.reduce((total, x) => total + x, 0);

/** How often each expert occurs; -1 is none. */
export function tally(choices, experts) {
  const counts = new Uint32Array(experts);
  for (const e of choices) if (e >= 0) counts[e]++;
  return counts;
}

/** Max violation: how far the busiest is over the average (max / mean − 1). */
export function violation(counts) {
  return (Math.max(...counts) * counts.length) / sum(counts) - 1;
}

/** The entropy of the loads, over that of equal ones. */
export function evenness(counts) {
  const total = sum(counts);
  const bits = sum(Array.from(counts, (x) => (x ? (-x / total) * Math.log2(x / total) : 0)));
  return counts.length > 1 ? bits / Math.log2(counts.length) : 1;
}

/** The most frequent texts among tokens, as "·the ×8, ·a ×3."; parts of a character have none. */
export function frequent(tokens, numbers, most = 6) {
  const counts = new Map();
  for (const i of numbers) if (!tokens[i].includes("\ufffd")) counts.set(tokens[i], (counts.get(tokens[i]) ?? 0) + 1);
  const best = [...counts].sort((a, b) => b[1] - a[1]).slice(0, most);
  const shown = best.map(([text, n]) => [h("code", {}, visible(text)), n > 1 ? ` ×${n}` : ""]);
  return shown.flatMap((one, i) => (i ? [", ", ...one] : one)).concat(counts.size > most ? ", …" : ".");
}
