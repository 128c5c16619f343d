"""Every kernel in plain NumPy: the definition that the other backends must agree with, and the one to read.

A kernel takes and returns raw arrays. Letters used in shape comments:

    B batch   T tokens (queries)   S keys   H query heads   K key/value heads   G = H / K   D head_dim
    N rows (batch x tokens)   C channels (hidden_size)   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray, or a cupy.ndarray on the GPU backend

ATTENTION_BLOCK = 128  # queries handled at a time: the scores held are (B, H, ATTENTION_BLOCK, S)
LOSS_CHUNK = 1024  # rows of logits held at a time by the fused output layer


class ReferenceBackend:
    """The kernels, in NumPy. Other backends inherit from it and override what is worth overriding."""

    name = "numpy"
    xp: Any = np

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """An array of this backend; Python numbers and lists of floats become float32."""
        array = self.xp.asarray(values, dtype=dtype)
        if dtype is None and array.dtype == np.float64 and not hasattr(values, "dtype"):
            array = array.astype(np.float32)
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        """The same values as a NumPy array in the computer's main memory."""
        return np.asarray(array)

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

    def rope(self, x: Array, cos: Array, sin: Array) -> Array:
        """Rotate the pairs (x[i], x[i + D/2]) by their angles (Su et al. 2021, in Llama's half-split layout).

        x (B, T, H, D); cos and sin (B or 1, T, D/2). The inverse, and so the vjp, is the same with -sin.
        """
        half = x.shape[-1] // 2
        cos, sin = cos[:, :, None, :], sin[:, :, None, :]  # (B or 1, T, 1, D/2)
        first, second = x[..., :half], x[..., half:]
        return self.xp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

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

    def masked_softmax(self, scores: Array, scale: float, allowed: Array) -> tuple[Array, Array]:
        """Softmax over the keys a query may see: scores (B, K, G, T, S), allowed (B or 1, T, S) of booleans.

        Returns the probabilities and the log-sum-exp (B, K, G, T, 1) from which the backward pass finds them again.
        """
        scores = self.xp.where(allowed[:, None, None], scores * scale, -math.inf)
        top = scores.max(axis=-1, keepdims=True)
        weights = self.xp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        return weights / total, top + self.xp.log(total)

    def masked_softmax_backward(
        self, scores: Array, scale: float, allowed: Array, lse: Array, dweights: Array, delta: Array
    ) -> tuple[Array, Array]:
        """Probabilities again, and the gradient of the scores: p * (dp - delta) * scale."""
        weights = self.xp.exp(self.xp.where(allowed[:, None, None], scores * scale, -math.inf) - lse)
        return weights, weights * (dweights - delta) * scale

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, q_documents: Array | None, k_documents: Array | None
    ) -> tuple[Array, Array]:
        """Causal attention (Vaswani et al. 2017) for any number of key/value heads that divides the query heads.

        q (B, T, H, D); k and v (B, S, K, D), S >= T: the queries are the last T of the S positions.
        q_documents (B, T) and k_documents (B, S) keep attention inside equal numbers; None means one document.
        Returns the output (B, T, H, D) and the log-sum-exp (B, K, G, T, 1).
        """
        B, T, H, _ = q.shape
        K, G = k.shape[2], H // k.shape[2]
        keys, values = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)  # (B, K, D, S), (B, K, S, D)
        out = self.xp.empty_like(q)
        lse = self.xp.empty((B, K, G, T, 1), dtype=q.dtype)
        for rows, S in _query_blocks(T, k.shape[1]):
            scores = _group(q[:, rows], K) @ keys[..., :S]  # (B, K, G*t, S)
            t = rows.stop - rows.start
            allowed = self._allowed(rows, S, k.shape[1] - T, q_documents, k_documents)
            weights, lse[:, :, :, rows] = self.masked_softmax(scores.reshape(B, K, G, t, S), scale, allowed)
            mixed = weights.reshape(B, K, G * t, S) @ values[:, :, :S]
            out[:, rows] = _ungroup(mixed, H)
        return out, lse

    def attention_backward(
        self,
        g: Array,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        lse: Array,
        scale: float,
        q_documents: Array | None,
        k_documents: Array | None,
    ) -> tuple[Array, Array, Array]:
        """Gradients of `attention`. The probabilities are computed again, block by block, from the log-sum-exp.

        With o = p v, the softmax's own vjp needs sum_j p_ij dp_ij, which equals sum_d g_id o_id: a sum over
        head_dim instead of over the keys (Dao et al. 2022, section 3.1).
        """
        B, T, H, _ = q.shape
        K, G = k.shape[2], H // k.shape[2]
        keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # (B, K, S, D)
        dq = self.xp.empty_like(q)
        dk, dv = self.xp.zeros_like(k), self.xp.zeros_like(v)
        for rows, S in _query_blocks(T, k.shape[1]):
            t = rows.stop - rows.start
            queries, dout = _group(q[:, rows], K), _group(g[:, rows], K)  # (B, K, G*t, D)
            delta = (dout * _group(out[:, rows], K)).sum(axis=-1).reshape(B, K, G, t, 1)
            scores = queries @ keys[:, :, :S].swapaxes(-1, -2)  # (B, K, G*t, S)
            dweights = dout @ values[:, :, :S].swapaxes(-1, -2)
            weights, dscores = self.masked_softmax_backward(
                scores.reshape(B, K, G, t, S),
                scale,
                self._allowed(rows, S, k.shape[1] - T, q_documents, k_documents),
                lse[:, :, :, rows],
                dweights.reshape(B, K, G, t, S),
                delta,
            )
            weights, dscores = weights.reshape(B, K, G * t, S), dscores.reshape(B, K, G * t, S)
            dq[:, rows] = _ungroup(dscores @ keys[:, :, :S], H)
            dk[:, :S] += (dscores.swapaxes(-1, -2) @ queries).transpose(0, 2, 1, 3)
            dv[:, :S] += (weights.swapaxes(-1, -2) @ dout).transpose(0, 2, 1, 3)
        return dq, dk, dv

    def _allowed(
        self, rows: slice, S: int, offset: int, q_documents: Array | None, k_documents: Array | None
    ) -> Array:
        """Which of the first S keys each query of a block may see: (B or 1, t, S) of booleans."""
        positions = self.xp.arange(rows.start, rows.stop) + offset
        allowed = (positions[:, None] >= self.xp.arange(S))[None]  # causal: no key after the query
        if q_documents is not None and k_documents is not None:
            allowed = allowed & (q_documents[:, rows, None] == k_documents[:, None, :S])
        return allowed

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

    def linear_cross_entropy(
        self, x: Array, weight: Array, targets: Array, needs_grad: bool
    ) -> tuple[Array, Array | None, Array | None]:
        """The output layer and its loss in one, a chunk of rows at a time, so that all logits never exist at once.

        x (N, C), weight (V, C), targets (N,) -> losses (N,), and where asked for the gradients of the *sum* of the
        losses for x and weight. They are found here because the logits are at hand only here; the backward pass
        just scales them (the idea of Liger Kernel, Hsu et al. 2024).
        """
        losses = self.xp.empty(len(x), dtype=x.dtype)
        dx = self.xp.empty_like(x) if needs_grad else None
        dweight = self.xp.zeros_like(weight) if needs_grad else None
        for start in range(0, len(x), LOSS_CHUNK):
            rows = slice(start, start + LOSS_CHUNK)
            losses[rows], dlogits = self.cross_entropy(x[rows] @ weight.T, targets[rows])
            if dx is not None and dweight is not None:
                dx[rows] = dlogits @ weight
                dweight += dlogits.T @ x[rows]
        return losses, dx, dweight

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

    def sum_of_squares(self, g: Array) -> float:
        """The squared Euclidean norm of an array, as a Python float."""
        flat = g.reshape(-1)
        return float(flat @ flat)


def _query_blocks(T: int, S: int) -> Iterator[tuple[slice, int]]:
    """Blocks of query rows, each with the number of keys that its last row can see."""
    for start in range(0, T, ATTENTION_BLOCK):
        stop = min(start + ATTENTION_BLOCK, T)
        yield slice(start, stop), S - T + stop


def _group(x: Array, K: int) -> Array:
    """(B, T, H, D) -> (B, K, G*T, D): the query heads that share a key/value head become more rows of it."""
    B, T, H, D = x.shape
    return x.reshape(B, T, K, H // K, D).transpose(0, 2, 3, 1, 4).reshape(B, K, H // K * T, D)


def _ungroup(x: Array, H: int) -> Array:
    """(B, K, G*T, D) -> (B, T, H, D): the inverse of `_group`."""
    B, K, rows, D = x.shape
    T = rows * K // H
    return x.reshape(B, K, H // K, T, D).transpose(0, 3, 1, 2, 4).reshape(B, T, H, D)
