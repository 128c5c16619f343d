"""Phi-1, Phi-1.5 and Phi-2 (Gunasekar et al. 2023; Li et al. 2023; Javaheripi et al. 2023), small models on good data.

Attention and feed-forward block side by side behind one LayerNorm, biases everywhere, even on the output layer, and
rotary positions on a part of each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import Family, same


class Phi(Family):
    """Config fields and weights of `PhiForCausalLM`."""

    model_type = "phi"
    architecture = "PhiForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **same(
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "hidden_act max_position_embeddings rope_theta rope_scaling partial_rotary_factor initializer_range "
            "bos_token_id eos_token_id pad_token_id"
        ),
        "layer_norm_eps": "rms_norm_eps",
        "qk_layernorm": "",
    }
    fixed: ClassVar[dict[str, Any]] = {"tie_word_embeddings": False}  # the output layer has a bias of its own
    absent: ClassVar[dict[str, Any]] = {
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5,
        "layer_norm_eps": 1e-5,
        "qk_layernorm": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    parts: ClassVar[dict[str, Any]] = {
        "layer": "parallel",
        "attention": "variant",
        "mlp": "plain",
        "norm": "layer_norm",
        "attention_bias": True,
        "mlp_bias": True,
        "lm_head_bias": True,
    }
    names: ClassVar[dict[str, str]] = {
        "self_attn.dense": "self_attn.o_proj",
        "self_attn.q_layernorm": "self_attn.q_norm",
        "self_attn.k_layernorm": "self_attn.k_norm",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
        "final_layernorm": "norm",
    }

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """With `qk_layernorm`, a LayerNorm for the queries and one for the keys, the same for every head."""
        return {"qk_norm": "layer_norm" if published["qk_layernorm"] else None}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse of `derived`."""
        return {**published, "qk_layernorm": config.qk_norm is not None}
