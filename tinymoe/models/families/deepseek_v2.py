"""DeepSeek V2 (DeepSeek-AI 2024): multi-head latent attention, and many small experts beside shared ones.

The first layers are dense. The published matrices put what rope turns last in each head, in pairs of neighbors; here it
stands first, in two halves. That is only another order of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import Stacked, same
from .experts import ExpertFamily, dense_layers
from .llama import Llama

# What the published config says about experts; it means nothing where every layer is dense.
EXPERT_FIELDS = frozenset(
    "n_routed_experts n_shared_experts num_experts_per_tok moe_intermediate_size moe_layer_freq routed_scaling_factor "
    "topk_method topk_group n_group norm_topk_prob scoring_func".split()
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


class DeepseekV2(ExpertFamily):
    """Config fields of `DeepseekV2ForCausalLM`; the weights keep their names."""

    model_type = "deepseek_v2"
    architecture = "DeepseekV2ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("num_key_value_heads", "head_dim")},
        **same("q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim"),
        **same("num_experts_per_tok moe_intermediate_size routed_scaling_factor n_group topk_group"),
        "n_routed_experts": "num_experts",
        **dict.fromkeys(("n_shared_experts", "topk_method", "first_k_dense_replace"), ""),
    }
    fixed: ClassVar[dict[str, Any]] = {
        **ExpertFamily.fixed,
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "moe_layer_freq": 1,
    }
    neutral = ExpertFamily.neutral | {"aux_loss_alpha", "seq_aux", "ep_size"}  # how it was trained
    absent: ClassVar[dict[str, Any]] = {
        **Llama.absent,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 0,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "moe_intermediate_size": 1407,
        "topk_method": "greedy",
    }
    parts: ClassVar[dict[str, Any]] = {"attention": "latent", "mlp": "moe"}
    routers: ClassVar[dict[str, str]] = {"greedy": "softmax", "group_limited_greedy": "softmax_groups"}
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
        layers, dense = published.get("num_hidden_layers"), published["first_k_dense_replace"]
        if isinstance(layers, int) and isinstance(dense, int) and dense >= layers:
            follows |= EXPERT_FIELDS
        return {name: value for name, value in published.items() if name not in follows}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Which layers have experts, the router, and the shared experts as one. Raises ValueError for other routers."""
        layers, dense = published["num_hidden_layers"], published["first_k_dense_replace"]
        if dense >= layers:
            return {"mlp": "swiglu"}
        method, shared = published["topk_method"], published["n_shared_experts"] or 0
        if method not in self.routers:
            raise ValueError(f"topk_method: got {method!r}, expected one of {', '.join(self.routers)}")
        return {
            "mlp_types": tuple("swiglu" if layer < dense else "moe" for layer in range(layers)),
            "router": self.routers[method],
            "shared_expert_intermediate_size": shared * published["moe_intermediate_size"] or None,
        }

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse of `normalize` and `derived`."""
        dense, width = len(dense_layers(config)), config.moe_intermediate_size or config.intermediate_size
        published |= {"num_key_value_heads": config.num_attention_heads, "first_k_dense_replace": dense}
        if dense == config.num_hidden_layers:
            return {name: value for name, value in published.items() if name not in EXPERT_FIELDS}
        methods = {router: method for method, router in self.routers.items()}
        shared = (config.shared_expert_intermediate_size or 0) // width
        return {**published, "topk_method": methods.get(config.router), "n_shared_experts": shared}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `ExpertFamily`. Where there is no shared expert, Transformers has one that is 0 wide."""
        return super().parameters_in({name: array for name, array in published.items() if array.size}, config)
