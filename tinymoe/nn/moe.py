"""Mixture of experts: many feed-forward blocks a layer, of which each token uses a few.

The part "moe" of the kind "mlp" is the layer's whole block: a router (see `routers`), and parts of the kind "experts",
made with a config and a random generator.

    N tokens   C hidden_size   E num_experts   k num_experts_per_tok   P = N * k pairs of a token and one of its experts
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor, is_grad_enabled
from .balance import RouterLosses, expert_load, load_entropy, max_violation
from .config import Config
from .mlp import MLP, activation
from .module import Linear, Module, constant, make, normal, part
from .recorder import contribute_jointly, counted, record
from .routers import Routing

_counting = threading.Lock()  # parts of a batch may be in the same layer at once


@part("mlp", "moe")
class MoE(Module):
    """A feed-forward block of many experts (Shazeer et al. 2017; in transformers, Lepikhin et al. 2020).

    The gate, a router, sends each token to some of the experts, whose answers are added up by its weights. Shared
    experts, where there are any, answer every token (DeepSeekMoE, Dai et al. 2024), in Qwen's models through a gate of
    their own. They are one MLP, since MLPs whose answers are added are one wider MLP.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        c = config
        self.gate = make("router", c.router, c, rng)
        self.experts = make("experts", c.experts, c, rng)
        if c.shared_expert_intermediate_size:
            self.shared_experts = MLP(c, rng, c.shared_expert_intermediate_size)
            if c.shared_expert_gate:
                self.shared_expert_gate = Linear(c.hidden_size, 1, bias=False, rng=rng, std=c.initializer_range)
        self.losses = RouterLosses(
            together=c.router_aux_loss_coef,
            each_layer=c.layer_aux_loss_coef,
            sequence=c.sequence_loss_coef,
            z=c.router_z_loss_coef,
        )
        self.num_experts = c.num_experts or 0
        self.load: Array = None  # what the experts were given since the last step of training: (E,) of tokens

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same shape."""
        tokens = x.reshape(-1, x.shape[-1])  # (N, C)
        routing = self.gate(tokens)
        self.report(routing, x.shape[0])
        y = self.experts(tokens, routing)
        if hasattr(self, "shared_experts"):
            y = y + self.shared(tokens)
        return y.reshape(*x.shape)

    def report(self, routing: Routing, batch: int) -> None:
        """Show the routing to whoever looks; where gradients are recorded, offer it to the losses, count the load."""
        seen = routing.seen.reshape(batch, -1, routing.choices.shape[1])  # (B, T, k)
        record("router", lambda: routing.scores.data.reshape(batch, -1, self.num_experts))
        record("experts", lambda: seen)
        if self.losses:
            contribute_jointly(self.losses, lambda: routing.state(batch))
        if is_grad_enabled():
            load = expert_load(seen, self.num_experts, counted())
            with _counting:
                self.load = load if self.load is None else self.load + load

    def after_step(self) -> dict[str, Any]:
        """Let the router balance its biases, and report the load since the last step, as shares of all of it."""
        if self.load is None:
            return {}
        self.gate.rebalance(self.load)
        load, self.load = current().to_numpy(self.load), None
        if not load.any():
            return {}
        shares = [round(float(share), 4) for share in load / load.sum()]
        figures = {"max_violation": max_violation(load), "load_entropy": load_entropy(load)}
        return {"expert_load": shares, **{name: round(float(value), 4) for name, value in figures.items()}}

    def shared(self, tokens: Tensor) -> Tensor:
        """What the shared experts answer: (N, C) -> (N, C)."""
        y = self.shared_experts(tokens)
        return self.shared_expert_gate(tokens).sigmoid() * y if hasattr(self, "shared_expert_gate") else y


@part("experts", "swiglu")
class Experts(Module):
    """E feed-forward blocks of one shape, their matrices stacked: gate_proj, up_proj (E, I, C), down_proj (E, C, I).

    Tokens are copied once for each of their experts and sorted by expert, so that each expert sees its own together,
    however many they are: nothing is padded, and no token is dropped (as in MegaBlocks, Gale et al. 2023), unless the
    router drops it.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        c = config
        experts, width = c.num_experts or 0, c.moe_intermediate_size or c.intermediate_size
        stacked = partial(normal, rng, std=c.initializer_range)
        self.gate_proj = stacked((experts, width, c.hidden_size))
        self.up_proj = stacked((experts, width, c.hidden_size))
        self.down_proj = stacked((experts, c.hidden_size, width))
        self.num_experts_per_tok = c.num_experts_per_tok or 0

    def __call__(self, x: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the answers of each token's experts: x (N, C) -> (N, C)."""
        pairs, offsets = sort_by_expert(routing.seen, len(self.gate_proj))
        rows = ops.dispatch(x, pairs=pairs, k=routing.choices.shape[1])  # (P, C)
        return ops.combine(self.answer(rows, offsets), routing.weights, pairs=pairs)

    def answer(self, rows: Tensor, offsets: list[int]) -> Tensor:
        """Each expert's SwiGLU block on its own rows: (P, C) -> (P, C), expert e on offsets[e] to offsets[e + 1]."""
        return ops.grouped_swiglu_mlp(rows, self.gate_proj, self.up_proj, self.down_proj, offsets=offsets)

    @property
    def idle(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Numbers in the experts that a token is not sent to."""
        experts = len(self.gate_proj)
        return sum(p.size for p in self.parameters()) // experts * (experts - self.num_experts_per_tok)


@part("experts", "clamped")
class ClampedExperts(Experts):
    """GPT-OSS's experts (2025): with biases, (E, I) and (E, C), and a SwiGLU whose inputs cannot grow without bound.

    gate * sigmoid(alpha gate) * (up + 1), the gate cut off above `swiglu_limit`, and up on both sides. The sigmoid of
    1.702 times the gate is nearly GELU's bend, and the 1 lets a gate pass where up is zero.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        experts, width, channels = self.gate_proj.shape
        self.gate_proj_bias, self.up_proj_bias = constant((experts, width), 0.0), constant((experts, width), 0.0)
        self.down_proj_bias = constant((experts, channels), 0.0)
        self.limit, self.alpha = config.swiglu_limit, config.swiglu_alpha

    def answer(self, rows: Tensor, offsets: list[int]) -> Tensor:
        """As in `Experts`."""
        xp = current().xp
        expert = xp.searchsorted(xp.asarray(offsets[1:]), xp.arange(len(rows)), side="right")  # (P,)

        def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return ops.grouped_linear(x, weight, offsets=offsets) + ops.embedding(bias, ids=expert)

        gate = ops.clip(linear(rows, self.gate_proj, self.gate_proj_bias), high=self.limit)
        up = ops.clip(linear(rows, self.up_proj, self.up_proj_bias), low=-self.limit, high=self.limit)
        return linear(gate * (gate * self.alpha).sigmoid() * (up + 1.0), self.down_proj, self.down_proj_bias)


@part("experts", "gated")
class GatedExperts(Experts):
    """Experts with another bend than silu: Grok-1's GeGLU."""

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        self.bend = activation(config.hidden_act)

    def answer(self, rows: Tensor, offsets: list[int]) -> Tensor:
        """As in `Experts`."""
        gate, up = ops.grouped_linears(rows, self.gate_proj, self.up_proj, offsets=offsets)
        return ops.grouped_linear(self.bend(gate) * up, self.down_proj, offsets=offsets)


@part("experts", "scaled_input")
class ScaledInputExperts(Experts):
    """Llama 4's (2025): the weight multiplies what an expert is given, not what it answers."""

    def __call__(self, x: Tensor, routing: Routing) -> Tensor:
        """The sum of the answers of each token's experts: x (N, C) -> (N, C)."""
        tokens, k = routing.choices.shape
        pairs, offsets = sort_by_expert(routing.seen, len(self.gate_proj))
        rows = (x.reshape(tokens, 1, -1) * routing.weights.reshape(tokens, k, 1)).reshape(tokens * k, -1)  # (N k, C)
        answers = self.answer(ops.dispatch(rows, pairs=pairs, k=1), offsets)
        return ops.combine(answers, current().xp.ones((tokens, k), dtype=x.dtype), pairs=pairs)


def sort_by_expert(choices: Array, num_experts: int) -> tuple[Array, list[int]]:
    """The pairs of a token and one of its experts, sorted by expert, from choices (N, k); negative ones are left out.

    Returns their numbers, token * k + choice (P,), and where each expert's begin, with the end of the last (E + 1).
    """
    if current().keeps_counts:
        return current().sort_by_expert(choices, num_experts)
    xp, chosen = current().xp, choices.reshape(-1) + 1  # 0 for what is left out
    pairs = xp.argsort(chosen, kind="stable")
    ends = np.cumsum(current().to_numpy(xp.bincount(chosen, minlength=num_experts + 1))).tolist()
    return pairs[ends[0] :], [end - ends[0] for end in ends]
