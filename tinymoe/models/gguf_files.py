"""GGUF, version 3: the one file in which llama.cpp and its relatives keep a whole model, tokenizer included.

    "GGUF"  version  number of tensors  number of entries
    entries:  name  kind of value  value           what the model is
    tensors:  name  sizes  kind of number  place   where each begins, counted from the end of all this
    the tensors' numbers, each from a multiple of 32 on

Whole numbers are little-endian. A text is its length and its UTF-8 bytes. Sizes are told the other way round than
NumPy does: how many numbers stand side by side comes first. Source: docs/gguf.md in github.com/ggml-org/ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VERSION, ALIGNMENT = 3, 32

Value = bool | int | float | str | Sequence["Value"]

# The number of each kind of value, and how `struct` packs it; texts and lists are made of others.
_BOOL, _U32, _F32, _I32, _STRING, _LIST = (7, "?"), (4, "I"), (6, "f"), (5, "i"), (8, ""), (9, "")
# The number of each kind of tensor.
_TENSORS = {"float32": 0, "float16": 1, "bfloat16": 30}
DTYPES = tuple(_TENSORS)


def serialize(entries: Mapping[str, Value], tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> bytes:
    """The bytes of a file. entries may be bools, whole numbers, numbers, texts, and lists of one of those.

    dtypes gives the kind of number that a tensor is stored as, one of `DTYPES`; float32 for those not in it. Raises
    ValueError for another kind, and for entries that the format has no place for.
    """
    parts = [_packed(value, name) for name, value in entries.items()]
    infos, data, place = [], [], 0
    for name, tensor in tensors.items():
        numbers = narrowed(tensor, dtypes.get(name, "float32"))
        kind = _TENSORS[dtypes.get(name, "float32")]
        sizes = struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *reversed(tensor.shape))
        infos.append(_text(name) + sizes + struct.pack("<IQ", kind, place))
        data.append(_filled_up(numbers.tobytes()))
        place += len(data[-1])
    head = b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(entries))
    named = [_text(name) + part for name, part in zip(entries, parts, strict=True)]
    return b"".join([_filled_up(b"".join([head, *named, *infos])), *data])


def narrowed(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as they are stored: float32, float16, or the bits of bfloat16 as uint16.

    Raises ValueError for others, and for numbers that are too large for float16.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")
    numbers = np.ascontiguousarray(numbers, dtype="<f4")
    if dtype == "bfloat16":  # the upper half of a float32, rounded to the nearest, and of two to the even one
        bits = numbers.view("<u4")
        nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(numbers), 0x7FC0, nearest).astype("<u2")
    if dtype == "float16" and (largest := np.abs(numbers[np.isfinite(numbers)]).max(initial=0)) > 65504:
        raise ValueError(f"dtype: got float16, which ends at 65504, for a weight of {largest:g}; bfloat16 holds it")
    return numbers.astype("<f2") if dtype == "float16" else numbers


def _packed(value: Value, name: str) -> bytes:
    """An entry's kind and value."""
    kind, form = _kind(value, name)
    if isinstance(value, str):
        return struct.pack("<I", kind) + _text(value)
    if form:
        return struct.pack(f"<I{form}", kind, value)
    values: Sequence[Any] = value  # pyright: ignore[reportAssignmentType]
    kinds = {_kind(each, name, alone=False) for each in values} or {_STRING}
    if len(kinds) != 1 or _LIST in kinds:
        raise ValueError(f"{name}: got a list of lists or of several kinds, expected one kind")
    inner, form = kinds.pop()
    packed = struct.pack(f"<{len(values)}{form}", *values) if form else b"".join(map(_text, values))
    return struct.pack("<IIQ", kind, inner, len(values)) + packed


def _kind(value: Value, name: str, alone: bool = True) -> tuple[int, str]:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int) and alone and 0 <= value < 2**32:
        return _U32
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return _I32
    if isinstance(value, float):
        return _F32
    if isinstance(value, str):
        return _STRING
    if isinstance(value, Sequence):
        return _LIST
    raise ValueError(f"{name}: got {value!r}, expected a text, a number of 32 bits, or a list of one kind")


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(data := text.encode())) + data


def _filled_up(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
