"""Feed-forward blocks: parts of the kind "mlp", made with a config and a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import ops
from ..tensor import OPS, Tensor, are_own
from .config import Config
from .module import Linear, Module, are_plain, linears, part


@part("mlp", "swiglu")
class MLP(Module):
    """down(silu(gate(x)) * up(x)): Llama's SwiGLU feed-forward block (Shazeer 2020)."""

    def __init__(self, config: Config, rng: np.random.Generator, intermediate_size: int | None = None):
        c, width = config, intermediate_size or config.intermediate_size
        self.gate_proj = Linear(c.hidden_size, width, bias=c.mlp_bias, rng=rng, std=c.initializer_range)
        self.up_proj = Linear(c.hidden_size, width, bias=c.mlp_bias, rng=rng, std=c.initializer_range)
        self.down_proj = Linear(width, c.hidden_size, bias=c.mlp_bias, rng=rng, std=c.initializer_range)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape. One operation, if each layer is a matrix and nothing else."""
        if are_plain(self.gate_proj, self.up_proj, self.down_proj) and are_own(OPS["swiglu"]):
            return ops.swiglu_mlp(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
        return self.down_proj(ops.swiglu(*linears(x, self.gate_proj, self.up_proj)))


# Under the names that Hugging Face's configs give them.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": ops.gelu,
    "gelu_new": ops.gelu_tanh,
    "gelu_pytorch_tanh": ops.gelu_tanh,
    "relu": ops.relu,
    "silu": ops.silu,
}


@part("mlp", "gated")
class GatedMLP(MLP):
    """The gated block with another bend than silu: Gemma's GeGLU."""

    def __init__(self, config: Config, rng: np.random.Generator, intermediate_size: int | None = None):
        super().__init__(config, rng, intermediate_size)
        self.bend = activation(config.hidden_act)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        gate, up = linears(x, self.gate_proj, self.up_proj)
        return self.down_proj(self.bend(gate) * up)


@part("mlp", "plain")
class PlainMLP(Module):
    """down(act(up(x))): the block of 2017, with GELU for ReLU since GPT."""

    def __init__(self, config: Config, rng: np.random.Generator, intermediate_size: int | None = None):
        c, width = config, intermediate_size or config.intermediate_size
        self.bend = activation(c.hidden_act)
        self.up_proj = Linear(c.hidden_size, width, bias=c.mlp_bias, rng=rng, std=c.initializer_range)
        self.down_proj = Linear(width, c.hidden_size, bias=c.mlp_bias, rng=rng, std=c.initializer_range)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return self.down_proj(self.bend(self.up_proj(x)))


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The bent function of this name. Raises ValueError, listing those there are, for any other."""
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act: got {name!r}, expected one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
