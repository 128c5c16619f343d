"""Keeping the experts busy: losses that even out their load, and how even it is.

A router that sends most tokens to a few experts trains only those, which then attract still more tokens.

    B texts   T tokens   E experts   k experts of a token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor


@dataclass
class RouterState:
    """What a layer's router did with B texts: logits (B, T, E), shares (B, T, E) and choices (B, T, k).

    Shares are what a token's scores become when they are made to add up to one; choices are numbers of experts.
    """

    logits: Tensor
    shares: Tensor
    choices: Array

    def tensors(self) -> list[Tensor]:
        """Those through which gradients reach the router."""
        return [self.logits, self.shares]

    def join(self, others: Sequence[RouterState]) -> RouterState:
        """Of these texts and those that follow."""
        parts = [self, *others]
        logits, shares = (ops.concatenate(*(getattr(part, name) for part in parts)) for name in ("logits", "shares"))
        return RouterState(logits, shares, current().xp.concatenate([part.choices for part in parts]))


def load_balancing_loss(layers: Sequence[RouterState], mask: Array | None = None) -> Tensor:
    """E times the sum over experts of f P: k when all is even, more when it is not.

    f is an expert's number of tokens, P its mean share, both per token: f has no gradient, but where it is high, P is
    pushed down (Shazeer et al. 2017; in this form Switch Transformers, Fedus et al. 2021, eq. 4 to 6, for k = 1).
    With several layers f and P are means over all of them, as in Transformers: one layer may then make up for another.
    mask (B, T) is 0 for tokens that do not count.
    """
    experts = layers[0].shares.shape[-1]
    shares = sum_of([_sum_of_shares(layer, mask) for layer in layers])  # (E,)
    load = sum(expert_load(layer.choices, experts, mask) for layer in layers)  # (E,)
    tokens = len(layers) * _number_of_tokens(layers[0], mask)
    return (shares * (current().asarray(load).astype(shares.dtype) / tokens)).sum() * (experts / tokens)


def layer_balancing_loss(layers: Sequence[RouterState], mask: Array | None = None) -> Tensor:
    """`load_balancing_loss` of each layer by itself, summed up: no layer can hide behind another (Switch, GShard)."""
    return sum_of([load_balancing_loss([layer], mask) for layer in layers])


def router_z_loss(layers: Sequence[RouterState], mask: Array | None = None) -> Tensor:
    """The mean of logsumexp(logits)^2 over the tokens, summed up over the layers: it keeps logits small.

    Large logits round badly, and make a softmax that no longer learns (ST-MoE, Zoph et al. 2022, eq. 5).
    """
    return sum_of([_z_loss(layer, mask) for layer in layers])


def sequence_balance_loss(layers: Sequence[RouterState], mask: Array | None = None) -> Tensor:
    """Load balance within each text, meaned over texts and summed up over the layers (DeepSeek-V3, eq. 17 to 20).

    E / (k T) times the sum over experts of (the tokens of the text that chose it) times (its mean share in the text):
    1 when all is even. DeepSeek-V2 has the same loss (eq. 23 to 25) with a softmax's shares.
    """
    return sum_of([_sequence_loss(layer, mask) for layer in layers])


@dataclass(frozen=True)
class RouterLosses:
    """The losses of all routers of a model together, each times its coefficient; one that is 0 costs nothing."""

    together: float = 0.0
    each_layer: float = 0.0
    sequence: float = 0.0
    z: float = 0.0

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return any((self.together, self.each_layer, self.sequence, self.z))

    def __call__(self, layers: list[RouterState], mask: Array | None) -> Tensor:
        """A scalar: the weighted sum of the four losses above."""
        mask = None if mask is None else current().asarray(mask)
        losses = {
            load_balancing_loss: self.together,
            layer_balancing_loss: self.each_layer,
            sequence_balance_loss: self.sequence,
            router_z_loss: self.z,
        }
        return sum_of([loss(layers, mask) * weight for loss, weight in losses.items() if weight])


def bias_step(load: Array, speed: float) -> Array:
    """What is added to the experts' biases after a step with this load, (E,) both: up or down by `speed`, or nothing.

    An expert with fewer tokens than the mean becomes easier to choose, one with more harder (Wang et al. 2024,
    "Auxiliary-loss-free load balancing", algorithm 1). No gradient is disturbed.
    """
    return speed * current().xp.sign(load.mean() - load)


def expert_load(choices: Array, num_experts: int, mask: Array | None = None) -> Array:
    """How many tokens chose each expert: choices (B, T, k) -> (E,). Negative choices are of nobody; mask as above."""
    if mask is not None:
        choices = current().xp.where(mask[..., None] > 0, choices, -1)
    return current().bincount(choices.reshape(-1), num_experts)


def max_violation(load: Any) -> Any:
    """How far the busiest expert is above the mean: max / mean - 1 over the last axis of load (..., E).

    0 when all is even (Wang et al. 2024, "MaxVio").
    """
    load = np.asarray(load, dtype=float)
    return load.max(axis=-1) / load.mean(axis=-1) - 1


def load_entropy(load: Any) -> Any:
    """The entropy of load (..., E) as a share of the largest possible: 1 when all is even, 0 when one takes all."""
    load = np.asarray(load, dtype=float)
    if load.shape[-1] == 1:
        return np.ones(load.shape[:-1])
    p = load / load.sum(axis=-1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1) / np.log(load.shape[-1])


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors."""
    total, *others = terms
    for term in others:
        total = total + term
    return total


def _weights(layer: RouterState, mask: Array | None) -> Array:
    """1 for a token that counts, else 0: (B, T)."""
    xp = current().xp
    ones = xp.ones(layer.shares.shape[:2], dtype=layer.shares.dtype)
    return ones if mask is None else ones * (mask > 0)


def _number_of_tokens(layer: RouterState, mask: Array | None) -> Any:
    B, T, _ = layer.shares.shape
    return float(B * T) if mask is None else current().xp.maximum(_weights(layer, mask).sum(), 1)


def _sum_of_shares(layer: RouterState, mask: Array | None) -> Tensor:
    counted = layer.shares if mask is None else layer.shares * _weights(layer, mask)[..., None]
    return counted.sum(axis=(0, 1))  # (E,)


def _z_loss(layer: RouterState, mask: Array | None) -> Tensor:
    # log_softmax is logits - logsumexp: any one of its columns gives the logsumexp back.
    logsumexp = (layer.logits - ops.log_softmax(layer.logits)).mean(axis=-1)  # (B, T)
    return (logsumexp * logsumexp * _weights(layer, mask)).sum() / _number_of_tokens(layer, mask)


def _sequence_loss(layer: RouterState, mask: Array | None) -> Tensor:
    xp, (B, T, k) = current().xp, layer.choices.shape
    weights = _weights(layer, mask)  # (B, T)
    lengths = xp.maximum(weights.sum(axis=1), 1)[:, None]  # (B, 1)
    experts = layer.shares.shape[-1]
    chosen = xp.zeros((B, T, experts + 1), dtype=weights.dtype)  # the last column is for choices of nobody
    chosen[xp.arange(B)[:, None, None], xp.arange(T)[None, :, None], layer.choices] = 1
    load = (chosen[..., :-1] * weights[..., None]).sum(axis=1) * experts / (k * lengths)  # (B, E): f
    shares = (layer.shares * (weights / lengths)[..., None]).sum(axis=1)  # (B, E): P
    return (shares * load).sum() / B
