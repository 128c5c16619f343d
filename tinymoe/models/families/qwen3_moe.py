"""Qwen3-30B-A3B and Qwen3-235B-A22B (Yang et al. 2025): Qwen3 with 128 small experts, none that all tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .qwen2_moe import Qwen2Moe
from .qwen3 import Qwen3

_OTHERS = ("qkv_bias", "shared_expert_intermediate_size", "layer_types")  # what only Qwen2's have


class Qwen3Moe(Qwen2Moe):
    """Config fields of `Qwen3MoeForCausalLM`: attention is Qwen3's. Where there is a window, all layers have it."""

    model_type = "qwen3_moe"
    architecture = "Qwen3MoeForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Qwen2Moe.fields.items() if name not in _OTHERS},
        "attention_bias": "attention_bias",
    }
    absent: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in Qwen2Moe.absent.items() if name not in _OTHERS},
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    }
    parts: ClassVar[dict[str, Any]] = {**Qwen3.parts, "mlp": "moe"}
    names: ClassVar[dict[str, str]] = {}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Transformers 5 writes num_local_experts."""
        published["num_experts"] = published.pop("num_local_experts", published["num_experts"])
        return super().normalize(published)

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """As in `Qwen2Moe`, but for the window."""
        values = super().derived(published)
        kind = "full_attention" if values["sliding_window"] is None else "sliding_attention"
        return {**values, "layer_types": (kind,) * published["num_hidden_layers"]}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The window alone says how far the layers reach."""
        published = super().denormalize(published, config)
        return {name: value for name, value in published.items() if name != "layer_types"}
