"""DeepSeek V2 (DeepSeek-AI 2024): Llama's layers around multi-head latent attention. So far with dense layers only.

The published matrices put what rope turns last in each head, in pairs of neighbors; here it stands first, in two
halves. That is only another order of rows.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import Family, Stacked, same
from .llama import Llama

# What the published config says about experts; it means nothing where every layer is dense.
EXPERT_FIELDS = frozenset(
    "n_routed_experts n_shared_experts num_experts_per_tok moe_intermediate_size moe_layer_freq routed_scaling_factor "
    "topk_method topk_group n_group norm_topk_prob scoring_func aux_loss_alpha seq_aux ep_size "
    "output_router_logits".split()
)


def query_rows(config: Config) -> list[np.ndarray]:
    """For each row of our query matrix its row in theirs, whose heads are [nope, rope in pairs]."""
    nope, rope = config.qk_nope_head_dim or 0, config.qk_rope_head_dim or 0
    head = np.concatenate([nope + _pairs_apart(rope), np.arange(nope)])
    return [(np.arange(config.num_attention_heads)[:, None] * (nope + rope) + head).ravel()]


def latent_rows(config: Config) -> list[np.ndarray]:
    """For each row of our kv_a_proj_with_mqa its row in theirs: [latent, rope key in pairs]."""
    rank, rope = config.kv_lora_rank or 0, config.qk_rope_head_dim or 0
    return [np.concatenate([rank + _pairs_apart(rope), np.arange(rank)])]


def _pairs_apart(rope: int) -> np.ndarray:
    return np.concatenate([np.arange(0, rope, 2), np.arange(1, rope, 2)])


class DeepseekV2(Family):
    """Config fields of `DeepseekV2ForCausalLM`; the weights keep their names."""

    model_type = "deepseek_v2"
    architecture = "DeepseekV2ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("num_key_value_heads", "head_dim")},
        **same("q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim"),
    }
    fixed = Llama.fixed
    absent: ClassVar[dict[str, Any]] = {"q_lora_rank": 1536, "first_k_dense_replace": 0}
    parts: ClassVar[dict[str, Any]] = {
        "attention": "latent",
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }
    stacked = (
        Stacked("self_attn.q_proj", ("self_attn.q_proj",), query_rows),
        Stacked("self_attn.q_b_proj", ("self_attn.q_b_proj",), query_rows),
        Stacked("self_attn.kv_a_proj_with_mqa", ("self_attn.kv_a_proj_with_mqa",), latent_rows),
    )

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Leave out what follows from other fields, and what concerns experts where there are none."""
        published = super().normalize(published)
        follows = {"head_dim", "qk_head_dim"}
        if published.get("num_key_value_heads") in (None, published.get("num_attention_heads")):
            follows.add("num_key_value_heads")
        layers = published.get("num_hidden_layers")
        if isinstance(layers, int) and published["first_k_dense_replace"] >= layers:
            follows |= {"first_k_dense_replace", *EXPERT_FIELDS}
        return {name: value for name, value in published.items() if name not in follows}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """Say that all layers are dense, and that queries have no latent: neither is the default."""
        return {
            **published,
            "num_key_value_heads": config.num_attention_heads,
            "q_lora_rank": config.q_lora_rank,
            "first_k_dense_replace": config.num_hidden_layers,
        }
