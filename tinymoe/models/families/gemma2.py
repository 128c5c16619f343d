"""Gemma 2 (Gemma Team 2024): norms on both sides of each block, capped scores and logits, every second layer local.

The first layer slides, the next sees all, and so on. Scores are divided by sqrt(query_pre_attn_scalar): for the 27B
model that is hidden_size / num_attention_heads, which is not its head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import same
from .gemma import Gemma


class Gemma2(Gemma):
    """Config fields of `Gemma2ForCausalLM`, beyond those of Gemma."""

    model_type = "gemma2"
    architecture = "Gemma2ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **Gemma.fields,
        **same("layer_types sliding_window query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping"),
    }
    absent: ClassVar[dict[str, Any]] = {
        **Gemma.absent,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    parts: ClassVar[dict[str, Any]] = {**Gemma.parts, "layer": "sandwich", "attention": "variant"}
    neutral = frozenset({"cache_implementation"})

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """How far each layer reaches, where the config does not say it: every n-th sees all."""
        if published.get("layer_types"):
            return {}
        n = published.get("sliding_window_pattern", 2)
        layers = range(1, published["num_hidden_layers"] + 1)
        return {"layer_types": tuple("sliding_attention" if layer % n else "full_attention" for layer in layers)}
