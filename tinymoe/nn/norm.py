"""Normalization layers: parts of the kind "norm", made with the number of channels and a small eps."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..tensor import OPS, Tensor, are_own
from .module import Module, constant, part


@part("norm", "rms_norm")
class RMSNorm(Module):
    """x / rms(x) * weight over the channels (Zhang and Sennrich 2019): LayerNorm without the mean and the bias."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        self.weight = constant((hidden_size,), 1.0)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return ops.rms_norm(x, self.weight, eps=self.eps)


def add_and_norm(x: Tensor, y: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """x + y, (..., hidden_size), and what the norm makes of it: in one operation, where it is RMSNorm."""
    if type(norm) is RMSNorm and are_own(OPS["rms_norm"]):
        x, normed = ops.add_rms_norm(x, y, norm.weight, eps=norm.eps)
        return x, normed
    x = x + y
    return x, norm(x)


@part("norm", "rms_norm_plus_one")
class OffsetRMSNorm(Module):
    """RMSNorm whose weight is an offset from one, as Gemma stores it: weight decay then pulls towards doing nothing."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        self.weight = constant((hidden_size,), 0.0)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return ops.rms_norm(x, self.weight + 1.0, eps=self.eps)


@part("norm", "layer_norm")
class LayerNorm(Module):
    """(x - mean) / std * weight + bias over the channels (Ba et al. 2016): what GPT-2, BLOOM, Falcon and Phi use."""

    def __init__(self, hidden_size: int, eps: float = 1e-5):
        self.weight = constant((hidden_size,), 1.0)
        self.bias = constant((hidden_size,), 0.0)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)
