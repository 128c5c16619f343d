"""Mistral 7B (Jiang et al. 2023): Llama with a sliding window, so that the cache stops growing."""

from __future__ import annotations

from typing import Any, ClassVar

from ...nn.config import Config
from .base import Family, same
from .llama import Llama


class Mistral(Family):
    """Config fields of `MistralForCausalLM`; names and wiring are Llama's."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("attention_bias", "mlp_bias")},
        **same("sliding_window layer_types"),
    }
    fixed = Llama.fixed
    absent: ClassVar[dict[str, Any]] = {"sliding_window": 4096, "num_key_value_heads": 8}
    parts: ClassVar[dict[str, Any]] = {"attention": "variant"}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """With a window, every layer slides."""
        published = super().normalize(published)
        kind = "full_attention" if published["sliding_window"] is None else "sliding_attention"
        return {**published, "layer_types": [kind] * published["num_hidden_layers"]}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """Version 0.2 and later have no window: that has to be said, since the default is 4096."""
        del published["layer_types"]
        return {**published, "sliding_window": config.sliding_window}
