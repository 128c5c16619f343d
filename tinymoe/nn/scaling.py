"""Rotary embedding for texts longer than those trained on: parts of the kind "rope_scaling".

Each is made with (dim, theta, scaling, max_position_embeddings), where `scaling` is the `rope_scaling` of a config. It
has to hold the fields that its kind needs, under the names of Hugging Face, and none that the kind does not know.
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


def _fields(scaling: Mapping[str, Any], required: str, optional: str = "") -> dict[str, Any]:
    """The fields of a `rope_scaling`, None for an optional one that is not given.

    Raises ValueError naming those that are missing, that this kind does not know, or a factor that would not stretch.
    """
    given = {name: value for name, value in scaling.items() if value is not None and name != "rope_type"}
    known = [*required.split(), *optional.split()]
    problems = [f"{name} is missing" for name in required.split() if name not in given]
    problems += [f"{name} = {given[name]!r} is not known" for name in given if name not in known]
    factor = given.get("factor", 1)
    if not (isinstance(factor, (int, float)) and factor >= 1):
        problems.append(f"factor = {factor!r} is not a number from 1 on")
    if problems:
        raise ValueError(f"rope_scaling of the kind {scaling.get('rope_type')!r}: " + "; ".join(problems))
    return {**dict.fromkeys(known), **given}


@part("rope_scaling", "linear")
class LinearRotary(RotaryEmbedding):
    """Position interpolation (Chen et al. 2023): every clock runs `factor` times slower, as if tokens stood closer."""

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        self.frequencies = self.frequencies / np.float32(_fields(scaling, "factor")["factor"])


def ntk_theta(theta: float, dim: int, stretch: float) -> float:
    """The theta that slows the slowest of dim/2 clocks `stretch` times and leaves the fastest alone (bloc97 2023).

    The i-th clock, theta^(-2i/dim), then runs stretch^(2i/(dim-2)) times slower.
    """
    return theta * stretch ** (dim / (dim - 2))


@part("rope_scaling", "dynamic")
class DynamicRotary(RotaryEmbedding):
    """Dynamic NTK scaling (bloc97 and emozilla 2023): theta grows with the text, once it is longer than trained on.

    A KV cache keeps keys as they were turned when the text was shorter; read in one go, all are turned alike.
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        self.dim, self.theta, self.trained = dim, theta, max_position_embeddings
        self.factor = _fields(scaling, "factor")["factor"]

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`; the frequencies follow from the furthest position."""
        length = max(int(positions.max()) + 1, self.trained)
        theta = ntk_theta(self.theta, self.dim, self.factor * length / self.trained - (self.factor - 1))
        self.frequencies = current().asarray(rope_frequencies(self.dim, theta))
        return super().__call__(positions)


def yarn_ramp(
    dim: int, theta: float, trained: int, beta_fast: float = 32, beta_slow: float = 1, truncate: bool = True
) -> np.ndarray:
    """How far each of dim/2 clocks is slowed, 0 (not at all) to 1 (fully): (dim/2,) (Peng et al. 2023, section 3.2).

    It is 0 up to the clock that makes `beta_fast` turns in the `trained` tokens, 1 from the one that makes `beta_slow`
    turns on, and rises along a line between them: from clock to clock, as in the authors' code, where the paper has a
    line over turns. truncate: the line starts and ends at whole numbers of clocks.
    """
    first, last = (
        dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (beta_fast, beta_slow)
    )  # the clocks that make so many turns: trained * theta^(-2i/dim) = 2 pi turns, solved for i
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    return np.clip((np.arange(dim // 2, dtype=np.float32) - first) / ((last - first) or 0.001), 0, 1)


def yarn_temperature(factor: float, weight: float = 1.0) -> float:
    """What cos and sin are multiplied by in a text `factor` times longer: 0.1 weight ln(factor) + 1 (eq. 22).

    Queries and keys both carry it, so that scores get its square.
    """
    return 0.1 * weight * math.log(factor) + 1


@part("rope_scaling", "yarn")
class YarnRotary(RotaryEmbedding):
    """YaRN (Peng et al. 2023): clocks that turn often in a text trained on stay, those that turn rarely are slowed.

    Scores are sharpened by a temperature. With DeepSeek's `mscale` pair it is a quotient of two such numbers (section
    4.1 of the DeepSeek-V2 paper).
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        c = _fields(
            scaling,
            required="factor",
            optional="original_max_position_embeddings beta_fast beta_slow truncate attention_factor mscale "
            "mscale_all_dim",
        )
        trained = c["original_max_position_embeddings"] or max_position_embeddings
        truncate = c["truncate"] is not False
        slowed = current().asarray(
            yarn_ramp(dim, theta, trained, c["beta_fast"] or 32, c["beta_slow"] or 1, truncate)
        )
        self.frequencies = self.frequencies * (1 - slowed) + self.frequencies / np.float32(c["factor"]) * slowed
        temperature = c["attention_factor"]
        if temperature is None and c["mscale"] and c["mscale_all_dim"]:
            above, below = (yarn_temperature(c["factor"], c[name]) for name in ("mscale", "mscale_all_dim"))
            temperature = above / below
        self.temperature = np.float32(yarn_temperature(c["factor"]) if temperature is None else temperature)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`, times the temperature."""
        cos, sin = super().__call__(positions)
        return cos * self.temperature, sin * self.temperature


@part("rope_scaling", "llama3")
class Llama3Rotary(RotaryEmbedding):
    """Llama 3.1's scaling: fast clocks stay, slow ones run `factor` times slower, those between in between.

    Fast: more than `high_freq_factor` turns in the text trained on; slow: fewer than `low_freq_factor`.
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        c = _fields(scaling, "factor low_freq_factor high_freq_factor", optional="original_max_position_embeddings")
        low, high = c["low_freq_factor"], c["high_freq_factor"]
        if high <= low:
            raise ValueError(f"rope_scaling: got high_freq_factor {high}, expected more than low_freq_factor ({low})")
        turns = (c["original_max_position_embeddings"] or max_position_embeddings) * self.frequencies / (2 * math.pi)
        stay = current().xp.clip((turns - low) / (high - low), 0, 1)
        self.frequencies = stay * self.frequencies + (1 - stay) * self.frequencies / np.float32(c["factor"])


@part("rope_scaling", "longrope")
class LongRotary(RotaryEmbedding):
    """LongRoPE (Ding et al. 2024), in Phi-3: every clock has factors of its own, one for short texts and one for long.

    They are found by a search for the lowest perplexity. The temperature is sqrt(1 + ln(factor) / ln(trained)).
    """

    def __init__(self, dim: int, theta: float, scaling: Mapping[str, Any], max_position_embeddings: int):
        super().__init__(dim, theta)
        c = _fields(scaling, "short_factor long_factor", "factor attention_factor original_max_position_embeddings")
        for name in ("short_factor", "long_factor"):
            if len(c[name]) != dim // 2:
                raise ValueError(f"rope_scaling: {name} has {len(c[name])} numbers, expected {dim // 2}, one a clock")
        self.trained = c["original_max_position_embeddings"] or max_position_embeddings
        self.short, self.long = (
            self.frequencies / current().asarray(np.asarray(c[name], dtype=np.float32))
            for name in ("short_factor", "long_factor")
        )
        factor, temperature = c["factor"] or max_position_embeddings / self.trained, c["attention_factor"]
        if temperature is None:
            temperature = math.sqrt(1 + math.log(max(factor, 1)) / math.log(self.trained))
        self.temperature = np.float32(temperature)

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """As in `RotaryEmbedding`, with the factors that the furthest position calls for, times the temperature."""
        self.frequencies = self.long if int(positions.max()) + 1 > self.trained else self.short
        cos, sin = super().__call__(positions)
        return cos * self.temperature, sin * self.temperature
