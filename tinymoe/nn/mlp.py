"""The feed-forward block."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..tensor import Tensor
from .module import Linear, Module


class MLP(Module):
    """down(silu(gate(x)) * up(x)): Llama's SwiGLU feed-forward block (Shazeer 2020)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, *, bias: bool, rng: np.random.Generator, std: float = 0.02
    ):
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias, rng=rng, std=std)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias, rng=rng, std=std)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias, rng=rng, std=std)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))
