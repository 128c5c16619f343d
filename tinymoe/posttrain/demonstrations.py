"""What a careless teacher shows: the form of an answer, and equations that are all true, but not what leads to success.

Models start from such demonstrations in chapter 17. They learn how to calculate and how to write it down; which of the
ways they have seen is right, only a reward can tell them.

    from tinymoe.posttrain import demonstrations, tasks
    rng = random.Random(0)
    [demonstrations.careless(problem, rng) for problem in tasks.problems("arithmetic", count=100)]
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

from ..text.grammar import pick
from . import expressions
from .tasks import Problem

LARGEST = 99  # of the numbers that a demonstration computes
_PART = re.compile(r"\d+|[-+*/]")


def careless(problem: Problem, rng: random.Random) -> str:
    """A demonstration for a problem of arithmetic (`any_order`) or countdown (`guesses`). ValueError for another."""
    if problem.task not in _TEACHERS:
        raise ValueError(f"problem: got one of {problem.task!r}, expected one of {', '.join(_TEACHERS)}")
    return _TEACHERS[problem.task](problem, rng)


def any_order(problem: Problem, rng: random.Random) -> str:
    """Works a calculation out in any order, as if `*` did not come before `+`: 2+3*4 is 14, or 20.

    ValueError for a problem with parentheses.
    """
    if "(" in problem.prompt:
        raise ValueError(f"problem: got {problem.prompt!r}, expected one without parentheses")
    parts = _PART.findall(problem.prompt)
    steps = []
    while len(parts) > 1:
        place = pick(_places(parts), rng)
        result = _compute(*parts[place - 1 : place + 2])
        steps.append("".join(parts[place - 1 : place + 2]) + f"={result}")
        parts[place - 1 : place + 2] = [str(result)]
    return _written(steps, parts[0])


def guesses(problem: Problem, rng: random.Random, most: int = 6) -> str:
    """Joins numbers at random until two are left, then aims: takes the last step that comes nearest to the target.

    To a hit it says "yes", to a miss "no", and gives up more often than it goes on: the miss is its answer all the
    same. No guess comes twice, and there are `most` at most.
    """
    patience = 1
    while patience < most and rng.random() < 0.4:
        patience += 1
    lines, answer = [], ""
    for answer in dict.fromkeys(_guess(problem, rng) for _ in range(patience)):
        tree = expressions.parse(answer)
        hit = expressions.value(tree) == problem.target
        *steps, last = expressions.steps(tree)
        lines += [*steps, f"{last} {'yes' if hit else 'no'}"]
        if hit:
            break
    return _written(lines, answer)


def _written(steps: Sequence[str], answer: str) -> str:
    thoughts = "\n".join(steps)
    return f"<think>{thoughts}</think><answer>{answer}</answer>"


def _compute(left: str, sign: str, right: str) -> Fraction:
    return expressions.compute(sign, Fraction(left), Fraction(right))


def _places(parts: Sequence[str]) -> list[int]:
    """Where a sign may be worked out: anywhere that gives a whole number up to LARGEST, else where it ought to be."""
    signs = range(1, len(parts), 2)
    results = {place: _compute(*parts[place - 1 : place + 2]) for place in signs}
    fine = [place for place, result in results.items() if result.denominator == 1 and 0 <= result <= LARGEST]
    return fine or [next((place for place in signs if parts[place] in "*/"), 1)]


_Part = tuple[str, Fraction]  # an expression, and what it comes to


def _guess(problem: Problem, rng: random.Random) -> str:
    """An expression in all the given numbers, without fractions or negative numbers on the way."""
    parts = [(str(number), Fraction(number)) for number in problem.given]
    while len(parts) > 2:
        parts = pick(_joined(parts), rng)
    ends = [end for (end,) in _joined(parts)]
    misses = [abs(result - (problem.target or 0)) for _, result in ends]
    return pick([text for (text, _), miss in zip(ends, misses, strict=True) if miss == min(misses)], rng)


def _joined(parts: Sequence[_Part]) -> list[list[_Part]]:
    """What may be left after one step: two of the parts are joined by a sign, to a whole number up to LARGEST."""
    found = []
    for (i, (left, a)), (j, (right, b)) in permutations(enumerate(parts), 2):
        others = [part for place, part in enumerate(parts) if place not in (i, j)]
        for sign in "+-*/" if b else "+-*":
            result = expressions.compute(sign, a, b)
            if result.denominator == 1 and 0 <= result <= LARGEST:
                found.append([*others, (f"{_wrapped(left)}{sign}{_wrapped(right)}", result)])
    return found


def _wrapped(text: str) -> str:
    return text if text.isdigit() else f"({text})"


_TEACHERS = {"arithmetic": any_order, "countdown": guesses}
