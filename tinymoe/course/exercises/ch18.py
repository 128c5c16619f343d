"""Exercises of chapter 18: pass@k, votes, thoughts within a budget, the reverse KL, and a rule of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymoe.generate.reasoning import best_of_n, majority_vote
from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, raises, wrong
from ..registry import Exercise


def within_budget(thoughts: list[int], budget: int, end: int, close: Sequence[int]) -> list[int]:
    """What stands between the prompt and the answer: at most `budget` tokens of the thoughts, then `close`.

    Thoughts that ended by themselves have `end` as their last token, which is not kept. Nor is a line break at the end,
    the first token of `close`, which would stand there twice.
    """
    kept = list(thoughts[:budget])
    for last in (end, close[0]):
        if kept[-1:] == [last]:
            kept.pop()
    return [*kept, *close]


def my_rule(answers: Sequence[str | None], logps: Sequence[float], scores: Sequence[float]) -> str | None:
    """The answer to give: votes, in which answers that are likely, and that the verifier likes, weigh more."""
    weights = [math.exp(3 * score + 0.5 * logp) for score, logp in zip(scores, logps, strict=True)]
    return majority_vote(answers, weights)


def _counts(rng: np.random.Generator, size: int) -> Case:
    n = int(rng.integers(1, 3 * size + 2))
    return case(n, int(rng.integers(0, n + 1)), int(rng.integers(1, n + 1)))


def _votes(rng: np.random.Generator, size: int) -> Case:
    answers = [None if i == 0 else str(i) for i in rng.integers(0, 5, size=size)]
    return case(answers) if rng.random() < 0.5 else case(answers, rng.integers(1, 9, size=size).astype(float).tolist())


_END, _LINE = 7, 9
_CLOSE = [_LINE, _END, _LINE]


def _thoughts(rng: np.random.Generator, size: int) -> Case:
    thoughts = rng.choice([1, 2, 3, _LINE], size=size).tolist()
    ended = [_END] if rng.random() < 0.7 else []
    return case(thoughts + ended, int(rng.integers(0, size + 3)), _END, _CLOSE)


def _log(*rows: Sequence[float]) -> Tensor:
    return Tensor(np.log(np.array(rows)))


def _is_a_divergence(function: Any) -> None:
    rng = np.random.default_rng(0)
    student, teacher = (Tensor(np.log(rng.dirichlet(np.ones(5), size=6))) for _ in range(2))
    if not np.allclose(same := function(student, student).numpy(), 0, atol=1e-9):
        wrong("of two equal distributions it is 0", got=same)
    if not (got := function(student, teacher).numpy()).min() > 0:
        wrong("of two different distributions it is above 0", got=got)


def _bags(count: int, n: int, seed: int) -> list[tuple[list[str | None], list[float], list[float]]]:
    """Answers as the chapter's model gives them: "right" in 10 to 50 of 100, wrong ones that often agree, and some that
    cannot be read. Right ones are likelier, and the verifier, which errs, likes them more."""
    rng, bags = np.random.default_rng(seed), []
    for share in rng.uniform(0.1, 0.5, size=count):
        kinds = rng.choice(5, size=n, p=[share, *(0.97 - share) * np.array([0.5, 0.3, 0.2]), 0.03])
        answers = [["right", "38", "48", "40", None][kind] for kind in kinds]
        good = kinds == 0
        bags.append((answers, rng.normal(good - 3, 1.0).tolist(), np.clip(rng.normal(0.5 + 0.3 * good, 0.25), 0, 1)))
    return [(answers, logps, np.asarray(scores).tolist()) for answers, logps, scores in bags]


def _gives_an_answer(rule: Any) -> None:
    for answers in (["7"], ["7", "7", "7"], [None, "7"], ["8", "7", None]):
        got = rule(list(answers), [-1.0] * len(answers), [0.5] * len(answers))
        if got is None or got not in answers:
            wrong("expected one of the answers that can be read", given=f"answers {answers}", got=got)
    if (got := rule([None, None], [-1.0, -2.0], [0.5, 0.2])) is not None:
        wrong("where no answer can be read, there is none to give", given="answers [None, None]", got=got)


def _listens(rule: Any) -> None:
    answers: list[str | None] = ["7", "8"]
    for given in ("7", "8"):
        scores = [0.9 if answer == given else 0.1 for answer in answers]
        logps = [-1.0 if answer == given else -4.0 for answer in answers]
        if rule(list(answers), logps, scores) != given:
            said = f"answers {answers}, log-probabilities {logps}, the verifier's scores {scores}"
            wrong(
                "all there is speaks for one of the two", given=said, expected=given, got=rule(answers, logps, scores)
            )


def _beats_the_others(rule: Any) -> None:
    bags = _bags(400, 16, seed=1)

    def share(rule: Any) -> float:
        return float(np.mean([rule(list(a), list(p), list(s)) == "right" for a, p, s in bags]))

    others = {
        "the majority": share(lambda answers, logps, scores: majority_vote(answers)),
        "the verifier's best": share(lambda answers, logps, scores: best_of_n(answers, scores)),
        "the likeliest": share(lambda answers, logps, scores: best_of_n(answers, logps)),
    }
    name = max(others, key=lambda name: others[name])
    if not (got := share(rule)) > others[name]:
        wrong(
            "it should be right more often than each of the simple rules",
            given="16 answers to each of 400 problems, 10 to 50 of 100 right",
            expected=f"more than {others[name]:.3f}, {name}",
            got=f"{got:.3f}",
        )


EXERCISES = [
    Exercise(
        id="18.pass_at_k",
        title="pass@k without bias",
        target="generate/reasoning.py::pass_at_k",
        checks=[
            matches("one answer", [case(1, 1, 1), case(1, 0, 1)]),
            matches("k = 1 is the share of right ones", [case(4, 1, 1), case(10, 3, 1)]),
            matches("two of four", [case(4, 1, 2), case(4, 2, 2)]),
            matches("none of k can be wrong", [case(4, 3, 2), case(5, 5, 1)]),
            matches("any counts", _counts, count=20),
            matches("as many as a benchmark has", [case(20_000, 17, 5_000)]),
            raises("numbers that cannot be", ValueError, [case(4, 1, 0), case(4, 1, 5), case(4, 5, 1), case(4, -1, 1)]),
        ],
        hints=[
            "All answers of a choice of k are wrong in C(n - c, k) of C(n, k) choices. But C(20000, 5000) is no float.",
            "C(n - c, k) / C(n, k) is the product of 1 - k / i over i from n - c + 1 to n.",
            "1 - np.prod(1 - k / np.arange(n - correct + 1, n + 1)); where fewer than k are wrong, it is 1.",
        ],
    ),
    Exercise(
        id="18.majority_vote",
        title="What most of them say",
        target="generate/reasoning.py::majority_vote",
        checks=[
            matches("two against one", [case(["7", "8", "8"])]),
            matches("one that cannot be read", [case([None, None, "8"])]),
            matches("nothing to count", [case([]), case([None])]),
            matches("a tie: the first to come", [case(["9", "7", "7", "9"])]),
            matches("weights", [case(["7", "8", "8"], [3.0, 1.0, 1.0])]),
            matches("any votes", _votes, count=20),
        ],
        hints=[
            "A dict from answer to votes; each answer adds its weight, which is 1 if there are no weights.",
            "votes[answer] = votes.get(answer, 0.0) + weight, but not for None.",
            "max(votes, key=votes.get, default=None): of several with most votes, the first that was put in.",
        ],
    ),
    Exercise(
        id="18.within_budget",
        title="Thoughts within a budget",
        reference=within_budget,
        checks=[
            matches("enough budget", [case([1, 2, _END], 9, _END, _CLOSE)]),
            matches("cut off", [case([1, 2, 3, 1, _END], 2, _END, _CLOSE)]),
            matches("one line break, not two", [case([1, 2, _LINE, _END], 9, _END, _CLOSE)]),
            matches("cut off behind a line", [case([1, _LINE, 2, _LINE, _END], 2, _END, _CLOSE)]),
            matches("no budget", [case([1, 2, _END], 0, _END, _CLOSE)]),
            matches("any thoughts", _thoughts, count=20),
        ],
        hints=[
            "thoughts[:budget] first. Then look at what is last.",
            "First the token that ends the thoughts may go, then a line break, which close[0] is.",
            "kept[-1:] == [end] is also safe where nothing was kept.",
        ],
    ),
    Exercise(
        id="18.reverse_kl",
        title="The other way round",
        target="posttrain/distill.py::reverse_kl",
        checks=[
            matches("two equal ones", [case(_log([0.5, 0.5]), _log([0.5, 0.5]))]),
            matches("a sure student", [case(_log([0.9, 0.1]), _log([0.5, 0.5]))]),
            matches("several rows", [case(_log([0.9, 0.1], [0.2, 0.8]), _log([0.5, 0.5], [0.3, 0.7]))]),
            holds("it is a divergence", _is_a_divergence),
            gradients("its gradient", [case(_log([0.7, 0.2, 0.1]), _log([0.3, 0.3, 0.4]))]),
        ],
        hints=[
            "A KL divergence is a mean of differences of log-probabilities. Whose mean, and in which order?",
            "KL(student || teacher): student.exp() are the weights, student - teacher the differences.",
            "(student.exp() * (student - teacher)).sum(axis=-1)",
        ],
    ),
    Exercise(
        id="18.my_rule",
        title="A rule of your own",
        reference=my_rule,
        checks=[
            holds("it gives one of the answers", _gives_an_answer),
            holds("it listens to likelihood or verifier", _listens),
            holds("it beats the simple rules", _beats_the_others),
        ],
        hints=[
            "Votes use what answers have in common, scores what tells them apart. What uses both?",
            "majority_vote takes weights. Which numbers, all above 0, grow with the verifier's score?",
            "math.exp(3 * score + 0.5 * logp) as the weight of a vote.",
        ],
    ),
]
