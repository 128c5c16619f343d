"""Rotary embedding for texts longer than those trained on: parts of the kind "rope_scaling".

Each is made with (dim, theta, scaling, max_position_embeddings), where `scaling` is the `rope_scaling` of a config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import current
from ..backend.reference import Array
from .module import part
from .position import RotaryEmbedding, rope_frequencies


@part("rope_scaling", "linear")
class LinearRotary(RotaryEmbedding):
    """Position interpolation (Chen et al. 2023): every clock runs `factor` times slower, as if tokens stood closer."""

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        self.frequencies = current().asarray(rope_frequencies(dim, theta) / np.float32(scaling["factor"]))


@part("rope_scaling", "llama3")
class Llama3Rotary(RotaryEmbedding):
    """Llama 3.1's scaling: fast clocks stay, slow ones run `factor` times slower, those between in between.

    Fast: a turn takes fewer than original / high_freq_factor tokens; slow: more than original / low_freq_factor.
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        frequencies = rope_frequencies(dim, theta)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in a text trained on
        stay = np.clip((turns - low) / (high - low), 0, 1)
        scaled = stay * frequencies + (1 - stay) * frequencies / scaling["factor"]
        self.frequencies = current().asarray(scaled.astype(np.float32))


@part("rope_scaling", "dynamic")
class DynamicRotary(RotaryEmbedding):
    """Dynamic NTK scaling (bloc97 and emozilla 2023): theta grows with the text, once it is longer than trained on."""

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        self.dim, self.theta, self.factor = dim, theta, scaling["factor"]
        self.trained = scaling.get("original_max_position_embeddings") or max_position_embeddings

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`; the frequencies follow from the furthest position."""
        length = max(int(positions.max()) + 1, self.trained)
        stretch = self.factor * length / self.trained - (self.factor - 1)
        theta = self.theta * stretch ** (self.dim / (self.dim - 2))
        self.frequencies = current().asarray(rope_frequencies(self.dim, theta))
        return super().__call__(positions)


@part("rope_scaling", "yarn")
class YarnRotary(RotaryEmbedding):
    """YaRN (Peng et al. 2023): clocks that turn often in a text trained on stay, those that turn rarely are slowed.

    Between `beta_fast` and `beta_slow` turns a ramp leads from the one to the other, and the scores get sharper by a
    temperature, here as a factor on cos and sin. DeepSeek's `mscale` pair sets that factor otherwise (section 4.1 of
    the DeepSeek-V2 paper).
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        factor = scaling["factor"]
        trained = scaling.get("original_max_position_embeddings") or max_position_embeddings
        first, last = (
            dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1)
        )  # the channel pairs that make so many turns
        if scaling.get("truncate", True):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        slowed = np.clip((np.arange(dim // 2, dtype=np.float32) - first) / max(last - first, 0.001), 0, 1)
        frequencies = rope_frequencies(dim, theta)
        self.frequencies = current().asarray(
            (frequencies * (1 - slowed) + frequencies / factor * slowed).astype(np.float32)
        )
        self.temperature = np.float32(yarn_temperature(scaling))

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`, times the temperature's factor."""
        cos, sin = super().__call__(positions)
        return cos * self.temperature, sin * self.temperature


def yarn_temperature(scaling: Mapping[str, Any]) -> float:
    """The factor on cos and sin: 0.1 ln(factor) + 1 (YaRN, equation 22), or DeepSeek's quotient of two such numbers."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1 if scaling["factor"] > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling["mscale"]) / mscale(scaling["mscale_all_dim"])
    return mscale(1.0)


@part("rope_scaling", "longrope")
class LongRotary(RotaryEmbedding):
    """LongRoPE (Ding et al. 2024), in Phi-3: a factor found by search for each clock, once for short texts and once for long."""

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        self.trained = scaling["original_max_position_embeddings"]
        base = rope_frequencies(dim, theta)
        self.short, self.long = (
            current().asarray(base / np.asarray(scaling[name], dtype=np.float32))
            for name in ("short_factor", "long_factor")
        )
        factor = scaling.get("factor") or max_position_embeddings / self.trained
        default = math.sqrt(1 + math.log(factor) / math.log(self.trained)) if factor > 1 else 1.0
        self.temperature = np.float32(scaling.get("attention_factor") or default)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`, with the list that the furthest position calls for, times the temperature."""
        self.frequencies = self.long if int(positions.max()) + 1 > self.trained else self.short
        cos, sin = super().__call__(positions)
        return cos * self.temperature, sin * self.temperature
