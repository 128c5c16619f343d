"""Attention as the published models vary it: reach, scores, positions and sinks."""

from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array, AttentionRules
from ..tensor import Tensor, no_grad
from .attention import Attention, Places
from .cache import LayerCache
from .config import Config
from .module import Linear, constant, make, part
from .position import alibi_slopes
from .recorder import record


@part("attention", "variant")
class VariantAttention(Attention):
    """Grouped-query attention with everything that `AttentionFields` can ask for; each model uses a few of them.

    A sliding window (Mistral), a cap on the scores (Gemma 2), normalized queries and keys (Qwen3, Gemma 3), learned
    sinks (GPT-OSS), ALiBi (BLOOM), a scale of its own (Gemma 2), layers without positions (Llama 4).
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        super().__init__(config, index, rng)
        c = config
        if c.attention_out_bias is not None:
            self.o_proj = Linear(
                c.num_attention_heads * c.head_dim,
                c.hidden_size,
                bias=c.attention_out_bias,
                rng=rng,
                std=c.initializer_range,
            )
        if c.query_pre_attn_scalar is not None:
            self.scale = 1 / math.sqrt(c.query_pre_attn_scalar)
        self.window = _window(c, c.layer_types[index])
        self.softcap = c.attn_logit_softcapping
        self.slopes = alibi_slopes(c.num_attention_heads) if c.position == "alibi" else None
        if self.slopes is not None and c.scale_alibi:
            self.slopes = self.slopes * self.scale
        self.turned = not c.no_rope_layers or bool(c.no_rope_layers[index])
        if c.qk_norm is not None:
            self.q_norm = make("norm", c.qk_norm, c.head_dim, c.rms_norm_eps)
            self.k_norm = make("norm", c.qk_norm, c.head_dim, c.rms_norm_eps)
        if c.attention_sinks:
            self.sinks = constant((c.num_attention_heads,), 0.0)

    def heads(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """As in `Attention`, with the norms before the turning, and no turning where a layer has no positions."""
        q, k, v = (
            project(x).reshape(*x.shape[:2], -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if self.turned and places.cos is not None:
            q, k = ops.rope(q, cos=places.cos, sin=places.sin), ops.rope(k, cos=places.cos, sin=places.sin)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """Each query's mix of the values, by this layer's rules: (B, T, H, D)."""
        rules = self.rules(places, keys=k.shape[1])
        sinks = getattr(self, "sinks", None)
        record("attention", lambda: weights_by_rules(q, k, sinks, rules))
        return ops.ruled_attention(q, k, v, sinks, rules=rules)

    def rules(self, places: Places, keys: int) -> AttentionRules:
        """This layer's rules for the last `keys` tokens: a rolling cache has forgotten the ones before."""
        documents = None if places.k_documents is None else places.k_documents[:, -keys:]
        slopes = None if self.slopes is None else current().asarray(self.slopes)
        return AttentionRules(self.scale, places.q_documents, documents, self.window, self.softcap, slopes)

    def new_cache(self) -> LayerCache:
        """A cache that forgets what has left the window, where there is one."""
        return LayerCache() if self.window is None else make("cache", "rolling", self.window)

    def work(self, seen: int) -> int:
        """As in `Attention`, but a window bounds what is seen."""
        return super().work(seen if self.window is None else min(seen, self.window))

    def cached(self, length: int) -> int:
        """As in `Attention`, but a window bounds what is kept."""
        return super().cached(length if self.window is None else min(length, self.window))


def _window(config: Config, layer_type: str) -> int | None:
    """How many tokens the queries of such a layer see, themselves included; None for all."""
    if layer_type not in ("full_attention", "sliding_attention"):
        raise ValueError(f"layer_types: got {layer_type!r}, expected 'full_attention' or 'sliding_attention'")
    if layer_type == "full_attention":
        return None
    if not config.sliding_window:
        raise ValueError(f"sliding_window: got {config.sliding_window}, expected at least 1 for {layer_type!r}")
    return config.sliding_window


def weights_by_rules(q: Tensor, k: Tensor, sinks: Tensor | None, rules: AttentionRules) -> Array:
    """The probabilities of attention by any rules, for looking at: (B, H, T, S).

    They are what attention returns when each value is the unit vector of its own place.
    """
    B, S, K = k.shape[:3]
    units = current().xp.broadcast_to(current().xp.eye(S, dtype=k.dtype)[:, None], (B, S, K, S))
    with no_grad():
        weights = ops.ruled_attention(q, k, Tensor(units), sinks, rules=rules)  # (B, T, H, S)
    return weights.data.transpose(0, 2, 1, 3)
