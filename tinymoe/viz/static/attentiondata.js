// Attention weights as they travel: half floats; of a causal map only the lower triangle.

let table = null;

/** All 65536 half floats, as a table to look values up in. */
export function halves() {
  if (table) return table;
  table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
}

/** Rows of weights of any layer and head, without unpacking them all. */
export class Maps {
  constructor(bits, { layers, heads, tokens, causal }) {
    Object.assign(this, { bits, layers, heads, tokens, causal });
    this.size = causal ? (tokens * (tokens + 1)) / 2 : tokens * tokens;
  }

  /** Where a query's weights start in `bits`, and how many keys it has. */
  place(layer, head, query) {
    const start = (layer * this.heads + head) * this.size;
    return this.causal ? [start + (query * (query + 1)) / 2, query + 1] : [start + query * this.tokens, this.tokens];
  }

  row(layer, head, query) {
    const values = halves();
    const [start, length] = this.place(layer, head, query);
    return Float32Array.from({ length }, (_, key) => values[this.bits[start + key]]);
  }

  /**
   * A head as side × side levels 0…255, the largest weight under each pixel, on a square-root scale so that faint
   * weights still show. Positive half floats order as their bits do, so the maximum needs no decoding.
   */
  picture(layer, head, side) {
    const out = new Uint8ClampedArray(side * side);
    const peak = new Uint16Array(side * side);
    const scale = side / this.tokens;
    const column = Int32Array.from({ length: this.tokens }, (_, key) => Math.floor(key * scale));
    for (let query = 0; query < this.tokens; query++) {
      const [start, length] = this.place(layer, head, query);
      const row = Math.floor(query * scale) * side;
      for (let key = 0; key < length; key++) {
        const at = row + column[key];
        const bits = this.bits[start + key];
        if (bits > peak[at]) peak[at] = bits;
      }
    }
    const values = halves();
    for (let i = 0; i < out.length; i++) out[i] = 255 * Math.sqrt(values[peak[i]]);
    return out;
  }
}

/** The `n` largest entries of a row as [key, weight], largest first. */
export function strongest(row, n) {
  return [...row.keys()].sort((a, b) => row[b] - row[a] || a - b).slice(0, n).map((key) => [key, row[key]]);
}
