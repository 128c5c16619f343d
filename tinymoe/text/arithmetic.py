"""Problems in arithmetic with their steps written out: a corpus whose answers can be checked.

Each problem is a question, the steps to its answer, and the answer: the form of GSM8K (Cobbe et al., 2021,
arXiv:2110.14168), with easier contents. A model may be trained on the whole text, or may be given the question
and be rewarded for the answer. Every equation that stands in the steps is true.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .grammar import pick


@dataclass(frozen=True)
class Problem:
    """A question, the steps that lead to its answer, one a line, and the answer alone."""

    kind: str
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The whole problem, as the corpus has it."""
        return "\n".join([f"Question: {self.question}", *self.steps, f"Answer: {self.answer}"])


def problem(index: int, seed: int = 0, *, kinds: Sequence[str] = (), level: int = 2) -> Problem:
    """Problem number `index` of the endless collection `seed`: always the same, on every machine.

    `kinds` are some of KINDS (default: all). `level` is the number of digits that the larger numbers may have,
    1 to 6. ValueError for an unknown kind and for a level outside that range.
    """
    if unknown := [kind for kind in kinds if kind not in _MAKERS]:
        raise ValueError(f"kinds has {unknown[0]!r}; it may have {', '.join(KINDS)}")
    if not 1 <= level <= 6:
        raise ValueError(f"level is {level}; it has to be 1 to 6 (digits)")
    rng = random.Random(f"arithmetic/{seed}/{level}/{index}")
    kind = pick(kinds or KINDS, rng)
    question, steps, answer = _MAKERS[kind](rng, 10**level - 1)
    return Problem(kind, question, tuple(steps), str(answer))


def problems(seed: int = 0, *, kinds: Sequence[str] = (), level: int = 2) -> Iterator[Problem]:
    """All problems of collection `seed`, without end."""
    index = 0
    while True:
        yield problem(index, seed, kinds=kinds, level=level)
        index += 1


_Draft = tuple[str, list[str], object]  # question, steps, answer


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _addition(rng: random.Random, most: int) -> _Draft:
    a, b = _between(rng, 0, most), _between(rng, 0, most)
    steps, carry = [], 0
    for place in range(len(str(max(a, b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        digits = f"{x} + {y} + {carry}" if carry else f"{x} + {y}"
        carry = total // 10
        steps.append(f"{digits} = {total}: write {total % 10}" + (f", carry {carry}." if carry else "."))
    if carry:
        steps.append(f"Write the {carry} in front.")
    return f"What is {a} + {b}?", steps, a + b


def _subtraction(rng: random.Random, most: int) -> _Draft:
    b, a = sorted((_between(rng, 0, most), _between(rng, 0, most)))
    steps, left = [], a
    for place in reversed(range(len(str(b)))):
        part = b // 10**place % 10 * 10**place
        if part:
            steps.append(f"{left} - {part} = {left - part}.")
            left -= part
    return f"What is {a} - {b}?", steps or [f"{a} - 0 = {a}."], a - b


def _multiplication(rng: random.Random, most: int) -> _Draft:
    a, b = _between(rng, 2, max(9, most)), _between(rng, 2, 12)
    parts = [a // 10**place % 10 * 10**place for place in reversed(range(len(str(a))))]
    parts = [part for part in parts if part]
    steps = [f"{part} * {b} = {part * b}." for part in parts]
    if len(parts) > 1:
        steps.append(" + ".join(str(part * b) for part in parts) + f" = {a * b}.")
    return f"What is {a} * {b}?", steps, a * b


def _division(rng: random.Random, most: int) -> _Draft:
    b, quotient = _between(rng, 2, 12), _between(rng, 1, max(9, most // 10))
    rest = _between(rng, 0, b - 1)
    a = b * quotient + rest
    steps = [f"{b} * {quotient} = {b * quotient}.", f"{a} - {b * quotient} = {rest}."]
    answer = f"{quotient} remainder {rest}" if rest else f"{quotient}"
    return f"What is {a} divided by {b}?", steps, answer


def _precedence(rng: random.Random, most: int) -> _Draft:
    a, b, c = _between(rng, 2, max(9, most // 2)), _between(rng, 2, 9), _between(rng, 2, 9)
    if rng.random() < 0.5:
        return f"What is {a} + {b} * {c}?", [f"{b} * {c} = {b * c}.", f"{a} + {b * c} = {a + b * c}."], a + b * c
    steps = [f"{a} + {b} = {a + b}.", f"{a + b} * {c} = {(a + b) * c}."]
    return f"What is ({a} + {b}) * {c}?", steps, (a + b) * c


def _comparison(rng: random.Random, most: int) -> _Draft:
    a, b = _between(rng, 0, most), _between(rng, 0, most)
    b += a == b
    high, low = max(a, b), min(a, b)
    wanted, answer = pick((("larger", high), ("smaller", low)), rng)
    return f"Which is {wanted}, {a} or {b}?", [f"{high} - {low} = {high - low}, so {high} > {low}."], answer


def _sequence(rng: random.Random, most: int) -> _Draft:
    start, step = _between(rng, 0, most), _between(rng, 2, 12)
    numbers = [start + i * step for i in range(4)]
    if rng.random() < 0.3:
        start, step = _between(rng, 1, 5), _between(rng, 2, 3)
        numbers = [start * step**i for i in range(4)]
        steps = [f"{b} / {a} = {step}." for a, b in itertools.pairwise(numbers)]
        return _next_number(numbers), [*steps, f"{numbers[3]} * {step} = {numbers[3] * step}."], numbers[3] * step
    steps = [f"{b} - {a} = {step}." for a, b in itertools.pairwise(numbers)]
    return _next_number(numbers), [*steps, f"{numbers[3]} + {step} = {numbers[3] + step}."], numbers[3] + step


def _next_number(numbers: list[int]) -> str:
    return f"What comes next: {', '.join(map(str, numbers))}?"


def _fraction(rng: random.Random, most: int) -> _Draft:
    bottom, factor = _between(rng, 2, 12), _between(rng, 2, 9)
    top = _between(rng, 1, bottom - 1)
    a, b = top * factor, bottom * factor
    divisor = math.gcd(a, b)
    steps = [f"Both can be divided by {divisor}.", f"{a} / {divisor} = {a // divisor}."]
    steps.append(f"{b} / {divisor} = {b // divisor}.")
    return f"Simplify the fraction {a}/{b}.", steps, f"{a // divisor}/{b // divisor}"


def _percent(rng: random.Random, most: int) -> _Draft:
    percent = pick((5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90), rng)
    whole = 20 * _between(rng, 1, max(5, most // 20))
    answer = whole * percent // 100
    steps = [f"{whole} * {percent} = {whole * percent}.", f"{whole * percent} / 100 = {answer}."]
    return f"What is {percent} percent of {whole}?", steps, answer


def _equation(rng: random.Random, most: int) -> _Draft:
    factor, x, shift = _between(rng, 2, 9), _between(rng, 1, max(9, most // 9)), _between(rng, 1, 20)
    right = factor * x + shift
    steps = [f"{right} - {shift} = {right - shift}.", f"{right - shift} / {factor} = {x}."]
    return f"Solve {factor}x + {shift} = {right}.", steps, x


def _clock(rng: random.Random, most: int) -> _Draft:
    start, length = 5 * _between(rng, 72, 216), 5 * _between(rng, 2, 36)
    end = start + length
    steps = [f"{start // 60} * 60 + {start % 60} = {start} minutes after midnight."]
    steps.append(f"{start} + {length} = {end}.")
    steps.append(f"{end} - {end // 60} * 60 = {end % 60}, so it is {end // 60} hours and {end % 60} minutes.")
    thing = pick(("A movie", "A lesson", "A train ride", "A concert", "A meeting", "A football game"), rng)
    question = f"{thing} starts at {_time(start)} and lasts {length} minutes. When does it end?"
    return question, steps, _time(end)


def _time(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


_NAMES = (
    "Mia", "Omar", "Lena", "Ravi", "Sofia", "Kenji", "Amara", "Tom", "Yuki", "Diego", "Nora", "Ben", "Leila", "Max",
    "Priya", "Hugo", "Zoe", "Kofi", "Anna", "Ivan", "Hana", "Leo", "Rosa", "Sam",
)  # fmt: skip
_THINGS = ("apples", "marbles", "stickers", "shells", "stamps", "pencils", "cookies", "coins", "cards", "buttons")


def _shopping(rng: random.Random, most: int) -> _Draft:
    name, thing = pick(_NAMES, rng), pick(("pens", "notebooks", "apples"), rng)
    other = pick(("cake", "cap", "ball"), rng)
    count, price, extra = _between(rng, 2, 9), _between(rng, 2, 9), _between(rng, 3, 20)
    cost = count * price
    paid = 10 * math.ceil((cost + extra) / 10)
    question = (
        f"{name} buys {count} {thing} for {price} dollars each and a {other} for {extra} dollars. "
        f"{name} pays with {paid} dollars. How many dollars does {name} get back?"
    )
    steps = [f"The {thing} cost {count} * {price} = {cost} dollars."]
    steps.append(f"Together that is {cost} + {extra} = {cost + extra} dollars.")
    steps.append(f"The change is {paid} - {cost + extra} = {paid - cost - extra} dollars.")
    return question, steps, paid - cost - extra


def _sharing(rng: random.Random, most: int) -> _Draft:
    name, thing = pick(_NAMES, rng), pick(_THINGS, rng)
    friends, each = _between(rng, 2, 8), _between(rng, 2, max(9, most // 10))
    kept = _between(rng, 1, 9)
    total = friends * each + kept
    question = (
        f"{name} has {total} {thing}. {name} keeps {kept} and shares the rest equally among {friends} friends. "
        f"How many {thing} does each friend get?"
    )
    steps = [f"There are {total} - {kept} = {total - kept} {thing} to share."]
    steps.append(f"Each friend gets {total - kept} / {friends} = {each} {thing}.")
    return question, steps, each


def _saving(rng: random.Random, most: int) -> _Draft:
    name, thing = pick(_NAMES, rng), pick(("bicycle", "guitar", "tent", "telescope", "skateboard"), rng)
    weekly, weeks, have = _between(rng, 3, 12), _between(rng, 3, 15), _between(rng, 5, 40)
    price = have + weekly * weeks
    question = (
        f"A {thing} costs {price} dollars. {name} has {have} dollars and saves {weekly} dollars every week. "
        f"After how many weeks can {name} buy it?"
    )
    steps = [f"{name} still needs {price} - {have} = {price - have} dollars."]
    steps.append(f"That takes {price - have} / {weekly} = {weeks} weeks.")
    return question, steps, weeks


def _trading(rng: random.Random, most: int) -> _Draft:
    name, thing = pick(_NAMES, rng), pick(_THINGS, rng)
    friend = pick([other for other in _NAMES if other != name], rng)
    start, found, times = _between(rng, 5, max(9, most // 2)), _between(rng, 2, 20), _between(rng, 2, 4)
    lost = _between(rng, 1, start)
    left = start - lost + found
    question = (
        f"{name} has {start} {thing}, loses {lost} of them and finds {found} new ones. {friend} has {times} times as "
        f"many as {name} has now. How many {thing} do they have together?"
    )
    steps = [f"{name} has {start} - {lost} = {start - lost} {thing} left."]
    steps.append(f"With the new ones that is {start - lost} + {found} = {left}.")
    steps.append(f"{friend} has {left} * {times} = {left * times}.")
    steps.append(f"Together they have {left} + {left * times} = {left + left * times} {thing}.")
    return question, steps, left + left * times


def _travel(rng: random.Random, most: int) -> _Draft:
    name, vehicle = pick(_NAMES, rng), pick(("bus", "train", "boat", "car"), rng)
    speed, hours, walk = 10 * _between(rng, 2, 12), _between(rng, 2, 6), _between(rng, 1, 9)
    question = (
        f"{name} travels {hours} hours by {vehicle} at {speed} kilometers an hour, and then walks {walk} kilometers. "
        "How many kilometers is that in all?"
    )
    steps = [f"The {vehicle} covers {hours} * {speed} = {hours * speed} kilometers."]
    steps.append(f"With the walk that is {hours * speed} + {walk} = {hours * speed + walk} kilometers.")
    return question, steps, hours * speed + walk


def _rectangle(rng: random.Random, most: int) -> _Draft:
    long, wide = _between(rng, 3, max(9, most // 4)), _between(rng, 2, 12)
    place = pick(("garden", "field", "room", "playground", "carpet"), rng)
    question = f"A {place} is {long} meters long and {wide} meters wide. "
    if rng.random() < 0.5:
        return question + "What is its area in square meters?", [f"{long} * {wide} = {long * wide}."], long * wide
    steps = [f"{long} + {wide} = {long + wide}.", f"{long + wide} * 2 = {2 * (long + wide)}."]
    return question + "How many meters is it around?", steps, 2 * (long + wide)


_MAKERS: dict[str, Callable[[random.Random, int], _Draft]] = {
    "addition": _addition,
    "subtraction": _subtraction,
    "multiplication": _multiplication,
    "division": _division,
    "precedence": _precedence,
    "comparison": _comparison,
    "sequence": _sequence,
    "fraction": _fraction,
    "percent": _percent,
    "equation": _equation,
    "clock": _clock,
    "shopping": _shopping,
    "sharing": _sharing,
    "saving": _saving,
    "trading": _trading,
    "travel": _travel,
    "rectangle": _rectangle,
}
KINDS = tuple(_MAKERS)
