"""How a model knows where a token stands: rotary position embedding, its stretched forms, ALiBi, learned vectors.

Parts of the kind "position" are made with a config and a layer type, and turn positions into cosines and sines.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .config import Config
from .module import Embedding, make, part


def rope_frequencies(head_dim: int, theta: float = 10000.0) -> np.ndarray:
    """Angle a position of each channel pair, theta^(-2i/head_dim) (Su et al. 2021): (D/2,).

    Raises ValueError for an odd head_dim: its last channel would have no partner to rotate with.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim: got {head_dim}, expected an even number (rotary embedding turns channel pairs)")
    return (1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)).astype(np.float32)


class RotaryEmbedding:
    """The cosines and sines by which queries and keys are turned. It has nothing to train."""

    def __init__(self, head_dim: int, theta: float = 10000.0):
        self.frequencies = current().asarray(rope_frequencies(head_dim, theta))

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """positions (B or 1, T) of integers -> cos and sin, (B or 1, T, head_dim/2) each."""
        xp = current().xp
        angles = positions[..., None].astype(np.float32) * self.frequencies
        return xp.cos(angles), xp.sin(angles)


@part("position", "rope")
def rotary(config: Config, layer_type: str) -> RotaryEmbedding:
    """The rotary embedding of all layers of one type, stretched if the config says so (chapter 05)."""
    c = config
    dim = c.qk_rope_head_dim or int(c.head_dim * c.partial_rotary_factor)
    if layer_type == "sliding_attention" and c.rope_local_base_freq is not None:
        return RotaryEmbedding(dim, c.rope_local_base_freq)
    if c.rope_scaling is None:
        return RotaryEmbedding(dim, c.rope_theta)
    kind = c.rope_scaling.get("rope_type", "")
    return make("rope_scaling", kind, dim, c.rope_theta, c.rope_scaling, c.max_position_embeddings)


@part("position", "learned")
@part("position", "alibi")
@part("position", "none")
class NoTurning:
    """For models that do not turn queries and keys: they learn a vector a place, use ALiBi's slopes, or nothing."""

    def __init__(self, config: Config, layer_type: str):
        """Takes what every part of this kind is made with, and needs none of it."""

    def __call__(self, positions: Array) -> tuple[None, None]:
        """No cosines and no sines."""
        return None, None


@part("input", "learned_positions")
class LearnedPositions(Embedding):
    """A trained vector for each place, added to the token's embedding (GPT-2): weight (max_position_embeddings, C)."""

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config.max_position_embeddings, config.hidden_size, rng=rng, std=config.initializer_range)

    def __call__(self, x: Tensor, positions: Array) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x (B, T, C), positions (1, T) -> (B, T, C). Raises ValueError for a place without a vector."""
        if current().any(positions >= len(self.weight)):
            raise ValueError(
                f"positions: got {int(positions.max()) + 1} tokens, but the model knows only {len(self.weight)} places"
            )
        return x + super().__call__(positions)


def alibi_slopes(num_attention_heads: int) -> np.ndarray:
    """How much each head's scores fall with each token of distance (Press et al. 2022): (H,).

    For a power of two a geometric row from 2^(-8/H) to 2^-8; else every second slope of twice as many fills the rest.
    """
    power = 2 ** math.floor(math.log2(num_attention_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / power) for i in range(num_attention_heads - power)]
    return np.array(slopes, dtype=np.float32)
