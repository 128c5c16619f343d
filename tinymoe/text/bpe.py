"""Byte-pair encoding: learning merges from words, and applying them to one word.

Sennrich et al. 2016 (arXiv 1508.07909) brought the method from compression to words; Radford et al. 2019 (GPT-2) let
it begin from the 256 bytes, so that no text is out of vocabulary. Merges and their order are those of `BpeTrainer` in
Hugging Face `tokenizers` with its defaults (min_frequency 0) and `initial_alphabet=ByteLevel.alphabet()`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

Pair = tuple[int, int]


@cache
def byte_alphabet() -> list[str]:
    """Return the printable character that stands for each byte in a vocabulary file (GPT-2's choice).

    Printable bytes stand for themselves; the other 68 get the characters from U+0100 on, so a space reads "Ġ".
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def symbol_bytes(token: str) -> bytes:
    """Return the bytes that a token, written in the byte alphabet, stands for; another text is taken as UTF-8."""
    byte_of = _bytes_of_symbols()
    return bytes(byte_of[c] for c in token) if all(c in byte_of for c in token) else token.encode()


@cache
def _bytes_of_symbols() -> dict[str, int]:
    return {symbol: byte for byte, symbol in enumerate(byte_alphabet())}


def count_pairs(
    words: Sequence[Sequence[int]], counts: Sequence[int]
) -> tuple[dict[Pair, int], dict[Pair, set[int]]]:
    """Count each pair of neighbors over all words, and note in which words it stands.

    `counts[i]` says how often `words[i]` occurs in the text. Overlapping pairs all count: "aaa" has "aa" twice.
    """
    totals: dict[Pair, int] = {}
    places: dict[Pair, set[int]] = {}
    for index, word in enumerate(words):
        for pair in pairwise(word):
            totals[pair] = totals.get(pair, 0) + counts[index]
            places.setdefault(pair, set()).add(index)
    return totals, places


def merge_pair(word: Sequence[int], pair: Pair, new: int) -> tuple[list[int], list[tuple[Pair, int]]]:
    """Replace `pair` by the token `new` from left to right.

    Returns the new word, and which pairs of neighbors have come (+1) and gone (-1) around each replacement.
    """
    left, right = pair
    merged: list[int] = []
    changes: list[tuple[Pair, int]] = []
    at, end = 0, len(word)
    while at < end:
        if word[at] == left and at + 1 < end and word[at + 1] == right:
            if merged:
                changes += [((merged[-1], left), -1), ((merged[-1], new), 1)]
            if at + 2 < end:
                changes += [((right, word[at + 2]), -1), ((new, word[at + 2]), 1)]
            merged.append(new)
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return merged, changes


def train_merges(words: Mapping[str, int], vocab: dict[str, int], vocab_size: int) -> list[tuple[str, str]]:
    """Learn merges from the counts of words, most frequent pair first, until `vocab` has `vocab_size` tokens.

    `vocab` (token → id, the ids 0, 1, 2, …) must hold the byte alphabet; the new tokens are added to it. Of pairs that
    are equally frequent the one with the smaller ids comes first. Stops early when no pair is left.

    Only the words that hold the chosen pair are touched, and a pair whose count has fallen since it was put on the
    heap is put back with its present count: so thousands of merges cost little more than the first.
    """
    alphabet = byte_alphabet()
    symbols = [[vocab[alphabet[byte]] for byte in word.encode()] for word in words]
    counts = list(words.values())
    tokens = list(vocab)
    merges: list[tuple[str, str]] = []
    totals, places = count_pairs(symbols, counts)
    heap = [(-totals[pair], pair, where) for pair, where in places.items()]
    heapq.heapify(heap)
    while heap and len(vocab) < vocab_size:
        count, pair, where = heapq.heappop(heap)
        if -count != totals[pair]:
            heapq.heappush(heap, (-totals[pair], pair, where))
            continue
        if count == 0:
            break
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        if left + right not in vocab:  # a special token may read the same
            vocab[left + right] = len(tokens)
            tokens.append(left + right)
        places = {}
        for index in where:
            symbols[index], changes = merge_pair(symbols[index], pair, vocab[left + right])
            for changed, change in changes:
                totals[changed] = totals.get(changed, 0) + change * counts[index]
                if change > 0:
                    places.setdefault(changed, set()).add(index)
        for changed, indices in places.items():
            if totals[changed] > 0:
                heapq.heappush(heap, (-totals[changed], changed, indices))
    return merges


def merge_word(word: Sequence[int], ranks: Mapping[Pair, tuple[int, int]]) -> list[int]:
    """Apply merges to one word, the lowest rank first and the leftmost of equals, until none applies.

    `ranks` maps a pair to (its rank, the merged token). A heap holds the pairs that can be merged, and a linked list
    the neighbors, so a word of n symbols takes O(n log n) steps even where every merge applies.
    """
    tokens = [*word, -1]  # -1: no token here, so in no pair; also what stands before the first
    before, after = list(range(-1, len(word))), list(range(1, len(word) + 2))
    heap = [(ranks[pair][0], at) for at, pair in enumerate(pairwise(word)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, at = heapq.heappop(heap)
        gone = after[at]
        merge = ranks.get((tokens[at], tokens[gone]))
        if merge is None or merge[0] != rank:
            continue  # one of the two has been merged since
        tokens[at], tokens[gone] = merge[1], -1
        after[at] = following = after[gone]
        before[following] = at
        for first, second in ((before[at], at), (at, following)):
            if (pair := (tokens[first], tokens[second])) in ranks:
                heapq.heappush(heap, (ranks[pair][0], first))
    return [token for token in tokens if token >= 0]
