"""Self-attention: parts of the kind "attention", made with a config, the layer's number and a random generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import OPS, Tensor, are_own
from .cache import LayerCache
from .config import Config
from .module import Linear, Module, are_plain, linears, part
from .recorder import record


@dataclass
class Places:
    """Where the tokens of a batch stand: what every attention layer needs besides the hidden states.

    cos and sin (B or 1, T, R/2) turn the first R channels of queries and keys, or are None; documents number the T
    queries (B, T) and all S keys (B, S), and attention stays inside equal numbers. None means that all is one document.
    selected (B, T, n) is left by a layer that chose which keys to look at, for those after it.
    """

    cos: Array | None
    sin: Array | None
    q_documents: Array | None = None
    k_documents: Array | None = None
    selected: Array | None = None


@part("attention", "grouped")
class Attention(Module):
    """Causal self-attention with rotary positions and any number of key/value heads that divides the query heads.

    As many key/value heads as query heads is multi-head attention (Vaswani et al. 2017), one is multi-query attention
    (Shazeer 2019), and anything between is grouped-query attention (Ainslie et al. 2023).
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c = config
        self.head_dim = c.head_dim
        self.scale = 1 / math.sqrt(c.head_dim)
        linear = partial(Linear, bias=c.attention_bias, rng=rng, std=c.initializer_range)
        self.q_proj = linear(c.hidden_size, c.num_attention_heads * c.head_dim)
        self.k_proj = linear(c.hidden_size, c.num_key_value_heads * c.head_dim)
        self.v_proj = linear(c.hidden_size, c.num_key_value_heads * c.head_dim)
        self.o_proj = linear(c.num_attention_heads * c.head_dim, c.hidden_size)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, hidden_size) -> the same shape. With a cache, x holds only the tokens not yet read."""
        q, k, v = self.heads(x, places)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, S, K, D)
        return self.o_proj(self.mix(q, k, v, places).reshape(*x.shape[:2], -1))

    def heads(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, D), keys and values (B, T, K, D); queries and keys turned by their positions."""
        layers, turn = (self.q_proj, self.k_proj, self.v_proj), {"cos": places.cos, "sin": places.sin}
        if are_plain(*layers) and are_own(OPS["rope"]):
            q, k, v = ops.qkv_rope(x, *(layer.weight for layer in layers), **turn, head_dim=self.head_dim)
            return q, k, v
        q, k, v = (y.reshape(*x.shape[:2], -1, self.head_dim) for y in linears(x, *layers))
        return ops.rope(q, **turn), ops.rope(k, **turn), v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """Each query's mix of the values: (B, T, H, D)."""
        documents = {"q_documents": places.q_documents, "k_documents": places.k_documents}
        record("attention", lambda: attention_weights(q.data, k.data, self.scale, **documents))
        return ops.attention(q, k, v, scale=self.scale, **documents)

    def new_cache(self) -> LayerCache:
        """An empty cache for this layer."""
        return LayerCache()

    def work(self, seen: int) -> int:
        """Operations of comparing one token with the `seen` tokens it may look at, and mixing their values."""
        return 2 * 2 * self.q_proj.weight.shape[0] * seen  # a multiply-add is two

    def cached(self, length: int) -> int:
        """Numbers that the cache holds for a text of `length` tokens."""
        return 2 * self.k_proj.weight.shape[0] * length


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
