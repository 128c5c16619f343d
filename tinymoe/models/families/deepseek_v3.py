"""DeepSeek V3 and R1 (DeepSeek-AI 2024, 2025), Kimi K2 (Kimi Team 2025): V2 with a sigmoid for each expert.

A bias, moved by the load alone, balances the experts; see `SigmoidRouter`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import same
from .deepseek_v2 import DeepseekV2


class DeepseekV3(DeepseekV2):
    """Config fields of `DeepseekV3ForCausalLM`, beyond those of V2.

    Published checkpoints hold one layer more: the module for multi-token prediction, which only training and
    speculative decoding use. It is left out, as Transformers does.
    """

    model_type = "deepseek_v3"
    architecture = "DeepseekV3ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in DeepseekV2.fields.items() if name != "mlp_bias"},
        **same("norm_topk_prob"),
    }
    fixed: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in DeepseekV2.fixed.items() if name != "norm_topk_prob"},
        "scoring_func": "sigmoid",
        "rope_interleave": True,
    }
    neutral = DeepseekV2.neutral | {"num_nextn_predict_layers", "num_mtp_layers"}
    absent: ClassVar[dict[str, Any]] = {
        **DeepseekV2.absent,
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    routers: ClassVar[dict[str, str]] = {"noaux_tc": "sigmoid"}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """As in V2. There is no module for multi-token prediction, and that is not the default."""
        return {**super().denormalize(published, config), "num_nextn_predict_layers": 0}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in V2, without modules for multi-token prediction: the layers that have an `eh_proj`."""
        found = (re.fullmatch(r"(.*layers\.\d+\.)eh_proj\.weight", name) for name in published)
        modules = tuple(match[1] for match in found if match)
        kept = {name: array for name, array in published.items() if not name.startswith(modules)}
        return super().parameters_in(kept, config)
