"""Qwen2 (Yang et al. 2024), Qwen2.5 and Qwen1.5: Llama with biases on queries, keys and values, but not on the output.

A config may let the layers from `max_window_layers` on slide; the published models see everything everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import Family
from .llama import Llama


class Qwen2(Family):
    """Config fields of `Qwen2ForCausalLM`; names and wiring are Llama's."""

    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name not in ("attention_bias", "mlp_bias")},
        "sliding_window": "sliding_window",
        **dict.fromkeys(("use_sliding_window", "max_window_layers", "layer_types"), ""),
    }
    fixed: ClassVar[dict[str, Any]] = {**Llama.fixed, "use_mrope": False}
    absent: ClassVar[dict[str, Any]] = {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
    parts: ClassVar[dict[str, Any]] = {"attention": "variant", "attention_bias": True, "attention_out_bias": False}

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """The window, which counts only where it is in use, and how far each layer reaches."""
        window = published["sliding_window"] if published["use_sliding_window"] else None
        first = published["max_window_layers"] if window is not None else published["num_hidden_layers"]
        layers = range(published["num_hidden_layers"])
        types = ["sliding_attention" if layer >= first else "full_attention" for layer in layers]
        return {"sliding_window": window, "layer_types": tuple(published.get("layer_types") or types)}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The window, its switch, and where it is used."""
        window, types = config.sliding_window, list(config.layer_types)
        return {**published, "use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}
