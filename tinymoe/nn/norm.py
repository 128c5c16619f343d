"""Normalisation layers."""

from __future__ import annotations

from .. import ops
from ..tensor import Tensor
from .module import Module, constant


class RMSNorm(Module):
    """x / rms(x) * weight over the channels (Zhang and Sennrich 2019): LayerNorm without the mean and the bias."""

    def __init__(self, hidden_size: int, eps: float = 1e-6):
        self.weight = constant((hidden_size,), 1.0)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., hidden_size) -> the same shape."""
        return ops.rms_norm(x, self.weight, eps=self.eps)
