"""Arrays by where they stand in memory: compiled code takes any number of them as one table of addresses."""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from .reference import Array


def address_of(array: Array | None, write: bool = False) -> int:
    """Where an array's numbers stand in memory, to read them or also to write; 0 for none.

    Raises ValueError for an array that is not float32 in one piece, or that must not be written to.
    """
    if array is None:
        return 0
    if write and not array.flags.writeable:
        raise ValueError("array: it is read-only")
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"array: got {array.dtype} of strides {array.strides}, expected float32 in one piece")
    return array.__array_interface__["data"][0]


def _pointer(kind: Any) -> Any:
    """An intrinsic: an address as a pointer to numbers of this kind."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> tuple[Signature, Callable[..., Any]]:
        pointer_type = types.CPointer(kind)
        return pointer_type(types.intp), lambda context, builder, signature, arguments: builder.inttoptr(
            arguments[0], context.get_value_type(pointer_type)
        )

    return pointer


_to_floats, _to_integers = _pointer(types.float32), _pointer(types.int64)


def floats_at(address, shape):  # type: ignore[no-untyped-def]
    """The float32 numbers at an address, as an array of this shape."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float)), shape)


@overload(floats_at)
def _floats_at_overload(address, shape):  # type: ignore[no-untyped-def]
    return lambda address, shape: numba.carray(_to_floats(address), shape, np.float32)  # pyright: ignore


def integers_at(address, shape):  # type: ignore[no-untyped-def]
    """The int64 numbers at an address, as an array of this shape."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_int64)), shape)


@overload(integers_at)
def _integers_at_overload(address, shape):  # type: ignore[no-untyped-def]
    return lambda address, shape: numba.carray(_to_integers(address), shape, np.int64)  # pyright: ignore
