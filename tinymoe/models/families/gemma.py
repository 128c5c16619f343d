"""Gemma (Gemma Team 2024): Llama with wide heads, GELU in the gated block, and a large vocabulary tied to the output.

The embedded tokens are multiplied by sqrt(hidden_size), and each norm multiplies by 1 + weight. The 2B model has one
key/value head; with 16 heads of 256 channels the 7B model's queries are wider than its hidden states.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...nn.config import Config
from .base import Family
from .llama import Llama


class Gemma(Family):
    """Config fields of `GemmaForCausalLM`; names and wiring are Llama's."""

    model_type = "gemma"
    architecture = "GemmaForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name != "mlp_bias"},
        "hidden_activation": "hidden_act",
    }
    fixed: ClassVar[dict[str, Any]] = {"use_bidirectional_attention": None}
    absent: ClassVar[dict[str, Any]] = {
        "max_position_embeddings": 8192,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    parts: ClassVar[dict[str, Any]] = {"norm": "rms_norm_plus_one", "mlp": "gated", "inputs": ("scale",)}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """One name for the activation: the first files say hidden_act, and "gelu" where they mean its tanh form."""
        published = super().normalize(published)
        older, newer = published.pop("hidden_act", None), published.get("hidden_activation")
        published["hidden_activation"] = newer or ("gelu_pytorch_tanh" if older in (None, "gelu") else older)
        if not published.get("use_bidirectional_attention"):  # null and false both mean causal attention
            published["use_bidirectional_attention"] = self.fixed["use_bidirectional_attention"]
        return published

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """Both names: which one is read depends on the version of Transformers."""
        return {**published, "hidden_act": config.hidden_act}
