"""More thought at test time: how many tries a problem takes, which answer to keep, and how long to think.

It works on answers that have been sampled, and for budgets with a function that samples; so it stands below the models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

# Called with prompts as token ids, the most tokens to add to each, and the tokens that end one; returns what it adds to
# each, the token that ended it included.
Sampler = Callable[[list[list[int]], int, Collection[int]], list[list[int]]]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that among k answers at least one is right, estimated from n answers of which `correct` are.

    It is 1 minus the share of all choices of k among the n that hold none of the right ones, and so unbiased; as a
    product, since binomials overflow (Chen et al. 2021, section 2.1).
    Raises ValueError where k is not 1 to n, or correct not 0 to n.
    """
    for name, value, low in (("k", k, 1), ("correct", correct, 0)):
        if not low <= value <= n:
            raise ValueError(f"{name}: got {value}, expected {low} to n, which is {n}")
    return 1 - float(np.prod(1 - k / np.arange(n - correct + 1, n + 1))) if n - correct >= k else 1.0


def majority_vote(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> str | None:
    """The answer given most often: self-consistency (Wang et al. 2022). Ties go to the one that came first.

    None stands for an answer that could not be read, and has no vote; where there is no other, it is the result. With
    weights, the votes of an answer are added up (Li et al. 2022).
    """
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, [1.0] * len(answers) if weights is None else weights, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + weight
    return max(votes, key=lambda answer: votes[answer], default=None)


def best_of_n(answers: Sequence[str | None], scores: Sequence[float]) -> str | None:
    """The answer with the highest score, whoever gives it: a verifier, a reward model, the model's own log-probability.

    None, an answer that could not be read, is taken only where there is no other. Ties go to the first.
    """
    readable = [(score, answer) for answer, score in zip(answers, scores, strict=True) if answer is not None]
    return max(readable, key=lambda pair: pair[0], default=(0.0, None))[1]


def by_budget(
    is_right: Callable[[np.ndarray], bool], n: int, sizes: Sequence[int], *, rounds: int = 32, seed: int = 0
) -> np.ndarray:
    """How often a choice among some of n answers is right, for each number of them in sizes: (sizes,).

    is_right is given the numbers of the answers to choose from, drawn without return, `rounds` times for each size.
    Raises ValueError where a size is not 1 to n.
    """
    for size in sizes:
        if not 1 <= size <= n:
            raise ValueError(f"sizes: got {size}, expected 1 to n, which is {n}")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(rounds)]  # the same for all sizes, so that curves are smooth
    return np.array([np.mean([is_right(order[:size]) for order in orders]) for size in sizes])


@dataclass(frozen=True)
class Forced:
    """What was sampled under a budget: the tokens of the thoughts, forced ones included, and those of the answer."""

    thoughts: list[int]
    answer: list[int]

    @property
    def tokens(self) -> int:
        """What it cost."""
        return len(self.thoughts) + len(self.answer)


def budget_forcing(
    sample: Sampler,
    prompts: Sequence[Sequence[int]],
    budget: int,
    *,
    end: int,
    close: Sequence[int],
    stop: int,
    wait: Sequence[int] = (),
    waits: int = 0,
    max_answer_tokens: int = 16,
) -> list[Forced]:
    """Think for at most `budget` tokens, then answer (Muennighoff et al. 2025, s1, section 3).

    A prompt ends where the thoughts begin. Who has not ended them with the token `end` when the budget is spent, is cut
    off; who would end them sooner has `wait` appended instead, up to `waits` times. Then `close` is appended, whose
    first token is the line break that ends the thoughts, and the answer sampled, up to the token `stop`.
    Raises ValueError for a negative budget or number of waits, and for waits without `wait`.
    """
    for name, value in (("budget", budget), ("waits", waits)):
        if value < 0:
            raise ValueError(f"{name}: got {value}, expected 0 or more")
    if waits and not wait:
        raise ValueError(f"wait: got no tokens, expected some to append up to {waits} times")
    thoughts: list[list[int]] = [[] for _ in prompts]
    ended = list(range(len(prompts)))  # rows that may think on
    for turn in range(waits + 1):
        ended = [row for row in ended if len(thoughts[row]) + len(wait) * (turn > 0) < budget]
        for row in ended:
            thoughts[row] += wait if turn else ()
        ended = _think(sample, prompts, thoughts, ended, budget, {end, stop})
    thoughts = [own[:-1] if own[-1:] == [close[0]] else own for own in thoughts]  # one line break, not two
    answers = sample([[*q, *own, *close] for q, own in zip(prompts, thoughts, strict=True)], max_answer_tokens, {stop})
    return [Forced(*parts) for parts in zip(thoughts, answers, strict=True)]


def _think(
    sample: Sampler,
    prompts: Sequence[Sequence[int]],
    thoughts: list[list[int]],
    rows: list[int],
    budget: int,
    ends: Collection[int],
) -> list[int]:
    """Let some rows think on, in place, up to the budget; returns those that ended by themselves, without their end."""
    if not rows:
        return []
    room = budget - min(len(thoughts[row]) for row in rows)
    added = sample([[*prompts[row], *thoughts[row]] for row in rows], room, ends)
    for row, tokens in zip(rows, added, strict=True):
        thoughts[row] = (thoughts[row] + list(tokens))[:budget]
    ended = [row for row in rows if thoughts[row][-1] in ends]
    for row in ended:
        thoughts[row].pop()
    return ended
