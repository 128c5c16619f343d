"""Self-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .cache import LayerCache
from .module import Linear, Module
from .recorder import record


@dataclass
class Places:
    """Where the tokens of a batch stand: what every attention layer needs besides the hidden states.

    cos and sin (B or 1, T, D/2) turn queries and keys; documents number the T queries (B, T) and all S keys (B, S),
    and attention stays inside equal numbers. None means that all is one document.
    """

    cos: Array
    sin: Array
    q_documents: Array | None = None
    k_documents: Array | None = None


class Attention(Module):
    """Causal self-attention with rotary positions and any number of key/value heads that divides the query heads.

    As many key/value heads as query heads is multi-head attention (Vaswani et al. 2017), one is multi-query attention
    (Shazeer 2019), and anything between is grouped-query attention (Ainslie et al. 2023).
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        *,
        bias: bool,
        rng: np.random.Generator,
        std: float = 0.02,
    ):
        self.head_dim = head_dim
        self.scale = 1 / math.sqrt(head_dim)
        self.q_proj = Linear(hidden_size, num_attention_heads * head_dim, bias=bias, rng=rng, std=std)
        self.k_proj = Linear(hidden_size, num_key_value_heads * head_dim, bias=bias, rng=rng, std=std)
        self.v_proj = Linear(hidden_size, num_key_value_heads * head_dim, bias=bias, rng=rng, std=std)
        self.o_proj = Linear(num_attention_heads * head_dim, hidden_size, bias=bias, rng=rng, std=std)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, hidden_size) -> the same shape. With a cache, x holds only the tokens not yet read."""
        q = ops.rope(self._heads(self.q_proj(x)), cos=places.cos, sin=places.sin)  # (B, T, H, D)
        k = ops.rope(self._heads(self.k_proj(x)), cos=places.cos, sin=places.sin)  # (B, T, K, D)
        v = self._heads(self.v_proj(x))
        if cache is not None:
            k, v = map(Tensor, cache.append(k.data, v.data))  # (B, S, K, D)
        documents = {"q_documents": places.q_documents, "k_documents": places.k_documents}
        record("attention", lambda: attention_weights(q.data, k.data, self.scale, **documents))
        mixed = ops.attention(q, k, v, scale=self.scale, **documents)  # (B, T, H, D)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1, self.head_dim)  # (B, T, heads, D)


def attention_weights(
    q: Array, k: Array, scale: float, q_documents: Array | None = None, k_documents: Array | None = None
) -> Array:
    """The probabilities that causal attention uses, in full, for looking at: (B, H, T, S).

    q (B, T, H, D), k (B, S, K, D). Training never builds this array; see `ReferenceBackend.attention`.
    """
    xp = current().xp
    T, S = q.shape[1], k.shape[1]
    k = xp.repeat(k, q.shape[2] // k.shape[2], axis=2)  # (B, S, H, D): each key head serves its group of queries
    scores = xp.einsum("bthd,bshd->bhts", q, k) * scale
    allowed = xp.arange(S) <= xp.arange(S - T, S)[:, None]  # (T, S)
    if q_documents is not None and k_documents is not None:
        allowed = (allowed & (q_documents[:, :, None] == k_documents[:, None, :]))[:, None]  # (B, 1, T, S)
    return current().softmax(xp.where(allowed, scores, -xp.inf))
