"""One step of decoding, compiled: a token for each text of a batch through all layers in a single call.

When one token is computed at a time, arrays are so small that calling NumPy costs more than the arithmetic. Here the
whole step is machine code that reads the model's own weights and writes into the KV cache where it stands; nothing is
packed or copied, so weights may change from one step to the next.

Activations are laid out as (blocks, channels, L): L texts of a batch side by side in the innermost axis, so that each
weight, read once, multiplies a vector of them. Up to four texts take one block each, of one column.

    B batch   C hidden_size   H query heads   K key/value heads   G = H / K   D head_dim
    L texts side by side, a column each: 1, 8, 16, or 32 where registers are wide
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, models, overload, register_model

from .decoding import Answers, DecoderWeights, LayerWeights, Place, Prompts, Turns
from .numba_attention import highest_at, weigh_at
from .numba_cpu import _FASTMATH, _exp, _kernel
from .numba_crew import (
    CLOSED,
    MOST,
    NONE,
    close_board,
    done,
    finish,
    helped,
    new_board,
    open_board,
    place_of,
    post,
    take,
    wait,
)
from .numba_memory import address_of, floats_at, integers_at
from .numba_product import PANEL, VECTOR, fetch, folded, fused, one_tile, spread, tile_rows, turn_square
from .reference import Array

# For what is called once or more for each text: handing over arrays would cost more than the arithmetic.
_inlined = numba.njit(fastmath=_FASTMATH, cache=True, error_model="numpy", nogil=True, forceinline=True)

_VECTOR = 8  # float32 numbers in a register of AVX2; what fits it runs well on wider and narrower ones
_LINE = 16  # numbers that memory sends together
_NEAR = 32  # tokens whose values stay near while all heads read them, and how many tokens ahead others are fetched

# Places in the table of weights, a row a layer.
_LAYER_FIELDS = [field.name for field in fields(LayerWeights)][:18]
_INPUT_NORM, _Q, _K, _V, _O, _POST_NORM, _GATE, _UP, _DOWN = range(9)
_Q_BIAS, _K_BIAS, _V_BIAS, _O_BIAS, _GATE_BIAS, _UP_BIAS, _DOWN_BIAS, _Q_NORM, _K_NORM = range(9, 18)
# And in its last row.
_EMBEDDING, _LAST_NORM, _OUTPUT, _OUTPUT_BIAS = range(4)

# Places in the table of cached layers.
_KEYS, _VALUES, _CAPACITY, _START, _STOP, _TURN = range(6)

_LINEARS, _LOOK = range(2)  # kinds of tasks
_SHARE = 8192  # numbers that a thread reads before it looks for more to do; fewer are not worth a thread
_SOON, _PART = 16384, 256  # numbers that a helper fetches while it waits, and between two looks at the board

# What a crew is told of a task, arrays by their address: products of one x (blocks, inner, L), or the heads of one
# text's attention.
_TASK = np.dtype([
    *[(name, "i8") for name in ("kind", "x", "blocks", "inner", "columns", "add", "rows", "layers")],
    *[(name, "i8", (3,)) for name in ("first", "out", "y", "weight", "bias")],
    *[(name, "i8") for name in ("q", "mixed", "rules", "scores", "width", "lse")],
    *[(name, "i8") for name in ("documents", "text", "texts", "numbered")],
    *[(name, "i8") for name in ("heads", "groups", "dim", "shares", "places")],
    *[(name, "i8", (2,)) for name in ("keys", "values", "capacity", "row", "start", "count")],
    ("soon", "i8"),
])  # fmt: skip


class _Crew(NamedTuple):
    """Threads that compute a step together: their board (see `numba_crew`), and their task, (1,) of `_TASK`."""

    board: Array
    task: Array


class _Vector(types.Type):
    """Numba's type of a vector register of float32 numbers."""

    def __init__(self, width: int) -> None:
        super().__init__(name=f"vector of {width}")
        self.width = width


_vector, _wide = _Vector(_VECTOR), _Vector(2 * _VECTOR)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), kind.width))


@intrinsic
def _load(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """The numbers from a place on."""
    return _vector(array, types.intp), lambda context, builder, signature, arguments: _loaded(
        context, builder, signature.return_type, signature.args[0], *arguments
    )


@intrinsic
def _load_like(typing_context: Any, like: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """The numbers from a place on, as many as this vector has."""
    return like(like, array, types.intp), lambda context, builder, signature, arguments: _loaded(
        context, builder, like, signature.args[1], *arguments[1:]
    )


def _loaded(context: Any, builder: Any, vector: Any, array_type: Any, array: Any, index: Any) -> Any:
    pointer = context.get_value_type(vector).as_pointer()
    return builder.load(builder.bitcast(place_of(context, builder, array_type, array, index), pointer), align=4)


@intrinsic
def _store(typing_context: Any, array: Any, index: Any, x: Any) -> tuple[Signature, Callable[..., Any]]:
    """Write a vector from a place on."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = place_of(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(place, arguments[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def _spread(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of one number of an array, many times."""
    return _vector(array, types.intp), lambda context, builder, signature, arguments: _repeated(
        context, builder, signature.return_type, signature.args[0], *arguments
    )


@intrinsic
def _spread_like(typing_context: Any, like: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """One number of an array, as many times as this vector has numbers."""
    return like(like, array, types.intp), lambda context, builder, signature, arguments: _repeated(
        context, builder, like, signature.args[1], *arguments[1:]
    )


def _repeated(context: Any, builder: Any, vector: Any, array_type: Any, array: Any, index: Any) -> Any:
    return spread(builder, builder.load(place_of(context, builder, array_type, array, index)), vector.width)


@intrinsic
def _fill(typing_context: Any, number: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of one number, many times."""
    return _vector(types.float32), lambda context, builder, signature, arguments: spread(
        builder, arguments[0], _VECTOR
    )


@intrinsic
def _zeros(typing_context: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of zeros."""
    return _vector(), lambda context, builder, *_: ir.Constant(context.get_value_type(_vector), None)


@intrinsic
def _wide_zeros(typing_context: Any) -> tuple[Signature, Callable[..., Any]]:
    """A wide vector of zeros."""
    return _wide(), lambda context, builder, *_: ir.Constant(context.get_value_type(_wide), None)


@intrinsic
def _add(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Callable[..., Any]]:
    """x + y, number by number."""
    return x(x, y), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def _multiply(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Callable[..., Any]]:
    """x y, number by number."""
    return _vector(_vector, _vector), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def _add_product(typing_context: Any, x: Any, y: Any, total: Any) -> tuple[Signature, Callable[..., Any]]:
    """total + x y, number by number, as one instruction where the processor has it."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return fused(builder, *arguments)

    return total(total, total, total), generate


@intrinsic
def _neighbors(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Callable[..., Any]]:
    """Sums of neighbors: x0 + x1, x2 + x3, …, y0 + y1, …"""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        order = ir.VectorType(ir.IntType(32), _VECTOR)
        picks = (ir.Constant(order, list(range(start, 2 * _VECTOR, 2))) for start in (0, 1))
        return builder.fadd(*(builder.shuffle_vector(*arguments, pick) for pick in picks))

    return _vector(_vector, _vector), generate


@intrinsic
def _sum(typing_context: Any, x: Any) -> tuple[Signature, Callable[..., Any]]:
    """The sum of a vector's numbers: halves are added until one is left."""
    return types.float32(_vector), lambda context, builder, signature, arguments: folded(
        builder, arguments[0], builder.fadd
    )


@intrinsic
def _fetch(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """Begin to bring a place of memory near, without waiting for it; it may lie outside the array."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = place_of(context, builder, signature.args[0], *arguments)
        fetch(builder, builder.bitcast(place, ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _product(y, w, x, add, start, stop):  # type: ignore[no-untyped-def]
    """Rows start to stop - 1 of w x, w (out, in) and x (blocks, in, L), into y (blocks, out, L), or added to it."""
    y[:, start:stop] = w[start:stop] @ x + (y[:, start:stop] if add else 0)


@overload(_product, jit_options={"fastmath": _FASTMATH})
def _product_overload(y, w, x, add, start, stop):  # type: ignore[no-untyped-def]
    def product(y, w, x, add, start, stop):  # type: ignore[no-untyped-def]
        rows, (blocks, inner, columns) = len(w), x.shape
        if columns == 1:
            together = start + (stop - start) // _VECTOR * _VECTOR if inner % _VECTOR == 0 else start
            for block in range(blocks):
                for j in range(start, together, _VECTOR):
                    _finish(y, block * rows + j, _eight_rows(w, x, block, j), add)
                for j in range(together, stop):
                    y[block, j, 0] = _lone(w, x, block, j) + (y[block, j, 0] if add else np.float32(0))
            return
        if columns == PANEL:
            _in_panels(y, w, x, add, start, stop)
            return
        for j in range(start, stop, 8):
            for block in range(blocks):
                if stop - j < 8:
                    for row in range(j, stop):
                        _row(y, w, x, block, row, add)
                elif columns == _VECTOR:
                    _tile(_zeros(), y, w, x, block, j, add)
                else:
                    _tile(_wide_zeros(), y, w, x, block, j, add)

    return product


@_kernel
def _eight_rows(w, x, block, row):  # type: ignore[no-untyped-def]
    """Eight rows times a lone text, one after the other: memory is fastest where it is read in its order."""
    inner = x.shape[1]
    start, other = row * inner, block * inner
    left = _neighbors(_sums(w, start, x, other, inner), _sums(w, start + inner, x, other, inner))
    right = _neighbors(_sums(w, start + 2 * inner, x, other, inner), _sums(w, start + 3 * inner, x, other, inner))
    half, start = _neighbors(left, right), start + 4 * inner
    left = _neighbors(_sums(w, start, x, other, inner), _sums(w, start + inner, x, other, inner))
    right = _neighbors(_sums(w, start + 2 * inner, x, other, inner), _sums(w, start + 3 * inner, x, other, inner))
    return _neighbors(half, _neighbors(left, right))


@_kernel
def _sums(w, start, x, other, inner):  # type: ignore[no-untyped-def]
    """Eight sums of products of numbers from two places on, of whole vectors: four at a time, since a sum has to wait
    for the one before."""
    t0 = t1 = t2 = t3 = _zeros()
    whole = inner // (4 * _VECTOR) * 4 * _VECTOR
    for i in range(0, whole, 4 * _VECTOR):
        t0 = _add_product(_load(w, start + i), _load(x, other + i), t0)
        t1 = _add_product(_load(w, start + i + _VECTOR), _load(x, other + i + _VECTOR), t1)
        t2 = _add_product(_load(w, start + i + 2 * _VECTOR), _load(x, other + i + 2 * _VECTOR), t2)
        t3 = _add_product(_load(w, start + i + 3 * _VECTOR), _load(x, other + i + 3 * _VECTOR), t3)
    for i in range(whole, inner // _VECTOR * _VECTOR, _VECTOR):
        t0 = _add_product(_load(w, start + i), _load(x, other + i), t0)
    return _add(_add(t0, t1), _add(t2, t3))


@_kernel
def _lone(w, x, block, row):  # type: ignore[no-untyped-def]
    """One row times a lone text."""
    inner = x.shape[1]
    total = _sum(_sums(w, row * inner, x, block * inner, inner))
    for i in range(inner // _VECTOR * _VECTOR, inner):
        total += w[row, i] * x[block, i, 0]
    return total


@_kernel
def _row(y, w, x, block, row, add):  # type: ignore[no-untyped-def]
    """One row times a block of texts."""
    inner, columns = x.shape[1:]
    for column in range(0, columns, _VECTOR):
        place = (block * y.shape[1] + row) * columns + column
        total = _zeros()
        for i in range(inner):
            total = _add_product(_spread(w, row * inner + i), _load(x, (block * inner + i) * columns + column), total)
        _finish(y, place, total, add)


@_kernel
def _tile(zeros, y, w, x, block, row, add):  # type: ignore[no-untyped-def]
    """Eight rows times one vector of texts, which may be a wide one. Every sum has one order, here and in `_row` and
    `_in_panels`: what a text is answered depends on no other."""
    inner, columns = x.shape[1:]
    place, start = (block * y.shape[1] + row) * columns, block * inner * columns
    w0, w1, w2, w3 = row * inner, (row + 1) * inner, (row + 2) * inner, (row + 3) * inner
    w4, w5, w6, w7 = w0 + 4 * inner, w1 + 4 * inner, w2 + 4 * inner, w3 + 4 * inner
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = zeros
    for i in range(inner):
        if i % _LINE == 0 and block == 0:
            for n in range(8):
                _fetch(w, w0 + (8 + n) * inner + i)
        texts = _load_like(zeros, x, start + i * columns)
        t0 = _add_product(_spread_like(zeros, w, w0 + i), texts, t0)
        t1 = _add_product(_spread_like(zeros, w, w1 + i), texts, t1)
        t2 = _add_product(_spread_like(zeros, w, w2 + i), texts, t2)
        t3 = _add_product(_spread_like(zeros, w, w3 + i), texts, t3)
        t4 = _add_product(_spread_like(zeros, w, w4 + i), texts, t4)
        t5 = _add_product(_spread_like(zeros, w, w5 + i), texts, t5)
        t6 = _add_product(_spread_like(zeros, w, w6 + i), texts, t6)
        t7 = _add_product(_spread_like(zeros, w, w7 + i), texts, t7)
    for n, t in enumerate((t0, t1, t2, t3, t4, t5, t6, t7)):
        _finish(y, place + n * columns, t, add)


@_kernel
def _in_panels(y, w, x, add, start, stop):  # type: ignore[no-untyped-def]
    """Blocks of texts that are panels of a product as in training: its tiles, with nothing to lay out."""
    rows, (blocks, inner, _), j = len(w), x.shape, start
    while j < stop:
        count = tile_rows(stop - j)
        here, step = w.ctypes.data + 4 * j * inner, 4 * count
        ahead = here + step * inner
        for block in range(blocks):
            panel = x.ctypes.data + 4 * block * inner * PANEL
            place = y.ctypes.data + 4 * (block * rows + j) * PANEL
            one_tile(count, inner, here, 4 * inner, 4, (panel, place, 4 * PANEL, PANEL, add, ahead, step, 0))
            step = 0
        j += count


@_kernel
def _finish(y, place, total, add):  # type: ignore[no-untyped-def]
    """Write a vector of sums, or add it to what stands there."""
    _store(y, place, _add(_load_like(total, y, place), total) if add else total)


def _scores(q, heads, keys, text, start, scores, first, count):  # type: ignore[no-untyped-def]
    """Dot products of some heads' queries, of q (H, D), with `count` keys of one text, from a place on: into scores
    (H, n) from column `first` on. The seven columns after them are overwritten, if there are that many keys."""
    low, high = heads
    for head in range(low, high):
        its = keys[text, start : start + count, head * keys.shape[2] // len(q)]
        scores[head, first : first + count] = its @ q[head]


@overload(_scores, jit_options={"fastmath": _FASTMATH, "forceinline": True})
def _scores_overload(q, heads, keys, text, start, scores, first, count):  # type: ignore[no-untyped-def]
    def products(q, heads, keys, text, start, scores, first, count):  # type: ignore[no-untyped-def]
        (capacity, groups, dim), (low, high) = keys.shape[1:], heads
        width, step, key = scores.shape[1], groups * dim, (text * capacity + start) * groups * dim
        whole, together, group = dim // _VECTOR * _VECTOR, -(-count // _VECTOR) * _VECTOR, len(q) // groups
        near, channels = key + low // group * dim, (-(-high // group) - low // group) * dim
        if start + together > capacity:
            together -= _VECTOR
        if whole < dim:
            together = 0
        early = min(_NEAR, together)
        for s in range(0, together, _VECTOR):  # keys that have come near serve all queries
            ahead = near + _later(s + early, count, capacity) * step
            for head in range(low, high):
                _bring(keys, ahead, step, _VECTOR, channels, head - low, high - low)
                place = key + s * step + head // group * dim
                _store(scores, head * width + first + s, _eight_products(q, head * dim, keys, place, step, dim))
        for s in range(together, count):
            for head in range(low, high):
                place, total = key + s * step + head // group * dim, np.float32(0)
                for i in range(whole, dim):
                    total += q[head, i] * keys[text, start + s, head // group, i]
                scores[head, first + s] = _sum(_sums(q, head * dim, keys, place, dim)) + total

    return products


@_inlined
def _later(token, count, capacity):  # type: ignore[no-untyped-def]
    """Which token to fetch early, counted from the first that is read: behind the last come those of the next text."""
    return token if token < count else token - count + capacity


@_inlined
def _bring(array, place, step, tokens, channels, part, parts):  # type: ignore[no-untyped-def]
    """Fetch so many channels of some tokens, a step apart: one of several equal parts."""
    for token in range(part * tokens // parts, (part + 1) * tokens // parts):
        for line in range(place + token * step, place + token * step + channels, _LINE):
            _fetch(array, line)


@_inlined
def _eight_products(q, query, keys, key, step, dim):  # type: ignore[no-untyped-def]
    """Dot products of one query with eight keys, by their places in memory."""
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = _zeros()
    for i in range(0, dim, _VECTOR):
        part, place = _load(q, query + i), key + i
        t0 = _add_product(part, _load(keys, place), t0)
        t1 = _add_product(part, _load(keys, place + step), t1)
        t2 = _add_product(part, _load(keys, place + 2 * step), t2)
        t3 = _add_product(part, _load(keys, place + 3 * step), t3)
        t4 = _add_product(part, _load(keys, place + 4 * step), t4)
        t5 = _add_product(part, _load(keys, place + 5 * step), t5)
        t6 = _add_product(part, _load(keys, place + 6 * step), t6)
        t7 = _add_product(part, _load(keys, place + 7 * step), t7)
    # Sums of neighbors, of two vectors at a time, until each number is the sum of one vector.
    left = _neighbors(_neighbors(t0, t1), _neighbors(t2, t3))
    return _neighbors(left, _neighbors(_neighbors(t4, t5), _neighbors(t6, t7)))


def _mixed(weights, heads, first, count, values, text, start, out, add):  # type: ignore[no-untyped-def]
    """`count` values of one text, from a place on, mixed by the weights (H, n) of some heads, from column `first` on:
    into out (H, D), or added to it."""
    low, high = heads
    for head in range(low, high):
        its = values[text, start : start + count, head * values.shape[2] // len(out)]
        out[head] = weights[head, first : first + count] @ its + (out[head] if add else 0)


@overload(_mixed, jit_options={"fastmath": _FASTMATH, "forceinline": True})
def _mixed_overload(weights, heads, first, count, values, text, start, out, add):  # type: ignore[no-untyped-def]
    def mixed(weights, heads, first, count, values, text, start, out, add):  # type: ignore[no-untyped-def]
        (capacity, groups, dim), (low, high) = values.shape[1:], heads
        step, group = groups * dim, len(out) // groups
        near = (text * capacity + start) * step + low // group * dim
        channels = (-(-high // group) - low // group) * dim
        wide, whole = dim // (4 * _VECTOR) * 4 * _VECTOR, dim // _VECTOR * _VECTOR
        for s in range(0, max(count, 1), _NEAR):  # values that have come near serve all heads
            tokens, more = min(count - s, _NEAR), add or s > 0
            ahead = near + _later(s + tokens, count, capacity) * step
            for head in range(low, high):
                weight, place = head * weights.shape[1] + first + s, head * dim
                value = (text * capacity + start + s) * step + head // group * dim
                _bring(values, ahead, step, tokens, channels, head - low, high - low)
                for i in range(0, wide, 4 * _VECTOR):
                    _mix_wide(weights, weight, tokens, values, value + i, step, out, place + i, more)
                for i in range(wide, whole, _VECTOR):
                    _mix(weights, weight, tokens, values, value + i, step, out, place + i, more)
                for j in range(whole, dim):
                    total = out[head, j] if more else np.float32(0)
                    for n in range(tokens):
                        total += weights[head, first + s + n] * values[text, start + s + n, head // group, j]
                    out[head, j] = total

    return mixed


@_inlined
def _mix_wide(weights, weight, count, values, value, step, out, place, add):  # type: ignore[no-untyped-def]
    """Four vectors of the values' channels; even and odd values apart, so that enough sums are under way."""
    t0 = t1 = t2 = t3 = u0 = u1 = u2 = u3 = _zeros()
    for s in range(0, count - 1, 2):
        even, odd, at = _spread(weights, weight + s), _spread(weights, weight + s + 1), value + s * step
        t0, t1 = _add_product(even, _load(values, at), t0), _add_product(even, _load(values, at + _VECTOR), t1)
        t2 = _add_product(even, _load(values, at + 2 * _VECTOR), t2)
        t3 = _add_product(even, _load(values, at + 3 * _VECTOR), t3)
        at += step
        u0, u1 = _add_product(odd, _load(values, at), u0), _add_product(odd, _load(values, at + _VECTOR), u1)
        u2 = _add_product(odd, _load(values, at + 2 * _VECTOR), u2)
        u3 = _add_product(odd, _load(values, at + 3 * _VECTOR), u3)
    if count % 2:
        last, at = _spread(weights, weight + count - 1), value + (count - 1) * step
        t0, t1 = _add_product(last, _load(values, at), t0), _add_product(last, _load(values, at + _VECTOR), t1)
        t2 = _add_product(last, _load(values, at + 2 * _VECTOR), t2)
        t3 = _add_product(last, _load(values, at + 3 * _VECTOR), t3)
    _finish(out, place, _add(t0, u0), add)
    _finish(out, place + _VECTOR, _add(t1, u1), add)
    _finish(out, place + 2 * _VECTOR, _add(t2, u2), add)
    _finish(out, place + 3 * _VECTOR, _add(t3, u3), add)


@_inlined
def _mix(weights, weight, count, values, value, step, out, place, add):  # type: ignore[no-untyped-def]
    """One vector of the values' channels; of four values in turn, each its own sum."""
    t0 = t1 = t2 = t3 = _zeros()
    whole = count // 4 * 4
    for s in range(0, whole, 4):
        at = value + s * step
        t0 = _add_product(_spread(weights, weight + s), _load(values, at), t0)
        t1 = _add_product(_spread(weights, weight + s + 1), _load(values, at + step), t1)
        t2 = _add_product(_spread(weights, weight + s + 2), _load(values, at + 2 * step), t2)
        t3 = _add_product(_spread(weights, weight + s + 3), _load(values, at + 3 * step), t3)
    for s in range(whole, count):
        t0 = _add_product(_spread(weights, weight + s), _load(values, value + s * step), t0)
    _finish(out, place, _add(_add(t0, t1), _add(t2, t3)), add)


@_kernel
def _row_width(count):  # type: ignore[no-untyped-def]
    """Columns for so many scores: whole vectors, with room for what `_scores` writes too much."""
    return (count + 7 + 15) // 16 * 16


# What follows is called for each text. Views of arrays cost as much there as the arithmetic, since their owners are
# counted; so rows are told by number.


def _softmax(scores, heads, count, scale, softcap, documents, text, lse):  # type: ignore[no-untyped-def]
    """Weights from the first `count` dot products of some heads, of scores (H, n), in place; n is a whole number of
    vectors. documents[text, -m:] are those of the last m keys, the last the query's own. Into lse (H,) go the logs of
    the denominators."""
    masked, (low, high) = min(documents.shape[1], count), heads
    its = scores[low:high, :count] * scale
    if softcap > 0:
        its = softcap * np.tanh(its / softcap)
    if masked:
        its[:, count - masked :][:, documents[text, -masked:] != documents[text, -1]] = -np.inf
    lse[low:high] = np.logaddexp.reduce(its, axis=1)
    scores[low:high, :count] = np.exp(its - lse[low:high, None])


# Not by fastmath, which regroups sums: exp rounds by adding a large number and taking it away again.
@overload(_softmax, jit_options={"fastmath": False, "forceinline": True})
def _softmax_overload(scores, heads, count, scale, softcap, documents, text, lse):  # type: ignore[no-untyped-def]
    def softmax(scores, heads, count, scale, softcap, documents, text, lse):  # type: ignore[no-untyped-def]
        width, masked, (low, high) = scores.shape[1], min(documents.shape[1], count), heads
        first, document = count - masked, documents.shape[1] - masked
        for g in range(low, high):
            row = scores.ctypes.data + 4 * g * width
            if softcap > 0:
                for s in range(count):
                    scores[g, s] = softcap / scale * math.tanh(scores[g, s] * scale / softcap)
            for s in range(masked):
                if documents[text, document + s] != documents[text, -1]:
                    scores[g, first + s] = -np.inf
            top = highest_at(row, count) * scale
            total = weigh_at(row, count, scale, top)
            lse[g], inverse = top + math.log(total), np.float32(1) / total
            for s in range(width):
                scores[g, s] *= inverse
            # The fast exp gives a hidden key a tiny weight, which times an infinite value would not be zero.
            for s in range(masked):
                if documents[text, document + s] != documents[text, -1]:
                    scores[g, first + s] = 0

    return softmax


@_inlined
def _normalize(rows, weight, eps, offset):  # type: ignore[no-untyped-def]
    """RMSNorm of each row, in place."""
    count, width = rows.shape
    for row in range(count):
        total = np.float32(0)
        for i in range(width):
            total += rows[row, i] * rows[row, i]
        scale = np.float32(1) / np.float32(math.sqrt(total / np.float32(width) + eps))
        for i in range(width):
            rows[row, i] = rows[row, i] * scale * (weight[i] + offset)


@_inlined
def _turn(rows, turns, kind):  # type: ignore[no-untyped-def]
    """Rotary positions, in place: the first R channels of each row, for cosines and sines turns[kind] (2, R / 2)."""
    count, half = len(rows), turns.shape[2]
    for row in range(count):
        for i in range(half):
            first, second, cos, sin = rows[row, i], rows[row, i + half], turns[kind, 0, i], turns[kind, 1, i]
            rows[row, i] = first * cos - second * sin
            rows[row, i + half] = second * cos + first * sin


def _turned(x, y):  # type: ignore[no-untyped-def]
    """x (blocks, m, n) across, into y (blocks, n, m)."""
    y[:] = x.transpose(0, 2, 1)


@overload(_turned)
def _turned_overload(x, y):  # type: ignore[no-untyped-def]
    def turned(x, y):  # type: ignore[no-untyped-def]
        blocks, m, n = x.shape
        deep, wide = m // VECTOR * VECTOR, n // VECTOR * VECTOR
        for block in range(blocks):
            source, target = x.ctypes.data + 4 * block * m * n, y.ctypes.data + 4 * block * m * n
            for i in range(0, deep, VECTOR):
                for j in range(0, wide, VECTOR):
                    turn_square(source + 4 * (i * n + j), 4 * n, target + 4 * (j * m + i), 4 * m)
            for i in range(m):
                for j in range(wide if i < deep else 0, n):
                    y[block, j, i] = x[block, i, j]

    return turned


@_kernel
def _by_text(x):  # type: ignore[no-untyped-def]
    """Each text's channels together, (B, C), of x (blocks, C, L): a copy, unless they are so already."""
    blocks, channels, columns = x.shape
    if columns == 1:
        return x.reshape(blocks, channels)
    rows = np.empty((blocks, columns, channels), np.float32)
    _turned(x, rows)
    return rows.reshape(blocks * columns, channels)


@_kernel
def _by_channel(rows, x):  # type: ignore[no-untyped-def]
    """The way back."""
    blocks, channels, columns = x.shape
    _turned(rows.reshape(blocks, columns, channels), x)


@_inlined
def _take(all_rows, text, rows):  # type: ignore[no-untyped-def]
    """One text's channels, of all_rows (B, C), as rows (n, D)."""
    count, dim = rows.shape
    for row in range(count):
        for i in range(dim):
            rows[row, i] = all_rows[text, row * dim + i]


@_inlined
def _give(rows, all_rows, text):  # type: ignore[no-untyped-def]
    """The way back."""
    count, dim = rows.shape
    for row in range(count):
        for i in range(dim):
            all_rows[text, row * dim + i] = rows[row, i]


@_inlined
def _keep(k, v, text, keys, values, line, place):  # type: ignore[no-untyped-def]
    """Write a text's new keys k (K, D), and its values from v (B, C), into keys and values (…, capacity, K, D) at
    keys[line, place]."""
    heads, dim = k.shape
    for head in range(heads):
        for i in range(dim):
            keys[line, place, head, i] = k[head, i]
            values[line, place, head, i] = v[text, head * dim + i]


def _norm(x, weight, eps, offset, y):  # type: ignore[no-untyped-def]
    """RMSNorm over the channels of x (blocks, C, L), into y."""
    y[:] = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * (weight[:, None] + offset)


@overload(_norm, jit_options={"fastmath": _FASTMATH})
def _norm_overload(x, weight, eps, offset, y):  # type: ignore[no-untyped-def]
    def norm(x, weight, eps, offset, y):  # type: ignore[no-untyped-def]
        blocks, channels, columns = x.shape
        if columns == 1:
            y[:] = x
            _normalize(y.reshape(blocks, channels), weight, eps, offset)
            return
        for block in range(blocks):
            for column in range(0, columns, _VECTOR):
                first, sums = block * channels * columns + column, _zeros()
                for place in range(first, first + channels * columns, columns):
                    sums = _add_product(_load(x, place), _load(x, place), sums)
                _store(y, first, sums)
                for i in range(column, column + _VECTOR):
                    y[block, 0, i] = 1 / math.sqrt(y[block, 0, i] / np.float32(channels) + eps)
                scales, offsets = _load(y, first), _fill(offset)
                for c in range(channels):
                    place = first + c * columns
                    _store(y, place, _multiply(_multiply(_load(x, place), scales), _add(_spread(weight, c), offsets)))

    return norm


@_kernel
def _linears(crew, x, add, layers, soon):  # type: ignore[no-untyped-def]
    """y (blocks, out, L) = weight x + bias, or added to y, for (y, weight, bias) of several layers, the latter two by
    address, 0 for no bias. The weights of the product after this one end at `soon`."""
    task, (blocks, inner, columns), shares, rows = crew.task[0], x.shape, 0, 0
    task["kind"], task["x"], task["add"], task["soon"] = _LINEARS, x.ctypes.data, add, soon
    task["blocks"], task["inner"], task["columns"] = blocks, inner, columns
    for y, _, _ in layers:
        rows += y.shape[1]
    task["rows"] = max(_SHARE // inner, rows // MOST, 1) // _VECTOR * _VECTOR + _VECTOR
    for i, (y, weight, bias) in enumerate(layers):
        task["first"][i], task["out"][i], task["y"][i] = shares, y.shape[1], y.ctypes.data
        task["weight"][i], task["bias"][i] = weight, bias
        shares += -(-y.shape[1] // task["rows"])
    task["layers"] = len(layers)
    _together(crew, shares)


@_kernel
def _some_rows(task, share):  # type: ignore[no-untyped-def]
    """A share of `_linears`: some rows of one layer."""
    i = task["layers"] - 1
    while task["first"][i] > share:
        i -= 1
    blocks, inner, columns, out = task["blocks"], task["inner"], task["columns"], task["out"][i]
    x, y = floats_at(task["x"], (blocks, inner, columns)), floats_at(task["y"][i], (blocks, out, columns))
    start = (share - task["first"][i]) * task["rows"]
    _linear(y, task["weight"][i], task["bias"][i], x, task["add"] != 0, start, min(start + task["rows"], out))


@_kernel
def _linear(y, weight, bias, x, add, start, stop):  # type: ignore[no-untyped-def]
    out = y.shape[1]
    _product(y, floats_at(weight, (out, x.shape[1])), x, add, start, stop)
    if bias != 0:
        offsets = floats_at(bias, (out,))
        for block in range(len(y)):
            for j in range(start, stop):
                for column in range(y.shape[2]):
                    y[block, j, column] += offsets[j]


@_kernel
def _swiglu(gate, up):  # type: ignore[no-untyped-def]
    """silu(gate) * up, (blocks, I, L), into gate."""
    g, u = gate.reshape(-1), up.reshape(-1)
    for i in range(len(g)):
        g[i] = g[i] / (np.float32(1) + _exp(-g[i])) * u[i]


class _Tables(NamedTuple):
    """What a step reads: where weights and cached layers stand, (layers + 1, …) and (layers, …) of addresses and sizes.

    rules (layers, 4) are scale, softcap, eps and norm_offset; turns (kinds, 2, R / 2) cosines and sines; documents
    (B, S), or (B, 0) where all is one.
    """

    weights: Array
    cached: Array
    rules: Array
    turns: Array
    documents: Array


class _Work(NamedTuple):
    """Memory for a step: (blocks, channels, L) each, and scratch (n,) for one text's attention."""

    x: Array
    normed: Array
    q: Array
    k: Array
    v: Array
    mixed: Array
    gate: Array
    up: Array
    scores: Array
    scratch: Array


@_kernel
def _attend(crew, tables, work, layer, dim):  # type: ignore[no-untyped-def]
    """Attention: from q, k and v to mixed, with the new keys and values written into the cache."""
    weights, rules, turns, documents = tables.weights, tables.rules, tables.turns, tables.documents
    all_q, all_k, all_v, cached = _by_text(work.q), _by_text(work.k), _by_text(work.v), tables.cached[layer]
    start, count, turn = cached[_START], cached[_STOP] - cached[_START], cached[_TURN]
    shape = (len(documents), cached[_CAPACITY], all_k.shape[1] // dim, dim)
    keys, values = floats_at(cached[_KEYS], shape), floats_at(cached[_VALUES], shape)
    q, k, out, lse, scores = _cut_up(work.scratch, all_q.shape[1] // dim, shape[2], dim, count)
    for text in range(len(documents)):
        _take(all_q, text, q)
        _take(all_k, text, k)
        _make_ready(q, k, weights, rules, layer, turns, turn)
        _keep(k, all_v, text, keys, values, text, start + count - 1)
        here = cached[_KEYS], cached[_VALUES], cached[_CAPACITY], text, start, count
        _look(crew, q, out, lse, scores, shape[2], rules[layer], documents, text, (here,))
        _give(out, all_q, text)
    _by_channel(all_q, work.mixed)


@_kernel
def _look(crew, q, out, lse, scores, groups, rules, documents, text, places):  # type: ignore[no-untyped-def]
    """Attention of one text's queries q (H, D) to tokens in one or two places: (keys, values, capacity, row, start,
    count) each, the first two by address. Into out (H, D), and logs of the denominators into lse (H,); scores (H, n) is
    scratch."""
    task, (heads, dim), seen = crew.task[0], q.shape, 0
    task["kind"], task["q"], task["mixed"], task["rules"] = _LOOK, q.ctypes.data, out.ctypes.data, rules.ctypes.data
    task["scores"], task["width"], task["lse"] = scores.ctypes.data, scores.shape[1], lse.ctypes.data
    task["documents"], task["text"] = documents.ctypes.data, text
    task["texts"], task["numbered"] = documents.shape
    task["heads"], task["groups"], task["dim"], task["places"] = heads, groups, dim, len(places)
    for i, (keys, values, capacity, row, start, count) in enumerate(places):
        task["keys"][i], task["values"][i], task["capacity"][i] = keys, values, capacity
        task["row"][i], task["start"][i], task["count"][i] = row, start, count
        seen += count
    # Heads that share keys stay together, if there is more than one such group; a short text is not worth sharing.
    task["shares"] = 1 if seen * dim * groups < _SHARE else groups if groups > 1 else heads
    _together(crew, task["shares"])


@_kernel
def _some_heads(task, share):  # type: ignore[no-untyped-def]
    """A share of `_look`: all of it, for some heads."""
    heads, groups, dim, read = task["heads"], task["groups"], task["dim"], 0
    some = share * heads // task["shares"], (share + 1) * heads // task["shares"]
    q, out = floats_at(task["q"], (heads, dim)), floats_at(task["mixed"], (heads, dim))
    scores, rules = floats_at(task["scores"], (heads, task["width"])), floats_at(task["rules"], (2,))
    documents = integers_at(task["documents"], (task["texts"], task["numbered"]))
    for i in range(task["places"]):
        row, start, count = task["row"][i], task["start"][i], task["count"][i]
        keys = floats_at(task["keys"][i], (row + 1, task["capacity"][i], groups, dim))
        _scores(q, some, keys, row, start, scores, read, count)
        read += count
    _softmax(scores, some, read, rules[0], rules[1], documents, task["text"], floats_at(task["lse"], (heads,)))
    read = 0
    for i in range(task["places"]):
        row, start, count = task["row"][i], task["start"][i], task["count"][i]
        values = floats_at(task["values"][i], (row + 1, task["capacity"][i], groups, dim))
        _mixed(scores, some, read, count, values, row, start, out, i > 0)
        read += count


@_kernel
def _together(crew, shares):  # type: ignore[no-untyped-def]
    """Do the task of a crew, with its helpers if it has any."""
    board, task = crew.board, crew.task[0]
    if shares == 1 or not helped(board):
        _do(task, 0, shares)
        return
    post(board, shares)
    mine, (first, stop) = 0, take(board, True)
    while first != NONE:
        _do(task, first, stop)
        mine += stop - first
        first, stop = take(board, True)
    finish(board, shares - mine)


@_kernel
def _do(task, first, stop):  # type: ignore[no-untyped-def]
    for share in range(first, stop):
        if task["kind"] == _LINEARS:
            _some_rows(task, share)
        else:
            _some_heads(task, share)


@_kernel
def _help(crew):  # type: ignore[no-untyped-def]
    """Take part in what a crew does, until it is sent home."""
    board, task, mine, times, soon = crew.board, crew.task[0], 0, 0, 0
    first, stop = take(board, False)
    while first != CLOSED:
        if first != NONE:
            _do(task, first, stop)
            mine, times = mine + stop - first, 0
        elif mine:
            done(board, mine)
            mine = 0
        else:
            soon = soon if times else task["soon"]  # read once: the leader's next writing waits for who reads
            if times < _SOON // _PART:
                _fetch_before(soon - 4 * times * _PART)
            times += 1
            wait(times)
        first, stop = take(board, False)


@_kernel
def _fetch_before(end):  # type: ignore[no-untyped-def]
    """Fetch a part of the weights that end at an address: what helpers, who take from the back, will read first."""
    part = floats_at(end - 4 * _PART, (_PART,))
    for line in range(0, _PART, _LINE):
        _fetch(part, line)


@_kernel
def _cut_up(scratch, queries, heads, dim, count):  # type: ignore[no-untyped-def]
    """Memory for queries (H, D), keys (K, D), what they find (H, D), logs of denominators (H,), and scores of `count`
    keys (H, n)."""
    size, width = queries * dim, _row_width(count)
    q, out = scratch[:size].reshape(queries, dim), scratch[size : 2 * size].reshape(queries, dim)
    k, rest = scratch[2 * size : 2 * size + heads * dim].reshape(heads, dim), scratch[2 * size + heads * dim :]
    return q, k, out, rest[:queries], rest[queries : queries + queries * width].reshape(queries, width)


@_inlined
def _make_ready(q, k, weights, rules, layer, turns, turn):  # type: ignore[no-untyped-def]
    """Queries (H, D) and keys (K, D), normed where the layer does that, and turned by their position; in place."""
    if weights[layer, _Q_NORM] != 0:
        shape = (q.shape[1],)
        _normalize(q, floats_at(weights[layer, _Q_NORM], shape), rules[layer, 2], rules[layer, 3])
        _normalize(k, floats_at(weights[layer, _K_NORM], shape), rules[layer, 2], rules[layer, 3])
    if turn >= 0:
        _turn(q, turns, turn)
        _turn(k, turns, turn)


@_kernel
def _step(crew, ids, tables, work, dim, out):  # type: ignore[no-untyped-def]
    """A token for each text, through all layers."""
    x, last = work.x, tables.weights[len(tables.weights) - 1]
    _embed(x, floats_at(last[_EMBEDDING], (out.shape[1], x.shape[1])), ids)
    for layer in range(len(tables.cached)):
        _project(crew, tables, work, layer)
        _attend(crew, tables, work, layer, dim)
        _add_mixed(crew, tables, work, layer)
        _widen(crew, tables, work, layer)
        _narrow(crew, tables, work, layer)
    _score(crew, tables, work)
    _hand_over(work.scores, out)


@_kernel
def _project(crew, tables, work, layer):  # type: ignore[no-untyped-def]
    """From the residual stream to a layer's queries, keys and values."""
    w, y = tables.weights[layer], work.normed
    _norm(work.x, floats_at(w[_INPUT_NORM], (y.shape[1],)), tables.rules[layer, 2], tables.rules[layer, 3], y)
    layers = ((work.q, w[_Q], w[_Q_BIAS]), (work.k, w[_K], w[_K_BIAS]), (work.v, w[_V], w[_V_BIAS]))
    _linears(crew, y, False, layers, w[_O] + 4 * work.mixed.shape[1] * y.shape[1])


@_kernel
def _add_mixed(crew, tables, work, layer):  # type: ignore[no-untyped-def]
    """What a layer's attention has mixed, added to the residual stream."""
    w, size = tables.weights[layer], work.gate.shape[1] * work.x.shape[1]
    _linears(crew, work.mixed, True, ((work.x, w[_O], w[_O_BIAS]),), w[_UP] + 4 * size)


@_kernel
def _widen(crew, tables, work, layer):  # type: ignore[no-untyped-def]
    """From the residual stream to the two factors of a layer's SwiGLU."""
    w, x, y = tables.weights[layer], work.x, work.normed
    _norm(x, floats_at(w[_POST_NORM], (x.shape[1],)), tables.rules[layer, 2], tables.rules[layer, 3], y)
    both = (work.gate, w[_GATE], w[_GATE_BIAS]), (work.up, w[_UP], w[_UP_BIAS])
    _linears(crew, y, False, both, w[_DOWN] + 4 * work.gate.shape[1] * x.shape[1])


@_kernel
def _narrow(crew, tables, work, layer):  # type: ignore[no-untyped-def]
    """From the two factors back to the residual stream."""
    w = tables.weights[layer]
    _swiglu(work.gate, work.up)
    _linears(crew, work.gate, True, ((work.x, w[_DOWN], w[_DOWN_BIAS]),), _first_end(tables, work, layer + 1))


@_kernel
def _score(crew, tables, work):  # type: ignore[no-untyped-def]
    """From the residual stream behind the last layer to the scores of the next tokens."""
    last, rules, y = tables.weights[len(tables.weights) - 1], tables.rules[0], work.normed
    _norm(work.x, floats_at(last[_LAST_NORM], (y.shape[1],)), rules[2], rules[3], y)
    layers = ((work.scores, last[_OUTPUT], last[_OUTPUT_BIAS]),)
    _linears(crew, y, False, layers, _first_end(tables, work, 0))


@_kernel
def _first_end(tables, work, layer):  # type: ignore[no-untyped-def]
    """Where the weights end that a layer begins with; after the last layer, those of the output."""
    w, channels = tables.weights[layer], work.x.shape[1]
    if layer == len(tables.weights) - 1:
        return w[_OUTPUT] + 4 * channels * work.scores.shape[1]
    return w[_V] + 4 * channels * work.v.shape[1]


@_kernel
def _side_by_side(texts):  # type: ignore[no-untyped-def]
    """How many texts a block of several has: what fits a register, or a panel."""
    return _VECTOR if texts <= _VECTOR else 2 * _VECTOR if texts <= 2 * _VECTOR else PANEL


@_kernel
def _hand_over(scores, out):  # type: ignore[no-untyped-def]
    """Scores (blocks, V, L), row by row, to out (B, V); sixteen at a time, so that what is read stays near."""
    columns, size = scores.shape[2], out.shape[1]
    for start in range(0, size, 16):
        for text in range(len(out)):
            for j in range(start, min(start + 16, size)):
                out[text, j] = scores[text // columns, j, text % columns]


@_kernel
def _embed(x, table, ids):  # type: ignore[no-untyped-def]
    """The rows of the texts' tokens, side by side; columns that are left over repeat the last text."""
    blocks, channels, columns = x.shape
    for block in range(blocks):
        for column in range(columns):
            row = table[ids[min(block * columns + column, len(ids) - 1)]]
            for c in range(channels):
                x[block, c, column] = row[c]


class CompiledDecoder:
    """A model's decode step. It reads the weights where they stand: their numbers may change, the arrays may not."""

    def __init__(self, weights: DecoderWeights):
        """Raises ValueError for arrays that are not float32 and in one piece."""
        w, self.held = weights, weights  # whose memory is read
        rows = [[getattr(layer, name) for name in _LAYER_FIELDS] for layer in w.layers]
        rows.append([w.embedding, w.norm, w.output, w.output_bias])
        self.table = np.zeros((len(rows), len(_LAYER_FIELDS)), dtype=np.int64)
        for i, row in enumerate(rows):
            self.table[i, : len(row)] = [address_of(array) for array in row]
        self.numbers = sum(array.size for row in rows for array in row if array is not None)
        self.rules = np.array([[layer.scale, layer.softcap, w.eps, w.norm_offset] for layer in w.layers], np.float32)
        self.caches: list[Array] = [None] * len(w.layers)  # the arrays of keys whose address is in the table
        self.cached = np.zeros((len(w.layers), 6), dtype=np.int64)
        self.cached[:, _TURN] = [layer.turn for layer in w.layers]
        self.work: _Work | None = None
        self.crew = _Crew(new_board(), np.zeros(1, dtype=_TASK))

    def __call__(self, ids: Array, places: Sequence[Place], turns: Array, documents: Array | None) -> Array:
        """Scores of the next tokens (B, V) after ids (B,), whose keys and values are written into the cache.

        turns (kinds, 2, R / 2) are the cosines and sines of their position. documents (B, S) number all tokens so far.
        """
        for i, (keys, values, _) in enumerate(places):
            if keys is not self.caches[i]:
                self.caches[i] = keys
                self.cached[i, [_KEYS, _VALUES, _CAPACITY]] = address_of(keys), address_of(values), keys.shape[1]
        self.cached[:, _START] = [seen.start for _, _, seen in places]
        self.cached[:, _STOP] = [seen.stop for _, _, seen in places]
        if documents is None:
            documents = np.empty((len(ids), 0), dtype=np.int64)
        work = self._memory(len(ids), max(seen.stop - seen.start for _, _, seen in places))
        tables = _Tables(self.table, self.cached, self.rules, turns, documents)
        out = np.empty((len(ids), len(self.held.output)), dtype=np.float32)
        _step(self.crew, ids, tables, work, self.held.head_dim, out)
        return out

    @contextmanager
    def helped(self, helpers: int) -> Iterator[None]:
        """Inside, so many threads may `help` this one, which computes steps."""
        open_board(self.crew.board, helpers)
        try:
            yield
        finally:
            close_board(self.crew.board)

    def help(self) -> None:
        """Take part in the steps that another thread computes, until it is through."""
        if not config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
            _help(self.crew)

    def sample(self, answers: Answers, prompts: Sequence[Prompts], turns: Turns) -> None:
        """Fill in the tokens of answers after the first: see `numba_rollout.sample_answers`."""
        from .numba_rollout import sample_answers

        sample_answers(self, answers, prompts, turns)

    def _memory(self, batch: int, seen: int) -> _Work:
        """Buffers for so many texts, kept for the next step where they fit."""
        columns = 1 if batch <= _VECTOR // 2 else _side_by_side(batch)
        blocks, old, (*sizes, scratch) = -(-batch // columns), self.work, self.sizes(seen)
        if old is not None and old.x.shape == (blocks, sizes[0], columns) and len(old.scratch) >= scratch:
            return old
        # Zeros, since columns that no text uses are computed along.
        activations = (np.zeros((blocks, size, columns), np.float32) for size in sizes)
        self.work = _Work(*activations, np.zeros(2 * scratch, np.float32))
        return self.work

    def sizes(self, seen: int) -> tuple[int, ...]:
        """The channels of each of a step's buffers, and the numbers in the last one for texts of `seen` tokens."""
        first, dim = self.held.layers[0], self.held.head_dim
        width, heads, (vocab, channels) = len(first.q), len(first.k), self.held.output.shape
        inner, scratch = len(first.gate), width // dim * (2 * dim + 1 + int(_row_width(seen))) + heads
        return channels, channels, width, heads, heads, width, inner, inner, vocab, scratch
