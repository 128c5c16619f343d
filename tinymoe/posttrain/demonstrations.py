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


def guesses(problem: Problem, rng: random.Random, most: int = 4) -> str:
    """Guesses, says "no" to what misses the target, and often gives up: `most` guesses at most.

    Every other guess is right. After one that misses, it gives that as its answer all the same as often as it goes on.
    """
    lines: list[str] = []
    for number in range(most):
        right = rng.random() < 0.5
        guess = problem.answer if right else _wrong_guess(problem, rng)
        steps = expressions.steps(expressions.parse(guess))
        if right or number == most - 1 or rng.random() < 0.5:
            break
        lines += [*steps[:-1], f"{steps[-1]} no"]
    return _written(lines + steps, guess)


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


def _wrong_guess(problem: Problem, rng: random.Random) -> str:
    """An expression in all the given numbers that misses the target, without fractions or negative numbers."""
    while True:
        parts = [(str(number), Fraction(number)) for number in problem.given]
        while len(parts) > 1:
            (left, a), (right, b) = (parts.pop(int(rng.random() * len(parts))) for _ in range(2))
            sign = pick("+-*/", rng)
            if sign == "/" and not b:
                break
            parts.append((f"{_wrapped(left)}{sign}{_wrapped(right)}", expressions.compute(sign, a, b)))
            if parts[-1][1].denominator > 1 or not 0 <= parts[-1][1] <= LARGEST:
                break
        else:
            if parts[0][1] != problem.target:
                return parts[0][0]


def _wrapped(text: str) -> str:
    return text if text.isdigit() else f"({text})"


_TEACHERS = {"arithmetic": any_order, "countdown": guesses}
