"""Threads that share one task after another without leaving compiled code.

To compute one token of one text takes some fifty products, of ten microseconds each; Python needs longer than that to
wake a thread. So helpers stay in compiled code and watch a board. Who leads writes down what is to be done, and into
how many shares it is cut; everyone takes shares until none is left. The leader takes them from the front, helpers from
the back: thus each core finds the weights that it has read for the last token in its own cache. A helper that the
system has put to sleep holds up nobody, unless in the middle of a share: the others take what it does not.

The board is an array of int64. Its ticket says which shares nobody has taken yet, from the first to the last, and of
which task, so that a helper that comes late cannot mistake one task for another. What is to be done is written
elsewhere, by and for the functions that do it. Without Numba's compiler there are no helpers, and no use for a ticket.
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

# Each in memory lines of its own: cores that write to one line wait for each other.
_TICKET, _DONE, _HELPERS, _ALONE = 0, 16, 32, 48
MOST = 1 << 15  # shares of a task
NONE, CLOSED = -1, -2  # instead of a share

_X86, _ARM = ("llvm.x86.sse2.pause", []), ("llvm.aarch64.hint", [1])
_HINTS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
_PATIENCE = 20_000  # looks at the board before others get the processor: half a millisecond
_REST = 500  # tasks that are done alone after a helper was put to sleep: the processor is busy with something else

_kernel = numba.njit(cache=True, error_model="numpy", nogil=True)
_give_way = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())


def place_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to a number of an array that lies in one piece, by its number in memory."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def _read(typing_context: Any, board: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """A number, and with it all that was written before it."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.load_atomic(place_of(context, builder, signature.args[0], *arguments), "acquire", align=8)

    return types.int64(board, types.intp), generate


@intrinsic
def _write(typing_context: Any, board: Any, index: Any, number: Any) -> tuple[Signature, Callable[..., Any]]:
    """Write a number, after all that was written before it."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = place_of(context, builder, signature.args[0], *arguments[:2])
        builder.store_atomic(arguments[2], place, "release", align=8)
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), generate


@intrinsic
def _replace(typing_context: Any, board: Any, index: Any, old: Any, new: Any) -> tuple[Signature, Callable[..., Any]]:
    """Write a new number if the old one still stands there; whether it did."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = place_of(context, builder, signature.args[0], *arguments[:2])
        return builder.extract_value(builder.cmpxchg(place, *arguments[2:], "acq_rel", "acquire"), 1)

    return types.boolean(board, types.intp, types.int64, types.int64), generate


@intrinsic
def _count(typing_context: Any, board: Any, index: Any, number: Any) -> tuple[Signature, Callable[..., Any]]:
    """Add a number to another."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = place_of(context, builder, signature.args[0], *arguments[:2])
        builder.atomic_rmw("add", place, arguments[2], "acq_rel")
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), generate


@intrinsic
def _pause(typing_context: Any) -> tuple[Signature, Callable[..., Any]]:
    """Tell the processor that this is a loop that waits."""
    name, numbers = _HINTS.get(platform.machine().lower(), ("", []))

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        short = ir.IntType(32)
        if name:
            kind = ir.FunctionType(ir.VoidType(), [short] * len(numbers))
            hint = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(hint, [short(number) for number in numbers])
        return context.get_dummy_value()

    return types.void(), generate


@_kernel
def post(board, shares):  # type: ignore[no-untyped-def]
    """Let helpers take part in the task that stands on the board, cut into so many shares."""
    task = (_read(board, _TICKET) >> 32) + 1
    _write(board, _DONE, 0)
    _write(board, _TICKET, (task & 0x3FFFFFFF) << 32 | shares)


@_kernel
def take(board, lead) -> Any:  # type: ignore[no-untyped-def]
    """(first, stop) of shares that are the caller's from now on: an equal part of those left, at last one by one.
    Every look at the ticket waits for the other cores. `NONE` left, or `CLOSED`, instead of the first."""
    while True:
        ticket = _read(board, _TICKET)
        if ticket < 0:
            return CLOSED, 0
        first, stop = ticket >> 16 & 0xFFFF, ticket & 0xFFFF
        if first >= stop:
            return NONE, 0
        some = max((stop - first) // (board[_HELPERS] + 1), 1)
        if _replace(board, _TICKET, ticket, ticket + (some << 16) if lead else ticket - some):
            return (first, first + some) if lead else (stop - some, stop)


@_kernel
def done(board, shares):  # type: ignore[no-untyped-def]
    """A helper says how many shares it has finished, once there are none left."""
    _count(board, _DONE, shares)


@_kernel
def finish(board, shares):  # type: ignore[no-untyped-def]
    """Wait until helpers have finished so many."""
    times = 0
    while _read(board, _DONE) < shares:
        times += 1
        wait(times)
    board[_ALONE] = _REST if times > _PATIENCE else 0


@_kernel
def helped(board):  # type: ignore[no-untyped-def]
    """Whether the next task is worth posting."""
    board[_ALONE] = max(board[_ALONE] - 1, 0)
    return board[_HELPERS] > 0 and board[_ALONE] == 0


@_kernel
def wait(times):  # type: ignore[no-untyped-def]
    """Look away from the board for a moment, the n-th time in a row."""
    _pause()
    if times > _PATIENCE:
        _give_way()


def new_board() -> np.ndarray:
    """A board that nobody watches."""
    return np.zeros(64, dtype=np.int64)


def open_board(board: np.ndarray, helpers: int) -> None:
    """From now on so many helpers may come; none without Numba's compiler."""
    compiler = not config.DISABLE_JIT  # pyright: ignore[reportAttributeAccessIssue]
    board[_HELPERS], board[_TICKET] = helpers if compiler else 0, 0


def close_board(board: np.ndarray) -> None:
    """Send the helpers home, and those that have not come yet."""
    board[_HELPERS], board[_TICKET] = 0, CLOSED
