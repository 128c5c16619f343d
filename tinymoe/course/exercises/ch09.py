"""Exercises of chapter 09: choosing experts, sorting by them, capacity, the balancing loss, and a rule of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def top_k_routing(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest experts of each token, best first, and their weights, which add up to 1: (N, E) -> two (N, k)."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = e / e.sum(axis=-1, keepdims=True)
    choices = np.argsort(-probabilities, axis=-1, kind="stable")[:, :k]
    weights = np.take_along_axis(probabilities, choices, axis=-1)
    return choices, weights / weights.sum(axis=-1, keepdims=True)


def balance_loss(shares: Tensor, choices: np.ndarray) -> Tensor:
    """E times the sum over experts of f P: shares (N, E) of probabilities, choices (N, k) -> a scalar."""
    tokens, experts = shares.shape
    f = np.bincount(choices.reshape(-1), minlength=experts) / tokens
    return (shares.mean(axis=0) * f).sum() * experts


def my_balance(shares: Tensor, choices: np.ndarray) -> Tensor:
    """The squared coefficient of variation of the experts' mean shares (Shazeer et al. 2017, "importance")."""
    experts = shares.shape[-1]
    away = shares.mean(axis=0) - 1 / experts
    return (away * away).mean() * experts**2


def _random_logits(rng: np.random.Generator, size: int) -> Case:
    experts = int(rng.integers(2, 7))
    return case(rng.normal(size=(size, experts)), int(rng.integers(1, experts + 1)))


def _random_choices(rng: np.random.Generator, size: int, dropped: bool = True) -> tuple[np.ndarray, int]:
    experts = int(rng.integers(2, 6))
    k = int(rng.integers(1, experts + 1))
    choices = np.stack([rng.permutation(experts)[:k] for _ in range(size)])
    if dropped and size > 3:
        choices[rng.random(choices.shape) < 0.2] = -1
    return choices, experts


def _to_sort(rng: np.random.Generator, size: int) -> Case:
    return case(*_random_choices(rng, size))


def _crowd(rng: np.random.Generator, size: int) -> Case:
    choices, _ = _random_choices(rng, size, dropped=False)
    return case(choices, int(rng.integers(1, size + 1)))


def _routed(rng: np.random.Generator, size: int) -> Case:
    choices, experts = _random_choices(rng, size, dropped=False)
    return case(Tensor(rng.dirichlet(np.ones(experts), size=size)), choices)


_EVEN = Tensor(np.full((4, 2), 0.5))
_ALL_TO_ONE = Tensor(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]))


def _is_a_loss(rule: Any) -> str | None:
    for tokens, experts, k in ((1, 2, 1), (5, 4, 2), (6, 3, 3)):
        shares, choices = _example(tokens, experts, k)
        loss = rule(shares, choices)
        if not isinstance(loss, Tensor) or loss.shape != ():
            got = f"a Tensor of shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
            wrong("it should return a loss", given=f"shares {shares.shape}", expected="a Tensor of shape ()", got=got)
        if not np.isfinite(loss.item()):
            return f"for {tokens} tokens and {experts} experts the loss is {loss.item()}"
    return None


def _example(tokens: int, experts: int, k: int) -> tuple[Tensor, np.ndarray]:
    """Shares that like the first experts best, and the choices that follow from them."""
    logits = -0.7 * np.arange(experts) + 0.1 * np.random.default_rng(tokens).normal(size=(tokens, experts))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return Tensor(shares, requires_grad=True), np.argsort(-shares, axis=-1, kind="stable")[:, :k]


def _pushes_down(rule: Any) -> str | None:
    shares, choices = _example(12, 4, 2)
    loss = rule(shares, choices)
    if not loss.requires_grad:
        return "no gradient reaches the shares: choices alone are whole numbers, which cannot be moved a little"
    loss.backward()
    slope = np.asarray(shares.grad).sum(axis=0)
    if not slope[:2].mean() > slope[2:].mean() + 1e-9:
        wrong(
            "experts 0 and 1 get all tokens; downhill their shares should fall, relative to those of 2 and 3",
            given=f"shares of about {shares.numpy().mean(axis=0).round(2)}, choices {choices[0]} for each of 12 tokens",
            expected="a larger slope for experts 0 and 1 than for 2 and 3",
            got=f"slopes {slope.round(4)}",
        )
    return None


def _prefers_even(rule: Any) -> str | None:
    shares, choices = _example(12, 4, 1)
    even = Tensor(np.roll(np.tile(np.eye(4) * 0.6 + 0.1, (3, 1)), 1, axis=0))
    least, more = (rule(*given).item() for given in ((even, even.numpy().argmax(axis=-1)[:, None]), (shares, choices)))
    if not least < more:
        bound = f"less than {more:.4g}"
        wrong("an even load should cost less than one that is not", expected=bound, got=f"{least:.4g}")
    return None


EXERCISES = [
    Exercise(
        id="09.top_k_routing",
        title="The k best experts, and their weights",
        reference=top_k_routing,
        checks=[
            matches("one token, one expert", [case(np.array([[0.0, 2.0, 1.0]]), 1)]),
            matches("one token, two experts", [case(np.array([[0.0, 2.0, 1.0]]), 2)]),
            matches("equal logits: the first wins", [case(np.array([[0.0, 1.0, 1.0, 1.0]]), 2)]),
            matches("large logits", [case(np.array([[1000.0, 999.0, 0.0], [-1000.0, -1001.0, -1000.0]]), 2)]),
            matches("any logits", _random_logits, count=10),
        ],
        hints=[
            "Softmax along the last axis: subtract the row's maximum, np.exp, divide by the row's sum.",
            "np.argsort(-p, axis=-1, kind='stable')[:, :k] are the numbers of the k likeliest, the likeliest first.",
            "np.take_along_axis(p, choices, axis=-1) fetches their probabilities; divide those by their sum.",
        ],
    ),
    Exercise(
        id="09.sort_by_expert",
        title="Who goes where: pairs sorted by expert",
        target="nn/moe.py::sort_by_expert",
        checks=[
            matches("two tokens, one expert each", [case(np.array([[1], [0]]), 2)]),
            matches("two experts each", [case(np.array([[1, 0], [0, 1], [1, 2]]), 3)]),
            matches("an expert without tokens", [case(np.array([[0, 3], [3, 0]]), 4)]),
            matches("one expert has them all", [case(np.array([[2], [2], [2]]), 4)]),
            matches("choices that were dropped", [case(np.array([[1, -1], [-1, 0]]), 2)]),
            matches("any choices", _to_sort, count=14),
        ],
        hints=[
            "choices.reshape(-1) lists all pairs: number token * k + choice stands at its own place. A stable argsort "
            "of it gives the pairs by expert, and within an expert by token.",
            "-1 sorts before everything: if d pairs are dropped, leave out the first d of the sorted ones.",
            "np.bincount(chosen[chosen >= 0], minlength=num_experts) counts the tokens of each expert; the offsets are "
            "[0, *np.cumsum(counts).tolist()].",
        ],
    ),
    Exercise(
        id="09.within_capacity",
        title="First come, first served",
        target="nn/routers.py::within_capacity",
        checks=[
            matches("room for one", [case(np.array([[0], [0], [1]]), 1)]),
            matches("room for two", [case(np.array([[0], [0], [0], [0]]), 2)]),
            matches("second choices stand in the same line", [case(np.array([[0, 1], [1, 0], [1, 0]]), 2)]),
            matches("room for all", [case(np.array([[0, 1], [0, 1]]), 2)]),
            matches("any choices", _crowd, count=14),
        ],
        hints=[
            "Go through the pairs in their order, token by token, and within a token its first choice first. Count for "
            "each expert how many have come.",
            "A pair is kept if fewer than `capacity` pairs before it, in choices.reshape(-1), have the same expert.",
            "Without a loop: a one-hot table (pairs, experts), its cumulative sum down the pairs, and from that the "
            "count of each pair's own expert. Return booleans in the shape of choices.",
        ],
    ),
    Exercise(
        id="09.balance_loss",
        title="The load-balancing loss of the Switch Transformer",
        reference=balance_loss,
        checks=[
            matches("even shares, even choices", [case(_EVEN, np.array([[0], [1], [0], [1]]))]),
            matches("all to one", [case(_ALL_TO_ONE, np.array([[0], [0], [0]]))]),
            matches("two experts a token", [case(_ALL_TO_ONE, np.array([[0, 1], [0, 1], [0, 1]]))]),
            matches("any routing", _routed, count=10),
            gradients("its gradient", [case(_ALL_TO_ONE, np.array([[0], [0], [1]]))]),
        ],
        hints=[
            "f is np.bincount(choices.reshape(-1), minlength=experts) / tokens: how many tokens each expert gets, per "
            "token. It is an array; no gradient goes through it.",
            "P is shares.mean(axis=0), a Tensor (E,): the mean probability of each expert.",
            "The loss is experts * sum(f * P): (shares.mean(axis=0) * f).sum() * experts.",
        ],
    ),
    Exercise(
        id="09.my_balance",
        title="A balancing loss of your own",
        reference=my_balance,
        checks=[
            holds("a loss", _is_a_loss),
            holds("it pushes down what is too busy", _pushes_down),
            holds("least when all is even", _prefers_even),
        ],
        hints=[
            "Some that were published: the squared coefficient of variation of the mean shares (Shazeer et al. 2017); "
            "the loss of the exercise before; the negative entropy of the mean share.",
            "shares.mean(axis=0) has to be part of it: choices are whole numbers and carry no gradient.",
            "The negative entropy: P = shares.mean(axis=0); (P * P.log()).sum().",
        ],
    ),
]
