"""Qwen1.5-MoE (Qwen team 2024) and Qwen2-57B-A14B: Qwen2 with many small experts, and one that all tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import same
from .experts import ExpertFamily, dense_layers
from .qwen2 import Qwen2


class Qwen2Moe(ExpertFamily, Qwen2):
    """Config fields of `Qwen2MoeForCausalLM`; the shared expert has a sigmoid gate of its own."""

    model_type = "qwen2_moe"
    architecture = "Qwen2MoeForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **Qwen2.fields,
        "qkv_bias": "attention_bias",
        **same("num_experts num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size norm_topk_prob"),
        **dict.fromkeys(("mlp_only_layers", "decoder_sparse_step"), ""),
    }
    fixed = ExpertFamily.fixed
    absent: ClassVar[dict[str, Any]] = {
        **Qwen2.absent,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "mlp_only_layers": None,
        "decoder_sparse_step": 1,
    }
    parts: ClassVar[dict[str, Any]] = {**Qwen2.parts, "mlp": "moe", "shared_expert_gate": True}
    names: ClassVar[dict[str, str]] = {"shared_expert": "shared_experts"}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Which layers have experts: every `decoder_sparse_step`-th one, but not those listed.

        Unlike Qwen2's, a window belongs to every second one of the first `max_window_layers`.
        """
        dense, step = published["mlp_only_layers"] or [], published["decoder_sparse_step"]
        if step < 1:
            raise ValueError(f"decoder_sparse_step: got {step}, expected at least 1")
        layers, values = range(published["num_hidden_layers"]), super().derived(published)
        values["mlp_types"] = tuple("swiglu" if i in dense or (i + 1) % step else "moe" for i in layers)
        if values["sliding_window"] is not None and not published.get("layer_types"):
            slides = range(0, published["max_window_layers"], 2)
            values["layer_types"] = tuple("sliding_attention" if i in slides else "full_attention" for i in layers)
        return values

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The layers without experts, as a list."""
        published = super().denormalize(published, config)
        return {**published, "mlp_only_layers": dense_layers(config), "decoder_sparse_step": 1}
