"""Exercises of chapter 08: choosing keys, the indexer's loss, when it pays, and a rule of one's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.backend import current

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise

_INF = math.inf


def index_kl(ctx: Any, scores: np.ndarray, *, target: np.ndarray) -> Any:
    """KL(target || softmax(scores)), summed over all queries, and its vjp."""
    foreseen = current().log_softmax(scores)
    nats = np.log(np.where(target > 0, target, 1)) - np.where(target > 0, foreseen, 0)
    return (target * nats).sum(), lambda g: (g * (np.exp(foreseen) - target),)


def _in_any_order(keys: Any) -> Any:
    return np.sort(keys, axis=-1)


def _random_scores(rng: np.random.Generator, size: int) -> Case:
    scores = np.round(rng.normal(size=(2, 3, size + 1)), 1)  # rounded, so that some are equal
    scores[0, :, size // 2 + 1 :] = -_INF
    return case(scores, int(rng.integers(1, size + 3)))


def _random_distributions(rng: np.random.Generator, size: int) -> Case:
    target = rng.random((2, 2, size + 1)) + 0.1
    target[0, :, -1] = 0 if size > 1 else target[0, :, -1]
    return case(rng.normal(size=target.shape), target=target / target.sum(axis=-1, keepdims=True))


def break_even(attention: int, indexer: int, topk: int) -> float:
    """The fewest keys at which scoring all and attending to `topk` costs less than attending to all."""
    if indexer >= attention:
        return math.inf
    return attention * topk // (attention - indexer) + 1


def my_keys(t: int, k: int) -> list[int]:
    """The first token, half a window, and the rest spread evenly over what lies between."""
    near = range(max(0, t + 1 - (k + 1) // 2), t + 1)
    if near.start <= k - len(near):
        return list(range(max(0, t - k + 1), t + 1))
    far = np.linspace(0, near.start - 1, k - len(near)).astype(int)
    return [*far.tolist(), *near]


def _lawful(rule: Any) -> str | None:
    for k in (1, 2, 4, 16):
        for t in (0, 1, 3, 4, 15, 16, 40, 127):
            keys = rule(t, k)
            given = f"t = {t}\nk = {k}"
            try:
                numbers = [int(key) for key in keys]
            except (TypeError, ValueError):
                wrong("it should return a list of key numbers", given=given, expected="integers", got=repr(keys))
            got = str(numbers)
            if len(numbers) > k:
                wrong("these are too many", given=given, expected=f"at most {k} keys", got=got)
            if len(set(numbers)) < len(numbers):
                wrong("a key comes twice", given=given, expected="different keys", got=got)
            if any(key < 0 or key > t for key in numbers):
                wrong("a key is no token so far", given=given, expected=f"keys from 0 to {t}", got=got)
            if t not in numbers:
                wrong("the query does not see itself", given=given, expected=f"{t} among the keys", got=got)
    return None


def _looks_far(rule: Any) -> str | None:
    numbers = sorted(int(key) for key in rule(127, 16))
    if numbers[0] > 127 - 16:
        return f"of 128 tokens it keeps only those that a window of 16 keeps too: the farthest is number {numbers[0]}"
    return None


EXERCISES = [
    Exercise(
        id="08.top_keys",
        title="The k best keys of every query",
        target="nn/sparse.py::top_keys",
        checks=[
            matches("two of three", [case(np.array([[[3.0, 1.0, 2.0]]]), 2)], read=_in_any_order),
            matches("fewer keys than k", [case(np.array([[[3.0, 1.0]]]), 5)], read=_in_any_order),
            matches("too few that may be seen", [case(np.array([[[1.0, -_INF, -_INF]]]), 2)], read=_in_any_order),
            matches("equal scores", [case(np.array([[[1.0, 0.0, 0.0, 0.0]]]), 2)], read=_in_any_order),
            matches("any scores", _random_scores, count=12, read=_in_any_order),
            matches("in order of place", [case(np.array([[[1.0, 5.0, 0.0, 3.0, 4.0]]]), 3)]),
        ],
        hints=[
            "A stable sort does most of it: np.argsort(..., kind='stable') keeps equal scores in their order.",
            "Of equal scores the *last* should win: turn the keys around (`[..., ::-1]`), sort by `-scores`, take the "
            "first k, and turn their numbers back with S - 1 - number.",
            "Sort the chosen numbers, then look their scores up with np.take_along_axis, and put -1 where one is -inf.",
        ],
    ),
    Exercise(
        id="08.index_kl",
        title="How wrong the indexer is, and its gradient",
        target="nn/sparse.py::index_kl",
        reference=index_kl,
        checks=[
            matches("a good guess", [case(np.zeros((1, 1, 2)), target=np.array([[[0.5, 0.5]]]))]),
            matches("a bad guess", [case(np.array([[[2.0, 0.0]]]), target=np.array([[[0.25, 0.75]]]))]),
            matches("a target of zero", [case(np.zeros((1, 1, 2)), target=np.array([[[1.0, 0.0]]]))]),
            matches("a key not to be seen", [case(np.array([[[0.3, -_INF]]]), target=np.array([[[1.0, 0.0]]]))]),
            matches("any distributions", _random_distributions, count=8),
            gradients(
                "its vjp",
                [case(np.array([[[0.5, -1.0, 0.2]]]), target=np.array([[[0.2, 0.7, 0.1]]]))],
            ),
        ],
        hints=[
            "KL(p || q) is the sum of p (log p - log q). log q is current().log_softmax(scores).",
            "Where p is 0 its term is 0, but 0 * log 0 is nan: replace the logarithms there with np.where first.",
            "The gradient is that of cross-entropy, softmax(scores) - target, times g; log p does not depend on the "
            "scores. Return the sum, and a function of g that returns a tuple of one.",
        ],
    ),
    Exercise(
        id="08.break_even",
        title="From which length on choosing pays",
        reference=break_even,
        checks=[
            matches("a cheap indexer", [case(10, 1, 90)]),
            matches("a free one", [case(10, 0, 64)]),
            matches("between two lengths", [case(17, 4, 100), case(7, 3, 5)]),
            matches("an indexer as dear as attention", [case(10, 10, 64), case(10, 12, 64)]),
            matches("DeepSeek-V3.2", [case(278528, 16512, 2048)]),
        ],
        hints=[
            "With s keys, more than topk, attending to all costs attention * s; choosing costs indexer * s + "
            "attention * topk.",
            "Choosing is cheaper as soon as s > attention * topk / (attention - indexer).",
            "The first whole number above that is attention * topk // (attention - indexer) + 1. An indexer that costs "
            "as much as attention never pays: math.inf.",
        ],
    ),
    Exercise(
        id="08.my_keys",
        title="A rule of your own",
        reference=my_keys,
        checks=[holds("a lawful choice", _lawful), holds("it looks farther than a window", _looks_far)],
        hints=[
            "Some that were published: a window and the first few tokens (StreamingLLM), a window and every n-th token "
            "(Sparse Transformer), a window and random tokens (BigBird).",
            "Begin with a window of half the size, range(max(0, t + 1 - (k + 1) // 2), t + 1), and think what to do "
            "with the other half. A set takes care of keys that come twice.",
            "Powers of two are a nice one: t, t - 1, t - 2, t - 4, t - 8, …, as far as they go.",
        ],
    ),
]
