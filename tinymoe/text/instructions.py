"""Collections of instructions: read from files as conversations, and packed into rows to train on.

    from tinymoe.text import chat, instructions
    talks = instructions.conversations("alpaca_data.json")
    encoded = (chat.encode(tokenizer, talk, "chatml") for talk in talks)
    rows = instructions.pack_masked(encoded, context=256)

A file is one JSON list of records, or has a record on each line (.jsonl). Four ways of writing a record are known:

    Alpaca (Taori et al., 2023)               instruction, input, output
    OpenOrca (Lian et al., 2023)              system_prompt, question, response
    ShareGPT, as Vicuna (2023) was tuned on   conversations: a list of {"from": …, "value": …}
    the messages of OpenAI's API              messages: a list of {"role": …, "content": …}
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .nesting import check_nesting
from .packing import IGNORE, PADDING, Packed
from .replies import Message

SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def conversations(path: str | os.PathLike[str]) -> Iterator[list[Message]]:
    """The conversations of a .json or .jsonl file, each a list of messages, in their order.

    A .jsonl file is read line by line, so it may be larger than memory. ValueError, naming the file, the record (or
    the line, from 1) and the field, for whatever is not of a known form; FileNotFoundError where there is no file.
    """
    for where, record in _records(Path(path)):
        yield read_record(record, where)


def read_record(record: Any, where: str = "record") -> list[Message]:
    """One record as messages. `where` is what an error calls it."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is of type {type(record).__name__}, expected an object")
    if "messages" in record:
        return [_check_message(message, f"{where}, messages[{i}]") for i, message in _turns(record, "messages", where)]
    if "conversations" in record:
        return [_speech(turn, f"{where}, conversations[{i}]") for i, turn in _turns(record, "conversations", where)]
    if "instruction" in record:
        parts = [_text(record, "instruction", where), _text(record, "input", where, "")]
        return _pair("", "\n\n".join(part for part in parts if part), _text(record, "output", where))
    if "question" in record:
        system = _text(record, "system_prompt", where, "")
        return _pair(system, _text(record, "question", where), _text(record, "response", where))
    known = "messages, conversations, instruction or question"
    raise ValueError(f"{where} has the fields {', '.join(record) or 'none'}; expected {known} among them")


@dataclass(frozen=True)
class MaskedPacked(Packed):
    """Packed rows in which only some tokens are learned: `mask` (rows, context + 1) of bool says which."""

    mask: np.ndarray

    def batch(self, rows: slice | Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, targets, documents), each (rows, context). A target whose token is not learned is -100."""
        ids, targets, documents = super().batch(rows)
        return ids, np.where(self.mask[rows][:, 1:], targets, IGNORE), documents


def pack_masked(
    encoded: Iterable[tuple[Sequence[int], Sequence[bool]]], context: int, *, cut: bool = False
) -> MaskedPacked:
    """Put conversations, each as (ids, mask), into as few rows of context + 1 tokens as best fit finds.

    None goes on in the next row, where an answer would stand without its question; each keeps its number, counted
    from 0, as its document. ValueError for one that is longer than a row; with `cut` its end is cut off. One of which
    nothing is learned is left out; ValueError where none remains.
    """
    if context < 1:
        raise ValueError(f"context is {context}; it has to be at least 1")
    width, kept = context + 1, {}
    for number, (ids, mask) in enumerate(encoded):
        if len(ids) != len(mask):
            raise ValueError(f"conversation {number} has {len(ids)} ids and a mask of {len(mask)}; expected as many")
        if len(ids) > width and not cut:
            raise ValueError(f"conversation {number} has {len(ids)} tokens, but a row has {width}; pass cut=True")
        if any(mask[1:width]):
            kept[number] = ids[:width], mask[:width]
    if not kept:
        raise ValueError("encoded has no conversation in which the assistant says something")
    rows = best_fit({number: len(ids) for number, (ids, _) in kept.items()}, width)
    ids, documents = np.zeros((len(rows), width), np.int32), np.full((len(rows), width), PADDING, np.int32)
    learned = np.zeros((len(rows), width), bool)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            place = slice(start, start := start + len(kept[number][0]))
            ids[row, place], learned[row, place] = kept[number]
            documents[row, place] = number
    return MaskedPacked(ids, documents, learned)


def best_fit(lengths: dict[int, int], width: int) -> list[list[int]]:
    """Which documents share a row: best fit, the longest first (Ding et al., 2024, arXiv:2404.10830).

    `lengths` maps each document's number to its length, at most `width`. Each goes where it leaves the least room.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        place = bisect_left(room, (lengths[number], 0))
        if place == len(room):
            insort(room, (width, len(rows)))
            rows.append([])
        free, row = room.pop(place)
        rows[row].append(number)
        insort(room, (free - lengths[number], row))
    return rows


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield (where := f"{path}, line {number}"), _json(line, where)
    elif path.suffix == ".json":
        records = _json(path.read_bytes(), str(path))
        if not isinstance(records, list):
            raise ValueError(f"{path} is of type {type(records).__name__}, expected a list; one a line is .jsonl")
        for number, record in enumerate(records, 1):
            yield f"{path}, record {number}", record
    else:
        raise ValueError(f"path is {str(path)!r}, expected a file that ends in .json or .jsonl")


def _json(content: bytes, where: str) -> Any:
    try:
        text = content.decode("utf-8-sig")
        check_nesting(text)
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


def _turns(record: dict[str, Any], field: str, where: str) -> Iterator[tuple[int, Any]]:
    turns = record[field]
    if not isinstance(turns, list) or not turns:
        got = "empty" if turns == [] else f"of type {type(turns).__name__}"
        raise ValueError(f"{where}: the field {field!r} is {got}, expected a list of turns")
    return enumerate(turns)


def _speech(turn: Any, where: str) -> Message:
    speaker = _text(turn, "from", where)
    if speaker not in SPEAKERS:
        raise ValueError(f"{where}: the field 'from' is {speaker!r}, expected one of {', '.join(SPEAKERS)}")
    return {"role": SPEAKERS[speaker], "content": _text(turn, "value", where)}


def _check_message(message: Any, where: str) -> Message:
    _text(message, "role", where)
    if not message.get("tool_calls"):
        _text(message, "content", where)
    return message


def _pair(system: str, question: str, answer: str) -> list[Message]:
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _text(record: Any, field: str, where: str, default: str | None = None) -> str:
    """A field with a text. A missing one is `default`; ValueError where there is none."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is of type {type(record).__name__}, expected an object")
    value = record.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        got = "missing" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"{where}: the field {field!r} is {got}, expected a text")
    return value
