"""Mixture of experts: many feed-forward blocks a layer, of which each token uses a few.

Parts of the kind "router", made with a config and a random generator, choose the experts; the part "moe" of the kind
"mlp" is the layer's whole block.

    N tokens   C hidden_size   E num_experts   k num_experts_per_tok   P = N * k pairs of a token and one of its experts
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .config import Config
from .mlp import MLP
from .module import Linear, Module, constant, make, normal, part
from .recorder import record


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
        self.experts = Experts(c, rng)
        if c.shared_expert_intermediate_size:
            self.shared_experts = MLP(c, rng, c.shared_expert_intermediate_size)
            if c.shared_expert_gate:
                self.shared_expert_gate = Linear(c.hidden_size, 1, bias=False, rng=rng, std=c.initializer_range)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same shape."""
        tokens = x.reshape(-1, x.shape[-1])  # (N, C)
        routing = self.gate(tokens)
        record("router", lambda: routing.scores.data.reshape(*x.shape[:-1], -1))  # (B, T, E)
        record("experts", lambda: routing.choices.reshape(*x.shape[:-1], -1))  # (B, T, k)
        y = self.experts(tokens, routing)
        if hasattr(self, "shared_experts"):
            y = y + self.shared(tokens)
        return y.reshape(*x.shape)

    def shared(self, tokens: Tensor) -> Tensor:
        """What the shared experts answer: (N, C) -> (N, C)."""
        y = self.shared_experts(tokens)
        return self.shared_expert_gate(tokens).sigmoid() * y if hasattr(self, "shared_expert_gate") else y


@dataclass
class Routing:
    """What a router decides: scores (N, E) for all experts, the choices (N, k) of each token, and their weights (N, k).

    Choices are numbers of experts, the best first. Gradients reach the router through weights and scores.
    """

    scores: Tensor
    choices: Array
    weights: Tensor


@part("router", "softmax")
class Router(Module):
    """Probabilities of all experts from one matrix, weight (E, C); the k likeliest are chosen, and weighted by them.

    In Mixtral (2024) the weights of the chosen are then divided by their sum (`norm_topk_prob`), in Qwen1.5-MoE not.
    Raises ValueError when there are fewer experts than a token is to be sent to.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        c, experts, k = config, config.num_experts or 0, config.num_experts_per_tok or 0
        if experts < 1:
            raise ValueError(f"num_experts: got {c.num_experts}, expected at least 1, for a mixture of experts")
        if not 1 <= k <= experts:
            raise ValueError(
                f"num_experts_per_tok: got {c.num_experts_per_tok}, expected 1 to num_experts ({experts})"
            )
        self.weight = normal(rng, (experts, c.hidden_size), c.initializer_range)
        self.num_experts_per_tok = k
        self.norm_topk_prob = c.norm_topk_prob
        self.routed_scaling_factor = c.routed_scaling_factor

    def __call__(self, x: Tensor) -> Routing:
        """Choose for the tokens x (N, C)."""
        scores = self.scores(ops.linear(x, self.weight))  # (N, E)
        choices = current().top_k(self.ranking(scores.data), self.num_experts_per_tok)  # (N, k)
        weights = ops.take_along_axis(scores, indices=choices)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)  # sigmoids may all be zero
        if self.routed_scaling_factor != 1:
            weights = weights * self.routed_scaling_factor
        return Routing(scores, choices, weights)

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] from logits, (N, E) both: softmax over the experts."""
        return ops.softmax(logits)

    def ranking(self, scores: Array) -> Array:
        """What experts are chosen by, the largest first, (N, E): their scores."""
        return scores


@part("router", "softmax_groups")
class GroupedRouter(Router):
    """Only the experts of the best groups are open to a token (DeepSeek-V2, 2024, section 2.2.2).

    A group stands for a machine: the limit bounds how many machines have to see a token. A group is as good as its
    best expert.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        self.n_group, self.topk_group = checked_groups(config)

    def ranking(self, scores: Array) -> Array:
        """The scores, without those of closed groups."""
        return within_groups(scores, self.n_group, self.topk_group, best=1)


@part("router", "sigmoid")
class SigmoidRouter(GroupedRouter):
    """Each expert has a score by itself, and a bias that is added for the choice alone (DeepSeek-V3, section 2.1.2).

    The bias is how the load is balanced without a loss (Wang et al. 2024): that of an expert with too much to do is
    lowered. A weight is a score without the bias. A group is as good as its two best experts together.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        # Loaded and saved like any parameter; since it has no gradient, an optimizer leaves it alone.
        self.e_score_correction_bias = constant((len(self.weight),), 0.0)
        self.e_score_correction_bias.requires_grad = False

    def scores(self, logits: Tensor) -> Tensor:
        """A sigmoid for each expert: they do not compete."""
        return logits.sigmoid()

    def ranking(self, scores: Array) -> Array:
        """Scores and biases, without those of closed groups."""
        return within_groups(scores + self.e_score_correction_bias.data, self.n_group, self.topk_group, best=2)


def within_groups(scores: Array, n_group: int, topk_group: int, best: int) -> Array:
    """The scores (N, E) with -inf for all experts but those of the `topk_group` best of `n_group` equal groups.

    A group is worth the sum of its `best` highest scores.
    """
    if topk_group == n_group:
        return scores
    xp = current().xp
    groups = scores.reshape(len(scores), n_group, -1)  # (N, groups, E / groups)
    worth = xp.sort(groups, axis=-1)[..., -best:].sum(axis=-1)  # (N, groups)
    is_open = xp.zeros(worth.shape, dtype=bool)
    is_open[xp.arange(len(scores))[:, None], current().top_k(worth, topk_group)] = True
    return xp.where(is_open[..., None], groups, -xp.inf).reshape(scores.shape)


def checked_groups(config: Config) -> tuple[int, int]:
    """n_group and topk_group. Raises ValueError when they do not fit the number of experts, or leave too few open."""
    c, experts = config, config.num_experts or 0
    if c.n_group < 1 or experts % c.n_group:
        raise ValueError(f"n_group: got {c.n_group}, expected a divisor of num_experts ({experts})")
    if not 1 <= c.topk_group <= c.n_group:
        raise ValueError(f"topk_group: got {c.topk_group}, expected 1 to n_group ({c.n_group})")
    if (c.num_experts_per_tok or 0) > (left := experts // c.n_group * c.topk_group):
        raise ValueError(
            f"num_experts_per_tok: got {c.num_experts_per_tok}, expected at most {left}, the experts in "
            f"{c.topk_group} of {c.n_group} groups (topk_group, n_group)"
        )
    return c.n_group, c.topk_group


class Experts(Module):
    """E feed-forward blocks of one shape, their matrices stacked: gate_proj, up_proj (E, I, C), down_proj (E, C, I).

    Tokens are copied once for each of their experts and sorted by expert, so that each expert sees its own together,
    however many they are: nothing is padded, and no token is dropped (as in MegaBlocks, Gale et al. 2023).
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
        pairs, offsets = sort_by_expert(routing.choices, len(self.gate_proj))
        rows = ops.dispatch(x, pairs=pairs, k=routing.choices.shape[1])  # (P, C)
        return ops.combine(self.answer(rows, offsets), routing.weights, pairs=pairs)

    def answer(self, rows: Tensor, offsets: list[int]) -> Tensor:
        """Each expert's SwiGLU block on its own rows: (P, C) -> (P, C), expert e on offsets[e] to offsets[e + 1]."""
        linear = partial(ops.grouped_linear, offsets=offsets)
        return linear(ops.swiglu(linear(rows, self.gate_proj), linear(rows, self.up_proj)), self.down_proj)

    @property
    def idle(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Numbers in the experts that a token is not sent to."""
        experts = len(self.gate_proj)
        return sum(p.size for p in self.parameters()) // experts * (experts - self.num_experts_per_tok)


def sort_by_expert(choices: Array, num_experts: int) -> tuple[Array, list[int]]:
    """The pairs of a token and one of its experts, sorted by expert, from choices (N, k).

    Returns their numbers, token * k + choice (P,), and where each expert's begin, with the end of the last (E + 1).
    """
    xp, chosen = current().xp, choices.reshape(-1)
    pairs = xp.argsort(chosen, kind="stable")
    counts = current().to_numpy(xp.bincount(chosen, minlength=num_experts))
    return pairs, [0, *np.cumsum(counts).tolist()]
