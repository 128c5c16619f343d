"""Grok-1 (xAI, March 2024, Apache 2.0): eight wide experts, of which each token uses two, and norms on both sides.

xAI published the weights and, in github.com/xai-org/grok-1, JAX code that runs them; there is no paper, and no model in
Transformers. What that code computes: embeddings times sqrt(hidden_size); layers with a norm before and after each of
their two blocks; scores times `attn_output_multiplier`, bent by 30 tanh(s / 30); a softmax over all experts, of which
the two largest are the weights, as they are; experts down(gelu(gate x) * up x), with JAX's GELU, the one by tanh; and
logits times `output_multiplier_scale`. Names of fields and tensors are those of the conversion hpcai-tech/grok-1:

    model.layers.N.pre_attn_norm.scale, post_attn_norm.scale        (hidden_size,), and the same of moe
    model.layers.N.attn.q_proj.weight, k_proj, v_proj, o_proj
    model.layers.N.moe_block.gate.weight                            (num_experts, hidden_size)
    model.layers.N.moe_block.experts.E.linear.weight, linear_v      (intermediate_size, hidden_size): gate and up
    model.layers.N.moe_block.experts.E.linear_1.weight              (hidden_size, intermediate_size): down
    model.norm.scale
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import same
from .experts import ExpertFamily
from .llama import Llama


class Grok1(ExpertFamily):
    """Config fields of `Grok1ModelForCausalLM`; intermediate_size is that of an expert."""

    model_type = "grok-1"
    architecture = "Grok1ModelForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("attention_bias", "mlp_bias", "head_dim")},
        **same("num_experts num_experts_per_tok output_multiplier_scale"),
        "max_attn_value": "attn_logit_softcapping",
        **dict.fromkeys(("attn_output_multiplier", "embedding_multiplier_scale"), ""),
    }
    fixed: ClassVar[dict[str, Any]] = {"hidden_act": "gelu"}
    absent: ClassVar[dict[str, Any]] = {
        **Llama.absent,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_attn_value": 30.0,
        "output_multiplier_scale": 0.5773502691896257,
        "attn_output_multiplier": 0.0,  # what follows from the sizes: 1 / sqrt(head_dim)
        "embedding_multiplier_scale": 0.0,
        "pad_token_id": 0,
    }
    parts: ClassVar[dict[str, Any]] = {
        "layer": "sandwich",
        "attention": "variant",
        "inputs": ("scale",),
        "mlp": "moe",
        "experts": "gated",
        "hidden_act": "gelu_pytorch_tanh",
    }
    names: ClassVar[dict[str, str]] = {
        "attn": "self_attn",
        "moe_block": "mlp",
        "pre_attn_norm.scale": "input_layernorm.weight",
        "post_attn_norm.scale": "post_attention_layernorm.weight",
        "pre_moe_norm.scale": "pre_feedforward_layernorm.weight",
        "post_moe_norm.scale": "post_feedforward_layernorm.weight",
        "norm.scale": "norm.weight",
    }
    expert_names: ClassVar[dict[str, str]] = {"gate_proj": "linear", "up_proj": "linear_v", "down_proj": "linear_1"}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """The scale of attention. Raises ValueError for another multiplier of the embedding than sqrt(hidden_size)."""
        p, root = published, math.sqrt(published["hidden_size"])
        if not math.isclose(given := p["embedding_multiplier_scale"] or root, root, rel_tol=1e-6):
            raise ValueError(f"embedding_multiplier_scale: got {given}, expected sqrt(hidden_size), {root}")
        size = p["hidden_size"] / p["num_attention_heads"]
        # Rounded, so that it is the same after any number of ways there and back.
        scalar = round((p["attn_output_multiplier"] or size**-0.5) ** -2, 6)
        return {"query_pre_attn_scalar": None if scalar == size else scalar}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse."""
        scale = (config.query_pre_attn_scalar or config.head_dim) ** -0.5
        multipliers = {"attn_output_multiplier": scale, "embedding_multiplier_scale": math.sqrt(config.hidden_size)}
        return {**published, **multipliers}
