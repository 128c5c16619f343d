"""Falcon (Almazrouei et al. 2023), which tried three layers.

- 7B: attention and feed-forward block side by side behind one norm, and a single key/value head.
- 40B and 180B (`new_decoder_architecture`): a norm for each of the two, and grouped heads; 11B has one norm again.
- RW-1B and 7B, trained on RefinedWeb alone: GPT-3's layers, one block after the other, with biases and ALiBi.

ALiBi is added before the scores are scaled. Transformers rounds it to bfloat16, which changes nothing for 1, 2, 4 or 8
heads and texts of up to 256 tokens, and a little beyond; here it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import QKV, Family, Stacked, rows_by_group, same


class Falcon(Family):
    """Config fields and weights of `FalconForCausalLM`. In all three layers the fused q, k and v go by groups."""

    model_type = "falcon"
    architecture = "FalconForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **same(
            "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings rope_theta "
            "rope_scaling initializer_range tie_word_embeddings bos_token_id eos_token_id pad_token_id"
        ),
        "ffn_hidden_size": "intermediate_size",
        "layer_norm_epsilon": "rms_norm_eps",
        "activation": "hidden_act",
        "bias": "attention_bias mlp_bias",
        "alibi": "",
        "multi_query": "",
        "num_kv_heads": "",
        "new_decoder_architecture": "",
        "parallel_attn": "",
        "num_ln_in_parallel_attn": "",
    }
    fixed: ClassVar[dict[str, Any]] = {"apply_residual_connection_post_layernorm": False}
    neutral = frozenset({"ff_factor"})
    absent: ClassVar[dict[str, Any]] = {
        "layer_norm_epsilon": 1e-5,
        "activation": "gelu",
        "tie_word_embeddings": True,
        "alibi": False,
        "multi_query": True,
        "num_kv_heads": None,
        "new_decoder_architecture": False,
        "parallel_attn": True,
        "num_ln_in_parallel_attn": None,
        "bos_token_id": 11,
        "eos_token_id": 11,
    }
    parts: ClassVar[dict[str, Any]] = {
        "attention": "variant",
        "mlp": "plain",
        "norm": "layer_norm",
        "scale_alibi": True,
    }
    prefix = "transformer"
    names: ClassVar[dict[str, str]] = {
        "word_embeddings": "embed_tokens",
        "h": "layers",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
        "ln_f": "norm",
    }
    stacked = (Stacked("self_attention.query_key_value", QKV, rows_by_group),)

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """The feed-forward block is four times as wide as the model, unless `ffn_hidden_size` says otherwise."""
        width = published.get("ffn_hidden_size") or 4 * (published.get("hidden_size") or 0)
        return super().normalize({**published, "ffn_hidden_size": width})

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Which of the three layers it is, and what follows from that. Raises ValueError for what is none of them."""
        heads, new = published["num_attention_heads"], bool(published["new_decoder_architecture"])
        norms = published["num_ln_in_parallel_attn"] or 1 + new
        kv_heads = published["num_kv_heads"] or heads
        if norms not in (1, 1 + new):
            raise ValueError(f"num_ln_in_parallel_attn: got {norms}, expected 1, or 2 with new_decoder_architecture")
        if not new and published["multi_query"]:
            kv_heads = 1
        elif not new and kv_heads != heads:
            raise ValueError(f"num_kv_heads: got {kv_heads}, expected {heads} without new_decoder_architecture")
        return {
            "layer": "parallel" if new or published["parallel_attn"] else "pre_norm",
            "parallel_norms": norms,
            "num_key_value_heads": kv_heads,
            "position": "alibi" if published["alibi"] else "rope",
        }

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The flags that lead to this layer; the old ones wherever they can say it."""
        kv_heads, parallel = config.num_key_value_heads, config.layer == "parallel"
        grouped = 1 < kv_heads < config.num_attention_heads
        return {
            **published,
            "alibi": config.position == "alibi",
            "multi_query": kv_heads == 1,
            "num_kv_heads": kv_heads,
            "new_decoder_architecture": parallel and (grouped or config.parallel_norms == 2),
            "parallel_attn": parallel,
            "num_ln_in_parallel_attn": config.parallel_norms,
        }

    def renaming(self, config: Config) -> dict[str, str]:
        """A layer with two norms names them after what they are for."""
        two = {"ln_attn": "input_layernorm", "ln_mlp": "mlp_layernorm"}
        return {**self.names, **two} if config.parallel_norms == 2 else self.names
