"""Every kernel in plain NumPy: the definition that the other backends must agree with, and the one to read.

A kernel takes and returns raw arrays. Letters used in shape comments:

    B batch   T tokens (queries)   S keys   H query heads   K key/value heads   G = H / K   D head_dim
    N rows (batch x tokens)   C channels (hidden_size)   V vocabulary
    E experts   P pairs of a token and one of the experts it is sent to, at most k a token
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .decoding import DecoderWeights

Array = Any  # a numpy.ndarray, or a cupy.ndarray on the GPU backend

ATTENTION_BLOCK = 64  # queries handled at a time: the scores held are (B, H, ATTENTION_BLOCK, S)
LOSS_CHUNK = 1024  # rows of logits held at a time by the fused output layer


@dataclass(frozen=True)
class AttentionRules:
    """What attention does besides comparing queries and keys. Only the scale is needed; chapter 06 is about the rest.

    scale multiplies the dot products; softcap c then bends them to c tanh(s / c); slopes (H,) take that much away for
    each token of distance (ALiBi). A query sees no key after it; with a window, only itself and the window - 1 before
    it; with documents, q (B, T) and k (B, S), only keys of an equal number; with selected (B, T, n), only those keys.
    """

    scale: float
    q_documents: Array | None = None
    k_documents: Array | None = None
    window: int | None = None
    softcap: float | None = None
    slopes: Array | None = None
    selected: Array | None = None


class LayerStates(NamedTuple):
    """What one layer computes of n tokens of B texts, and gradients are made of.

    queries (B, n, H, D) and keys (B, n, K, D), both turned; values (B, n, K, D); mixed (B, n, H, D), what attention
    finds, and lse (B, n, H), the log of each softmax's denominator; the residual stream (B, n, C) in the middle, with
    attention added, and at the end of the layer; factors (B, n, 2 I), gate and up-projection side by side.
    """

    queries: Array
    keys: Array
    values: Array
    mixed: Array
    lse: Array
    middle: Array
    factors: Array
    end: Array


class LayerRules(NamedTuple):
    """What a layer of Llama needs besides x and weights: cosines and sines (1, T, R / 2), channels of a head, what
    multiplies dot products, and the small number in each of its two norms."""

    cos: Array
    sin: Array
    head_dim: int
    scale: float
    eps: tuple[float, float]


class ReferenceBackend:
    """The kernels, in NumPy. Other backends inherit from it and override what is worth overriding."""

    name = "numpy"
    xp: Any = np
    on_device = False  # whether arrays live where the host has to wait for them
    keeps_counts = False  # whether the host must not wait just now, not even for a number of rows
    whole_layers = False  # whether `llama_layer` is worth calling, instead of its parts one by one
    threads = 1  # how many parts of a batch it is worth computing at once

    @contextmanager
    def one_thread_each(self) -> Iterator[None]:
        """Inside the block, no operation is split over threads of its own: they are all taken (see `lanes`)."""
        yield

    def compile_decoder(self, weights: DecoderWeights) -> Any:
        """A model's decode step as one call for all layers (see `decoding`); None where there is no compiler."""
        return None

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """An array of this backend; Python numbers and lists of floats become float32."""
        array = self.xp.asarray(values, dtype=dtype)
        if dtype is None and array.dtype == np.float64 and not hasattr(values, "dtype"):
            array = array.astype(np.float32)
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        """The same values as a NumPy array in the computer's main memory."""
        return np.asarray(array)

    def any(self, condition: Any) -> bool:
        """Whether a condition holds anywhere: for checks of values. A GPU may be told not to wait for the answer."""
        return bool(self.xp.any(condition))

    def count(self, condition: Array) -> Any:
        """How often a condition holds: a whole number, or on a GPU that is not waited for, an array with one."""
        return int(condition.sum())

    def bincount(self, ids: Array, size: int) -> Array:
        """How often each number below `size` occurs in ids (N,): (size,). Negative ids do not count."""
        return self.xp.bincount(ids + 1, minlength=size + 1)[1:]

    def operand(self, x: Array) -> Array:
        """What `matmul` reads of a matrix: the matrix, or where products are made in fewer bits, a rounded copy."""
        return x

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b: (..., n, k) and (..., k, m), the leading axes broadcast."""
        return a @ b

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """The product of two matrices into `out`, or added to what is there."""
        if add:
            out += self.matmul(a, b)
        else:
            self.xp.matmul(a, b, out=out)

    def linears(self, x: Array, weights: Sequence[Array]) -> Sequence[Array]:
        """x weight^T for each weight: x (N, in), weights (out, in) -> (N, out) each."""
        return [self.matmul(x, weight.T) for weight in weights]

    def linears_backward(
        self, gs: Sequence[Array], x: Array, weights: Sequence[Array], needs: Sequence[bool]
    ) -> tuple[Array | None, Sequence[Array | None]]:
        """Gradients of `linears` for x and each weight, of which some are needed, from those of the results."""
        dx = None
        for g, weight in zip(gs, weights, strict=True) if needs[0] else ():
            if dx is None:
                dx = self.matmul(g, weight)
            else:
                self.multiply(g, weight, dx, add=True)
        return dx, [self.matmul(g.T, x) if need else None for g, need in zip(gs, needs[1:], strict=True)]

    def sort_by_expert(self, choices: Array, num_experts: int) -> tuple[Array, Array]:
        """`nn.moe.sort_by_expert` without a number that the host has to know, for a GPU that is not waited for.

        All N k pairs, sorted by expert, with -1 for those that are left out, which come first: (N k,); and where each
        expert's begin, with the end of the last (E + 1,).
        """
        chosen = choices.reshape(-1)
        order = self.xp.argsort(chosen, kind="stable")
        pairs = self.xp.where(chosen[order] < 0, -1, order)
        return pairs, self.xp.searchsorted(chosen[order], self.xp.arange(num_experts + 1))

    def softmax(self, x: Array) -> Array:
        """exp(x) / sum(exp(x)) along the last axis, with the maximum taken out so that exp cannot overflow."""
        e = self.xp.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def log_softmax(self, x: Array) -> Array:
        """log(softmax(x)) along the last axis, without ever taking the log of a rounded-off zero."""
        shifted = x - x.max(axis=-1, keepdims=True)
        return shifted - self.xp.log(self.xp.exp(shifted).sum(axis=-1, keepdims=True))

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), written with tanh so that no sign of x overflows."""
        return 0.5 * (self.xp.tanh(0.5 * x) + 1)

    def erf(self, x: Array) -> Array:
        """The error function, by the three rational approximations of Cody (1969): good to the last digit of float64.

        Near zero erf itself; further out its distance from 1, which falls like exp(-x^2).
        """
        xp, size = self.xp, self.xp.abs(x)
        square = x * x
        near = x * _ratio(xp.minimum(square, 0.25), _ERF_NEAR)
        middle = xp.exp(-square) * _ratio(xp.clip(size, 0.46875, 4.0), _ERF_MIDDLE)
        inverse = 1 / xp.maximum(square, 16.0)
        tail = inverse * _ratio(inverse, _ERF_FAR)
        far = xp.exp(-square) * (1 / math.sqrt(math.pi) - tail) / xp.maximum(size, 4.0)
        outside = xp.sign(x) * (1 - xp.where(size <= 4.0, middle, far))
        return xp.where(size <= 0.46875, near, outside).astype(x.dtype)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
        """Root-mean-square normalisation (Zhang and Sennrich 2019). x (N, C) -> y (N, C), 1/rms (N, 1)."""
        inverse_rms = 1 / self.xp.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
        return x * inverse_rms * weight, inverse_rms

    def rms_norm_backward(self, g: Array, x: Array, weight: Array, inverse_rms: Array) -> tuple[Array, Array]:
        """Gradients of `rms_norm` for x (N, C) and weight (C,)."""
        normed = x * inverse_rms
        scaled = g * weight
        dx = inverse_rms * (scaled - normed * (scaled * normed).mean(axis=-1, keepdims=True))
        return dx, (g * normed).sum(axis=0)

    def add_rms_norm(self, x: Array, y: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
        """x + y, the `rms_norm` of it, and its 1/rms: x and y (N, C)."""
        total = x + y
        return total, *self.rms_norm(total, weight, eps)

    def add_rms_norm_backward(
        self, dtotal: Array, g: Array, total: Array, weight: Array, inverse_rms: Array
    ) -> tuple[Array, Array]:
        """Gradients for x, which is that for y too, and weight, from those of the sum and of its norm."""
        dx, dweight = self.rms_norm_backward(g, total, weight, inverse_rms)
        return dx + dtotal, dweight

    def rope(self, x: Array, cos: Array, sin: Array) -> Array:
        """Rotate the pairs (x[i], x[i + D/2]) by their angles (Su et al. 2021, in Llama's half-split layout).

        x (B, T, H, D); cos and sin (B or 1, T, R/2). Channels from R on stay as they are, with R for D above.
        The inverse, and so the vjp, is the same with -sin.
        """
        half = cos.shape[-1]
        cos, sin = cos[:, :, None, :], sin[:, :, None, :]  # (B or 1, T, 1, R/2)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return self.xp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)

    def qkv_rope(self, x: Array, weights: Sequence[Array], cos: Array, sin: Array, head_dim: int) -> Sequence[Array]:
        """Queries, keys and values by their weights, the first two turned by `rope`: x (N, C) -> (B, T, H, D) each."""
        q, k, v = (y.reshape(-1, cos.shape[1], y.shape[1] // head_dim, head_dim) for y in self.linears(x, weights))
        return self.rope(q, cos, sin), self.rope(k, cos, sin), v

    def qkv_rope_backward(
        self, gs: Sequence[Array], x: Array, weights: Sequence[Array], cos: Array, sin: Array, needs: Sequence[bool]
    ) -> tuple[Array | None, Sequence[Array | None]]:
        """Gradients of `qkv_rope` for x and each weight, of which some are needed, from those of the results."""
        q, k, v = gs
        turned = self.rope(q, cos, -sin), self.rope(k, cos, -sin), v
        return self.linears_backward([self.operand(g.reshape(len(x), -1)) for g in turned], x, weights, needs)

    def silu(self, x: Array) -> Array:
        """x * sigmoid(x) (Hendrycks and Gimpel 2016; also called swish)."""
        return x * self.sigmoid(x)

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate) * up, the gated activation of Shazeer (2020)."""
        return self.silu(gate) * up

    def swiglu_backward(self, g: Array, gate: Array, up: Array) -> tuple[Array, Array]:
        """Gradients of `swiglu` for gate and up."""
        s = self.sigmoid(gate)
        silu = gate * s
        return g * up * (s + silu * (1 - s)), g * silu

    def embedding_backward(self, g: Array, ids: Array, rows: int) -> Array:
        """Sum the gradient rows g (N, C) that belong to the same id: ids (N,) -> (rows, C)."""
        table = self.xp.zeros((rows, g.shape[-1]), dtype=g.dtype)
        self.xp.add.at(table, ids, g)
        return table

    def attention_scores(self, scores: Array, rules: AttentionRules, allowed: Array, distance: Array) -> Array:
        """From dot products to what softmax gets: scale, cap, ALiBi's slope, and -inf where a key may not be seen.

        scores (B, K, G, T, S), allowed (B or 1, T, S) of booleans, distance (T, S): how far back each key stands.
        """
        scores = scores * scores.dtype.type(rules.scale)
        if rules.softcap is not None:
            scores = rules.softcap * self.xp.tanh(scores / rules.softcap)
        if rules.slopes is not None:
            slopes = rules.slopes.astype(scores.dtype).reshape(scores.shape[1], -1, 1, 1)  # (K, G, 1, 1)
            scores = scores - slopes * distance.astype(scores.dtype)
        return self.xp.where(allowed[:, None, None], scores, -math.inf)

    def masked_softmax(
        self, scores: Array, rules: AttentionRules, allowed: Array, distance: Array, sinks: Array | None
    ) -> tuple[Array, Array]:
        """Softmax over the keys a query may see: the arguments of `attention_scores`, and sinks (H,).

        A sink is one more score, of a key whose value is zero: it takes its share of the attention and gives nothing
        (Xiao et al. 2023; learned in GPT-OSS). Returns the probabilities of the keys, and the log-sum-exp
        (B, K, G, T, 1) from which the backward pass finds them again.
        """
        scores = self.attention_scores(scores, rules, allowed, distance)
        top = scores.max(axis=-1, keepdims=True)
        if sinks is not None:
            sinks = sinks.reshape(scores.shape[1], -1, 1, 1)  # (K, G, 1, 1)
            top = self.xp.maximum(top, sinks)
        weights = self.xp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + self.xp.exp(sinks - top)
        return weights / total, top + self.xp.log(total)

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
        """Probabilities again, and the gradient of the dot products: p * (dp - delta), then back through the cap."""
        weights = self.xp.exp(self.attention_scores(scores, rules, allowed, distance) - lse)
        dscores = weights * (dweights - delta) * rules.scale
        if rules.softcap is not None:
            dscores = dscores * (1 - self.xp.tanh(scores * (rules.scale / rules.softcap)) ** 2)
        return weights, dscores

    def attention(
        self, q: Array, k: Array, v: Array, sinks: Array | None, rules: AttentionRules
    ) -> tuple[Array, Array]:
        """Causal attention (Vaswani et al. 2017) for any number of key/value heads that divides the query heads.

        q (B, T, H, D); k (B, S, K, D) and v (B, S, K, E), S >= T: the queries are the last T of the S positions.
        sinks (H,) or None. Returns the output (B, T, H, E) and the log-sum-exp (B, K, G, T, 1).
        """
        B, T, H, D = q.shape
        S, K, G = k.shape[1], k.shape[2], H // k.shape[2]
        keys, values = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)  # (B, K, D, S), (B, K, S, E)
        if T > D:  # so many products are faster with a copy in their own order, by more than the copy costs
            keys = self.xp.ascontiguousarray(keys)
        out = self.xp.empty((B, T, H, v.shape[-1]), dtype=q.dtype)
        lse = self.xp.empty((B, K, G, T, 1), dtype=q.dtype)
        for rows, seen in _query_blocks(T, S, rules.window):
            t, s = rows.stop - rows.start, seen.stop - seen.start
            scores = _group(q[:, rows], K) @ keys[..., seen]  # (B, K, G*t, s)
            allowed, distance = self.visible(rows, seen, S - T, rules)
            weights, lse[:, :, :, rows] = self.masked_softmax(
                scores.reshape(B, K, G, t, s), rules, allowed, distance, sinks
            )
            out[:, rows] = _ungroup(weights.reshape(B, K, G * t, s) @ values[:, :, seen], H)
        return out, lse

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
        """Gradients of `attention`. The probabilities are computed again, block by block, from the log-sum-exp.

        With o = p v, the softmax's own vjp needs sum_j p_ij dp_ij, which equals sum_e g_ie o_ie: a sum over
        head_dim instead of over the keys (Dao et al. 2022, section 3.1). A sink's own dp is zero.
        """
        B, T, H, D = q.shape
        S, K, G = k.shape[1], k.shape[2], H // k.shape[2]
        keys, key_columns, value_columns = k.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 3, 1)
        if T > D:  # see `attention`
            key_columns, value_columns = map(self.xp.ascontiguousarray, (key_columns, value_columns))
        dq = self.xp.empty_like(q)
        dk, dv = self.xp.zeros_like(k), self.xp.zeros_like(v)
        delta = _group(self.xp.einsum("bthe,bthe->bth", g, out)[..., None], K).reshape(B, K, G, T, 1)
        for rows, seen in _query_blocks(T, S, rules.window):
            t, s = rows.stop - rows.start, seen.stop - seen.start
            queries, dout = _group(q[:, rows], K), _group(g[:, rows], K)  # (B, K, G*t, D), (B, K, G*t, E)
            scores = queries @ key_columns[..., seen]  # (B, K, G*t, s)
            dweights = dout @ value_columns[..., seen]
            weights, dscores = self.masked_softmax_backward(
                scores.reshape(B, K, G, t, s),
                rules,
                *self.visible(rows, seen, S - T, rules),
                lse[:, :, :, rows],
                dweights.reshape(B, K, G, t, s),
                delta[:, :, :, rows],
            )
            weights, dscores = weights.reshape(B, K, G * t, s), dscores.reshape(B, K, G * t, s)
            dq[:, rows] = _ungroup(dscores @ keys[:, :, seen], H)
            dk[:, seen] += (dscores.swapaxes(-1, -2) @ queries).transpose(0, 2, 1, 3)
            dv[:, seen] += (weights.swapaxes(-1, -2) @ dout).transpose(0, 2, 1, 3)
        if sinks is None:
            return dq, dk, dv, None
        dsinks = -(self.xp.exp(sinks.reshape(K, G, 1, 1) - lse) * delta).sum(axis=(0, 3, 4))  # (K, G)
        return dq, dk, dv, dsinks.reshape(H)

    def visible(self, rows: slice, seen: slice, offset: int, rules: AttentionRules) -> tuple[Array, Array]:
        """Which keys each query of a block may see, (B or 1, t, s) of booleans, and how far back they stand, (t, s).

        `rows` are queries, of which the first stands at position `offset`; `seen` are keys.
        """
        xp = self.xp
        queries, keys = xp.arange(rows.start, rows.stop) + offset, xp.arange(seen.start, seen.stop)
        distance = queries[:, None] - keys
        allowed = distance >= 0  # causal: no key after the query
        if rules.window is not None:
            allowed &= distance < rules.window
        allowed = allowed[None]
        if rules.q_documents is not None and rules.k_documents is not None:
            allowed = allowed & (rules.q_documents[:, rows, None] == rules.k_documents[:, None, seen])
        if rules.selected is not None:
            texts, length, _ = rules.selected.shape
            chosen = xp.zeros((texts, len(queries), offset + length), dtype=bool)  # (B, t, S)
            text, line, _ = xp.ogrid[:texts, : len(queries), :1]
            chosen[text, line, rules.selected[:, rows]] = True
            allowed = allowed & chosen[..., seen]
        return allowed, distance

    def top_k(self, scores: Array, k: int) -> Array:
        """Where the k largest of each row stand, the largest first and of equals the first: (N, E) -> (N, k)."""
        return self.xp.argsort(-scores, axis=-1, kind="stable")[:, :k]

    def grouped_linear(self, x: Array, weight: Array, offsets: Sequence[int]) -> Array:
        """Each group of rows times a matrix of its own: x (P, in), weight (E, out, in) -> (P, out).

        Group e is the rows from offsets[e] to offsets[e + 1]; it may be empty.
        """
        y = self.xp.empty((len(x), weight.shape[1]), dtype=x.dtype)
        for e, rows in _groups(offsets):
            self.multiply(x[rows], weight[e].T, y[rows])
        return y

    def grouped_linear_backward(
        self, g: Array, x: Array, weight: Array, offsets: Sequence[int]
    ) -> tuple[Array, Array]:
        """Gradients of `grouped_linear` for x and weight: that of a matrix whose group is empty is zero."""
        dx, dweight = self.xp.empty_like(x), self.xp.empty_like(weight)
        dweight[np.diff(offsets) == 0] = 0
        for e, rows in _groups(offsets):
            self.multiply(g[rows], weight[e], dx[rows])
            self.multiply(g[rows].T, x[rows], dweight[e])
        return dx, dweight

    def grouped_linears(self, x: Array, weights: Sequence[Array], offsets: Sequence[int]) -> Sequence[Array]:
        """`grouped_linear` with several matrices for each group."""
        return [self.grouped_linear(x, weight, offsets) for weight in weights]

    def grouped_linears_backward(
        self, gs: Sequence[Array], x: Array, weights: Sequence[Array], offsets: Sequence[int]
    ) -> tuple[Array, Sequence[Array]]:
        """Gradients of `grouped_linears` for x and each weight, from those of the results."""
        pairs = [self.grouped_linear_backward(g, x, weight, offsets) for g, weight in zip(gs, weights, strict=True)]
        dx = pairs[0][0]
        for more, _ in pairs[1:]:
            dx += more
        return dx, [dweight for _, dweight in pairs]

    def swiglu_mlp(self, x: Array, gate: Array, up: Array, down: Array) -> tuple[Array, tuple[Any, ...]]:
        """(silu(x gate^T) * x up^T) down^T, and what its gradients need: x (N, C), gate and up (I, C), down (C, I)."""
        rows, *matrices = map(self.operand, (x, gate, up, down))
        gated, upper = self.linears(rows, matrices[:2])  # (N, I) each
        inner = self.operand(self.swiglu(gated, upper))
        (y,) = self.linears(inner, matrices[2:])
        return y, (rows, matrices, gated, upper, inner)

    def swiglu_mlp_backward(
        self, g: Array, x: Array, gate: Array, up: Array, down: Array, saved: tuple[Any, ...], needs: Sequence[bool]
    ) -> Sequence[Array | None]:
        """Gradients of `swiglu_mlp` for x, gate, up and down, of which some are needed."""
        rows, matrices, gated, upper, inner = saved
        dinner, (ddown,) = self.linears_backward([self.operand(g)], inner, matrices[2:], (True, needs[3]))
        parts = [self.operand(part) for part in self.swiglu_backward(dinner, gated, upper)]
        dx, dweights = self.linears_backward(parts, rows, matrices[:2], needs[:3])
        return [dx, *dweights, ddown]

    def llama_layer(self, x: Array, weights: Sequence[Array], rules: LayerRules) -> LayerStates:
        """A layer of Llama: x (B, T, C) -> `LayerStates.end`, and what its gradients need.

        weights are those of both norms, of queries, keys, values and the attention's output, of gate, up and down.
        """
        norm, next_norm, *qkv, output, gate, up, down = weights
        rows, (B, T) = x.reshape(-1, x.shape[-1]), x.shape[:2]
        normed, _ = self.rms_norm(rows, norm, rules.eps[0])
        q, k, v = self.qkv_rope(normed, qkv, rules.cos, rules.sin, rules.head_dim)
        mixed, lse = self.attention(q, k, v, None, AttentionRules(rules.scale))
        (attended,) = self.linears(mixed.reshape(len(rows), -1), [output])
        middle, normed, _ = self.add_rms_norm(rows, attended, next_norm, rules.eps[1])
        factors = self.linears(normed, [gate, up])
        (fed,) = self.linears(self.swiglu(*factors), [down])
        streams = middle, self.xp.concatenate(factors, axis=1), middle + fed
        lse = lse.reshape(B, -1, T).transpose(0, 2, 1)
        return LayerStates(q, k, v, mixed, lse, *(stream.reshape(B, T, -1) for stream in streams))

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
        """Gradients of `llama_layer` for x, for what each text sees of its prompt, and for the weights.

        prompts are keys and values (B, P, K, D) that stand before the texts' own, or nothing; needs are for x and the
        weights.
        """
        norm, next_norm, *qkv, output, gate, up, down = weights
        stream, middle, g = (array.reshape(-1, x.shape[-1]) for array in (x, states.middle, g))  # (N, C)
        normed, inverse_rms = self.rms_norm(middle, next_norm, rules.eps[1])
        mlp, factors = (gate, up, down), states.factors.reshape(len(middle), -1)  # (N, 2 I)
        saved = self.operand(normed), [*map(self.operand, mlp)], *self._factors(factors)
        dnormed, *dmlp = self.swiglu_mlp_backward(g, normed, *mlp, saved, (True, *needs[7:]))
        dmiddle, dnext = self.add_rms_norm_backward(g, dnormed, middle, next_norm, inverse_rms)

        mixed = states.mixed.reshape(len(middle), -1)  # (N, H D)
        dmixed, doutput = self.linears_backward([dmiddle], mixed, [output], (True, needs[6]))
        assert dmixed is not None  # it was asked for
        keys, values = states.keys, states.values
        if prompts:
            keys, values = (self.xp.concatenate(pair, axis=1) for pair in zip(prompts, (keys, values), strict=True))
        before = keys.shape[1] - x.shape[1]
        lse = states.lse.transpose(0, 2, 1).reshape(len(x), keys.shape[2], -1, x.shape[1], 1)  # (B, K, H/K, T, 1)
        dq, *dseen, _ = self.attention_backward(
            dmixed.reshape(states.mixed.shape), states.queries, keys, values, None, AttentionRules(rules.scale),
            states.mixed, lse,
        )  # fmt: skip

        normed, inverse_rms = self.rms_norm(stream, norm, rules.eps[0])
        given = [dq, *(d[:, before:] for d in dseen)]
        dnormed, dqkv = self.qkv_rope_backward(given, normed, qkv, rules.cos, rules.sin, (True, *needs[3:6]))
        dx, dnorm = self.add_rms_norm_backward(dmiddle, dnormed, stream, norm, inverse_rms)
        dprompts = [d[:, :before] for d in dseen] if prompts else []
        return dx.reshape(x.shape), dprompts, [dnorm, dnext, *dqkv, *doutput, *dmlp]

    def _factors(self, both: Array) -> tuple[Array, Array, Array]:
        """The two factors of a block with a gate, of which both (N, 2 I) is the one beside the other, and the product
        that they are of."""
        gated, upper = self.xp.split(both, 2, axis=1)
        return gated, upper, self.operand(self.swiglu(gated, upper))

    def grouped_swiglu_mlp(
        self, x: Array, gate: Array, up: Array, down: Array, offsets: Sequence[int]
    ) -> tuple[Array, tuple[Array, ...]]:
        """`swiglu_mlp` with matrices of its own for each group of rows: gate and up (E, I, C), down (E, C, I)."""
        gated, upper = self.grouped_linears(x, [gate, up], offsets)  # (N, I) each
        inner = self.swiglu(gated, upper)
        (y,) = self.grouped_linears(inner, [down], offsets)
        return y, (gated, upper, inner)

    def grouped_swiglu_mlp_backward(
        self, g: Array, x: Array, gate: Array, up: Array, down: Array, saved: tuple[Array, ...], offsets: Sequence[int]
    ) -> Sequence[Array]:
        """Gradients of `grouped_swiglu_mlp` for x, gate, up and down."""
        gated, upper, inner = saved
        dinner, (ddown,) = self.grouped_linears_backward([g], inner, [down], offsets)
        parts = self.swiglu_backward(dinner, gated, upper)
        dx, dweights = self.grouped_linears_backward(parts, x, [gate, up], offsets)
        return [dx, *dweights, ddown]

    def combine(self, rows: Array, weights: Array, pairs: Array) -> Array:
        """Each token's weighted sum of the rows that are its own: rows (P, C), weights (N, k), pairs (P,) -> (N, C).

        Row p belongs to pair number pairs[p], which is token * k + choice. A pair without a row counts as zero.
        """
        tokens, k = weights.shape
        places = self.xp.zeros((tokens * k, rows.shape[-1]), dtype=rows.dtype)
        places[pairs] = rows * weights.reshape(-1)[pairs, None]
        return places.reshape(tokens, k, -1).sum(axis=1)

    def combine_backward(self, g: Array, rows: Array, weights: Array, pairs: Array) -> tuple[Array, Array]:
        """Gradients of `combine` for rows and weights."""
        mine = g[pairs // weights.shape[1]]  # (P, C)
        dweights = self.xp.zeros(weights.size, dtype=weights.dtype)
        dweights[pairs] = (mine * rows).sum(axis=-1)
        return mine * weights.reshape(-1)[pairs, None], dweights.reshape(weights.shape)

    def cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """-log softmax(logits)[target] a row, and its gradient for the logits. logits (N, V), targets (N,).

        Rows whose target is negative are ignored: their loss and their gradient are zero.
        """
        rows = self.xp.arange(len(targets))
        counted = targets >= 0
        safe = self.xp.where(counted, targets, 0)
        log_probabilities = self.log_softmax(logits)
        losses = self.xp.where(counted, -log_probabilities[rows, safe], 0)
        dlogits = self.xp.exp(log_probabilities)
        dlogits[rows, safe] -= 1
        return losses, dlogits * counted[:, None]

    def log_probs(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """The log-probability of each row's target, and the entropy -sum p log p of the row, in nats: (N,) each.

        logits (N, V), targets (N,) from 0 on.
        """
        log_p = self.log_softmax(logits)
        return log_p[self.xp.arange(len(targets)), targets], -(self.xp.exp(log_p) * log_p).sum(axis=-1)

    def log_probs_backward(self, dlogps: Array, dentropies: Array, logits: Array, targets: Array) -> Array:
        """The gradient of `log_probs` for the logits, for which their memory may be used."""
        log_p = self.log_softmax(logits)
        p = self.xp.exp(log_p)
        entropies = -(p * log_p).sum(axis=-1, keepdims=True)
        dlogits = -p * (dlogps[:, None] + dentropies[:, None] * (log_p + entropies))
        dlogits[self.xp.arange(len(targets)), targets] += dlogps
        return dlogits

    def linear_cross_entropy(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        targets: Array,
        softcap: float | None,
        needs_grad: bool,
    ) -> tuple[Array, Array | None, Array | None, Array | None]:
        """The output layer and its loss in one, a chunk of rows at a time, so that all logits never exist at once.

        x (N, C), weight (V, C), bias (V,), targets (N,) -> losses (N,), and where asked for the gradients of the *sum*
        of the losses for x, weight and bias. They are found here because the logits are at hand only here; the
        backward pass just scales them (the idea of Liger Kernel, Hsu et al. 2024).
        """
        losses = self.xp.empty(len(x), dtype=x.dtype)
        dx, dweight = self.xp.empty_like(x), self.xp.zeros_like(weight)
        dbias = None if bias is None else self.xp.zeros_like(bias)
        for start in range(0, len(x), LOSS_CHUNK):
            rows = slice(start, start + LOSS_CHUNK)
            logits = self.matmul(x[rows], weight.T)  # (rows, V)
            if bias is not None:
                logits += bias
            bent = None if softcap is None else self.xp.tanh(logits / softcap)
            losses[rows], dlogits = self.cross_entropy(logits if bent is None else softcap * bent, targets[rows])
            if not needs_grad:
                continue
            if bent is not None:
                dlogits = dlogits * (1 - bent * bent)
            self.multiply(dlogits, weight, dx[rows])
            self.multiply(dlogits.T, x[rows], dweight, add=True)
            if dbias is not None:
                dbias += dlogits.sum(axis=0)
        return losses, dx, dweight, dbias

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
        """One AdamW step in place (Loshchilov and Hutter 2019, algorithm 2). `scale` multiplies the gradient first."""
        g = g * p.dtype.type(scale)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g * g - v)
        p *= 1 - lr * weight_decay
        corrected = self.xp.sqrt(v) / math.sqrt(1 - beta2**step) + eps
        p -= (lr / (1 - beta1**step)) * m / corrected

    def adamw_all(
        self,
        updates: Sequence[tuple[Array, ...]],
        settings: Sequence[dict[str, Any]],
        scale: float,
        memo: dict[str, Any],
    ) -> None:
        """`adamw` for many parameters, from (p, g, m, v) and settings of each.

        memo is the caller's; in it a backend keeps what it would otherwise find out again at each step.
        """
        for arrays, its_own in zip(updates, settings, strict=True):
            self.adamw(*arrays, **its_own, scale=scale)

    def sum_of_squares(self, g: Array) -> float:
        """The squared Euclidean norm of an array, as a Python float."""
        return float(self.xp.vdot(g, g))  # unlike @, it lets other threads run meanwhile


# Numerators and denominators, highest power first, from W. J. Cody: Rational Chebyshev approximations for the error
# function. Mathematics of Computation 23, 1969.
_ERF_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_ERF_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_ERF_FAR = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """One polynomial divided by another, each by Horner's rule."""
    above, below = (functools.reduce(lambda y, c: y * x + c, row, 0.0) for row in coefficients)
    return above / below


def adamw_settings(
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int
) -> tuple[float, float, float, float, float, float]:
    """What an AdamW step multiplies by, for kernels that update in one pass."""
    # 1 - beta is taken before rounding: in float32, 1 - 0.999 would be wrong in the fifth digit.
    root = 1 / math.sqrt(1 - beta2**step)
    return 1 - beta1, 1 - beta2, 1 - lr * weight_decay, lr / (1 - beta1**step), root, eps


def _query_blocks(T: int, S: int, window: int | None = None, size: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys that its rows can see: none after the last, none before the window."""
    size = size or ATTENTION_BLOCK
    for start in range(0, T, size):
        stop = min(start + size, T)
        first = 0 if window is None else max(0, S - T + start - window + 1)
        yield slice(start, stop), slice(first, S - T + stop)


def _groups(offsets: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """The groups of rows that are not empty: number and rows."""
    return ((e, slice(*ends)) for e, ends in enumerate(itertools.pairwise(offsets)) if ends[0] < ends[1])


def _group(x: Array, K: int) -> Array:
    """(B, T, H, D) -> (B, K, G*T, D): the query heads that share a key/value head become more rows of it."""
    B, T, H, D = x.shape
    return x.reshape(B, T, K, H // K, D).transpose(0, 2, 3, 1, 4).reshape(B, K, H // K * T, D)


def _ungroup(x: Array, H: int) -> Array:
    """(B, K, G*T, D) -> (B, T, H, D): the inverse of `_group`."""
    B, K, rows, D = x.shape
    T = rows * K // H
    return x.reshape(B, K, H // K, T, D).transpose(0, 3, 1, 2, 4).reshape(B, T, H, D)
