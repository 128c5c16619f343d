"""One step of decoding, compiled: a token for each text of a batch through all layers in a single call.

When one token is computed at a time, arrays are so small that calling NumPy costs more than the arithmetic. Here the
whole step is machine code that reads the model's own weights and writes into the KV cache where it stands; nothing is
packed or copied, so weights may change from one step to the next.

Activations are laid out as (blocks, channels, L): L texts of a batch side by side in the innermost axis, so that each
weight, read once, multiplies a vector of them. Up to four texts take one block each, of one column.

    B batch   C hidden_size   H query heads   K key/value heads   G = H / K   D head_dim
    L texts side by side, a column each: 1, 8 or 16
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, models, overload, register_model

from .decoding import DecoderWeights, LayerWeights, Place
from .numba_cpu import _FASTMATH, _exp, _from_key, _kernel, _to_key
from .reference import Array

_VECTOR = 8  # float32 numbers in a register of AVX2; what fits it runs well on wider and narrower ones

# Places in the table of weights, a row a layer.
_LAYER_FIELDS = [field.name for field in fields(LayerWeights)][:18]
_INPUT_NORM, _Q, _K, _V, _O, _POST_NORM, _GATE, _UP, _DOWN = range(9)
_Q_BIAS, _K_BIAS, _V_BIAS, _O_BIAS, _GATE_BIAS, _UP_BIAS, _DOWN_BIAS, _Q_NORM, _K_NORM = range(9, 18)
# And in its last row.
_EMBEDDING, _LAST_NORM, _OUTPUT, _OUTPUT_BIAS = range(4)

# Places in the table of cached layers.
_KEYS, _VALUES, _CAPACITY, _START, _STOP, _TURN = range(6)


class _Vector(types.Type):
    """Numba's type of a vector register of float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="vector")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), _VECTOR))


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to a number of an array that lies in one piece, by its number in memory."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def _load(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """The numbers from a place on."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], *arguments)
        vector = context.get_value_type(_vector)
        return builder.load(builder.bitcast(place, vector.as_pointer()), align=4)

    return _vector(array, types.intp), generate


@intrinsic
def _store(typing_context: Any, array: Any, index: Any, x: Any) -> tuple[Signature, Callable[..., Any]]:
    """Write a vector from a place on."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], *arguments[:2])
        vector = context.get_value_type(_vector)
        builder.store(arguments[2], builder.bitcast(place, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), generate


@intrinsic
def _spread(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of one number of an array, many times."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return _filled(builder, builder.load(_place(context, builder, signature.args[0], *arguments)))

    return _vector(array, types.intp), generate


@intrinsic
def _fill(typing_context: Any, number: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of one number, many times."""
    return _vector(types.float32), lambda context, builder, signature, arguments: _filled(builder, arguments[0])


def _filled(builder: Any, number: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(ir.FloatType(), _VECTOR), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), _VECTOR), None))


@intrinsic
def _zeros(typing_context: Any) -> tuple[Signature, Callable[..., Any]]:
    """A vector of zeros."""
    return _vector(), lambda context, builder, *_: ir.Constant(context.get_value_type(_vector), None)


@intrinsic
def _add(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Callable[..., Any]]:
    """x + y, number by number."""
    return _vector(_vector, _vector), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def _multiply(typing_context: Any, x: Any, y: Any) -> tuple[Signature, Callable[..., Any]]:
    """x y, number by number."""
    return _vector(_vector, _vector), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def _add_product(typing_context: Any, x: Any, y: Any, total: Any) -> tuple[Signature, Callable[..., Any]]:
    """total + x y, number by number, as one instruction where the processor has it."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        x, y, total = arguments
        return builder.fadd(builder.fmul(x, y, flags=["contract"]), total, flags=["contract"])

    return _vector(_vector, _vector, _vector), generate


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

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        x, width = arguments[0], _VECTOR
        while width > 1:
            width //= 2
            undefined, order = ir.Constant(x.type, ir.Undefined), ir.VectorType(ir.IntType(32), width)
            halves = [
                builder.shuffle_vector(x, undefined, ir.Constant(order, list(range(start, start + width))))
                for start in (0, width)
            ]
            x = builder.fadd(*halves)
        return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))

    return types.float32(_vector), generate


@intrinsic
def _arrive(typing_context: Any, counter: Any) -> tuple[Signature, Callable[..., Any]]:
    """Add one to the first number of an int64 array, seen by all threads at once."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        one, start = ir.Constant(ir.IntType(64), 1), ir.Constant(ir.IntType(64), 0)
        builder.atomic_rmw("add", _place(context, builder, signature.args[0], arguments[0], start), one, "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), generate


@intrinsic
def _arrived(typing_context: Any, counter: Any) -> tuple[Signature, Callable[..., Any]]:
    """The first number of an int64 array as it is in memory now."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], arguments[0], ir.Constant(ir.IntType(64), 0))
        return builder.load_atomic(place, "seq_cst", align=8)

    return types.int64(counter), generate


@intrinsic
def _pointer(typing_context: Any, address: Any) -> tuple[Signature, Callable[..., Any]]:
    """An address as a pointer to float32 numbers."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.intp), generate


def _array(address, shape):  # type: ignore[no-untyped-def]
    """The float32 numbers at an address, as an array of this shape."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float)), shape)


@overload(_array)
def _array_overload(address, shape):  # type: ignore[no-untyped-def]
    return lambda address, shape: numba.carray(_pointer(address), shape, np.float32)  # pyright: ignore


def _product(y, w, x, first, last, add):  # type: ignore[no-untyped-def]
    """Rows first to last - 1 of w x, w (out, in) and x (blocks, in, L), into y (blocks, out, L), or added to it."""
    rows = slice(first, last)
    y[:, rows] = w[rows] @ x + (y[:, rows] if add else 0)


@overload(_product, jit_options={"fastmath": _FASTMATH})
def _product_overload(y, w, x, first, last, add):  # type: ignore[no-untyped-def]
    def product(y, w, x, first, last, add):  # type: ignore[no-untyped-def]
        blocks, columns = x.shape[0], x.shape[2]
        if columns == 1:
            for j in range(first, last):
                for block in range(blocks):
                    y[block, j, 0] = _lone(w, x, block, j) + (y[block, j, 0] if add else np.float32(0))
            return
        for j in range(first, last, 4):
            for block in range(blocks):
                if last - j < 4:
                    for row in range(j, last):
                        _row(y, w, x, block, row, add)
                elif columns == _VECTOR:
                    _tile(y, w, x, block, j, add)
                else:
                    _wide_tile(y, w, x, block, j, add)

    return product


@_kernel
def _lone(w, x, block, row):  # type: ignore[no-untyped-def]
    """One row times a lone text: four vectors at a time, since a sum has to wait for the one before."""
    t0 = t1 = t2 = t3 = _zeros()
    inner = x.shape[1]
    start, other = row * inner, block * inner
    whole, more = inner // (4 * _VECTOR) * 4 * _VECTOR, inner // _VECTOR * _VECTOR
    for i in range(0, whole, 4 * _VECTOR):
        t0 = _add_product(_load(w, start + i), _load(x, other + i), t0)
        t1 = _add_product(_load(w, start + i + _VECTOR), _load(x, other + i + _VECTOR), t1)
        t2 = _add_product(_load(w, start + i + 2 * _VECTOR), _load(x, other + i + 2 * _VECTOR), t2)
        t3 = _add_product(_load(w, start + i + 3 * _VECTOR), _load(x, other + i + 3 * _VECTOR), t3)
    for i in range(whole, more, _VECTOR):
        t0 = _add_product(_load(w, start + i), _load(x, other + i), t0)
    total = (_sum(t0) + _sum(t1)) + (_sum(t2) + _sum(t3))
    for i in range(more, inner):
        total += w[row, i] * x[block, i, 0]
    return total


@_kernel
def _row(y, w, x, block, row, add):  # type: ignore[no-untyped-def]
    """One row times a block of texts."""
    inner, columns = x.shape[1:]
    for column in range(0, columns, _VECTOR):
        place = (block * y.shape[1] + row) * columns + column
        total = _load(y, place) if add else _zeros()
        for i in range(inner):
            total = _add_product(_spread(w, row * inner + i), _load(x, (block * inner + i) * columns + column), total)
        _store(y, place, total)


@_kernel
def _tile(y, w, x, block, row, add):  # type: ignore[no-untyped-def]
    """Four rows times one vector of texts; even and odd channels apart, so that enough sums are under way."""
    inner, place, start = x.shape[1], (block * y.shape[1] + row) * _VECTOR, block * x.shape[1] * _VECTOR
    w0, w1, w2, w3 = row * inner, (row + 1) * inner, (row + 2) * inner, (row + 3) * inner
    t0 = t1 = t2 = t3 = u0 = u1 = u2 = u3 = _zeros()
    for i in range(0, inner - 1, 2):
        even, odd = _load(x, start + i * _VECTOR), _load(x, start + (i + 1) * _VECTOR)
        t0, u0 = _add_product(_spread(w, w0 + i), even, t0), _add_product(_spread(w, w0 + i + 1), odd, u0)
        t1, u1 = _add_product(_spread(w, w1 + i), even, t1), _add_product(_spread(w, w1 + i + 1), odd, u1)
        t2, u2 = _add_product(_spread(w, w2 + i), even, t2), _add_product(_spread(w, w2 + i + 1), odd, u2)
        t3, u3 = _add_product(_spread(w, w3 + i), even, t3), _add_product(_spread(w, w3 + i + 1), odd, u3)
    if inner % 2:
        last = _load(x, start + (inner - 1) * _VECTOR)
        t0, t1 = _add_product(_spread(w, w1 - 1), last, t0), _add_product(_spread(w, w2 - 1), last, t1)
        t2, t3 = _add_product(_spread(w, w3 - 1), last, t2), _add_product(_spread(w, w3 + inner - 1), last, t3)
    _finish(y, place, _add(t0, u0), add)
    _finish(y, place + _VECTOR, _add(t1, u1), add)
    _finish(y, place + 2 * _VECTOR, _add(t2, u2), add)
    _finish(y, place + 3 * _VECTOR, _add(t3, u3), add)


@_kernel
def _wide_tile(y, w, x, block, row, add):  # type: ignore[no-untyped-def]
    """Four rows times two vectors of texts."""
    inner, place, start = x.shape[1], (block * y.shape[1] + row) * 2 * _VECTOR, block * x.shape[1] * 2 * _VECTOR
    w0, w1, w2, w3 = row * inner, (row + 1) * inner, (row + 2) * inner, (row + 3) * inner
    t0 = t1 = t2 = t3 = u0 = u1 = u2 = u3 = _zeros()
    for i in range(inner):
        left, right = _load(x, start + 2 * i * _VECTOR), _load(x, start + (2 * i + 1) * _VECTOR)
        weight = _spread(w, w0 + i)
        t0, u0 = _add_product(weight, left, t0), _add_product(weight, right, u0)
        weight = _spread(w, w1 + i)
        t1, u1 = _add_product(weight, left, t1), _add_product(weight, right, u1)
        weight = _spread(w, w2 + i)
        t2, u2 = _add_product(weight, left, t2), _add_product(weight, right, u2)
        weight = _spread(w, w3 + i)
        t3, u3 = _add_product(weight, left, t3), _add_product(weight, right, u3)
    for n, t in enumerate((t0, u0, t1, u1, t2, u2, t3, u3)):
        _finish(y, place + n * _VECTOR, t, add)


@_kernel
def _finish(y, place, total, add):  # type: ignore[no-untyped-def]
    """Write a vector of sums, or add it to what stands there."""
    _store(y, place, _add(_load(y, place), total) if add else total)


def _scores(q, keys, text, head, start, scores):  # type: ignore[no-untyped-def]
    """Dot products of the queries (G, D) of one head group with the keys of one text from a place on: (G, n)."""
    scores[:] = q @ keys[text, start : start + scores.shape[1], head].T


@overload(_scores, jit_options={"fastmath": _FASTMATH})
def _scores_overload(q, keys, text, head, start, scores):  # type: ignore[no-untyped-def]
    def products(q, keys, text, head, start, scores):  # type: ignore[no-untyped-def]
        capacity, heads, dim = keys.shape[1:]
        count, step, first = scores.shape[1], heads * dim, ((text * capacity + start) * heads + head) * dim
        whole = dim // _VECTOR * _VECTOR
        for g in range(len(q)):
            together = count // _VECTOR * _VECTOR if whole == dim else 0
            for s in range(0, together, _VECTOR):
                _store(scores, g * count + s, _eight_products(q, g * dim, keys, first + s * step, step, dim))
            for s in range(together, count):
                sums, total = _zeros(), np.float32(0)
                for i in range(0, whole, _VECTOR):
                    sums = _add_product(_load(q, g * dim + i), _load(keys, first + s * step + i), sums)
                for i in range(whole, dim):
                    total += q[g, i] * keys[text, start + s, head, i]
                scores[g, s] = _sum(sums) + total

    return products


@_kernel
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


def _mixed(weights, values, text, head, start, out):  # type: ignore[no-untyped-def]
    """The values of one text from a place on, mixed by the weights (G, n) of one head group: (G, D)."""
    out[:] = weights @ values[text, start : start + weights.shape[1], head]


@overload(_mixed, jit_options={"fastmath": _FASTMATH})
def _mixed_overload(weights, values, text, head, start, out):  # type: ignore[no-untyped-def]
    def mixed(weights, values, text, head, start, out):  # type: ignore[no-untyped-def]
        capacity, heads, dim = values.shape[1:]
        count, step = weights.shape[1], heads * dim
        first = ((text * capacity + start) * heads + head) * dim
        for g in range(len(out)):
            whole = dim // (2 * _VECTOR) * 2 * _VECTOR
            for i in range(0, whole, 2 * _VECTOR):
                t0 = t1 = u0 = u1 = _zeros()
                for s in range(0, count - 1, 2):
                    even, odd, place = g * count + s, g * count + s + 1, first + s * step + i
                    t0 = _add_product(_spread(weights, even), _load(values, place), t0)
                    t1 = _add_product(_spread(weights, even), _load(values, place + _VECTOR), t1)
                    u0 = _add_product(_spread(weights, odd), _load(values, place + step), u0)
                    u1 = _add_product(_spread(weights, odd), _load(values, place + step + _VECTOR), u1)
                if count % 2:
                    last, place = g * count + count - 1, first + (count - 1) * step + i
                    t0 = _add_product(_spread(weights, last), _load(values, place), t0)
                    t1 = _add_product(_spread(weights, last), _load(values, place + _VECTOR), t1)
                _store(out, g * dim + i, _add(t0, u0))
                _store(out, g * dim + i + _VECTOR, _add(t1, u1))
            for j in range(whole, dim):
                total = np.float32(0)
                for s in range(count):
                    total += weights[g, s] * values[text, start + s, head, j]
                out[g, j] = total

    return mixed


@_kernel
def _softmax(scores, scale, softcap, documents):  # type: ignore[no-untyped-def]
    """Weights from dot products (G, n), in place; documents (n,) are those of the keys, the last the query's own."""
    groups, count = scores.shape
    for g in range(groups):
        line, highest, total = scores[g], _to_key(np.float32(-np.inf)), np.float32(0)
        for s in range(count):
            line[s] *= scale
        if softcap > 0:
            for s in range(count):
                line[s] = softcap * math.tanh(line[s] / softcap)
        for s in range(len(documents)):
            line[s] = line[s] if documents[s] == documents[count - 1] else np.float32(-np.inf)
        for s in range(count):
            key = _to_key(line[s])
            highest = key if key > highest else highest
        top = _from_key(highest)
        for s in range(count):
            line[s] = _exp(line[s] - top)
            total += line[s]
        for s in range(count):
            line[s] /= total
        # The fast exp gives a hidden key a tiny weight, which times an infinite value would not be zero.
        for s in range(len(documents)):
            line[s] = line[s] if documents[s] == documents[count - 1] else np.float32(0)


@_kernel
def _normalize(rows, weight, eps, offset):  # type: ignore[no-untyped-def]
    """RMSNorm of each row, in place."""
    for row in rows:
        total = np.float32(0)
        for i in range(len(row)):
            total += row[i] * row[i]
        scale = np.float32(1) / np.float32(math.sqrt(total / np.float32(len(row)) + eps))
        for i in range(len(row)):
            row[i] = row[i] * scale * (weight[i] + offset)


@_kernel
def _turn(rows, cos, sin):  # type: ignore[no-untyped-def]
    """Rotary positions, in place: the first R channels of each row, for cosines (R / 2,)."""
    half = len(cos)
    for row in rows:
        for i in range(half):
            first, second = row[i], row[i + half]
            row[i] = first * cos[i] - second * sin[i]
            row[i + half] = second * cos[i] + first * sin[i]


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
def _share(rows, part, parts):  # type: ignore[no-untyped-def]
    """The first of a thread's rows, and the first of the next thread's: whole tiles of four."""
    return rows * part // parts // 4 * 4, rows if part + 1 == parts else rows * (part + 1) // parts // 4 * 4


@_kernel
def _linear(y, weight, bias, x, part, parts, add):  # type: ignore[no-untyped-def]
    """A thread's rows of y (blocks, out, L) = weight x + bias, both given by address; 0 for no bias."""
    out = y.shape[1]
    first, last = _share(out, part, parts)
    _product(y, _array(weight, (out, x.shape[1])), x, first, last, add)
    if bias != 0:
        offsets = _array(bias, (out,))
        for block in range(len(y)):
            for j in range(first, last):
                for column in range(y.shape[2]):
                    y[block, j, column] += offsets[j]


@_kernel
def _swiglu(gate, up, part, parts):  # type: ignore[no-untyped-def]
    """silu(gate) * up for a thread's rows of (blocks, I, L), into gate."""
    columns, (first, last) = gate.shape[2], _share(gate.shape[1], part, parts)
    for block in range(len(gate)):
        g, u = gate[block].reshape(-1), up[block].reshape(-1)
        for i in range(first * columns, last * columns):
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
    """Memory for a step: (blocks, channels, L) each, normed and scratch once more for each thread."""

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
def _meet(counter, goal, parts):  # type: ignore[no-untyped-def]
    """Wait until all threads are here; returns the count that the next meeting starts from."""
    goal += parts
    if parts > 1:
        _arrive(counter)
        while _arrived(counter) < goal:
            continue
    return goal


@_kernel
def _attend(tables, work, part, parts, layer, dim):  # type: ignore[no-untyped-def]
    """A thread's share of attention: from q, k and v to mixed, with the new keys and values written into the cache.

    A unit of work is one text's queries of one head group, (G, D), and its keys.
    """
    cached, rules, documents, scratch = tables.cached[layer], tables.rules[layer], tables.documents, work.scratch[part]
    start, count, turn = cached[_START], cached[_STOP] - cached[_START], cached[_TURN]
    batch, heads, group = len(documents), work.k.shape[1] // dim, work.q.shape[1] // work.k.shape[1]
    shape, masked = (batch, cached[_CAPACITY], heads, dim), min(documents.shape[1], count)
    keys, values = _array(cached[_KEYS], shape), _array(cached[_VALUES], shape)
    q = scratch[: group * dim].reshape(group, dim)
    out = scratch[group * dim : 2 * group * dim].reshape(group, dim)
    scores = scratch[2 * group * dim : 2 * group * dim + group * count].reshape(group, count)
    for unit in range(batch * heads * part // parts, batch * heads * (part + 1) // parts):
        text, head = unit // heads, unit % heads
        new = keys[text, start + count - 1, head : head + 1]
        _take(work.q, text, head * group * dim, q)
        _take(work.k, text, head * dim, new)
        _take(work.v, text, head * dim, values[text, start + count - 1, head : head + 1])
        if tables.weights[layer, _Q_NORM] != 0:
            _normalize(q, _array(tables.weights[layer, _Q_NORM], (dim,)), rules[2], rules[3])
            _normalize(new, _array(tables.weights[layer, _K_NORM], (dim,)), rules[2], rules[3])
        if turn >= 0:
            _turn(q, tables.turns[turn, 0], tables.turns[turn, 1])
            _turn(new, tables.turns[turn, 0], tables.turns[turn, 1])
        _scores(q, keys, text, head, start, scores)
        _softmax(scores, rules[0], rules[1], documents[text, documents.shape[1] - masked :])
        _mixed(scores, values, text, head, start, out)
        _give(out, work.mixed, text, head * group * dim)


@_kernel
def _take(x, text, first, rows):  # type: ignore[no-untyped-def]
    """One text's channels from `first` on, of x (blocks, C, L), as rows (n, D)."""
    count, dim = rows.shape
    block, column = text // x.shape[2], text % x.shape[2]
    for row in range(count):
        for i in range(dim):
            rows[row, i] = x[block, first + row * dim + i, column]


@_kernel
def _give(rows, y, text, first):  # type: ignore[no-untyped-def]
    """The way back."""
    count, dim = rows.shape
    block, column = text // y.shape[2], text % y.shape[2]
    for row in range(count):
        for i in range(dim):
            y[block, first + row * dim + i, column] = rows[row, i]


@_kernel
def _step(part, parts, arrived, ids, tables, work, dim, out):  # type: ignore[no-untyped-def]
    """One thread's share of a step; threads meet where one needs what another has computed."""
    x, y, goal = work.x, work.normed[part], 0
    channels, last = x.shape[1], tables.weights[len(tables.weights) - 1]
    if part == 0:
        _embed(x, _array(last[_EMBEDDING], (out.shape[1], channels)), ids)
    goal = _meet(arrived, goal, parts)
    for layer in range(len(tables.cached)):
        w, eps, offset = tables.weights[layer], tables.rules[layer, 2], tables.rules[layer, 3]
        _norm(x, _array(w[_INPUT_NORM], (channels,)), eps, offset, y)
        _linear(work.q, w[_Q], w[_Q_BIAS], y, part, parts, False)
        _linear(work.k, w[_K], w[_K_BIAS], y, part, parts, False)
        _linear(work.v, w[_V], w[_V_BIAS], y, part, parts, False)
        goal = _meet(arrived, goal, parts)
        _attend(tables, work, part, parts, layer, dim)
        goal = _meet(arrived, goal, parts)
        _linear(x, w[_O], w[_O_BIAS], work.mixed, part, parts, True)
        goal = _meet(arrived, goal, parts)
        _norm(x, _array(w[_POST_NORM], (channels,)), eps, offset, y)
        _linear(work.gate, w[_GATE], w[_GATE_BIAS], y, part, parts, False)
        _linear(work.up, w[_UP], w[_UP_BIAS], y, part, parts, False)
        _swiglu(work.gate, work.up, part, parts)
        goal = _meet(arrived, goal, parts)
        _linear(x, w[_DOWN], w[_DOWN_BIAS], work.gate, part, parts, True)
        goal = _meet(arrived, goal, parts)
    _norm(x, _array(last[_LAST_NORM], (channels,)), tables.rules[0, 2], tables.rules[0, 3], y)
    _linear(work.scores, last[_OUTPUT], last[_OUTPUT_BIAS], y, part, parts, False)
    _hand_over(work.scores, out, *_share(out.shape[1], part, parts))


@_kernel
def _hand_over(scores, out, first, last):  # type: ignore[no-untyped-def]
    """Scores (blocks, V, L), row by row, to out (B, V); sixteen at a time, so that what is read stays near."""
    columns = scores.shape[2]
    for start in range(first, last, 16):
        for text in range(len(out)):
            for j in range(start, min(start + 16, last)):
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
            self.table[i, : len(row)] = [_address(array) for array in row]
        self.rules = np.array([[layer.scale, layer.softcap, w.eps, w.norm_offset] for layer in w.layers], np.float32)
        self.caches: list[Array] = [None] * len(w.layers)  # the arrays of keys whose address is in the table
        self.cached = np.zeros((len(w.layers), 6), dtype=np.int64)
        self.cached[:, _TURN] = [layer.turn for layer in w.layers]
        self.work: _Work | None = None

    def __call__(self, ids: Array, places: Sequence[Place], turns: Array, documents: Array | None) -> Array:
        """Scores of the next tokens (B, V) after ids (B,), whose keys and values are written into the cache.

        turns (kinds, 2, R / 2) are the cosines and sines of their position. documents (B, S) number all tokens so far.
        """
        for i, (keys, values, _) in enumerate(places):
            if keys is not self.caches[i]:
                self.caches[i] = keys
                self.cached[i, [_KEYS, _VALUES, _CAPACITY]] = _address(keys), _address(values), keys.shape[1]
        self.cached[:, _START] = [seen.start for _, _, seen in places]
        self.cached[:, _STOP] = [seen.stop for _, _, seen in places]
        if documents is None:
            documents = np.empty((len(ids), 0), dtype=np.int64)
        work = self._memory(len(ids), max(seen.stop - seen.start for _, _, seen in places), parts=1)
        tables = _Tables(self.table, self.cached, self.rules, turns, documents)
        out, arrived = np.empty((len(ids), len(self.held.output)), dtype=np.float32), np.zeros(1, dtype=np.int64)
        _step(0, 1, arrived, ids, tables, work, self.held.head_dim, out)
        return out

    def _memory(self, batch: int, seen: int, parts: int) -> _Work:
        """Buffers for so many texts, kept for the next step where they fit."""
        columns = 1 if batch <= _VECTOR // 2 else _VECTOR if batch <= _VECTOR else 2 * _VECTOR
        blocks, first, old = -(-batch // columns), self.held.layers[0], self.work
        width, heads, channels = len(first.q), len(first.k), self.held.output.shape[1]
        scratch = width // heads * (2 * self.held.head_dim + seen)
        if old is not None and old.x.shape == (blocks, channels, columns) and old.scratch.shape[1] >= scratch:
            return old
        inner, vocab = max(len(layer.gate) for layer in self.held.layers), len(self.held.output)
        sizes = (channels, width, heads, heads, width, inner, inner, vocab)
        # Zeros, since columns that no text uses are computed along.
        x, q, k, v, mixed, gate, up, scores = (np.zeros((blocks, size, columns), np.float32) for size in sizes)
        normed = np.empty((parts, blocks, channels, columns), np.float32)
        self.work = _Work(x, normed, q, k, v, mixed, gate, up, scores, np.empty((parts, 2 * scratch), np.float32))
        return self.work


def _address(array: Array | None) -> int:
    """Where an array's numbers stand in memory; 0 for none."""
    if array is None:
        return 0
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"array: got {array.dtype} of strides {array.strides}, expected float32 in one piece")
    return array.__array_interface__["data"][0]
