"""Attention as single families have it."""

from __future__ import annotations

import dataclasses

import numpy as np

from .. import ops
from ..backend import current
from ..tensor import Tensor
from .attention import Places
from .cache import LayerCache
from .config import Config
from .module import Module, make, part
from .variants import VariantAttention


@part("attention", "wide_norm")
class WideNormAttention(VariantAttention):
    """A norm over a token's queries of all heads together, and another over its keys (OLMoE, 2024)."""

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        super().__init__(config, index, rng)
        c = config
        self.q_norm = make("norm", c.norm, c.num_attention_heads * c.head_dim, c.rms_norm_eps)
        self.k_norm = make("norm", c.norm, c.num_key_value_heads * c.head_dim, c.rms_norm_eps)

    def heads(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """As in `Attention`, with the norms first."""
        q, k, v = (
            y.reshape(*x.shape[:2], -1, self.head_dim)
            for y in (self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x))
        )
        return ops.rope(q, cos=places.cos, sin=places.sin), ops.rope(k, cos=places.cos, sin=places.sin), v


@part("norm", "rms_norm_bare")
class BareRMSNorm(Module):
    """RMSNorm without a weight: it makes all vectors equally long, and has nothing to train (Llama 4's "L2 norm")."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        self.ones, self.eps = current().xp.ones(hidden_size, dtype=np.float32), eps

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return ops.rms_norm(x, Tensor(self.ones.astype(x.dtype)), eps=self.eps)


@part("attention", "chunked")
class ChunkedAttention(VariantAttention):
    """Llama 4's (2025): most layers see only their own chunk of the text, every fourth sees all but no positions.

    A chunk is `attention_chunk_size` tokens from the beginning on; its first token sees only itself. The layers without
    positions may raise their queries slowly as the text grows, so that attention does not spread out over all of it
    (Nakanishi 2025). QK-norm is for layers with positions; turning keeps lengths, so it may as well come first.
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c, is_turned = config, not config.no_rope_layers or bool(config.no_rope_layers[index])
        everywhere = ("full_attention",) * c.num_hidden_layers
        common = dataclasses.replace(c, layer_types=everywhere, qk_norm=c.qk_norm if is_turned else None)
        super().__init__(common, index, rng)
        self.chunk = _chunk(c, c.layer_types[index])
        self.is_tuned = c.attn_temperature_tuning and not is_turned
        self.floor_scale, self.attn_scale = c.floor_scale, c.attn_scale

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """As in `Attention`. A chunk is made a document of its own, or part of one."""
        if self.chunk is not None:
            end = x.shape[1] + (0 if cache is None else cache.length)
            places = in_chunks(places, self.chunk, x.shape[0], x.shape[1], end)
        return super().__call__(x, places, cache)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """As in `VariantAttention`; the queries are the last of the text, of which these layers keep every key."""
        if self.is_tuned:
            positions = np.arange(k.shape[1] - q.shape[1], k.shape[1])
            raised = 1 + self.attn_scale * np.log1p((positions + 1) // self.floor_scale)  # (T,)
            q = q * Tensor(current().asarray(raised[:, None, None].astype(q.dtype)))
        return super().mix(q, k, v, places)

    def new_cache(self) -> LayerCache:
        """One that forgets what is further back than a chunk is long."""
        return LayerCache() if self.chunk is None else make("cache", "rolling", self.chunk)

    def work(self, seen: int) -> int:
        """As in `Attention`, but a token sees half a chunk on average."""
        return super().work(seen if self.chunk is None else min(seen, self.chunk // 2))

    def cached(self, length: int) -> int:
        """As in `Attention`, but no more than a chunk is kept."""
        return super().cached(length if self.chunk is None else min(length, self.chunk))


def in_chunks(places: Places, chunk: int, batch: int, tokens: int, end: int) -> Places:
    """The places of the last `tokens` of `end` tokens, with each chunk of each document numbered like a document."""
    xp = current().xp
    numbers = xp.arange(end)[None] // chunk  # (1, S)
    if places.k_documents is None:
        numbers = xp.repeat(numbers, batch, axis=0)  # (B, S)
    else:
        numbers = numbers + places.k_documents * (end // chunk + 1)  # (B, S)
    return dataclasses.replace(places, q_documents=numbers[:, -tokens:], k_documents=numbers)


def _chunk(config: Config, layer_type: str) -> int | None:
    """The length of the chunks in such a layer; None where it sees all."""
    if layer_type not in ("full_attention", "chunked_attention"):
        raise ValueError(f"layer_types: got {layer_type!r}, expected 'full_attention' or 'chunked_attention'")
    if layer_type == "full_attention":
        return None
    if (config.attention_chunk_size or 0) < 1:
        raise ValueError(f"attention_chunk_size: got {config.attention_chunk_size}, expected at least 1")
    return config.attention_chunk_size
