"""Phi-3 (Abdin et al. 2024) and Phi-4-mini: Llama in a small size, its matrices stacked, its positions by LongRoPE.

    model.layers.N.self_attn.qkv_proj.weight   queries, then keys, then values
    model.layers.N.mlp.gate_up_proj.weight     (2 * intermediate_size, hidden_size): the gate, then up

Phi-4-mini turns only three quarters of each head's channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import QKV, Stacked, rows_in_turn
from .mistral import Mistral


def _qkv_rows(config: Config) -> list[np.ndarray]:
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return rows_in_turn(queries, keys, keys)


def _gate_up_rows(config: Config) -> list[np.ndarray]:
    return rows_in_turn(config.intermediate_size, config.intermediate_size)


class Phi3(Mistral):
    """Config fields of `Phi3ForCausalLM`; a window is for every layer, as in Mistral."""

    model_type = "phi3"
    architecture = "Phi3ForCausalLM"
    fields: ClassVar[dict[str, str]] = {**Mistral.fields, "partial_rotary_factor": "partial_rotary_factor"}
    fixed: ClassVar[dict[str, Any]] = {
        **Mistral.fixed,
        "attention_bias": False,
        "mlp_bias": False,
        "lm_head_bias": False,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
    }
    absent: ClassVar[dict[str, Any]] = {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    }
    stacked = (
        Stacked("self_attn.qkv_proj", QKV, _qkv_rows),
        Stacked("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"), _gate_up_rows),
    )

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """The scaling with the config's trained length, which counts, and under today's name for "su" and "yarn"."""
        published = super().normalize(published)
        trained = published.pop("original_max_position_embeddings")
        scaling = published.get("rope_scaling")
        if scaling is None:
            return published
        if scaling["rope_type"] not in ("longrope", "su", "yarn"):
            kind = scaling["rope_type"]
            raise ValueError(f"config of {self.model_type}: rope_scaling of the kind {kind!r}, expected 'longrope'")
        scaling = {**scaling, "rope_type": "longrope", "original_max_position_embeddings": trained}
        return {**published, "rope_scaling": scaling}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The trained length beside the scaling, too."""
        scaling = config.rope_scaling or {}
        trained = scaling.get("original_max_position_embeddings", config.max_position_embeddings)
        return {**published, "original_max_position_embeddings": trained}
