"""GPT-2 (Radford et al. 2019): the decoder before all that followed it, and still its outline.

Learned positions, LayerNorm, biases everywhere, a plain GELU block, and the output layer tied to the embedding. The
published matrices are stored (in, out), and q, k and v as one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import QKV, Family, Stacked, rows_in_turn, same


class GPT2(Family):
    """Config fields and weights of `GPT2LMHeadModel`."""

    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"
    fields: ClassVar[dict[str, str]] = {
        **same("vocab_size initializer_range tie_word_embeddings bos_token_id eos_token_id pad_token_id"),
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "activation_function": "hidden_act",
        "layer_norm_epsilon": "rms_norm_eps",
    }
    fixed: ClassVar[dict[str, Any]] = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    neutral = frozenset(
        "n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout summary_proj_to_labels summary_type "
        "summary_use_proj".split()
    )
    absent: ClassVar[dict[str, Any]] = {
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
    parts: ClassVar[dict[str, Any]] = {
        "attention": "variant",
        "mlp": "plain",
        "norm": "layer_norm",
        "position": "learned",
        "inputs": ("learned_positions",),
        "attention_bias": True,
        "mlp_bias": True,
    }
    prefix = "transformer"
    names: ClassVar[dict[str, str]] = {
        "wte": "embed_tokens",
        "wpe": "inputs.0",
        "h": "layers",
        "ln_1": "input_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "ln_2": "post_attention_layernorm",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
        "ln_f": "norm",
    }
    stacked = (Stacked("attn.c_attn", QKV, lambda config: rows_in_turn(*3 * [config.hidden_size])),)
    transposed = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ignored = r"\.attn\.(masked_)?bias$"

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """The feed-forward block is four times as wide as the model, unless `n_inner` says otherwise."""
        return {**published, "n_inner": published.get("n_inner") or 4 * (published.get("n_embd") or 0)}
