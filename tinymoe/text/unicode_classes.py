"""Unicode character classes for the standard library's `re`.

The split patterns of published tokenizers are written for Oniguruma, the regex engine of Hugging Face `tokenizers`.
They speak of `\\p{L}` (letters) and `\\p{N}` (numbers), which `re` does not know, and their `\\s` leaves out U+001C to
U+001F, which the `\\s` of `re` contains. `translate` writes every class out as ranges of code points.

Which characters are letters is taken from `unicodedata`, so it is as new as the running Python (3.11: Unicode 14,
3.13: Unicode 15.1); `tokenizers` 0.23 knows Unicode 16. They differ only in characters added since.
"""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from functools import cache

Ranges = list[tuple[int, int]]  # code points, both ends included, sorted and apart

_WHITE_SPACE: Ranges = [
    (0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000),
]  # fmt: skip
_CIRCLED_LETTERS: Ranges = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]
# Outside of brackets Oniguruma's \w has these six of Latin-1 (² ³ ¹ ¼ ½ ¾), and no other numbers of their kind.
_LATIN1_NUMBERS: Ranges = [(0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)]

_ESCAPE = re.compile(
    r"\\(?:[pP]\{(\^?)(\w+)\}|x\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|(.))", re.DOTALL
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_GROUP = re.compile(r"\((\?<[A-Za-z_]\w*>|\?#[^)]*\)|\?(?:[:=!>]|<[=!]|-?i[:)])|(?!\?))")


@cache
def category_ranges() -> dict[str, Ranges]:
    """Return the code points of each general category (Lu, Ll, Nd, …), in about 30 ms, once.

    Planes 4 to 13 hold no characters and 15 and 16 only private ones, so they need no scan.
    """
    ranges: dict[str, Ranges] = {
        "Cn": [(0x40000, 0xDFFFF), (0xE1000, 0xEFFFF), (0xFFFFE, 0xFFFFF), (0x10FFFE, 0x10FFFF)],
        "Co": [(0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)],
    }
    for first, last in ((0, 0x3FFFF), (0xE0000, 0xE0FFF)):
        start = first
        characters = map(chr, range(first, last + 1))
        for category, run in itertools.groupby(map(unicodedata.category, characters)):
            end = start + sum(1 for _ in run)
            ranges.setdefault(category, []).append((start, end - 1))
            start = end
    return ranges


@cache
def class_ranges(name: str) -> Ranges:
    """Return the code points of a class: a general category ("Lu"), a group of them ("L"), or "s", "w", "d", "h".

    Raises ValueError for a name that is none of these (scripts such as "Han" are not known to `unicodedata`).
    """
    if name == "s":
        return _WHITE_SPACE
    if name == "h":
        return [(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)]
    if name == "d":
        return class_ranges("Nd")
    if name == "w":
        return union(*map(class_ranges, ("L", "M", "Nd", "Nl", "Pc")), _CIRCLED_LETTERS)
    key = name.capitalize()
    found = [ranges for category, ranges in category_ranges().items() if key in (category, category[0])]
    if not found:
        raise ValueError(f"pattern uses the Unicode property {name!r}; only general categories (L, Lu, N, …) are known")
    return union(*found)


def is_space(character: str) -> bool:
    """Say whether a character is white space in Unicode; for Python U+001C to U+001F are, too."""
    return character.isspace() and character not in "\x1c\x1d\x1e\x1f"


def is_word(character: str) -> bool:
    """Say whether a character belongs to words, as Rust's regex crate sees it; "" does not."""
    return character != "" and (
        character in "\u200c\u200d" or any(a <= ord(character) <= b for a, b in class_ranges("w"))
    )


def union(*sets: Ranges) -> Ranges:
    """Return the code points that are in any of `sets`."""
    joined: Ranges = []
    for low, high in sorted(itertools.chain(*sets)):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def complement(ranges: Ranges) -> Ranges:
    """Return the code points that are not in `ranges`."""
    edges = [-1, *itertools.chain(*ranges), sys.maxunicode + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return [(low + 1, high - 1) for low, high in gaps if low + 1 < high]


def translate(pattern: str, highest: int = sys.maxunicode) -> str:
    """Rewrite a split pattern from Oniguruma's dialect, which tokenizer.json files use, into that of `re`.

    No group of the result captures. Leaving out of each class what lies above `highest` makes the result faster for
    texts without such characters. Raises ValueError for what cannot be rewritten.
    """
    result, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        if character == "[":
            ranges, negated, at = _read_class(pattern, at)
            result.append(_class_text(ranges, negated, highest))
        elif character == "\\":
            text, at = _read_escape(pattern, at, highest)
            result.append(text)
        elif character == "(":
            text, at = _read_group(pattern, at)
            result.append(text)
        elif pattern.startswith("}+", at):
            raise ValueError(f"pattern uses '}}+' at position {at}; the two engines disagree on its meaning")
        else:
            # In Oniguruma ^ and $ hold at every line.
            result.append(f"(?m:{character})" if character in "^$" else character)
            at += 1
    return "".join(result)


def _read_group(pattern: str, at: int) -> tuple[str, int]:
    group = _GROUP.match(pattern, at)
    if group is None:
        raise ValueError(f"pattern uses {pattern[at : at + 4]!r} at position {at}, which is not supported")
    kind = group[1]
    if kind.startswith("?#"):
        return "", group.end()
    captures = kind == "" or (kind.startswith("?<") and kind.endswith(">"))
    return "(?:" if captures else group[0], group.end()


def _read_escape(pattern: str, at: int, highest: int) -> tuple[str, int]:
    letter = pattern[at + 1 : at + 2]
    if letter in ("A", "z", "Z"):
        return {"A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}[letter], at + 2
    if letter in ("w", "W", "b", "B"):
        word = union(class_ranges("w"), _LATIN1_NUMBERS)
        inside, outside = _class_text(word, False, highest), _class_text(word, True, highest)
        boundary = f"(?:(?<={inside})(?!{inside})|(?<!{inside})(?={inside}))"
        return {"w": inside, "W": outside, "b": boundary, "B": f"(?!{boundary})"}[letter], at + 2
    ranges, end = _escape_ranges(pattern, at)
    return _class_text(ranges, False, highest), end


def _read_class(pattern: str, at: int) -> tuple[Ranges, bool, int]:
    """Read the `[…]` that opens at `at`: its ranges, whether a ^ negates them, and where it ends."""
    negated = pattern.startswith("^", at + 1)
    opened, at = at, at + 1 + negated
    first = at
    parts: list[Ranges] = []
    outside: Ranges = []  # what an && has ruled out
    while at < len(pattern):
        if pattern[at] == "]" and at > first:
            ranges = complement(union(outside, complement(union(*parts)))) if outside else union(*parts)
            return ranges, negated, at + 1
        if pattern.startswith("[:", at):
            raise ValueError(f"pattern uses a POSIX bracket at position {at}, which is not supported")
        if pattern.startswith("&&", at):
            outside, parts, at = union(outside, complement(union(*parts))), [], at + 2
        elif pattern[at] == "[":
            inner, inner_negated, at = _read_class(pattern, at)
            parts.append(complement(inner) if inner_negated else inner)
        else:
            ranges, at = _read_range(pattern, at)
            parts.append(ranges)
    raise ValueError(f"pattern opens a class at position {opened} and never closes it")


def _read_range(pattern: str, at: int) -> tuple[Ranges, int]:
    low, end = _read_member(pattern, at)
    if pattern[end : end + 1] != "-" or pattern[end + 1 : end + 2] in ("]", ""):
        return low, end
    high, end = _read_member(pattern, end + 1)
    if [a == b for a, b in low + high] != [True, True] or low > high:
        raise ValueError(f"pattern has a bad range {pattern[at:end]!r} at position {at}")
    return [(low[0][0], high[0][0])], end


def _read_member(pattern: str, at: int) -> tuple[Ranges, int]:
    if pattern[at] == "\\":
        return _escape_ranges(pattern, at)
    return [(ord(pattern[at]), ord(pattern[at]))], at + 1


def _escape_ranges(pattern: str, at: int) -> tuple[Ranges, int]:
    """Return the code points that the escape at `at` stands for, and where it ends."""
    escape = _ESCAPE.match(pattern, at)
    if escape is None:
        raise ValueError("pattern ends in a backslash")
    caret, name, *codes, letter = escape.groups()
    if name:
        negated = (escape[0][1] == "P") != (caret == "^")
        ranges = class_ranges(name)
        return (complement(ranges) if negated else ranges), escape.end()
    if code := next(filter(None, codes), None):
        return [(int(code, 16), int(code, 16))], escape.end()
    if letter in "swdh":
        return class_ranges(letter), escape.end()
    if letter in "SWDH":
        return complement(class_ranges(letter.lower())), escape.end()
    if letter.isalnum() and letter not in _CONTROLS:
        raise ValueError(f"pattern uses {escape[0]!r} at position {at}, which is not supported")
    character = _CONTROLS.get(letter, letter)
    return [(ord(character), ord(character))], escape.end()


def _class_text(ranges: Ranges, negated: bool, highest: int) -> str:
    kept = [(low, min(high, highest)) for low, high in ranges if low <= highest]
    if not kept:
        return "(?s:.)" if negated else "(?!)"
    if len(kept) == 1 and kept[0][0] == kept[0][1] and not negated:
        return re.escape(chr(kept[0][0]))
    body = "".join(f"\\U{low:08x}" if low == high else f"\\U{low:08x}-\\U{high:08x}" for low, high in kept)
    return f"[{'^' * negated}{body}]"
