// Byte-level BPE in the browser, with the same ids as tinymoe/text/tokenizer.py.

const UTF8 = new TextEncoder();
const STRICT = new TextDecoder("utf-8", { fatal: true });

/** The text of some bytes, or null when they are no whole characters. */
export function decode(bytes) {
  try {
    return STRICT.decode(bytes);
  } catch {
    return null;
  }
}

export const byteLength = (text) => UTF8.encode(text).length;
export const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(" ");

/**
 * A tokenizer's split pattern as a JavaScript RegExp. Two things differ: \s here is not exactly Unicode's White_Space,
 * and (?i:…) is too new for many browsers, so its letters are written out in both cases.
 */
export function compile(pattern) {
  const source = pattern
    .replace(/\(\?i:((?:[^()\\]|\\.)*)\)/g, (_, inner) => `(?:${inner.replace(/\p{L}/gu, bothCases)})`)
    .replace(/\\s/g, "\\p{White_Space}")
    .replace(/\\S/g, "\\P{White_Space}")
    .replace(/(?<!\\)([?*+]|\{\d+(?:,\d*)?\})\+/g, "$1");
  return new RegExp(source, "gu");
}

function bothCases(letter) {
  const all = new Set([letter, letter.toLowerCase(), letter.toUpperCase()]);
  if (all.has("s")) all.add("ſ");
  if (all.has("k")) all.add("\u212a");
  return `[${[...all].join("")}]`;
}

/** `tokens[id]` is the bytes of a token; `merges` is [left, right, result] ids, by rank, in one flat array. */
export class BPE {
  constructor({ tokens, merges, pattern, special = {}, ignoreMerges = false, characters = false, normalize = null }) {
    Object.assign(this, { tokens, special, characters, normalize });
    this.vocabSize = tokens.length;
    this.ranks = new Map();
    for (let i = 0; i < merges.length; i += 3) this.ranks.set(key(merges[i], merges[i + 1]), [i / 3, merges[i + 2]]);
    this.pattern = characters ? null : compile(pattern);
    const reserved = new Set(Object.values(special));
    const texts = tokens.map((bytes, id) => (reserved.has(id) ? null : characters || ignoreMerges ? decode(bytes) : null));
    this.whole = new Map(texts.flatMap((text, id) => (text === null ? [] : [[text, id]])));
    this.byte = new Array(256);
    tokens.forEach((bytes, id) => {
      if (bytes.length === 1 && !reserved.has(id)) this.byte[bytes[0]] = id;
    });
    this.ignoreMerges = ignoreMerges;
    this.born = new Map();
    for (const [rank, id] of this.ranks.values()) if (!this.born.has(id)) this.born.set(id, rank);
    this.cache = new Map();
    const names = Object.keys(special).sort((a, b) => b.length - a.length);
    this.specialPattern = names.length ? new RegExp(`(${names.map((n) => n.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("|")})`, "u") : null;
  }

  /** The pieces that merges never cross, as [text, id or null]; the id is a special token's. */
  split(text) {
    const parts = this.specialPattern ? text.split(this.specialPattern) : [text];
    return parts.flatMap((part) => {
      if (!part) return [];
      if (Object.hasOwn(this.special, part)) return [[part, this.special[part]]];
      const plain = this.normalize ? part.normalize(this.normalize) : part;
      if (this.characters) return Array.from(plain, (c) => [c, null]);
      const out = [];
      let end = 0;
      for (const match of plain.matchAll(this.pattern)) {
        if (!match[0]) continue;
        if (match.index > end) out.push([plain.slice(end, match.index), null]);
        out.push([match[0], null]);
        end = match.index + match[0].length;
      }
      if (end < plain.length) out.push([plain.slice(end), null]);
      return out;
    });
  }

  /** Ids of one piece; −1 stands for a character that a character tokenizer does not know. */
  encodePiece(piece) {
    const known = this.cache.get(piece);
    if (known) return known;
    const ids = this.characters
      ? [this.whole.get(piece) ?? -1]
      : this.ignoreMerges && this.whole.has(piece) ? [this.whole.get(piece)] : this.history(piece).at(-1).ids;
    this.cache.set(piece, ids);
    return ids;
  }

  encode(text) {
    return this.split(text).flatMap(([piece, id]) => (id === null ? this.encodePiece(piece) : [id]));
  }

  /** Every stage of a piece: { ids, at, rank }, where `at` is the position the last merge wrote to (−1 at first). */
  history(piece) {
    let ids = Array.from(UTF8.encode(piece), (b) => this.byte[b]);
    const stages = [{ ids, at: -1, rank: -1 }];
    for (;;) {
      let best = null;
      let at = -1;
      for (let i = 0; i + 1 < ids.length; i++) {
        const found = this.ranks.get(key(ids[i], ids[i + 1]));
        if (found && (!best || found[0] < best[0])) [best, at] = [found, i];
      }
      if (!best) return stages;
      ids = [...ids.slice(0, at), best[1], ...ids.slice(at + 2)];
      stages.push({ ids, at, rank: best[0] });
    }
  }
}

const key = (left, right) => left * 4194304 + right;

/** Rebuild a BPE from the arrays that Python sends. */
export function unpack({ tokens, sizes, merges, ...rest }) {
  const list = [];
  let start = 0;
  for (const size of sizes) {
    list.push(tokens.subarray(start, start + size));
    start += size;
  }
  return new BPE({ tokens: list, merges, ...rest });
}
