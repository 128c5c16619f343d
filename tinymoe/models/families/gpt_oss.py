"""GPT-OSS 20B and 120B (OpenAI 2025): learned sinks, every second layer local, clamped experts with biases, YaRN.

The experts of the published files take 4.25 bits a weight (MXFP4): two numbers a byte, and one scale for 32 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import same
from .fused import FusedExpertFamily
from .llama import Llama

# What four bits of a number stand for: a sign, two bits of exponent, one of mantissa (OCP Microscaling formats, 2023).
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4_VALUES = np.array([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], dtype=np.float32)

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def from_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Numbers from MXFP4: blocks (E, out, G, 16) and scales (E, out, G), bytes both -> float32 (E, in = 32 G, out).

    The lower half of a byte is the first of its two numbers; a scale s stands for 2^(s - 127). Raises ValueError for
    shapes that do not fit.
    """
    if blocks.ndim != 4 or blocks.shape[3] != 16 or scales.shape != blocks.shape[:3]:
        raise ValueError(
            f"blocks, scales: got shapes {blocks.shape} and {scales.shape}, expected (E, out, G, 16) and (E, out, G)"
        )
    numbers = FP4_VALUES[np.stack([blocks & 15, blocks >> 4], axis=-1)]  # (E, out, G, 16, 2)
    numbers = np.ldexp(numbers, scales.astype(np.int32)[..., None, None] - 127)
    return numbers.reshape(*blocks.shape[:2], -1).swapaxes(1, 2)


class GptOss(FusedExpertFamily):
    """Config fields and weights of `GptOssForCausalLM`; intermediate_size is that of an expert."""

    model_type = "gpt_oss"
    architecture = "GptOssForCausalLM"
    interleaved = True
    fields: ClassVar[dict[str, str]] = {
        **{name: ours for name, ours in Llama.fields.items() if name != "mlp_bias"},
        **same("num_experts_per_tok layer_types sliding_window swiglu_limit swiglu_alpha"),
        "num_local_experts": "num_experts",
    }
    neutral = frozenset({"quantization_config", "initial_context_length", "experts_per_token"})  # said elsewhere too
    absent: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "attention_bias": True,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
    }
    parts: ClassVar[dict[str, Any]] = {
        "attention": "variant",
        "attention_sinks": True,
        "mlp": "moe",
        "router": "softmax_chosen",
        "experts": "clamped",
    }
    names: ClassVar[dict[str, str]] = {"mlp.router": "mlp.gate"}

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Texts are stretched 32 times where a config says nothing about it."""
        if not published.keys() & {"rope_parameters", "rope_scaling"}:
            published["rope_scaling"] = YARN
        return super().normalize(published)

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """So a text that is not stretched has to be said to be."""
        if config.rope_scaling is None:
            published.pop("rope_scaling")
            published["rope_parameters"] = {"rope_type": "default", "rope_theta": published.pop("rope_theta")}
        return published

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """How far each layer reaches, where the config does not say it: the first slides, the second sees all, …"""
        if published.get("layer_types"):
            return {}
        layers = range(published["num_hidden_layers"])
        return {"layer_types": tuple("full_attention" if layer % 2 else "sliding_attention" for layer in layers)}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with MXFP4 unpacked."""
        parameters = super().parameters_in(published, config)
        for name in [name for name in parameters if name.endswith("_blocks")]:
            matrix = name.removesuffix("_blocks")
            if f"{matrix}_scales" in parameters:
                parameters[matrix] = from_mxfp4(parameters.pop(name), parameters.pop(f"{matrix}_scales"))
        return parameters
