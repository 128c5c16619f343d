"""Causal attention as one compiled loop: a head and a block of queries at a time, so that all scores stay in the cache.

A head's keys and values are laid out for our own products once (see `numba_product`) and serve all blocks of queries of
the heads that share them. A row of scores is read and written in whole registers, with a mask for the last one.

    B batch   T queries   S keys   H query heads   K key/value heads   D head_dim
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from .numba_product import PANEL, ROWS, VECTOR, before, folded, fused, lay_out, multiply_panels, spread

BLOCK = 16 if VECTOR == 16 else 2 * ROWS  # queries of a head whose scores are held at a time

# Said aloud, since what is compiled for a caller takes its options for its own: fastmath would regroup the sums of exp.
_kernel = numba.njit(fastmath=False, cache=True, error_model="numpy", nogil=True)

_float, _whole, _long = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_vector, _wholes = ir.VectorType(_float, VECTOR), ir.VectorType(_whole, VECTOR)


def _many(number: float) -> Any:
    """A vector of one constant."""
    return ir.Constant(_vector, [number] * VECTOR)


def _exp(builder: Any, x: Any) -> Any:
    """exp of a vector of numbers that are at most 88, as `numba_cpu._exp` of a number: 2^n exp(r) with r in
    [-ln2/2, ln2/2]. NaN stays NaN."""
    low, shift = _many(-86.9), _many(1.5 * 2**23)  # below low, 2^n is no number of full precision
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    rounded = fused(builder, x, _many(1.4426950408889634), shift)  # so large that its last bits count whole numbers: n
    n = builder.fsub(rounded, shift)
    r = fused(builder, n, _many(-0.693359375), x)
    r = fused(builder, n, _many(2.12194440e-4), r)
    p = _many(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fused(builder, p, r, _many(factor))
    p = builder.fadd(fused(builder, p, builder.fmul(r, r), r), _many(1.0))
    power = builder.shl(builder.bitcast(rounded, _wholes), ir.Constant(_wholes, [23] * VECTOR))
    return builder.bitcast(builder.add(builder.bitcast(p, _wholes), power), _vector)


class _Row:
    """The vectors of a row of numbers that are counted, one after the other, in the code that is being written."""

    def __init__(self, builder: Any, count: Any):
        self.builder, self.count = builder, count

    def each(self, work: Callable[[Any, Any], None]) -> None:
        """work(where a vector begins, which of its numbers count) for each vector with any that do."""
        builder = self.builder
        vectors = builder.sdiv(builder.add(self.count, _long(VECTOR - 1)), _long(VECTOR))
        with cgutils.for_range(builder, vectors, intp=_long) as loop:
            first = builder.mul(loop.index, _long(VECTOR))
            work(builder.mul(first, _long(4)), before(builder, builder.sub(self.count, first)))

    def place(self, address: Any, offset: Any) -> Any:
        """The vector at an address and an offset of bytes."""
        return self.builder.inttoptr(self.builder.add(address, offset), _vector.as_pointer())


@intrinsic
def highest_at(typing_context: Any, row: Any, count: Any) -> tuple[Signature, Callable[..., Any]]:
    """The highest of the first `count` numbers at an address."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        row, count = arguments
        line, best = _Row(builder, count), cgutils.alloca_once_value(builder, _many(-math.inf))

        def work(offset: Any, counted: Any) -> None:
            x = builder.select(counted, builder.load(line.place(row, offset), align=4), _many(-math.inf))
            so_far = builder.load(best)
            builder.store(builder.select(builder.fcmp_ordered(">", x, so_far), x, so_far), best)

        line.each(work)
        return folded(
            builder, builder.load(best), lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b)
        )

    return types.float32(types.int64, types.int64), generate


@intrinsic
def weigh_at(
    typing_context: Any, row: Any, count: Any, scale: Any, top: Any
) -> tuple[Signature, Callable[..., Any]]:
    """The first `count` numbers x at an address become exp(scale x - top), the rest of their vector zero; the sum."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        row, count, scale, top = arguments
        scale, below = spread(builder, scale), builder.fneg(spread(builder, top))
        line, total = _Row(builder, count), cgutils.alloca_once_value(builder, _many(0.0))

        def work(offset: Any, counted: Any) -> None:
            place = line.place(row, offset)
            x = fused(builder, builder.load(place, align=4), scale, below)
            weight = builder.select(counted, _exp(builder, x), _many(0.0))
            builder.store(weight, place, align=4)
            builder.store(builder.fadd(builder.load(total), weight), total)

        line.each(work)
        return folded(builder, builder.load(total), builder.fadd)

    return types.float32(types.int64, types.int64, types.float32, types.float32), generate


@intrinsic
def _pull_back_at(
    typing_context: Any, row: Any, drow: Any, count: Any, scale: Any, lse: Any, delta: Any
) -> tuple[Signature, Callable[..., Any]]:
    """Scores at an address become probabilities p, and their gradients dp those of the dot products, p (dp - delta)
    scale: the first `count`; the rest of their vector becomes zero."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        row, drow, count, *numbers = arguments
        scale, lse, delta = (spread(builder, number) for number in numbers)
        below = builder.fneg(lse)
        line = _Row(builder, count)

        def work(offset: Any, counted: Any) -> None:
            place, dplace = line.place(row, offset), line.place(drow, offset)
            x = fused(builder, builder.load(place, align=4), scale, below)
            weight = builder.select(counted, _exp(builder, x), _many(0.0))
            change = builder.fsub(builder.load(dplace, align=4), delta)
            dot = builder.select(counted, builder.fmul(builder.fmul(weight, change), scale), _many(0.0))
            builder.store(weight, place, align=4)
            builder.store(dot, dplace, align=4)

        line.each(work)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3, *[types.float32] * 3), generate


def _softmax(line, count, seen, scale):  # type: ignore[no-untyped-def]
    """The first `count` scores x become exp(scale x - top), not divided by their sum yet, and the others of those seen
    by the block zero. Returns top, the highest scaled score, and the sum."""
    top = line[:count].max() * scale
    line[:count] = np.exp(line[:count] * scale - top)
    line[count:seen] = 0
    return top, line[:count].sum()


@overload(_softmax)
def _softmax_overload(line, count, seen, scale):  # type: ignore[no-untyped-def]
    def softmax(line, count, seen, scale):  # type: ignore[no-untyped-def]
        top = highest_at(line.ctypes.data, count) * scale
        total = weigh_at(line.ctypes.data, count, scale, top)
        line[(count + VECTOR - 1) // VECTOR * VECTOR : seen] = np.float32(0)
        return top, total

    return softmax


def _softmax_backward(line, dline, count, seen, scale, lse, delta):  # type: ignore[no-untyped-def]
    """The first `count` scores become probabilities p, the gradients dp of these those of the dot products,
    p (dp - delta) scale; the others of those seen by the block become zero."""
    line[:count] = np.exp(line[:count] * scale - lse)
    dline[:count] = line[:count] * (dline[:count] - delta) * scale
    line[count:seen] = dline[count:seen] = 0


@overload(_softmax_backward)
def _softmax_backward_overload(line, dline, count, seen, scale, lse, delta):  # type: ignore[no-untyped-def]
    def softmax_backward(line, dline, count, seen, scale, lse, delta):  # type: ignore[no-untyped-def]
        _pull_back_at(line.ctypes.data, dline.ctypes.data, count, scale, lse, delta)
        line[(count + VECTOR - 1) // VECTOR * VECTOR : seen] = np.float32(0)
        dline[(count + VECTOR - 1) // VECTOR * VECTOR : seen] = np.float32(0)

    return softmax_backward


@_kernel
def causal_attention(q, k, v, scale, out, lse):  # type: ignore[no-untyped-def]
    """q (B, T, H, D), k (B, S, K, D) and v (B, S, K, E), of which the last T are the queries' own -> out (B, T, H, E),
    and the log of each softmax's denominator, lse (B, H, T)."""
    (texts, T, heads, D), (_, S, kv_heads, E) = q.shape, v.shape
    group, block = heads // kv_heads, min(BLOCK, T)
    keys, values, scores = _panels(S, D), _panels(E, S), _room(block, S)
    sums = np.empty(block, np.float32)
    for head in range(texts * heads):
        b, h = head // heads, head % heads
        if h % group == 0:
            lay_out(k[b, :, h // group], True, keys)
            lay_out(v[b, :, h // group], False, values)
        for start in range(0, T, block):
            stop, first = min(start + block, T), S - T + start
            seen = S - T + stop
            tile, panels = scores[: stop - start], keys[: (seen + PANEL - 1) // PANEL]
            multiply_panels(q[b, start:stop, h], False, panels, tile[:, : len(panels) * PANEL], False)
            for t in range(stop - start):
                top, sums[t] = _softmax(scores[t], first + t + 1, seen, scale)
                lse[b, h, start + t] = top + math.log(sums[t])
            ours = out[b, start:stop, h]
            multiply_panels(tile[:, :seen], False, values[:, :seen], ours, False)
            for t in range(start, stop):
                share = np.float32(1) / sums[t - start]
                for e in range(E):
                    out[b, t, h, e] *= share


@_kernel
def causal_attention_backward(g, q, k, v, scale, out, lse, dq, dk, dv):  # type: ignore[no-untyped-def]
    """The gradients of `causal_attention` for q, k and v from g, that for out. Scores are computed again."""
    (texts, T, heads, D), (_, S, kv_heads, E) = q.shape, v.shape
    group, block = heads // kv_heads, min(BLOCK, T)
    keys_across, values_across, keys = _panels(S, D), _panels(S, E), _panels(D, S)
    queries, above = _panels(D, block), _panels(E, block)
    scores, dscores = _room(block, S), _room(block, S)
    dkeys, dvalues = _room(S, D), _room(S, E)
    for head in range(texts * heads):
        b, h = head // heads, head % heads
        if h % group == 0:
            its_keys, its_values = k[b, :, h // group], v[b, :, h // group]
            lay_out(its_keys, True, keys_across)
            lay_out(its_keys, False, keys)
            lay_out(its_values, True, values_across)
            dkeys[:], dvalues[:] = np.float32(0), np.float32(0)
        for start in range(0, T, block):
            stop, first = min(start + block, T), S - T + start
            count, seen = stop - start, S - T + stop
            last = (seen + PANEL - 1) // PANEL
            tile, dtile, ours, its = scores[:count], dscores[:count], q[b, start:stop, h], g[b, start:stop, h]
            multiply_panels(ours, False, keys_across[:last], tile[:, : last * PANEL], False)
            multiply_panels(its, False, values_across[:last], dtile[:, : last * PANEL], False)
            for t in range(start, stop):
                line, dline, delta = scores[t - start], dscores[t - start], _dot(g[b, t, h], out[b, t, h])
                _softmax_backward(line, dline, first + t - start + 1, seen, scale, lse[b, h, t], delta)
            multiply_panels(dtile[:, :seen], False, keys[:, :seen], dq[b, start:stop, h], False)
            lay_out(ours, False, queries[:, :count])
            lay_out(its, False, above[:, :count])
            multiply_panels(dtile[:, :seen], True, queries[:, :count], dkeys[:seen], True)
            multiply_panels(tile[:, :seen], True, above[:, :count], dvalues[:seen], True)
        if h % group == group - 1:
            dk[b, :, h // group], dv[b, :, h // group] = dkeys[:, :D], dvalues[:, :E]


@_kernel
def _panels(columns, depth):  # type: ignore[no-untyped-def]
    return np.empty(((columns + PANEL - 1) // PANEL, depth, PANEL), np.float32)


@_kernel
def _room(rows, columns):  # type: ignore[no-untyped-def]
    """Rows of whole panels: what is computed for them needs no cutting off."""
    return np.empty((rows, (columns + PANEL - 1) // PANEL * PANEL), np.float32)


@numba.njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})
def _dot(x, y):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total
