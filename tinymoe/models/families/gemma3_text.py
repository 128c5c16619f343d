"""Gemma 3 (Gemma Team 2025), its text half: five local layers to one global, QK-norm for capped scores, two thetas.

The local layers turn their heads with theta 10 000, the global ones with 1 000 000, stretched by a linear factor of 8
for texts of 128k tokens. Files of model_type gemma3 hold a vision tower too, which is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import with_rope_apart
from .gemma2 import Gemma2


class Gemma3Text(Gemma2):
    """Config fields of `Gemma3ForCausalLM`, beyond those of Gemma 2."""

    model_type = "gemma3_text"
    architecture = "Gemma3ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Gemma2.fields.items() if name != "attn_logit_softcapping"},
        "rope_local_base_freq": "rope_local_base_freq",
        "sliding_window_pattern": "",
    }
    # Transformers reads a cap on the scores, but does not apply it.
    fixed: ClassVar[dict[str, Any]] = {"use_bidirectional_attention": False, "attn_logit_softcapping": None}
    neutral = Gemma2.neutral | frozenset(
        "_sliding_window_pattern vision_config mm_tokens_per_image boi_token_index eoi_token_index "
        "image_token_index".split()
    )
    absent: ClassVar[dict[str, Any]] = {
        **Gemma2.absent,
        # The first multimodal files give the text model's shape only where it differs from these.
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "max_position_embeddings": 131072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
    }
    parts: ClassVar[dict[str, Any]] = {**Gemma2.parts, "qk_norm": "rms_norm_plus_one"}
    ignored = Gemma2.ignored + r"|^(model\.)?(vision_tower|multi_modal_projector)\."

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """The text half of a multimodal config, and its rotary embeddings, which newer files keep by layer type."""
        published.update(published.pop("text_config", None) or {})
        rope = published.get("rope_parameters") or {}
        if rope.keys() & {"full_attention", "sliding_attention"}:
            local = with_rope_apart({"rope_parameters": rope.get("sliding_attention")})
            published["rope_parameters"] = rope.get("full_attention")
            published["rope_local_base_freq"] = local.pop("rope_theta", published["rope_local_base_freq"])
            # What else there may be for local layers is not known, and will be named.
            published.update({f"sliding_attention.{name}": value for name, value in local.items()})
        return super().normalize(published)

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, also from a multimodal file, where the text model has a prefix."""
        prefix = r"^(language_model\.model|model\.language_model)\."
        return super().parameters_in({re.sub(prefix, "model.", name): a for name, a in published.items()}, config)
