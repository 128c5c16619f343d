"""GLM-5 (GLM-5 Team 2026): the shape of DeepSeek V3.2, with one group of experts and other sizes.

From GLM-5.2 on, most layers have no indexer of their own, and look at the tokens that the last one chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import Stacked
from .deepseek_v32 import DeepseekV32

# How the layers with an indexer are given, where they are not listed.
SCHEDULE = ("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern")


def _index_rows(config: Config, heads: int) -> list[np.ndarray]:
    """For each row of ours its row in theirs: what rope turns stands first in each head, there in pairs."""
    size, rope = config.index_head_dim or 0, config.qk_rope_head_dim or 0
    head = np.concatenate([np.arange(0, rope, 2), np.arange(1, rope, 2), np.arange(rope, size)])
    return [(np.arange(heads)[:, None] * size + head).ravel()]


def _indexer_types(published: Mapping[str, Any]) -> tuple[str, ...]:
    """Listed, with a letter each ("FSSF"), or one in so many from a certain layer on."""
    if published.get("indexer_types"):
        return tuple(published["indexer_types"])
    if pattern := published.get("index_topk_pattern"):
        letters = {"F": "full", "S": "shared"}
        return tuple(letters.get(kind, str(kind)) for kind in pattern)
    freq, first = max(published["index_topk_freq"], 1), published["index_skip_topk_offset"]
    layers = range(published["num_hidden_layers"])
    return tuple("shared" if max(layer - first + 1, 0) % freq else "full" for layer in layers)


class GlmMoeDsa(DeepseekV32):
    """Config fields of `GlmMoeDsaForCausalLM`, beyond those of DeepSeek V3.2; the indexer's channels turn in pairs."""

    model_type = "glm_moe_dsa"
    architecture = "GlmMoeDsaForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **DeepseekV32.fields,
        "indexer_types": "indexer_types",
        **dict.fromkeys(SCHEDULE, ""),
    }
    fixed: ClassVar[dict[str, Any]] = {**DeepseekV32.fixed, "indexer_rope_interleave": True}
    neutral = DeepseekV32.neutral | {"index_share_for_mtp_iteration", "moe_router_dtype"}
    absent: ClassVar[dict[str, Any]] = {
        **DeepseekV32.absent,
        "q_lora_rank": 2048,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "index_n_heads": 32,
        "index_topk_freq": 1,
        "index_skip_topk_offset": 2,
    }
    stacked = (
        *DeepseekV32.stacked,
        Stacked("indexer.wq_b", ("indexer.wq_b",), lambda c: _index_rows(c, c.index_n_heads or 0)),
        Stacked("indexer.wk", ("indexer.wk",), lambda c: _index_rows(c, 1)),
        Stacked("indexer.k_norm", ("indexer.k_norm",), lambda c: _index_rows(c, 1)),
    )

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """As in V3.2, and which layers have an indexer, unless all have one."""
        types = _indexer_types(published)
        shared = {"indexer_types": types, "attention": "shared_sparse"} if {*types} != {"full"} else {}
        return {**super().derived(published), "indexer_types": (), **shared}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse: the list counts."""
        types = config.indexer_types or ("full",) * config.num_hidden_layers
        published = {name: value for name, value in published.items() if name not in SCHEDULE}
        return {**super().denormalize(published, config), "indexer_types": list(types)}
