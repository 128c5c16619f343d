"""OLMoE (Muennighoff et al. 2024): 64 small experts, 8 for each token, none shared, and norms over all heads at once.

Weights, data, code and logs are all open. It was trained with the load-balancing loss (0.01) and the z-loss (0.001).
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import same
from .experts import ExpertFamily
from .llama import Llama


class Olmoe(ExpertFamily):
    """Config fields of `OlmoeForCausalLM`; intermediate_size is that of an expert."""

    model_type = "olmoe"
    architecture = "OlmoeForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("head_dim", "mlp_bias")},
        **same("num_experts num_experts_per_tok norm_topk_prob"),
    }
    fixed: ClassVar[dict[str, Any]] = {**ExpertFamily.fixed, "clip_qkv": None}
    absent: ClassVar[dict[str, Any]] = {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    }
    parts: ClassVar[dict[str, Any]] = {"attention": "wide_norm", "mlp": "moe"}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Transformers 5 writes num_local_experts."""
        published["num_experts"] = published.pop("num_local_experts", published["num_experts"])
        return super().normalize(published)
