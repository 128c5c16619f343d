"""Mixtral 8x7B (Jiang et al. 2024): Mistral with eight feed-forward blocks a layer, of which each token uses two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import same
from .experts import ExpertFamily
from .mistral import Mistral


class Mixtral(ExpertFamily, Mistral):
    """Config fields of `MixtralForCausalLM`; an expert's matrices are called w1 (gate), w3 (up) and w2 (down)."""

    model_type = "mixtral"
    architecture = "MixtralForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **Mistral.fields,
        "num_local_experts": "num_experts",
        **same("num_experts_per_tok"),
    }
    fixed: ClassVar[dict[str, Any]] = {**ExpertFamily.fixed, "router_jitter_noise": 0.0}
    absent: ClassVar[dict[str, Any]] = {
        **Mistral.absent,
        "sliding_window": None,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    parts: ClassVar[dict[str, Any]] = {**Mistral.parts, "mlp": "moe", "norm_topk_prob": True}
    names: ClassVar[dict[str, str]] = {"block_sparse_moe": "mlp"}
    expert_names: ClassVar[dict[str, str]] = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `ExpertFamily`; in memory Transformers calls the block mlp, as we do."""
        parameters = super().parameters_in(published, config)
        return {self._named_back(name, config): array for name, array in parameters.items()}
