"""The compiled twin of splitting, counting, learning and merging, on arrays of UTF-8 bytes.

Each kernel computes what a definition in `pipeline` or `bpe` says, and the tests hold them to it: `count_pieces` is
`count_words` with a `Splitter` of a published pattern, `learn_merges` is `train_merges`, and `encode_pieces` is
`Tokenizer.encode`. Texts stand one after the other in one array; `bounds[i]` to `bounds[i + 1]` is text i. Nothing is
kept between calls, so threads may call them at once. `compiled` decides when they are used.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numba
import numpy as np
from numba.core import config
from numpy.typing import NDArray

Array = NDArray[np.integer]
Bytes = NDArray[np.uint8]

LETTER, NUMBER, SIGN, SPACE, NEWLINE = 1, 2, 4, 8, 16  # the classes of characters that the patterns tell apart
THREADS: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]

_BLANK = SPACE | NEWLINE
_FREE = -1

_kernel = numba.njit(cache=True, nogil=True)


# Splitting: the published patterns as a hand-written scanner


@_kernel
def _class_at(text: Bytes, at: int, classes: Bytes) -> tuple[int, int]:
    """Return the class of the character that begins at `at`, and where the next one begins."""
    first = int(text[at])
    if first < 0x80:
        return int(classes[first]), at + 1
    second = int(text[at + 1]) & 0x3F
    if first < 0xE0:
        return int(classes[(first & 0x1F) << 6 | second]), at + 2
    third = int(text[at + 2]) & 0x3F
    if first < 0xF0:
        return int(classes[(first & 0x0F) << 12 | second << 6 | third]), at + 3
    fourth = int(text[at + 3]) & 0x3F
    return int(classes[(first & 0x07) << 18 | second << 12 | third << 6 | fourth]), at + 4


@_kernel
def _run_end(text: Bytes, at: int, end: int, classes: Bytes, kinds: int) -> int:
    """Return where the run of characters of some classes ends that begins at `at`."""
    while at < end:
        kind, after = _class_at(text, at, classes)
        if not kind & kinds:
            break
        at = after
    return at


@_kernel
def _contraction_end(text: Bytes, at: int, end: int, any_case: bool) -> int:
    """Return where one of 's 't 're 've 'm 'll 'd ends, or `at` where there is none."""
    if text[at] != 0x27 or at + 1 >= end:
        return at
    first, second = int(text[at + 1]), int(text[at + 2]) if at + 2 < end else 0
    if any_case:
        if first == 0xC5 and second == 0xBF:  # ſ, an s to whoever ignores the case
            return at + 3
        first, second = first | 0x20, second | 0x20
    if first in (0x73, 0x74, 0x6D, 0x64):  # s t m d
        return at + 2
    if (first in (0x72, 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C):  # re ve ll
        return at + 3
    return at


@_kernel
def _blank_end(text: Bytes, at: int, end: int, classes: Bytes, lines_apart: bool) -> int:
    r"""Return where `\s+(?!\S)|\s+` ends, or, if the blanks hold a line end, `\s*[\r\n]+` where that comes first."""
    here, last, line_end = at, at, at
    while here < end:
        kind, after = _class_at(text, here, classes)
        if not kind & _BLANK:
            break
        last, here = here, after
        if kind == NEWLINE:
            line_end = after
    if lines_apart and line_end > at:
        return line_end
    return here if here == end or last == at else last


@_kernel
def _piece_end(text: Bytes, at: int, end: int, classes: Bytes, digits: int) -> int:
    """Return where the piece that begins at `at` ends.

    `digits` is what the patterns differ in: 3 for Llama 3's, 1 for Qwen 2's, which else are alike, and 0 for GPT-2's.
    """
    contraction = _contraction_end(text, at, end, digits > 0)
    if contraction > at:
        return contraction
    kind, second = _class_at(text, at, classes)
    following = _class_at(text, second, classes)[0] if second < end else 0
    spaced = text[at] == 0x20
    if digits == 0:
        start, lead = (second, following) if spaced else (at, kind)
        if lead & (LETTER | NUMBER | SIGN):
            return _run_end(text, start, end, classes, lead)
    elif kind == LETTER or (following == LETTER and kind & (SIGN | SPACE)):
        return _run_end(text, second, end, classes, LETTER)
    elif kind == NUMBER:
        for _ in range(digits - 1):
            if second < end:
                kind, after = _class_at(text, second, classes)
                second = after if kind == NUMBER else second
        return second
    elif kind == SIGN or (spaced and following == SIGN):
        return _run_end(text, _run_end(text, second, end, classes, SIGN), end, classes, NEWLINE)
    return _blank_end(text, at, end, classes, digits > 0)


# A hash table of pieces, by their bytes


@_kernel
def _filled(size: int, value: int) -> Array:
    array = np.empty(size, np.int64)
    for index in range(size):
        array[index] = value
    return array


class _Pieces(NamedTuple):
    """`slots` holds a row of `entries` or _FREE; a row holds start and end of the bytes, and two numbers to keep."""

    slots: Array
    entries: Array
    used: Array


@_kernel
def _no_pieces(size: int) -> _Pieces:
    return _Pieces(_filled(2 * size, _FREE), np.empty((size, 4), np.int64), _filled(1, 0))


@_kernel
def _find(pieces: _Pieces, text: Bytes, start: int, end: int) -> int:
    """Return the slot of a piece, or the free one where it belongs."""
    code = 2166136261  # FNV-1a
    for at in range(start, end):
        code = ((code ^ int(text[at])) * 16777619) & 0xFFFFFFFF
    mask = len(pieces.slots) - 1
    slot = (code ^ code >> 15) & mask
    while pieces.slots[slot] != _FREE:
        row = pieces.slots[slot]
        there, at = pieces.entries[row, 0], start
        if pieces.entries[row, 1] - there == end - start:
            while at < end and text[at] == text[there + at - start]:
                at += 1
        if at == end:
            break
        slot = (slot + 1) & mask
    return slot


@_kernel
def _add(pieces: _Pieces, text: Bytes, slot: int, start: int, end: int, first: int, second: int) -> _Pieces:
    """Put a piece into its free slot, and return the table, a larger one if it was full."""
    row = pieces.used[0]
    pieces.slots[slot] = row
    pieces.entries[row, 0], pieces.entries[row, 1] = start, end
    pieces.entries[row, 2], pieces.entries[row, 3] = first, second
    pieces.used[0] = row + 1
    if row + 1 < len(pieces.entries):
        return pieces
    larger = _no_pieces(2 * len(pieces.entries))
    for index in range(row + 1):
        for column in range(4):
            larger.entries[index, column] = pieces.entries[index, column]
        larger.slots[_find(larger, text, larger.entries[index, 0], larger.entries[index, 1])] = index
    larger.used[0] = row + 1
    return larger


@_kernel
def count_pieces(text: Bytes, bounds: Array, classes: Bytes, digits: int) -> Array:
    """Return a row (start, end, how often) for each different piece of the texts, in the order of the first ones."""
    pieces = _no_pieces(1 << 12)
    for index in range(len(bounds) - 1):
        at, end = bounds[index], bounds[index + 1]
        while at < end:
            after = _piece_end(text, at, end, classes, digits)
            slot = _find(pieces, text, at, after)
            if pieces.slots[slot] == _FREE:
                pieces = _add(pieces, text, slot, at, after, 1, 0)
            else:
                pieces.entries[pieces.slots[slot], 2] += 1
            at = after
    return pieces.entries[: pieces.used[0], :3]


# Pairs of tokens, packed into one number


@_kernel
def _pack(left: int, right: int) -> int:
    return np.int64(left) << 32 | np.int64(right)  # pyright: ignore[reportReturnType]


@_kernel
def _pair_slot(keys: Array, key: int) -> int:
    """Return the slot of a pair, or the free one where it belongs."""
    mask = len(keys) - 1
    code = (key >> 32) * 0x9E3779B1 + (key & 0xFFFFFFFF) * 0x85EBCA6B
    slot = (code ^ code >> 17) & mask
    while keys[slot] != key and keys[slot] != _FREE:
        slot = (slot + 1) & mask
    return slot


# Encoding


@_kernel
def rank_table(pairs: Array) -> tuple[Array, Array]:
    """Return a table for `encode_pieces` of pairs (left, right, rank, merged token): keys, and ranks with tokens."""
    size = 1 << 4
    while size < 2 * len(pairs):
        size *= 2
    keys, merges = _filled(size, _FREE), _filled(size, 0)
    for index in range(len(pairs)):
        key = _pack(pairs[index, 0], pairs[index, 1])
        slot = _pair_slot(keys, key)
        keys[slot], merges[slot] = key, _pack(pairs[index, 2], pairs[index, 3])
    return keys, merges


@_kernel
def _merge(tokens: Array, size: int, keys: Array, merges: Array) -> int:
    """`merge_word` in place: the first `size` tokens become as many as are returned."""
    before, after = _filled(size + 1, -1), _filled(size + 1, size)  # place `size` is behind the last
    for at in range(size):
        before[at + 1], after[at] = at, at + 1
    heap = [0 for _ in range(0)]
    for at in range(size - 1):
        slot = _pair_slot(keys, _pack(tokens[at], tokens[at + 1]))
        if keys[slot] != _FREE:
            heap.append(_pack(merges[slot] >> 32, at))
    heapify(heap)
    while len(heap):
        top = heappop(heap)
        rank, at = top >> 32, top & 0xFFFFFFFF
        gone = int(after[at])
        if tokens[at] < 0 or gone >= size:
            continue
        slot = _pair_slot(keys, _pack(tokens[at], tokens[gone]))
        if keys[slot] == _FREE or merges[slot] >> 32 != rank:
            continue  # one of the two has been merged since
        tokens[at], tokens[gone] = merges[slot] & 0xFFFFFFFF, -1
        after[at] = following = after[gone]
        before[following] = at
        for first, second in ((before[at], at), (at, following)):
            if first >= 0 and second < size:
                slot = _pair_slot(keys, _pack(tokens[first], tokens[second]))
                if keys[slot] != _FREE:
                    heappush(heap, _pack(merges[slot] >> 32, first))
    kept = 0
    for at in range(size):
        if tokens[at] >= 0:
            tokens[kept] = tokens[at]
            kept += 1
    return kept


@_kernel
def encode_pieces(
    text: Bytes,
    bounds: Array,
    classes: Bytes,
    digits: int,
    byte_ids: Array,
    keys: Array,
    merges: Array,
    whole: Array,
) -> tuple[NDArray[np.int32], Array]:
    """Return the ids of all texts in a row, and the bounds of each text's.

    `byte_ids` has the ids of the 256 bytes, `keys` and `merges` are a `rank_table`. The first len(whole) texts are no
    texts but pieces with ids of their own, given in `whole`, that no merge shall make. A piece met before is copied
    from where its ids stand already.
    """
    ids, size = np.empty(len(text) + len(whole), np.int32), len(whole)
    ends = np.empty(len(bounds) - len(whole), np.int64)
    pieces = _no_pieces(1 << 12)
    for index in range(len(whole)):
        ids[index] = whole[index]
        slot = _find(pieces, text, bounds[index], bounds[index + 1])
        if pieces.slots[slot] == _FREE:
            pieces = _add(pieces, text, slot, bounds[index], bounds[index + 1], index, 1)
    ends[0] = size
    for index in range(len(whole), len(bounds) - 1):
        at, end = bounds[index], bounds[index + 1]
        while at < end:
            after = _piece_end(text, at, end, classes, digits)
            slot = _find(pieces, text, at, after)
            if pieces.slots[slot] == _FREE:
                for place in range(at, after):
                    ids[size + place - at] = byte_ids[text[place]]
                count = _merge(ids[size:], after - at, keys, merges) if after - at > 1 else 1
                pieces = _add(pieces, text, slot, at, after, size, count)
                size += count
            else:
                row = pieces.slots[slot]
                first, count = pieces.entries[row, 2], pieces.entries[row, 3]
                for place in range(count):
                    ids[size + place] = ids[first + place]
                size += count
            at = after
        ends[index + 1 - len(whole)] = size
    return ids, ends


# Learning


class _Pairs(NamedTuple):
    """A hash table of pairs: how often each occurs, and the number of its latest list of places."""

    keys: Array
    totals: Array
    latest: Array
    used: Array


class _Places(NamedTuple):
    """Lists of words, one for each time that a pair has come: `used` counts the lists, and the words in all of them.

    List i is of the pair `pairs[i]`; it begins with the word `words[heads[i]]` and goes on at `nexts[heads[i]]`.
    """

    pairs: Array
    heads: Array
    words: Array
    nexts: Array
    used: Array


@_kernel
def _no_pairs(size: int) -> _Pairs:
    return _Pairs(_filled(size, _FREE), _filled(size, 0), _filled(size, _FREE), _filled(1, 0))


@_kernel
def _no_places(most: int) -> _Places:
    words, nexts = np.empty(most, np.int64), np.empty(most, np.int64)
    return _Places(np.empty(most, np.int64), np.empty(most, np.int64), words, nexts, _filled(2, 0))


@_kernel
def _slot_of(pairs: _Pairs, key: int) -> tuple[_Pairs, int]:
    """Return the slot of a pair, entering it if need be, and the table, a larger one if it was half full."""
    slot = _pair_slot(pairs.keys, key)
    if pairs.keys[slot] == key:
        return pairs, slot
    if 2 * pairs.used[0] >= len(pairs.keys):
        larger = _no_pairs(2 * len(pairs.keys))
        for old in range(len(pairs.keys)):
            if pairs.keys[old] != _FREE:
                slot = _pair_slot(larger.keys, pairs.keys[old])
                larger.keys[slot], larger.totals[slot] = pairs.keys[old], pairs.totals[old]
                larger.latest[slot] = pairs.latest[old]
        larger.used[0] = pairs.used[0]
        pairs = larger
        slot = _pair_slot(pairs.keys, key)
    pairs.keys[slot] = key
    pairs.used[0] += 1
    return pairs, slot


@_kernel
def _change(pairs: _Pairs, places: _Places, since: int, left: int, right: int, change: int, word: int) -> _Pairs:
    """Add to a pair's count. If it has come, put the word on its list, one begun after the first `since` lists."""
    key = _pack(left, right)
    pairs, slot = _slot_of(pairs, key)
    pairs.totals[slot] += change
    if change > 0:
        current, node = pairs.latest[slot], places.used[1]
        if current < since:
            current = pairs.latest[slot] = places.used[0]
            places.pairs[current], places.heads[current] = key, _FREE
            places.used[0] += 1
        elif places.words[places.heads[current]] == word:
            return pairs
        places.words[node], places.nexts[node] = word, places.heads[current]
        places.heads[current] = node
        places.used[1] += 1
    return pairs


@_kernel
def _candidate(pairs: _Pairs, places: _Places, index: int) -> tuple[int, int, int]:
    """Return what stands on the heap for a list of places: the most frequent pair is the smallest."""
    key = places.pairs[index]
    return -pairs.totals[_pair_slot(pairs.keys, key)], key, index


@_kernel
def _merge_in_word(
    pairs: _Pairs, places: _Places, since: int, row: Array, left: int, right: int, new: int, weight: int, word: int
) -> tuple[_Pairs, int]:
    """`merge_pair` in place, with the counts of the pairs around: the word is `row`; its new length is returned."""
    at, out = 0, 0
    while at < len(row):
        if row[at] == left and at + 1 < len(row) and row[at + 1] == right:
            if out > 0:
                pairs = _change(pairs, places, since, row[out - 1], left, -weight, word)
                pairs = _change(pairs, places, since, row[out - 1], new, weight, word)
            if at + 2 < len(row):
                pairs = _change(pairs, places, since, right, row[at + 2], -weight, word)
                pairs = _change(pairs, places, since, new, row[at + 2], weight, word)
            row[out] = new
            at += 2
        else:
            row[out] = row[at]
            at += 1
        out += 1
    return pairs, out


class _Spellings(NamedTuple):
    """The bytes of each token: those of token i are text[starts[i]:ends[i]]. `known` finds a token by its bytes."""

    text: Bytes
    starts: Array
    ends: Array
    known: _Pieces
    used: Array  # tokens, and bytes


@_kernel
def _spell(text: Bytes, bounds: Array, most: int) -> _Spellings:
    """Return the spellings of the tokens there are, with room for `most`."""
    count = len(bounds) - 1
    starts, ends, used = _filled(most, 0), _filled(most, 0), _filled(2, count)
    used[1] = len(text)
    known = _no_pieces(1 << 12)
    for token in range(count):
        starts[token], ends[token] = bounds[token], bounds[token + 1]
        if starts[token] < ends[token]:
            slot = _find(known, text, starts[token], ends[token])
            known = _add(known, text, slot, starts[token], ends[token], token, 0)
    return _Spellings(text, starts, ends, known, used)


@_kernel
def _joined(spellings: _Spellings, left: int, right: int) -> tuple[_Spellings, int]:
    """Return the token that reads as two in a row, a new one if none does."""
    text, starts, ends, known, used = spellings
    new, start = used[0], used[1]
    middle = start + ends[left] - starts[left]
    end = middle + ends[right] - starts[right]
    if end > len(text):
        longer = np.empty(2 * end, np.uint8)
        for at in range(start):
            longer[at] = text[at]
        text = longer
    for at in range(start, middle):
        text[at] = text[starts[left] + at - start]
    for at in range(middle, end):
        text[at] = text[starts[right] + at - middle]
    slot = _find(known, text, start, end)
    if known.slots[slot] != _FREE:
        return _Spellings(text, starts, ends, known, used), known.entries[known.slots[slot], 2]
    known = _add(known, text, slot, start, end, new, 0)
    starts[new], ends[new], used[0], used[1] = start, end, new + 1, end
    return _Spellings(text, starts, ends, known, used), new


@_kernel
def learn_merges(
    symbols: Array, bounds: Array, counts: Array, spelled: Bytes, spelled_bounds: Array, vocab_size: int
) -> list[tuple[int, int]]:
    """Return the merges (left, right): `train_merges` on words that are given by their symbols.

    Word i, which occurs counts[i] times, is symbols[bounds[i]:bounds[i + 1]]; its symbols are changed in place. Token
    i, one of those there are before the first merge, has the bytes between bounds i and i + 1 of `spelled`; a token
    without bytes is one that no merge can come to spell.
    """
    sizes, merges = _filled(len(counts), 0), [(0, 0) for _ in range(0)]
    spellings = _spell(spelled, spelled_bounds, vocab_size)
    pairs, places = _no_pairs(1 << 12), _no_places(3 * len(symbols))  # for each symbol that goes, two pairs may come
    for word in range(len(counts)):
        sizes[word] = bounds[word + 1] - bounds[word]
        for at in range(bounds[word], bounds[word + 1] - 1):
            pairs = _change(pairs, places, 0, symbols[at], symbols[at + 1], counts[word], word)
    heap = [_candidate(pairs, places, index) for index in range(places.used[0])]
    heapify(heap)
    while len(heap) and spellings.used[0] < vocab_size:
        count, key, index = heappop(heap)
        candidate = _candidate(pairs, places, index)
        if candidate[0] != count:
            heappush(heap, candidate)
            continue
        if count == 0:
            break
        left, right = key >> 32, key & 0xFFFFFFFF
        merges.append((left, right))
        spellings, new = _joined(spellings, left, right)
        since, node = places.used[0], places.heads[index]
        while node != _FREE:
            word = places.words[node]
            row = symbols[bounds[word] : bounds[word] + sizes[word]]
            pairs, sizes[word] = _merge_in_word(pairs, places, since, row, left, right, new, counts[word], word)
            node = places.nexts[node]
        for index in range(since, places.used[0]):
            candidate = _candidate(pairs, places, index)
            if candidate[0] < 0:
                heappush(heap, candidate)
    return merges
