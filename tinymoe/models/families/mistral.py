"""Mistral 7B (Jiang et al. 2023): Llama with a sliding window, so that the cache stops growing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Family
from .llama import Llama


class Mistral(Family):
    """Config fields of `MistralForCausalLM`; names and wiring are Llama's."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("attention_bias", "mlp_bias")},
        "sliding_window": "sliding_window",
    }
    fixed = Llama.fixed
    absent: ClassVar[dict[str, Any]] = {
        **Llama.absent,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,  # versions 0.2 and later say null: they have no window
    }
    parts: ClassVar[dict[str, Any]] = {"attention": "variant"}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """With a window, every layer slides."""
        kind = "full_attention" if published["sliding_window"] is None else "sliding_attention"
        return {"layer_types": (kind,) * published["num_hidden_layers"]}
