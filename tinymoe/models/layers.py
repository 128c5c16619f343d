"""Other ways to wire a layer, and what embedded tokens may go through before the first one.

Parts of the kind "layer", made with a config, the layer's number and a random generator, and of the kind "input", made
with a config and a random generator.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend.reference import Array
from ..nn.attention import Places
from ..nn.cache import LayerCache
from ..nn.config import Config
from ..nn.module import Module, make, part
from ..tensor import Tensor


@part("layer", "parallel")
class ParallelLayer(Module):
    """Attention and feed-forward block side by side: x + attention(norm(x)) + mlp(norm(x)).

    GPT-J's idea (Wang and Komatsuzaki 2021), in Falcon and Phi-2: both can be computed at once. One norm serves both,
    or each has its own (`parallel_norms` = 2, Falcon 40B).
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c = config
        self.input_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.self_attn = make("attention", c.attention, c, index, rng)
        if c.parallel_norms == 2:
            self.mlp_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.mlp = make("mlp", c.mlp_types[index], c, rng)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, C) -> the same shape."""
        normed = self.input_layernorm(x)
        mlp_input = self.mlp_layernorm(x) if hasattr(self, "mlp_layernorm") else normed
        return x + self.self_attn(normed, places, cache) + self.mlp(mlp_input)


@part("layer", "sandwich")
class SandwichLayer(Module):
    """A norm before and another after each block, as in Gemma 2: what a block adds to the stream is normalized too."""

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c = config
        self.input_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.self_attn = make("attention", c.attention, c, index, rng)
        self.post_attention_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.pre_feedforward_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.mlp = make("mlp", c.mlp_types[index], c, rng)
        self.post_feedforward_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, C) -> the same shape."""
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), places, cache))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


@part("input", "scale")
class ScaledInput(Module):
    """The embedding times sqrt(hidden_size), as in Gemma and in the first transformer (Vaswani et al. 2017)."""

    def __init__(self, config: Config, rng: np.random.Generator):
        self.scale = math.sqrt(config.hidden_size)

    def __call__(self, x: Tensor, positions: Array) -> Tensor:
        """x (B, T, C) -> the same shape."""
        return x * self.scale


@part("input", "norm")
class NormedInput(Module):
    """A norm right after the embedding, which kept BLOOM's training stable."""

    def __init__(self, config: Config, rng: np.random.Generator):
        self.norm = make("norm", config.norm, config.hidden_size, config.rms_norm_eps)

    def __call__(self, x: Tensor, positions: Array) -> Tensor:
        """x (B, T, C) -> the same shape."""
        return self.norm(x)
