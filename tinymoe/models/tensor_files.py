"""The safetensors format: eight bytes that say how long the header is, a header in JSON, and the numbers' bytes.

The library of that name reads and writes it. Where that cannot be installed, as in some browsers, the few lines below
do the same, as strictly: the same bytes, the same tensors, and an error for whatever the library refuses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..text.nesting import check_nesting

# The types that the format knows, and the bytes of a number; in a file the last of these come first.
WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8},
}
LONGEST_HEADER = 100_000_000  # bytes, as in the library: a damaged length must not fill the memory


def serialize(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file. Raises ValueError for a kind of number that the format does not have."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        from safetensors.numpy import save
    except ImportError:
        return _write(whole, metadata)
    return save(whole, metadata=metadata)


def deserialize(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The tensors of a file: name, and {"shape", "dtype" (as F32, BF16, …), "data" (its bytes)}.

    Raises ValueError for bytes that are no safetensors file, are cut off, or have gaps or overlaps.
    """
    try:
        from safetensors import SafetensorError
        from safetensors import deserialize as read
    except ImportError:
        return _read(data)
    try:
        return read(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _write(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None) -> bytes:
    kinds = {name: _kind(name, array.dtype) for name, array in arrays.items()}
    types = list(WIDTHS)
    # The widest numbers first, so that each begins at a multiple of its own width.
    order = sorted(arrays, key=lambda name: (-types.index(kinds[name]), name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": kinds[name], "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(_little_endian(arrays[name]) for name in order)])


def _kind(name: str, dtype: np.dtype) -> str:
    kind = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
    if dtype.kind not in "biuf" or kind not in WIDTHS:
        raise ValueError(f"{name}: got numbers of type {dtype}, which a safetensors file cannot hold")
    return kind


def _little_endian(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _read(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, LONGEST_HEADER):
        raise ValueError(f"its header should have {length} bytes, but the file has {len(data)}")
    try:
        text = data[8 : 8 + length].decode()
        check_nesting(text, deepest=3)  # the list of sizes in a tensor's entry
        header = json.loads(text, object_pairs_hook=_no_name_twice)
        tensors = {name: _Entry(**entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    numbers, end = memoryview(data)[8 + length :], 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if entry.data_offsets[0] != end:
            raise ValueError(f"{name} begins at byte {entry.data_offsets[0]}, expected {end}")
        end = entry.data_offsets[1]
    if end != len(numbers):
        raise ValueError(f"its tensors have {end} bytes, but {len(numbers)} follow the header")
    return [
        (name, {"shape": entry.shape, "dtype": entry.dtype, "data": bytes(numbers[slice(*entry.data_offsets)])})
        for name, entry in tensors.items()
    ]


class _Entry:
    """What the header says of a tensor, checked."""

    def __init__(self, dtype: str, shape: list[int], data_offsets: list[int], **others: Any) -> None:
        counts = [*shape, *data_offsets]
        if dtype not in WIDTHS or len(data_offsets) != 2 or any(type(n) is not int or n < 0 for n in counts):
            raise ValueError(f"got a tensor of type {dtype!r}, shape {shape!r}, at bytes {data_offsets!r}")
        if data_offsets[1] - data_offsets[0] != math.prod(shape) * WIDTHS[dtype]:
            raise ValueError(f"a tensor of type {dtype} and shape {shape} does not fill bytes {data_offsets}")
        self.dtype, self.shape, self.data_offsets = dtype, shape, data_offsets


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found
