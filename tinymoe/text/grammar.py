"""Texts with choices in them: the small language in which `tales` and `babel` are written.

    {thing} {spot.where}      what the scene says, whole or one field; {Thing} begins with a capital letter
    <color> <treat.many>      a fresh draw from a table; <Color> begins with a capital letter
    [one|the other]           a choice on the spot; choices may stand inside choices

`parse` compiles such a text once, `write` then tells it as often as you like. The drawing uses nothing but
`random.Random.random()`, whose numbers are the same in every version of Python, and so are the texts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_TOKEN = re.compile(r"\{(\w+)(?:\.(\w+))?\}|<(\w+)(?:\.(\w+))?>|([\[\]|])")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio]|u(?!ni|se))(?!one\b)")


@dataclass(frozen=True)
class Slot:
    """A place in a text that the scene fills (`bound`), or else a fresh draw from a table."""

    name: str
    field: str
    capital: bool
    bound: bool


@dataclass(frozen=True)
class Choice:
    """Several texts, one of which is drawn."""

    options: tuple[Text, ...]


Text = tuple["str | Slot | Choice", ...]
Row = Mapping[str, Text]


@dataclass(frozen=True)
class Table:
    """Rows with the same named fields. `words[i]` are all the words of row i."""

    rows: tuple[Row, ...]
    words: tuple[frozenset[str], ...]


def pick(options: Sequence[T], rng: random.Random) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def parse(text: str) -> Text:
    """Compile one text. ValueError when its square brackets do not match."""
    options: list[list[list]] = [[[]]]  # one list of options for each bracket that is open, the innermost last
    position = 0
    for match in _TOKEN.finditer(text):
        if position < match.start():
            options[-1][-1].append(text[position : match.start()])
        position = match.end()
        slot, slot_field, draw, draw_field, bracket = match.groups()
        if bracket == "[":
            options.append([[]])
        elif bracket == "|":
            options[-1].append([])
        elif bracket == "]" and len(options) > 1:
            choice = Choice(tuple(tuple(option) for option in options.pop()))
            options[-1][-1].append(choice)
        elif bracket:
            raise ValueError(f"a square bracket closes that was never opened, in the text {text!r}")
        else:
            name = slot or draw
            options[-1][-1].append(
                Slot(name.lower(), slot_field or draw_field or "", name[0].isupper(), slot is not None)
            )
    options[-1][-1].append(text[position:])
    if len(options) != 1 or len(options[0]) != 1:
        raise ValueError(f"the square brackets do not match in the text {text!r}")
    return tuple(part for part in options[0][0] if part != "")


def parse_row(fields: Mapping[str, str]) -> Row:
    """Compile every field of a row."""
    return {name: parse(value) for name, value in fields.items()}


def parse_table(names: Sequence[str], lines: Sequence[str]) -> Table:
    """A table from lines whose fields are separated by slashes with a space on both sides."""
    rows, words = [], []
    for line in lines:
        values = [value.strip() for value in line.split(" / ")]
        if len(values) != len(names):
            raise ValueError(f"the row {line.strip()!r} has {len(values)} fields, not these: {', '.join(names)}")
        rows.append(parse_row(dict(zip(names, values, strict=True))))
        words.append(frozenset(re.findall(r"[\w-]+", line)))
    return Table(tuple(rows), tuple(words))


def write(
    text: Text, rng: random.Random, scene: Mapping[str, Row] | None = None, tables: Mapping[str, Table] | None = None
) -> str:
    """Tell a compiled text once. A slot's name has to be in `scene`, a draw's in `tables` (else KeyError)."""
    pieces: list[str] = []
    _write(text, rng, scene or {}, tables or {}, pieces)
    return "".join(pieces)


def with_articles(text: str) -> str:
    """English: "a" becomes "an" where the word that was drawn after it begins with a vowel."""
    return _ARTICLE.sub(r"\1n ", text)


def _write(
    text: Text, rng: random.Random, scene: Mapping[str, Row], tables: Mapping[str, Table], out: list[str]
) -> None:
    for part in text:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, Choice):
            _write(pick(part.options, rng), rng, scene, tables, out)
        else:
            row = scene[part.name] if part.bound else pick(tables[part.name].rows, rng)
            start = len(out)
            _write(row[part.field] if part.field else next(iter(row.values())), rng, scene, tables, out)
            if part.capital:
                out[start] = out[start][:1].upper() + out[start][1:]
