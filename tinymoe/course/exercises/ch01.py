"""Exercises of chapter 01: bytes, pairs, merges, one word encoded, and a split pattern of one's own."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.text.pipeline import Splitter

from ..checks import Case, case, holds, matches, raises, wrong
from ..registry import Exercise


def utf8_bytes(code: int) -> list[int]:
    """The one to four bytes that stand for a code point in UTF-8. Raises ValueError where there are none."""
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"code must be a Unicode character, 0 to 0x10FFFF without surrogates, got {code:#x}")
    if code < 0x80:
        return [code]
    if code < 0x800:
        return [0xC0 | code >> 6, 0x80 | code & 0x3F]
    if code < 0x10000:
        return [0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F]
    return [0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F]


def _random_code(rng: np.random.Generator, size: int) -> Case:
    code = int(rng.integers(0, 0xD800)) if size % 2 else int(rng.integers(0xE000, 0x110000))
    return case(code)


def _random_words(rng: np.random.Generator, size: int) -> Case:
    words = [rng.integers(0, 3, size=rng.integers(0, 6)).tolist() for _ in range(size)]
    return case(words, rng.integers(1, 9, size=size).tolist())


def _pairs(word: list[int]) -> Counter[tuple[int, int]]:
    return Counter(pairwise(word))


def _replaced(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged: list[int] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def _merges(*cases: tuple[list[int], tuple[int, int]]) -> Any:
    """A test that merge_pair joins these pairs, and that its changes lead from the old counts to the new."""

    def test(merge_pair: Any) -> None:
        for word, pair in cases:
            given = f"word = {word}\npair = {pair}\nnew = 9"
            answer = merge_pair(list(word), pair, 9)
            if not isinstance(answer, tuple) or len(answer) != 2:
                wrong("it should return two things: the new word and the changes", given=given, got=answer)
            merged, changes = answer
            expected = _replaced(word, pair, 9)
            if list(merged) != expected:
                wrong("the new word is not right", given=given, expected=expected, got=merged)
            net, wanted = Counter(), _pairs(expected)
            for changed, change in changes:
                net[tuple(changed)] += change
            wanted.subtract(_pairs(word))
            for counts in (net, wanted):
                counts.pop(pair, None)  # the merged pair itself is done with; noted or not, it does not matter
            if +net != +wanted or -net != -wanted:
                wrong(
                    "the changes do not add up to the pairs after minus the pairs before",
                    given=given,
                    expected={key: change for key, change in wanted.items() if change},
                    got={key: change for key, change in net.items() if change},
                )

    return test


def _random_merges(merge_pair: Any) -> None:
    rng = np.random.default_rng(1)
    for size in range(1, 16):
        _merges((rng.integers(0, 3, size=size).tolist(), (0, 1)), (rng.integers(0, 2, size=size).tolist(), (0, 0)))(
            merge_pair
        )


def _random_ranks(rng: np.random.Generator, size: int) -> Case:
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    while len(ranks) < 2 + size // 2:
        left, right = (int(token) for token in rng.integers(0, 3 + len(ranks), size=2))
        ranks.setdefault((left, right), (len(ranks), 3 + len(ranks)))
    return case(rng.integers(0, 3, size=size).tolist(), ranks)


# "w", "i", "n", "g" are 0 to 3; learned in this order: in, ing, win.
_WING = {(1, 2): (0, 4), (4, 3): (1, 5), (0, 4): (2, 6)}


def my_pattern() -> str:
    """A split pattern for Python: names, each with a space or sign before it, numbers, runs of signs, blank space."""
    name = r"[^\r\n\p{L}\p{N}_]?[\p{L}_][\p{L}\p{N}_]*"
    number = r" ?\p{N}(?:[\p{L}\p{N}_.]|(?<=[eE])[+-])*"
    signs = r" ?[^\s\p{L}\p{N}_]+"
    blanks = r"\s+(?!\S)|\s+"
    return "|".join((name, number, signs, blanks))


_TEXTS = (
    "for i in range(10):\n    print(i)\n",
    "total_2024 = 3.14 * x1  # naïve\n\n\tif __init__ != 0x1F:\n\t\treturn -1e-9\n",
    "a=b+c;d  e   \n\n\n        return {'k': [1_000_000]}  ",
    "शनिवार की सुबह, 星期六早上 👩‍👩‍👧 ½\r\nx²\x00\u2028end",
)


def _pieces(my_pattern: Any, text: str, gaps: bool = True) -> list[str]:
    return Splitter(my_pattern(), gaps=gaps)(text)


def _covers_all_text(my_pattern: Any) -> None:
    for text in _TEXTS:
        pieces = _pieces(my_pattern, text, gaps=False)
        if "".join(pieces) != text:
            wrong(
                "the matches, joined, are not the text: some of it is matched by nothing", given=repr(text), got=pieces
            )


def _keeps(*wholes: str) -> Any:
    def test(my_pattern: Any) -> None:
        for whole in wholes:
            for text in (f"x = {whole}\n", f"({whole})", f"[{whole}, {whole}]"):
                pieces = _pieces(my_pattern, text)
                if not any(piece in (whole, piece[:1] + whole) for piece in pieces):
                    wrong(
                        f"{whole} is not one piece, alone or with one character before it", given=repr(text), got=pieces
                    )

    return test


def _cuts_between_things(my_pattern: Any) -> None:
    for text, parts in (("first+second", 2), ("one two three", 3), ("self.weight", 2), ("f(alpha, 12)", 3)):
        pieces = _pieces(my_pattern, text)
        if sum(any(c.isalnum() for c in piece) for piece in pieces) < parts:
            wrong(f"{parts} names or numbers should lie in {parts} pieces", given=repr(text), got=pieces)


def _lines_stay_apart(my_pattern: Any) -> None:
    for text in _TEXTS[:3]:
        pieces = _pieces(my_pattern, text)
        for piece in pieces:
            if "\n" in piece and piece.strip():
                wrong(f"the piece {piece!r} reaches over a line's end", given=repr(text), got=pieces)


def _indents_stay_together(my_pattern: Any) -> None:
    for width in (4, 8, 16):
        text = "\n" + " " * width + "return"
        pieces = _pieces(my_pattern, text)
        if len(pieces) > 4:
            wrong(
                f"an indent of {width} spaces and a word should be four pieces or fewer", given=repr(text), got=pieces
            )


EXERCISES = [
    Exercise(
        id="01.utf8_bytes",
        title="From a code point to its bytes",
        reference=utf8_bytes,
        checks=[
            matches("one byte", [case(0x64), case(0), case(0x7F)]),
            matches("two bytes", [case(0xE9), case(0x80), case(0x7FF)]),
            matches("three bytes", [case(0x72AC), case(0x800), case(0xFFFF)]),
            matches("four bytes", [case(0x1F415), case(0x10000), case(0x10FFFF)]),
            matches("any characters", _random_code, count=30),
            raises("no character at all", ValueError, [case(0x110000), case(-1)]),
            raises("half a surrogate pair", ValueError, [case(0xD800), case(0xDFFF)]),
        ],
        hints=[
            "Four cases, by how many bits the code point needs: up to 7, 11, 16 or 21.",
            "`code & 0x3F` are its last six bits, `code >> 6` what stands before them. A byte that continues a "
            "character is `0x80 | six bits`.",
            "The first byte is 0xC0, 0xE0 or 0xF0 (2, 3 or 4 ones, then a zero), `|` the highest bits. "
            "0xD800 to 0xDFFF and everything above 0x10FFFF raise ValueError.",
        ],
    ),
    Exercise(
        id="01.my_pattern",
        title="A split pattern for Python code",
        reference=my_pattern,
        checks=[
            holds("nothing is left out", _covers_all_text),
            holds("names stay whole", _keeps("total_2024", "__init__", "naïve_count", "x1")),
            holds("numbers stay whole", _keeps("42", "3.14", "0x1F", "1_000_000", "1e-9")),
            holds("different things lie apart", _cuts_between_things),
            holds("no piece reaches over a line's end", _lines_stay_apart),
            holds("an indent is no long row of pieces", _indents_stay_together),
        ],
        hints=[
            'Write it as alternatives, r"name|number|signs|blanks": at each place the first that matches is taken. '
            r"`\p{L}` is a letter and `\p{N}` a digit in any script.",
            r"A name is r'[\p{L}_][\p{L}\p{N}_]*'; put r' ?' before it, or, as Llama 3 does, one sign of any kind but "
            r"a line's end: r'[^\r\n\p{L}\p{N}_]?'. Signs are what is neither blank nor letter, digit or underscore, "
            r"r' ?[^\s\p{L}\p{N}_]+'. For blank space take GPT-2's r'\s+(?!\S)|\s+'.",
            r"A number begins with \p{N} and goes on with digits, letters, underscores and dots; a + or - belongs to "
            r"it only right after an e: r' ?\p{N}(?:[\p{L}\p{N}_.]|(?<=[eE])[+-])*'.",
        ],
    ),
    Exercise(
        id="01.count_pairs",
        title="Which tokens stand side by side, how often and where",
        target="text/bpe.py::count_pairs",
        checks=[
            matches("one word", [case([[1, 2, 3]], [1])]),
            matches("a word that occurs often", [case([[1, 2]], [5])]),
            matches("two words that share a pair", [case([[1, 2, 3], [4, 1, 2]], [2, 3])]),
            matches("pairs that overlap", [case([[7, 7, 7]], [2])]),
            matches("nothing to pair", [case([[], [1]], [4, 4]), case([], [])]),
            matches("any words", _random_words, count=20),
        ],
        hints=[
            "Two dictionaries, filled in one loop over the words: pair → total, and pair → set of word numbers.",
            "`enumerate(words)` gives each word's number; `pairwise(word)` its neighbors, also where they overlap.",
            "totals[pair] = totals.get(pair, 0) + counts[index]; places.setdefault(pair, set()).add(index).",
        ],
    ),
    Exercise(
        id="01.merge_pair",
        title="One merge in one word, and what it changes",
        target="text/bpe.py::merge_pair",
        checks=[
            holds("the pair alone", _merges(([1, 2], (1, 2)))),
            holds("a neighbor on one side", _merges(([5, 1, 2], (1, 2)), ([1, 2, 6], (1, 2)))),
            holds("neighbors on both sides", _merges(([5, 1, 2, 6], (1, 2)))),
            holds("no such pair", _merges(([2, 1, 3], (1, 2)), ([1], (1, 2)), ([], (1, 2)))),
            holds("twice in a row", _merges(([1, 2, 1, 2], (1, 2)), ([1, 2, 5, 1, 2], (1, 2)))),
            holds("a token with itself", _merges(([1, 1, 1], (1, 1)), ([1, 1, 1, 1], (1, 1)), ([1, 1, 2], (1, 1)))),
            holds("any words", _random_merges),
        ],
        hints=[
            "Go through the word with an index. Where the pair stands, append `new` and go on by two; otherwise append "
            "the token and go on by one.",
            "For x 1 2 y → x 9 y, two pairs are gone, (x, 1) and (2, y), and two have come, (x, 9) and (9, y). "
            "(1, 2) itself need not be listed.",
            "x is the last token of the *new* word, `merged[-1]`, if there is one: in 1 2 1 2 it is already a 9 the "
            "second time. y is `word[at + 2]`, if there is one.",
        ],
    ),
    Exercise(
        id="01.merge_word",
        title="One word, encoded",
        target="text/bpe.py::merge_word",
        checks=[
            matches("one merge", [case([1, 2], {(1, 2): (0, 9)}), case([1, 2, 3], {(1, 2): (0, 9)})]),
            matches("nothing to merge", [case([1, 2], {}), case([], {}), case([1], {(1, 1): (0, 9)})]),
            matches("a merge of a merge", [case([1, 2, 3], {(1, 2): (0, 8), (8, 3): (1, 9)})]),
            matches("w i n g, where in, ing and win were learned in this order", [case([0, 1, 2, 3], _WING)]),
            matches("the lower rank first", [case([1, 2, 3], {(1, 2): (1, 9), (2, 3): (0, 8)})]),
            matches("the leftmost of equals", [case([1] * 3, {(1, 1): (0, 9)}), case([1] * 5, {(1, 1): (0, 9)})]),
            matches("any words and merges", _random_ranks, count=30),
        ],
        hints=[
            "Repeat: of all pairs of neighbors that are in `ranks`, take the one with the lowest rank and join it. "
            "Stop when there is none.",
            "`min(..., key=...)` over positions: the position with the lowest rank, and of several the first.",
            "tokens[at : at + 2] = [ranks[pair][1]] joins the two. That is n² steps for a word of n, which is fine for "
            "words of ordinary length; the package's version takes n log n.",
        ],
    ),
]
