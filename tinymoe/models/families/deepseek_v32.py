"""DeepSeek V3.2 (DeepSeek-AI 2025): V3 in which each query looks at the 2048 tokens that a small indexer wants most.

The published code turns the indexer's vectors by a Hadamard matrix and rounds them to eight bits, to make it cheap. A
turn of both sides leaves the scores as they are, and nothing is rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import same
from .deepseek_v3 import DeepseekV3

KINDS = {"dense": "swiglu", "sparse": "moe"}


class DeepseekV32(DeepseekV3):
    """Config fields of `DeepseekV32ForCausalLM`, beyond those of V3. Any layer may be dense or have experts.

    Rope turns the first channels of the indexer's vectors in two halves, as everything here.
    """

    model_type = "deepseek_v32"
    architecture = "DeepseekV32ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **DeepseekV3.fields,
        **same("index_n_heads index_head_dim index_topk"),
        "mlp_layer_types": "",
    }
    fixed: ClassVar[dict[str, Any]] = {**DeepseekV3.fixed, "mlp_bias": False, "indexer_rope_interleave": False}
    absent: ClassVar[dict[str, Any]] = {
        **DeepseekV3.absent,
        "max_position_embeddings": 163840,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    }
    parts: ClassVar[dict[str, Any]] = {**DeepseekV3.parts, "attention": "sparse"}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Where layers are listed, count the dense ones that come first. Transformers lists kinds of attention, too."""
        if listed := published.get("mlp_layer_types"):
            published["first_k_dense_replace"] = [*listed, "sparse"].index("sparse")
        if {*(published.get("layer_types") or ())} == {"indexed_attention"}:
            del published["layer_types"]
        return super().normalize(published)

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """As in V2. Raises ValueError for a list of layers that names other kinds."""
        values, listed = super().derived(published), published.get("mlp_layer_types")
        if not listed:
            return values
        if unknown := sorted({*listed} - KINDS.keys()):
            raise ValueError(f"mlp_layer_types: got {unknown[0]!r}, expected {' or '.join(map(repr, KINDS))}")
        return {**values, "mlp_types": tuple(KINDS[kind] for kind in listed)}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse: the list counts."""
        names = {ours: theirs for theirs, ours in KINDS.items()}
        return {**super().denormalize(published, config), "mlp_layer_types": [names[kind] for kind in config.mlp_types]}
