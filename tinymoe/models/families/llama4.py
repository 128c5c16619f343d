"""Llama 4 (Meta 2025), its text half: one expert for each token beside a shared one, chunks, layers without positions.

Scout has 16 experts in every layer, Maverick 128 in every second one. Heads are stored with what rope turns in pairs of
neighbors. Files of model_type llama4 hold a vision tower too, which is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import Stacked, same
from .fused import FusedExpertFamily
from .llama import Llama


def _halves(heads: int, size: int) -> list[np.ndarray]:
    """For each row of ours its row in theirs: the even channels of each head, then the odd ones."""
    head = np.concatenate([np.arange(0, size, 2), np.arange(1, size, 2)])
    return [(np.arange(heads)[:, None] * size + head).ravel()]


class Llama4Text(FusedExpertFamily):
    """Config fields and weights of `Llama4ForCausalLM`; intermediate_size is that of an expert."""

    model_type = "llama4_text"
    architecture = "Llama4ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name != "mlp_bias"},
        **same("num_experts_per_tok layer_types"),
        **same("attention_chunk_size attn_temperature_tuning floor_scale attn_scale"),
        "num_local_experts": "num_experts",
        "intermediate_size": "moe_intermediate_size shared_expert_intermediate_size",
        "intermediate_size_mlp": "intermediate_size",
        **dict.fromkeys(("use_qk_norm", "moe_layers", "no_rope_layers"), ""),
    }
    fixed: ClassVar[dict[str, Any]] = {**FusedExpertFamily.fixed, "router_jitter_noise": 0.0}
    neutral = frozenset(
        "vision_config image_token_index boi_token_index eoi_token_index for_llm_compressor no_rope_layer_interval "
        "interleave_moe_layer_step".split()
    )
    absent: ClassVar[dict[str, Any]] = {
        **Llama.absent,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 8192,
        "attn_temperature_tuning": True,
        "use_qk_norm": True,
        **dict.fromkeys(("no_rope_layers", "layer_types", "moe_layers")),
        "no_rope_layer_interval": 4,
        "interleave_moe_layer_step": 1,
    }
    parts: ClassVar[dict[str, Any]] = {
        "attention": "chunked",
        "mlp": "moe",
        "router": "sigmoid_chosen",
        "experts": "scaled_input",
    }
    names: ClassVar[dict[str, str]] = {
        "feed_forward": "mlp",
        "shared_expert": "shared_experts",
        "mlp.router": "mlp.gate",
    }
    stacked = (
        Stacked("self_attn.q_proj", ("self_attn.q_proj",), lambda c: _halves(c.num_attention_heads, c.head_dim)),
        Stacked("self_attn.k_proj", ("self_attn.k_proj",), lambda c: _halves(c.num_key_value_heads, c.head_dim)),
    )
    ignored = FusedExpertFamily.ignored + r"|^(vision_model|multi_modal_projector)\."

    def config_from_hf(self, published: Mapping[str, Any], **changes: Any) -> Config:
        """As in `RouterFamily`; of a multimodal config, the text half."""
        whole = {name: value for name, value in published.items() if name != "text_config"}
        return super().config_from_hf({**whole, **(published.get("text_config") or {})}, **changes)

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Which layers have positions, chunks and experts, listed or every n-th, and the norm of queries and keys."""
        p, layers = published, range(published["num_hidden_layers"])
        turned = p["no_rope_layers"] or [(layer + 1) % p["no_rope_layer_interval"] for layer in layers]
        kinds = p["layer_types"] or ["chunked_attention" if on else "full_attention" for on in turned]
        step, listed = p["interleave_moe_layer_step"], p["moe_layers"]
        with_experts = range(step - 1, len(layers), step) if listed is None else listed
        return {
            "no_rope_layers": () if all(turned) else tuple(int(on > 0) for on in turned),
            "layer_types": tuple(kinds),
            "mlp_types": tuple("moe" if layer in with_experts else "swiglu" for layer in layers),
            "qk_norm": "rms_norm_bare" if p["use_qk_norm"] else None,
        }

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse. The lists count; the step says the same, where there is one."""
        with_experts = [layer for layer, kind in enumerate(config.mlp_types) if kind == "moe"]
        turned = list(config.no_rope_layers) or [1] * config.num_hidden_layers
        layers: dict[str, Any] = {"moe_layers": with_experts, "no_rope_layers": turned}
        layers["interleave_moe_layer_step"] = with_experts[0] + 1 if with_experts else 1
        return {**published, **layers, "use_qk_norm": config.qk_norm is not None}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, also from a multimodal file, where the text model has a prefix."""
        text = {re.sub(r"^language_model\.", "", name): array for name, array in published.items()}
        return super().parameters_in(text, config)
