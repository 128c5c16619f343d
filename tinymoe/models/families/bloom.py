"""BLOOM (BigScience 2022): GPT-2's layers with ALiBi for positions, and a norm right after the embedding.

q, k and v of a head stand together in one matrix, head after head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import QKV, Family, Stacked, rows_by_group, same


class Bloom(Family):
    """Config fields and weights of `BloomForCausalLM`."""

    model_type = "bloom"
    architecture = "BloomForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **same("vocab_size hidden_size initializer_range tie_word_embeddings bos_token_id eos_token_id pad_token_id"),
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "seq_length": "max_position_embeddings",
        "layer_norm_epsilon": "rms_norm_eps",
    }
    fixed: ClassVar[dict[str, Any]] = {"apply_residual_connection_post_layernorm": False, "n_inner": None}
    # How the training code split its work, and where it rounded to 16 bits.
    neutral = frozenset(
        "slow_but_exact attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion offset_alibi "
        "skip_bias_add skip_bias_add_qkv".split()
    )
    absent: ClassVar[dict[str, Any]] = {
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    parts: ClassVar[dict[str, Any]] = {
        "attention": "variant",
        "mlp": "plain",
        "norm": "layer_norm",
        "position": "alibi",
        "inputs": ("norm",),
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
    }
    prefix = "transformer"
    names: ClassVar[dict[str, str]] = {
        "word_embeddings": "embed_tokens",
        "h": "layers",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
        "model.ln_f": "model.norm",
        "word_embeddings_layernorm": "inputs.0.norm",
    }
    stacked = (Stacked("self_attention.query_key_value", QKV, rows_by_group),)

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """The first files have other names for three fields."""
        others = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
        return {others.get(name, name): value for name, value in published.items()}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """The feed-forward block is four times as wide as the model."""
        return {"intermediate_size": 4 * published["hidden_size"]}
