"""The fast CPU backend: the reference's hot kernels as parallel loops that touch memory once.

Between matrix products, NumPy makes one pass over memory, and one temporary array, per operation; here they are fused.
The products themselves are our own where a thread makes them for itself (`numba_product`), and else NumPy's BLAS.
"""

from __future__ import annotations

import ctypes
import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from .blas import thread_pools
from .decoding import DecoderWeights
from .kernel_cache import forget_stale_kernels
from .numba_attention import causal_attention, causal_attention_backward
from .numba_memory import address_of, floats_at
from .numba_product import FASTER, NOTHING, multiply
from .reference import Array, AttentionRules, LayerRules, LayerStates, ReferenceBackend, adamw_settings

forget_stale_kernels(Path(__file__).parent)

# NaN and infinity must pass through (they are how a bad step is noticed), so only the harmless flags are set.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_AHEAD, _BACK = 1024, 512  # rows of a block with a gate that are computed together, and so stay near
FEW = 16  # rows or columns of a product; with fewer, BLAS is better

# Threads take parts of a batch (see `lanes`), so that kernels need none of their own: they let others run meanwhile.
_kernel = numba.njit(fastmath=_FASTMATH, cache=True, error_model="numpy", nogil=True)


@intrinsic
def _bits_to_float(typing_context: Any, bits: Any) -> tuple[Signature, Callable[..., Any]]:
    """Read an int32's bits as a float32: how a power of two is made from its exponent."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@intrinsic
def _float_to_bits(typing_context: Any, x: Any) -> tuple[Signature, Callable[..., Any]]:
    """Read a float32's bits as an int32."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x): a polynomial that LLVM can vectorise in float32, the library's exp in float64."""
    return np.exp(x)


@overload(_exp, jit_options={"fastmath": _FASTMATH}, inline="always")
def _exp_overload(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp32(x):  # type: ignore[no-untyped-def]
        # exp(x) = 2^n exp(r), r = x - n ln 2 in [-ln2/2, ln2/2]; a degree-6 polynomial there errs by 1.5e-7.
        x = min(max(x, np.float32(-87.3)), np.float32(88.7)) if x == x else x
        n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) - n * np.float32(-2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1)
        bits = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
        return p * _bits_to_float(bits)  # pyright: ignore[reportCallIssue]

    return exp32


def _to_key(x):  # type: ignore[no-untyped-def]
    """A whole number that grows with a float32: LLVM vectorises the maximum of whole numbers, not that of floats."""
    return x


def _from_key(key):  # type: ignore[no-untyped-def]
    """The float of a key."""
    return key


@overload(_to_key, inline="always")
def _to_key_overload(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: x

    def flipped(x):  # type: ignore[no-untyped-def]
        bits = _float_to_bits(x)  # pyright: ignore[reportCallIssue]
        # A negative float's bits count backwards.
        return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))

    return flipped


@overload(_from_key, inline="always")
def _from_key_overload(key):  # type: ignore[no-untyped-def]
    if not isinstance(key, types.Integer):
        return lambda key: key

    def flipped_back(key):  # type: ignore[no-untyped-def]
        bits = np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        return _bits_to_float(bits)  # pyright: ignore[reportCallIssue]

    return flipped_back


@_kernel
def _multiply(a, a_across, b, b_across, c, keep):  # type: ignore[no-untyped-def]
    multiply(a, a_across, b, b_across, c, keep)


@_kernel
def _whole(array):  # type: ignore[no-untyped-def]
    """Where an array begins, and its bytes."""
    return array.ctypes.data, 4 * array.size


@_kernel
def _linears(x, weights, ys):  # type: ignore[no-untyped-def]
    for i in range(len(ys)):
        multiply(x, False, weights[i], True, ys[i], False)


@_kernel
def _linears_backward(gs, x, weights, dx, dweights):  # type: ignore[no-untyped-def]
    for i in range(len(gs)):  # x was computed long ago
        soon = _whole(x) if i == 0 else NOTHING
        multiply(gs[i], False, weights[i], False, dx, i > 0, soon)
    for i in range(len(gs)):
        multiply(gs[i], True, x, False, dweights[i], False)


@_kernel
def _grouped(x, weights, offsets, ys):  # type: ignore[no-untyped-def]
    for e in range(len(offsets) - 1):
        rows = slice(offsets[e], offsets[e + 1])
        for i in range(len(ys)):
            multiply(x[rows], False, weights[i][e], True, ys[i][rows], False)


@_kernel
def _grouped_backward(gs, x, weights, offsets, dx, dweights):  # type: ignore[no-untyped-def]
    for e in range(len(offsets) - 1):
        rows = slice(offsets[e], offsets[e + 1])
        for i in range(len(gs)):
            soon = _whole(x[rows]) if i == 0 else NOTHING
            multiply(gs[i][rows], False, weights[i][e], False, dx[rows], i > 0, soon)
        for i in range(len(gs)):
            multiply(gs[i][rows], True, x[rows], False, dweights[i][e], False)


@_kernel
def _rms_norm(x, weight, eps, y, inverse_rms):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for i in range(rows):
        total = x.dtype.type(0)
        for j in range(width):
            total += x[i, j] * x[i, j]
        r = x.dtype.type(1 / math.sqrt(total / width + eps))
        inverse_rms[i, 0] = r
        for j in range(width):
            y[i, j] = x[i, j] * r * weight[j]


@_kernel
def _rms_norm_backward(g, x, weight, inverse_rms, dx, dweight):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for i in range(rows):
        r = inverse_rms[i, 0]
        dot = x.dtype.type(0)
        for j in range(width):
            dot += g[i, j] * weight[j] * x[i, j]
        dot *= r * r / x.dtype.type(width)
        for j in range(width):
            dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot)
            dweight[j] += g[i, j] * x[i, j] * r


@_kernel
def _add_rms_norm(x, y, weight, eps, total, normed, inverse_rms):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for i in range(rows):
        square = x.dtype.type(0)
        for j in range(width):
            both = x[i, j] + y[i, j]
            total[i, j] = both
            square += both * both
        r = x.dtype.type(1 / math.sqrt(square / width + eps))
        inverse_rms[i, 0] = r
        for j in range(width):
            normed[i, j] = total[i, j] * r * weight[j]


@_kernel
def _add_rms_norm_backward(dtotal, g, total, weight, inverse_rms, dx, dweight):  # type: ignore[no-untyped-def]
    rows, width = g.shape
    for i in range(rows):
        r = inverse_rms[i, 0]
        dot = g.dtype.type(0)
        for j in range(width):
            dot += g[i, j] * weight[j] * total[i, j]
        dot *= r * r / g.dtype.type(width)
        for j in range(width):
            dx[i, j] = dtotal[i, j] + r * (g[i, j] * weight[j] - total[i, j] * dot)
            dweight[j] += g[i, j] * total[i, j] * r


@_kernel
def _turn(x, cos, sin):  # type: ignore[no-untyped-def]
    """`rope` in place: x (B, T, H, D)."""
    batch, tokens, heads, _ = x.shape
    half = cos.shape[2]
    for b in range(batch):
        for t in range(tokens):
            c, s = cos[b % len(cos), t], sin[b % len(sin), t]
            for h in range(heads):
                for j in range(half):
                    first, second = x[b, t, h, j], x[b, t, h, j + half]
                    x[b, t, h, j] = first * c[j] - second * s[j]
                    x[b, t, h, j + half] = second * c[j] + first * s[j]


@_kernel
def _qkv_rope(x, weights, cos, sin, ys):  # type: ignore[no-untyped-def]
    for i in range(len(ys)):
        y, shape = ys[i], ys[i].shape
        multiply(x, False, weights[i], True, y.reshape(len(x), shape[2] * shape[3]), False)
        if i < 2:  # what has just been written is near
            _turn(y, cos, sin)


@_kernel
def _erf(x, y):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for i in range(rows):
        for j in range(width):
            y[i, j] = math.erf(x[i, j])


@_kernel
def _swiglu(gate, up, y):  # type: ignore[no-untyped-def]
    rows, width = gate.shape
    one = gate.dtype.type(1)
    for i in range(rows):
        for j in range(width):
            y[i, j] = gate[i, j] / (one + _exp(-gate[i, j])) * up[i, j]


@_kernel
def _swiglu_backward(g, gate, up, dgate, dup):  # type: ignore[no-untyped-def]
    rows, width = gate.shape
    one = gate.dtype.type(1)
    for i in range(rows):
        for j in range(width):
            s = one / (one + _exp(-gate[i, j]))
            silu = gate[i, j] * s
            dup[i, j] = g[i, j] * silu
            dgate[i, j] = g[i, j] * up[i, j] * (s + silu * (one - s))


@_kernel
def _gate(both, inner):  # type: ignore[no-untyped-def]
    """`_swiglu` of both factors in one array, the gate first."""
    rows, width = inner.shape
    for i in range(rows):
        for j in range(width):
            inner[i, j] = both[i, j] / (np.float32(1) + _exp(-both[i, j])) * both[i, width + j]


@_kernel
def _gate_backward(g, both, dboth, inner):  # type: ignore[no-untyped-def]
    """`_swiglu_backward`, and the product itself once more."""
    rows, width = inner.shape
    one = np.float32(1)
    for i in range(rows):
        for j in range(width):
            s = one / (one + _exp(-both[i, j]))
            silu = both[i, j] * s
            inner[i, j] = silu * both[i, width + j]
            dboth[i, width + j] = g[i, j] * silu
            dboth[i, j] = g[i, j] * both[i, width + j] * (s + silu * (one - s))


@_kernel
def _part(count, most):  # type: ignore[no-untyped-def]
    """The size of the equal parts of so many rows: `most`, or somewhat less."""
    parts = max((count + most - 1) // most, 1)
    return max((count + parts - 1) // parts, 1)


@_kernel
def _swiglu_mlp(x, weights, offsets, both, y):  # type: ignore[no-untyped-def]
    (gate, up, down), width = weights, both.shape[1] // 2
    inner = np.empty((min(len(x), _AHEAD), width), np.float32)
    for e in range(len(offsets) - 1):
        size = _part(offsets[e + 1] - offsets[e], _AHEAD)
        for start in range(offsets[e], offsets[e + 1], size):
            rows = slice(start, min(start + size, offsets[e + 1]))
            product = inner[: rows.stop - start]
            multiply(x[rows], False, gate[e], True, both[rows, :width], False)
            multiply(x[rows], False, up[e], True, both[rows, width:], False)
            _gate(both[rows], product)
            multiply(product, False, down[e], True, y[rows], False)


@_kernel
def _swiglu_mlp_backward(g, x, weights, offsets, both, dx, dweights):  # type: ignore[no-untyped-def]
    (gate, up, down), (dgate, dup, ddown), width = weights, dweights, both.shape[1] // 2
    most = min(len(x), _BACK)
    dproduct, product = np.empty((most, width), np.float32), np.empty((most, width), np.float32)
    parts = np.empty((most, 2 * width), np.float32)
    for e in range(len(offsets) - 1):
        size, keep = _part(offsets[e + 1] - offsets[e], _BACK), False
        for start in range(offsets[e], offsets[e + 1], size):
            rows = slice(start, min(start + size, offsets[e + 1]))
            count = rows.stop - start
            dinner, inner, dboth = dproduct[:count], product[:count], parts[:count]
            multiply(g[rows], False, down[e], False, dinner, False, _whole(both[rows]))
            _gate_backward(dinner, both[rows], dboth, inner)
            multiply(g[rows], True, inner, False, ddown[e], keep)
            multiply(dboth[:, :width], False, gate[e], False, dx[rows], False, _whole(x[rows]))
            multiply(dboth[:, width:], False, up[e], False, dx[rows], True)
            multiply(dboth[:, :width], True, x[rows], False, dgate[e], keep)
            multiply(dboth[:, width:], True, x[rows], False, dup[e], keep)
            keep = True
        if not keep:
            dgate[e], dup[e], ddown[e] = 0, 0, 0


@_kernel
def _masked_softmax(scores, scale, softcap, slopes, sinks, allowed, nearest, lse):  # type: ignore[no-untyped-def]
    batch, heads, tokens, keys = scores.shape
    zero, one, hidden = scores.dtype.type(0), scores.dtype.type(1), scores.dtype.type(-np.inf)
    for row in range(batch * heads):
        b, h = row // heads, row % heads
        for t in range(tokens):
            line, seen = scores[b, h, t], allowed[b % allowed.shape[0], t]
            last = min((nearest + t + 16) // 16 * 16, keys)  # no query sees a key after itself; in whole vectors
            if softcap > zero:
                for j in range(last):
                    line[j] = softcap * np.tanh(line[j] * scale / softcap)
            else:
                for j in range(last):
                    line[j] *= scale
            if slopes[h] != zero:
                for j in range(last):
                    line[j] -= slopes[h] * scores.dtype.type(nearest + t - j)
            highest = _to_key(sinks[h])
            for j in range(last):
                line[j] = line[j] if seen[j] else hidden
                key = _to_key(line[j])
                highest = key if key > highest else highest
            top = _from_key(highest)
            total = zero
            for j in range(last):
                # Reading the mask again is what keeps exp's clamp from giving a hidden key a tiny weight.
                weight = _exp(line[j] - top) if seen[j] else zero
                line[j] = weight
                total += weight
            if sinks[h] > hidden:
                total += math.exp(sinks[h] - top)
            lse[b, h, t] = top + math.log(total)
            inverse = one / total
            for j in range(last):
                line[j] *= inverse
            line[last:] = zero


@_kernel
def _masked_softmax_backward(  # type: ignore[no-untyped-def]
    scores, scale, softcap, slopes, allowed, nearest, lse, dweights, delta
):
    batch, heads, tokens, keys = scores.shape
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    flatten = one / softcap if softcap > zero else zero  # without a cap, a slope of one
    for row in range(batch * heads):
        b, h = row // heads, row % heads
        for t in range(tokens):
            line, dline = scores[b, h, t], dweights[b, h, t]
            seen = allowed[b % allowed.shape[0], t]
            last = min((nearest + t + 16) // 16 * 16, keys)
            far = scores.dtype.type(nearest + t) * slopes[h] + lse[b, h, t]
            for j in range(last):
                line[j] *= scale
            if softcap > zero:
                for j in range(last):
                    line[j] = softcap * np.tanh(line[j] * flatten)
            for j in range(last):
                bent = line[j] * flatten
                weight = _exp(line[j] + slopes[h] * scores.dtype.type(j) - far) if seen[j] else zero
                line[j] = weight
                dline[j] = weight * (dline[j] - delta[b, h, t]) * scale * (one - bent * bent)
            line[last:] = zero
            dline[last:] = zero


@_kernel
def _highest(line):  # type: ignore[no-untyped-def]
    highest = _to_key(line[0])
    for j in range(len(line)):
        key = _to_key(line[j])
        highest = key if key > highest else highest
    return _from_key(highest)


@_kernel
def _cross_entropy(logits, targets, losses):  # type: ignore[no-untyped-def]
    rows, vocab = logits.shape
    for i in range(rows):
        line = logits[i]
        if targets[i] < 0:
            losses[i] = 0
            line[:] = 0
            continue
        top = _highest(line)
        picked = line[targets[i]] - top
        total = logits.dtype.type(0)
        for j in range(vocab):
            line[j] = _exp(line[j] - top)
            total += line[j]
        losses[i] = math.log(total) - picked
        inverse = logits.dtype.type(1) / total
        for j in range(vocab):
            line[j] *= inverse
        line[targets[i]] -= logits.dtype.type(1)


@_kernel
def _log_probs(logits, targets, logps, entropies):  # type: ignore[no-untyped-def]
    rows, vocab = logits.shape
    for i in range(rows):
        line, top = logits[i], _highest(logits[i])
        total = weighed = logits.dtype.type(0)
        for j in range(vocab):
            apart = line[j] - top
            weight = _exp(apart)
            total += weight
            # The fast exp never comes to 0: what is that small has no part in the entropy.
            weighed += weight * apart if apart > logits.dtype.type(-87) else logits.dtype.type(0)
        logps[i] = line[targets[i]] - top - math.log(total)
        entropies[i] = math.log(total) - weighed / total


@_kernel
def _log_probs_backward(dlogps, dentropies, logits, targets, logps, entropies):  # type: ignore[no-untyped-def]
    rows, vocab = logits.shape
    for i in range(rows):
        line = logits[i]
        log_total = line[targets[i]] - logps[i]
        for j in range(vocab):
            log_p = line[j] - log_total
            line[j] = -_exp(log_p) * (dlogps[i] + dentropies[i] * (log_p + entropies[i]))
        line[targets[i]] += dlogps[i]


@_kernel
def _embedding_backward(g, ids, table):  # type: ignore[no-untyped-def]
    rows, width = g.shape
    for i in range(rows):
        for j in range(width):
            table[ids[i], j] += g[i, j]


@_kernel
def _top_k(scores, chosen):  # type: ignore[no-untyped-def]
    # Insertion sort of what has been seen, cut off after k; a later equal stays behind.
    rows, width = scores.shape
    k = chosen.shape[1]
    for i in range(rows):
        line, best = scores[i], chosen[i]
        for j in range(width):
            place = min(j, k)
            while place > 0 and line[j] > line[best[place - 1]]:
                if place < k:
                    best[place] = best[place - 1]
                place -= 1
            if place < k:
                best[place] = j


@_kernel
def _combine(rows, weights, places, y):  # type: ignore[no-untyped-def]
    tokens, width = y.shape
    for i in range(tokens):
        y[i] = 0
        for choice in range(weights.shape[1]):
            place, weight = places[i, choice], weights[i, choice]
            if place >= 0:
                for j in range(width):
                    y[i, j] += weight * rows[place, j]


@_kernel
def _combine_backward(g, rows, weights, places, drows, dweights):  # type: ignore[no-untyped-def]
    tokens, width = g.shape
    for i in range(tokens):
        for choice in range(weights.shape[1]):
            place, weight = places[i, choice], weights[i, choice]
            dot = g.dtype.type(0)
            if place >= 0:
                for j in range(width):
                    dot += g[i, j] * rows[place, j]
                    drows[place, j] = weight * g[i, j]
            dweights[i, choice] = dot


@_kernel
def _adamw(p, g, m, v, scale, gain1, gain2, shrink, rate, root, eps):  # type: ignore[no-untyped-def]
    for i in range(p.size):
        gradient = g[i] * scale
        m[i] += gain1 * (gradient - m[i])
        v[i] += gain2 * (gradient * gradient - v[i])
        p[i] = p[i] * shrink - rate * m[i] / (np.sqrt(v[i]) * root + eps)


@_kernel
def _adamw_all(table, settings):  # type: ignore[no-untyped-def]
    for row in range(len(table)):
        p, m, v, g, size = table[row]
        scale, gain1, gain2, shrink, rate, root, eps = settings[row]
        arrays = floats_at(p, (size,)), floats_at(g, (size,)), floats_at(m, (size,)), floats_at(v, (size,))
        _adamw(*arrays, scale, gain1, gain2, shrink, rate, root, eps)


class NumbaBackend(ReferenceBackend):
    """The reference with its hot kernels compiled. Everything not overridden here is the reference itself."""

    name = "numba"

    def __init__(self) -> None:
        self.threads: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
        self._each_alone = False  # whether an operation gets one thread, as others are at work
        _keep_freed_memory()

    @property
    def _ours(self) -> bool:
        """Whether products are ours: by one thread for itself, on processors where that is faster."""
        return FASTER and (self._each_alone or self.threads == 1)

    @property
    def whole_layers(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where products are ours, compiled code can go from one to the next by itself."""
        return self._ours

    @contextmanager
    def one_thread_each(self) -> Iterator[None]:
        """BLAS computes in the thread that calls it, and starts none."""
        pools = thread_pools()
        before, alone = [pool.get_num_threads() for pool in pools], self._each_alone
        try:
            for pool in pools:
                pool.set_num_threads(1)
            self._each_alone = True
            yield
        finally:
            self._each_alone = alone
            for pool, threads in zip(pools, before, strict=True):
                pool.set_num_threads(threads)

    def compile_decoder(self, weights: DecoderWeights) -> Any:
        """All layers in one call of compiled code."""
        from .numba_decode import CompiledDecoder

        return CompiledDecoder(weights)

    def matmul(self, a: Array, b: Array) -> Array:
        """Our own product, which fetches what it needs next while it computes, or BLAS."""
        if not (self._ours and a.ndim == b.ndim == 2):
            return a @ b
        out = np.empty((len(a), b.shape[1]), a.dtype)
        self.multiply(a, b, out)
        return out

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """As in `matmul`."""
        if not (self._ours and _suits(a, b, out)):
            return super().multiply(a, b, out, add)
        across = not a.flags.c_contiguous, not b.flags.c_contiguous
        _multiply(a.T if across[0] else a, across[0], b.T if across[1] else b, across[1], out, add)

    def linears(self, x: Array, weights: Sequence[Array]) -> Sequence[Array]:
        """All products in one call, where they are ours."""
        if len(x) < FEW or not self._are_ours([x], weights):
            return super().linears(x, weights)
        ys = tuple(np.empty((len(x), len(weight)), x.dtype) for weight in weights)
        _linears(x, tuple(weights), ys)
        return ys

    def linears_backward(
        self, gs: Sequence[Array], x: Array, weights: Sequence[Array], needs: Sequence[bool]
    ) -> tuple[Array | None, Sequence[Array | None]]:
        """As in `linears`, where all gradients are needed."""
        gs = [np.ascontiguousarray(g) for g in gs]
        if len(x) < FEW or not (all(needs) and self._are_ours([x, *gs], weights)):
            return super().linears_backward(gs, x, weights, needs)
        dx, dweights = np.empty_like(x), tuple(map(np.empty_like, weights))
        _linears_backward(tuple(gs), x, tuple(weights), dx, dweights)
        return dx, dweights

    def rms_norm(self, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
        """One pass to sum the squares, one to write the result."""
        y, inverse_rms = np.empty_like(x), np.empty((len(x), 1), dtype=x.dtype)
        _rms_norm(x, weight, x.dtype.type(eps), y, inverse_rms)
        return y, inverse_rms

    def rms_norm_backward(self, g: Array, x: Array, weight: Array, inverse_rms: Array) -> tuple[Array, Array]:
        """Both gradients in one pass over the rows."""
        dx, dweight = np.empty_like(x), np.zeros_like(weight)
        _rms_norm_backward(np.ascontiguousarray(g), x, weight, inverse_rms, dx, dweight)
        return dx, dweight

    def add_rms_norm(self, x: Array, y: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
        """A row's sum is normalized while it is near."""
        total, normed, inverse_rms = np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), dtype=x.dtype)
        _add_rms_norm(x, y, weight, x.dtype.type(eps), total, normed, inverse_rms)
        return total, normed, inverse_rms

    def add_rms_norm_backward(
        self, dtotal: Array, g: Array, total: Array, weight: Array, inverse_rms: Array
    ) -> tuple[Array, Array]:
        """As in `add_rms_norm`: a row's two gradients are added while it is near."""
        dx, dweight = np.empty_like(total), np.zeros_like(weight)
        given = np.ascontiguousarray(dtotal), np.ascontiguousarray(g)
        _add_rms_norm_backward(*given, total, weight, inverse_rms, dx, dweight)
        return dx, dweight

    def erf(self, x: Array) -> Array:
        """The C library's erf, a number at a time."""
        y = np.empty_like(x)
        _erf(_rows(x), _rows(y))
        return y

    def rope(self, x: Array, cos: Array, sin: Array) -> Array:
        """Turned where a copy stands: a loop over one array is compiled to better code than one over two."""
        y = np.array(x, order="C")
        _turn(y, cos, sin)
        return y

    def qkv_rope(self, x: Array, weights: Sequence[Array], cos: Array, sin: Array, head_dim: int) -> Sequence[Array]:
        """In one call, where products are ours: queries and keys are turned where they stand."""
        if len(x) < FEW or not self._are_ours([x], weights):
            return super().qkv_rope(x, weights, cos, sin, head_dim)
        shape = len(x) // cos.shape[1], cos.shape[1]
        ys = tuple(np.empty((*shape, len(weight) // head_dim, head_dim), x.dtype) for weight in weights)
        _qkv_rope(x, tuple(weights), cos, sin, ys)
        return ys

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate) * up in one pass."""
        y = np.empty_like(gate)
        _swiglu(_rows(gate), _rows(up), _rows(y))
        return y

    def swiglu_backward(self, g: Array, gate: Array, up: Array) -> tuple[Array, Array]:
        """Both gradients in one pass, with the sigmoid computed again instead of stored."""
        dgate, dup = np.empty_like(gate), np.empty_like(up)
        _swiglu_backward(_rows(g), _rows(gate), _rows(up), _rows(dgate), _rows(dup))
        return dgate, dup

    def embedding_backward(self, g: Array, ids: Array, rows: int) -> Array:
        """A scatter-add without np.add.at's checks."""
        table = np.zeros((rows, g.shape[-1]), dtype=g.dtype)
        _embedding_backward(np.ascontiguousarray(g), ids, table)
        return table

    def attention(
        self, q: Array, k: Array, v: Array, sinks: Array | None, rules: AttentionRules
    ) -> tuple[Array, Array]:
        """Where all keys before a query are seen, one compiled loop; else the reference, with a compiled softmax."""
        if not _is_causal_alone(q, sinks, rules):
            return super().attention(q, k, v, sinks, rules)
        (B, T, H, _), K = q.shape, k.shape[2]
        q, k, v = map(np.ascontiguousarray, (q, k, v))
        out, lse = np.empty((B, T, H, v.shape[-1]), q.dtype), np.empty((B, H, T), q.dtype)
        causal_attention(q, k, v, q.dtype.type(rules.scale), out, lse)
        return out, lse.reshape(B, K, H // K, T, 1)

    def attention_backward(
        self,
        g: Array,
        q: Array,
        k: Array,
        v: Array,
        sinks: Array | None,
        rules: AttentionRules,
        out: Array,
        lse: Array,
    ) -> tuple[Array, Array, Array, Array | None]:
        """As in `attention`."""
        if not _is_causal_alone(q, sinks, rules):
            return super().attention_backward(g, q, k, v, sinks, rules, out, lse)
        B, T, H, _ = q.shape
        g, q, k, v = map(np.ascontiguousarray, (g, q, k, v))
        dq, dk, dv = map(np.empty_like, (q, k, v))
        causal_attention_backward(g, q, k, v, q.dtype.type(rules.scale), out, lse.reshape(B, H, T), dq, dk, dv)
        return dq, dk, dv, None

    def masked_softmax(
        self, scores: Array, rules: AttentionRules, allowed: Array, distance: Array, sinks: Array | None
    ) -> tuple[Array, Array]:
        """In place: the scores' memory becomes the probabilities'."""
        B, K, G, T, S = scores.shape
        lse = np.empty((B, K, G, T, 1), dtype=scores.dtype)
        if sinks is None:
            sinks = np.full(K * G, -np.inf, dtype=scores.dtype)
        bent = _numbers(rules, scores.dtype, K * G)
        _masked_softmax(scores.reshape(B, K * G, T, S), *bent, sinks, allowed, distance[0, 0], lse.reshape(B, K * G, T))
        return scores, lse

    def masked_softmax_backward(
        self,
        scores: Array,
        rules: AttentionRules,
        allowed: Array,
        distance: Array,
        lse: Array,
        dweights: Array,
        delta: Array,
    ) -> tuple[Array, Array]:
        """In place: the scores become the probabilities, dweights the dot products' gradient."""
        B, K, G, T, S = scores.shape
        heads, dheads = scores.reshape(B, K * G, T, S), dweights.reshape(B, K * G, T, S)
        lse, delta = lse.reshape(B, K * G, T), delta.reshape(B, K * G, T)
        bent = _numbers(rules, scores.dtype, K * G)
        _masked_softmax_backward(heads, *bent, allowed, distance[0, 0], lse, dheads, delta)
        return scores, dweights

    def top_k(self, scores: Array, k: int) -> Array:
        """Without sorting what is not among the k largest."""
        chosen = np.empty((len(scores), k), dtype=np.int64)
        _top_k(np.ascontiguousarray(scores), chosen)
        return chosen

    def grouped_linears(self, x: Array, weights: Sequence[Array], offsets: Sequence[int]) -> Sequence[Array]:
        """All experts in one call, where products are ours; an expert's rows are near for its second matrix."""
        x = np.ascontiguousarray(x)
        if not self._are_ours([x], weights):
            return super().grouped_linears(x, weights, offsets)
        ys = tuple(np.empty((len(x), weight.shape[1]), x.dtype) for weight in weights)
        _grouped(x, tuple(weights), np.array(offsets), ys)
        return ys

    def grouped_linears_backward(
        self, gs: Sequence[Array], x: Array, weights: Sequence[Array], offsets: Sequence[int]
    ) -> tuple[Array, Sequence[Array]]:
        """As in `grouped_linears`."""
        x, *gs = map(np.ascontiguousarray, (x, *gs))
        if not self._are_ours([x, *gs], weights):
            return super().grouped_linears_backward(gs, x, weights, offsets)
        dx, dweights = np.empty_like(x), tuple(map(np.empty_like, weights))
        _grouped_backward(tuple(gs), x, tuple(weights), np.array(offsets), dx, dweights)
        return dx, dweights

    def _are_ours(self, rows: Sequence[Array], weights: Sequence[Array]) -> bool:
        """Whether compiled loops make the products of rows (N, ...) and weights (..., out, in): they read float32
        numbers in one piece, and take several arrays only if the compiler sees them as of one type."""
        if not self._ours or min(n for weight in weights for n in weight.shape[-2:]) < FEW:
            return False
        arrays = (*rows, *weights)
        return all(a.dtype == np.float32 and a.flags.c_contiguous and a.flags.writeable for a in arrays)

    def swiglu_mlp(self, x: Array, gate: Array, up: Array, down: Array) -> tuple[Array, tuple[Any, ...]]:
        """All of it in one call, some rows after the other, where products are ours."""
        if len(x) < FEW or not self._are_ours([x], [gate, up, down]):
            return super().swiglu_mlp(x, gate, up, down)
        return self.grouped_swiglu_mlp(x, gate[None], up[None], down[None], (0, len(x)))

    def swiglu_mlp_backward(
        self, g: Array, x: Array, gate: Array, up: Array, down: Array, saved: tuple[Any, ...], needs: Sequence[bool]
    ) -> Sequence[Array | None]:
        """As in `swiglu_mlp`, where all gradients are needed."""
        g, weights = np.ascontiguousarray(g), [gate, up, down]
        if len(saved) == 1 and not (all(needs) and self._are_ours([g, x], weights)):
            saved = x, weights, *self._factors(saved[0])
        if len(saved) > 1:
            return super().swiglu_mlp_backward(g, x, gate, up, down, saved, needs)
        dx, *dweights = self.grouped_swiglu_mlp_backward(g, x, gate[None], up[None], down[None], saved, (0, len(x)))
        return [dx, *(dweight[0] for dweight in dweights)]

    def llama_layer(self, x: Array, weights: Sequence[Array], rules: LayerRules) -> LayerStates:
        """In one call, where products are ours."""
        x = np.ascontiguousarray(x)
        if not self._takes_layer([x], weights):
            return super().llama_layer(x, weights, rules)
        from .numba_layer import forward

        return forward(x, weights, rules)

    def llama_layer_backward(
        self,
        g: Array,
        x: Array,
        weights: Sequence[Array],
        rules: LayerRules,
        states: LayerStates,
        prompts: Sequence[Array],
        needs: Sequence[bool],
    ) -> tuple[Array | None, Sequence[Array], Sequence[Array | None]]:
        """As in `llama_layer`, where all gradients are needed."""
        x = np.ascontiguousarray(x)
        if not (all(needs) and self._takes_layer([x, *states[:4], *states[5:]], weights)):
            return super().llama_layer_backward(g, x, weights, rules, states, prompts, needs)
        from .numba_layer import backward

        return backward(g, x, weights, rules, states, prompts)

    def _takes_layer(self, arrays: Sequence[Array], weights: Sequence[Array]) -> bool:
        rows = arrays[0].shape[0] * arrays[0].shape[1]
        return rows >= FEW and self._are_ours([*arrays, *weights[:2]], weights[2:])

    def grouped_swiglu_mlp(
        self, x: Array, gate: Array, up: Array, down: Array, offsets: Sequence[int]
    ) -> tuple[Array, tuple[Array, ...]]:
        """As in `swiglu_mlp`: what an expert has computed is near when it goes on with it.

        Kept are the two factors, in one array; their product is made once more on the way back.
        """
        x = np.ascontiguousarray(x)
        if not self._are_ours([x], [gate, up, down]):
            return super().grouped_swiglu_mlp(x, gate, up, down, offsets)
        both, y = (np.empty((len(x), width), x.dtype) for width in (2 * gate.shape[1], down.shape[1]))
        _swiglu_mlp(x, (gate, up, down), np.array(offsets), both, y)
        return y, (both,)

    def grouped_swiglu_mlp_backward(
        self, g: Array, x: Array, gate: Array, up: Array, down: Array, saved: tuple[Array, ...], offsets: Sequence[int]
    ) -> Sequence[Array]:
        """As in `grouped_swiglu_mlp`."""
        g, x, weights = np.ascontiguousarray(g), np.ascontiguousarray(x), (gate, up, down)
        if len(saved) == 1 and not self._are_ours([g, x], weights):
            saved = self._factors(saved[0])
        both, *others = saved
        if others:
            return super().grouped_swiglu_mlp_backward(g, x, gate, up, down, saved, offsets)
        dx, dweights = np.empty_like(x), tuple(map(np.empty_like, weights))
        _swiglu_mlp_backward(g, x, weights, np.array(offsets), both, dx, dweights)
        return [dx, *dweights]

    def combine(self, rows: Array, weights: Array, pairs: Array) -> Array:
        """Each token sums up its own rows."""
        y = np.empty((len(weights), rows.shape[-1]), dtype=rows.dtype)
        _combine(np.ascontiguousarray(rows), np.ascontiguousarray(weights), _places(pairs, weights.shape), y)
        return y

    def combine_backward(self, g: Array, rows: Array, weights: Array, pairs: Array) -> tuple[Array, Array]:
        """Both gradients in one pass over the tokens."""
        drows, dweights = np.empty_like(rows), np.empty(weights.shape, dtype=weights.dtype)
        g, rows, weights = map(np.ascontiguousarray, (g, rows, weights))
        _combine_backward(g, rows, weights, _places(pairs, weights.shape), drows, dweights)
        return drows, dweights

    def cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """In place: the logits' memory becomes the gradient's."""
        losses = np.empty(len(logits), dtype=logits.dtype)
        _cross_entropy(logits, targets, losses)
        return losses, logits

    def log_probs(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """One pass over a row for its highest number, one for both sums."""
        logps, entropies = np.empty((2, len(logits)), dtype=logits.dtype)
        _log_probs(logits, targets, logps, entropies)
        return logps, entropies

    def log_probs_backward(self, dlogps: Array, dentropies: Array, logits: Array, targets: Array) -> Array:
        """In place."""
        found = self.log_probs(logits, targets)
        _log_probs_backward(dlogps, dentropies, logits, targets, *found)
        return logits

    def adamw(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
        scale: float = 1.0,
    ) -> None:
        """All four arrays are read once and written once."""
        real = p.dtype.type
        settings = (real(s) for s in (scale, *adamw_settings(lr, beta1, beta2, eps, weight_decay, step)))
        flat = (p.reshape(-1), np.ascontiguousarray(g).reshape(-1), m.reshape(-1), v.reshape(-1))
        _adamw(*flat, *settings)

    def adamw_all(
        self,
        updates: Sequence[tuple[Array, ...]],
        settings: Sequence[dict[str, Any]],
        scale: float,
        memo: dict[str, Any],
    ) -> None:
        """In one call, by a table of where the arrays stand; only gradients stand elsewhere at each step."""
        standing, known = [array for p, _, m, v in updates for array in (p, m, v)], memo.get("arrays", [None])
        try:
            if len(known) != len(standing) or not all(map(operator.is_, standing, known)):
                rows = [(*(address_of(array, write=True) for array in (p, m, v)), 0, p.size) for p, _, m, v in updates]
                memo.update(arrays=standing, table=np.array(rows, np.int64).reshape(-1, 5))
            memo["table"][:, 3] = [address_of(g) for _, g, _, _ in updates]
        except ValueError:  # some are not float32 in one piece, or must not be written to
            return super().adamw_all(updates, settings, scale, memo)
        numbers = [(scale, *adamw_settings(**its_own)) for its_own in settings]
        _adamw_all(memo["table"], np.array(numbers, np.float32).reshape(-1, 7))


def _keep_freed_memory() -> None:
    """Ask glibc to keep freed arrays for the next ones instead of handing their pages back to the system.

    A training step frees and allocates the same sizes again and again; the page faults of fresh memory cost a quarter
    of the time of a small model's step. Where there is no glibc, nothing happens.
    """
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # from malloc.h
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(m_mmap_threshold, 32 << 20)  # the most that glibc accepts
        libc.mallopt(m_trim_threshold, 1 << 30)
        libc.mallopt(m_top_pad, 64 << 20)  # as large as a heap of a thread's own: none of these is given back


def _suits(a: Array, b: Array, out: Array) -> bool:
    """Whether our own product can make this one: float32, of some size, both matrices in one piece or transposed so."""
    fits = a.shape[1] == b.shape[0] and out.shape == (len(a), b.shape[1]) and min(out.shape) >= FEW
    return fits and a.dtype == b.dtype == np.float32 and a.flags.forc and b.flags.forc and out.strides[1] == 4


def _is_causal_alone(q: Array, sinks: Array | None, rules: AttentionRules) -> bool:
    """Whether a query sees all keys before it, and scores are only scaled."""
    others = (sinks, rules.q_documents, rules.window, rules.softcap, rules.slopes, rules.selected)
    plain = all(rule is None for rule in others) and rules.scale > 0
    return plain and q.dtype == np.float32


def _numbers(rules: AttentionRules, dtype: Any, heads: int) -> tuple[Any, Any, Array]:
    """Scale, cap and slopes for the compiled loops, where 0 stands for what is not asked for."""
    slopes = np.zeros(heads) if rules.slopes is None else rules.slopes
    return dtype.type(rules.scale), dtype.type(rules.softcap or 0), slopes.astype(dtype)


def _places(pairs: Array, shape: tuple[int, ...]) -> Array:
    """Where the row of each pair stands, (N, k): `pairs` the other way round, with -1 for a pair that has no row."""
    places = np.full(math.prod(shape), -1)
    places[pairs] = np.arange(len(pairs))
    return places.reshape(shape)


def _rows(x: Array) -> Array:
    """(..., C) -> (N, C), contiguous, so that the inner loop runs over neighbouring numbers."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])
