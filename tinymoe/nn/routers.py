"""Routers: they choose, for each token, the experts that see it. Parts made with a config and a random generator.

    N tokens   C hidden_size   E num_experts   k num_experts_per_tok
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .balance import RouterState, bias_step
from .config import Config
from .module import Module, constant, normal, part


@dataclass
class Routing:
    """What a router decides: the choices (N, k) of each token, and their weights (N, k).

    Choices are numbers of experts, the best first; `kept` (N, k) is False for those that are dropped again, where there
    are any. They follow from logits (N, E) by way of scores (N, E). Gradients reach the router through all three
    tensors.
    """

    logits: Tensor
    scores: Tensor
    choices: Array
    weights: Tensor
    kept: Array | None = None

    def state(self, batch: int) -> RouterState:
        """The same by texts, for the losses that balance the load; a softmax's scores are shares of one already."""
        shares = self.scores / (self.scores.sum(axis=-1, keepdims=True) + 1e-20)  # sigmoids may all be zero
        by_text = (batch, -1, shares.shape[-1])
        choices = self.choices.reshape(batch, -1, self.choices.shape[-1])
        return RouterState(self.logits.reshape(*by_text), shares.reshape(*by_text), choices)

    @property
    def seen(self) -> Array:
        """The choices, with -1 for those that were dropped: (N, k)."""
        return self.choices if self.kept is None else current().xp.where(self.kept, self.choices, -1)


@part("router", "softmax")
class Router(Module):
    """Probabilities of all experts from one matrix, weight (E, C); the k likeliest are chosen, and weighted by them.

    In Mixtral (2024) the weights of the chosen are then divided by their sum (`norm_topk_prob`), in Qwen1.5-MoE not.
    With k = 1 and a `capacity_factor` it is the router of the Switch Transformer (Fedus et al. 2021). Of equal experts
    the first is chosen; PyTorch promises no order.
    Raises ValueError when there are fewer experts than a token is to be sent to, or no room in them.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        c, experts, k = config, config.num_experts or 0, config.num_experts_per_tok or 0
        if experts < 1:
            raise ValueError(f"num_experts: got {c.num_experts}, expected at least 1, for a mixture of experts")
        if not 1 <= k <= experts:
            raise ValueError(
                f"num_experts_per_tok: got {c.num_experts_per_tok}, expected 1 to num_experts ({experts})"
            )
        if c.capacity_factor is not None and not 0 < c.capacity_factor < math.inf:
            raise ValueError(f"capacity_factor: got {c.capacity_factor}, expected a number above 0, or None")
        self.weight = normal(rng, (experts, c.hidden_size), c.initializer_range)
        self.num_experts_per_tok = k
        self.norm_topk_prob = c.norm_topk_prob
        self.routed_scaling_factor = c.routed_scaling_factor
        self.capacity_factor = c.capacity_factor
        self.whole_batch = self.whole_batch or c.capacity_factor is not None  # tokens compete for the room there is

    def __call__(self, x: Tensor) -> Routing:
        """Choose for the tokens x (N, C). Raises FloatingPointError where a score is not a number."""
        logits = self.logits(x)
        scores = self.scores(logits)  # (N, E)
        check_scores(scores.data)
        choices = current().top_k(self.ranking(logits.data, scores.data), self.num_experts_per_tok)  # (N, k)
        routing = Routing(logits, scores, choices, self.weights(logits, scores, choices))
        if self.capacity_factor is not None:
            capacity = expert_capacity(choices.size, len(self.weight), self.capacity_factor)
            routing.kept = within_capacity(choices, capacity)
        return routing

    def logits(self, x: Tensor) -> Tensor:
        """How well each expert suits each token: (N, C) -> (N, E)."""
        return ops.linear(x, self.weight)

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] from logits, (N, E) both: softmax over the experts."""
        return ops.softmax(logits)

    def ranking(self, logits: Array, scores: Array) -> Array:
        """What experts are chosen by, the largest first, (N, E): their scores."""
        return scores

    def weights(self, logits: Tensor, scores: Tensor, choices: Array) -> Tensor:
        """What the answers of the chosen are multiplied by: (N, k)."""
        weights = ops.take_along_axis(scores, indices=choices)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)  # sigmoids may all be zero
        return weights if self.routed_scaling_factor == 1 else weights * self.routed_scaling_factor

    def rebalance(self, load: Array) -> None:
        """Called after a step of training with its load (E,) of tokens; only the router "sigmoid" makes use of it."""


@part("router", "softmax_groups")
class GroupedRouter(Router):
    """Only the experts of the best groups are open to a token (DeepSeek-V2, 2024, section 2.2.2).

    A group stands for a machine: the limit bounds how many machines have to see a token. A group is as good as its
    best expert.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        self.n_group, self.topk_group = checked_groups(config)

    def ranking(self, logits: Array, scores: Array) -> Array:
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
        self.bias_update_speed = config.bias_update_speed

    def scores(self, logits: Tensor) -> Tensor:
        """A sigmoid for each expert: they do not compete."""
        return logits.sigmoid()

    def ranking(self, logits: Array, scores: Array) -> Array:
        """Scores and biases, without those of closed groups."""
        return within_groups(scores + self.e_score_correction_bias.data, self.n_group, self.topk_group, best=2)

    def rebalance(self, load: Array) -> None:
        """Move the biases against the load (E,) of a step; see `bias_step`."""
        bias = self.e_score_correction_bias
        bias.data = bias.data + bias_step(load, self.bias_update_speed).astype(bias.dtype)


@part("router", "softmax_chosen")
class ChosenRouter(Router):
    """The k largest logits are chosen, and only then go through a softmax, among themselves (GPT-OSS, 2025).

    That is Mixtral's rule, in less work. The logits have a bias (E,), which is trained like any other.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        super().__init__(config, rng)
        self.bias = constant((len(self.weight),), 0.0)

    def logits(self, x: Tensor) -> Tensor:
        """As in `Router`, with the bias."""
        return ops.linear(x, self.weight, self.bias)

    def ranking(self, logits: Array, scores: Array) -> Array:
        """The logits."""
        return logits

    def weights(self, logits: Tensor, scores: Tensor, choices: Array) -> Tensor:
        """They add up to one."""
        return ops.softmax(ops.take_along_axis(logits, indices=choices))


@part("router", "sigmoid_chosen")
class GateRouter(Router):
    """The k largest logits are chosen, each with its own sigmoid for a weight (Llama 4, 2025, with k = 1)."""

    def scores(self, logits: Tensor) -> Tensor:
        """A sigmoid for each expert."""
        return logits.sigmoid()

    def ranking(self, logits: Array, scores: Array) -> Array:
        """The logits: sigmoids of large ones all round to one."""
        return logits


@part("router", "expert_choice")
class ExpertChoiceRouter(Router):
    """The experts choose: each takes the tokens that suit it best, as many as its capacity (Zhou et al. 2022).

    The load is even by construction. A token may be seen by any number of experts, also by none, and k is only the
    mean. Whether it is seen depends on the tokens after it, so that such a model cannot write text token by token as
    it was trained: it is here to compare with.
    """

    whole_batch = True

    def __call__(self, x: Tensor) -> Routing:
        """Choose for the tokens x (N, C): k in the routing is E, of which those stay that chose the token."""
        xp, (tokens, experts) = current().xp, (len(x.data), len(self.weight))
        logits = self.logits(x)
        scores = self.scores(logits)  # (N, E)
        check_scores(scores.data)
        pairs = tokens * self.num_experts_per_tok
        capacity = min(expert_capacity(pairs, experts, self.capacity_factor or 1.0), tokens)
        chosen = current().top_k(scores.data.T, capacity)  # (E, capacity) of tokens
        kept = xp.zeros((tokens, experts), dtype=bool)
        kept[chosen, xp.arange(experts)[:, None]] = True
        every = xp.broadcast_to(xp.arange(experts), (tokens, experts))
        return Routing(logits, scores, every, scores, kept)


def check_scores(scores: Array) -> None:
    """Raises FloatingPointError, naming the token, when a score of (N, E) is not a number."""
    if current().any(bad := current().xp.isnan(scores)):
        token = int(bad.any(axis=-1).argmax())
        raise FloatingPointError(
            f"router logits: got a logit that is infinite or not a number for token {token} of {len(scores)}, expected "
            "finite ones: the weights or the hidden states have overflowed"
        )


def expert_capacity(pairs: int, num_experts: int, capacity_factor: float) -> int:
    """How many tokens an expert takes: its fair share times a factor, rounded up (Fedus et al. 2021, eq. 3).

    A fair share is that of all pairs of a token and one of its experts.
    """
    return math.ceil(pairs / num_experts * capacity_factor)


def within_capacity(choices: Array, capacity: int) -> Array:
    """True where an expert has room: its first `capacity` tokens, in their order, get in. choices (N, k) -> (N, k)."""
    xp, chosen = current().xp, choices.reshape(-1)
    pairs = xp.argsort(chosen, kind="stable")  # by expert, then by token
    first = xp.searchsorted(chosen[pairs], chosen[pairs])  # where the expert's own begin
    kept = xp.empty(chosen.shape, dtype=bool)
    kept[pairs] = xp.arange(len(pairs)) - first < capacity
    return kept.reshape(choices.shape)


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
