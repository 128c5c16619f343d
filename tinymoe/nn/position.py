"""How a model knows where a token stands: rotary position embedding."""

from __future__ import annotations

import numpy as np

from ..backend import current
from ..backend.reference import Array


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
