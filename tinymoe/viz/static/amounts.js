// How large numbers are written: bytes, operations, parameters, tokens.

/** 131072 with the unit "B" → "131 kB". */
export function amount(x, unit = "") {
  for (const [prefix, size] of [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (x >= 0.9995 * size) return `${Number((x / size).toPrecision(3))} ${prefix}${unit}`;
  }
  return `${Number(x.toPrecision(3))} ${unit}`.trim();
}

/** 6738415616 → "6.74 B": how sizes of models are given. */
export const billions = (x) => (x >= 1e9 ? `${Number((x / 1e9).toPrecision(3))} B` : amount(x));

/** A number of tokens in the binary thousands that contexts come in: 131072 → "128k", 2^20 → "1M". */
export const tokens = (x) => (x >= 2 ** 20 ? `${Number((x / 2 ** 20).toPrecision(3))}M` : `${Number((x / 1024).toPrecision(3))}k`);
