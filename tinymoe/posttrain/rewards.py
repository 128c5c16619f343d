"""Rewards that a program can verify: is the answer right, is the form kept, do the tests pass.

Each is a number from 0 to 1 for a text, whatever the text is. None of it is evaluated as Python here: answers and
expressions are read by parsers of our own, and code runs in a process with limits (`sandbox`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from . import expressions
from .sandbox import run_tests
from .tasks import Problem

Reward = Callable[[str, Problem], float]

_NUMBER = re.compile(r"([+-]?)([0-9]{1,30})(?:\.([0-9]{1,30})|/([0-9]{1,30}))?")  # no \d: digits of all scripts
_FENCE = "```"


def final_answer(text: str) -> str | None:
    """What stands behind "Answer:" on a line of its own, or between <answer> and </answer>.

    None where it is empty, or there is none, or several: so nothing is gained by giving many answers.
    """
    lines = [line.removeprefix("Answer:") for line in text.split("\n") if line.startswith("Answer:")]
    _, *tagged = text.split("<answer>")
    if len(lines) + len(tagged) != 1:
        return None
    if tagged:
        inner, end, _ = tagged[0].partition("</answer>")
        return inner.strip() or None if end else None
    return lines[0].strip() or None


def number(text: str) -> Fraction | None:
    """The number that a text is: "12", "-3", "2.50", "3/4" or "1,234". None for any other text.

    >>> number("2.50"), number("1e3")
    (Fraction(5, 2), None)
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3}){1,9}", text):
        text = text.replace(",", "")
    match = _NUMBER.fullmatch(text)
    if not match or (match[4] and not int(match[4])):
        return None
    return Fraction(text)


def answer_reward(text: str, answer: str) -> float:
    """1 if the final answer of a text is the right one, as a number ("6.0" is "6") or else letter by letter."""
    given = final_answer(text)
    if given is None:
        return 0.0
    right = number(answer)
    return float(given == answer.strip() if right is None else number(given) == right)


def format_reward(text: str, style: str = "lines") -> float:
    """1 if a text has the form that was asked for, right or wrong.

    "lines": steps, then "Answer: …" as the last line. "tags": <think>…</think><answer>…</answer> and nothing else, as
    in DeepSeek-R1-Zero (2025). ValueError for another style.
    """
    if style not in ("lines", "tags"):
        raise ValueError(f"style: got {style!r}, expected 'lines' or 'tags'")
    if final_answer(text) is None:
        return 0.0
    if style == "lines":
        *steps, last = text.strip().split("\n")
        return float(last.startswith("Answer:") and any(step.strip() for step in steps))
    # The tags cut the text in five: they are in order, each is there once, and nothing is outside them.
    parts = re.split(r"(</?(?:think|answer)>)", text.strip())
    tags, outside = parts[1::2], parts[0] + "".join(parts[4:5]).strip() + parts[-1]
    return float(tags == ["<think>", "</think>", "<answer>", "</answer>"] and not outside and bool(parts[2].strip()))


def countdown_reward(text: str, given: Sequence[int], target: int) -> float:
    """1 if the final answer is an expression that comes to the target and uses each given number once at most.

    Only + - * / and parentheses count; what is computed on the way may be any fraction. "= target" may follow.
    """
    expression, equals, result = (final_answer(text) or "").partition("=")
    try:
        tree = expressions.parse(expression)
        used = Counter(expressions.numbers(tree))
        right = expressions.value(tree) == target and (not equals or number(result) == target)
    except ValueError:
        return 0.0
    return float(right and "**" not in expression and used <= Counter(map(Fraction, given)))


def code_in(text: str) -> str:
    """The code between the last two ``` of a text, without the name of the language, or the whole text."""
    parts = text.split(_FENCE)
    if len(parts) < 3:
        return text
    block = parts[len(parts) - 2 - (len(parts) % 2 == 0)]
    first, end, rest = block.partition("\n")
    return rest if end and first.strip().lower() in ("", "python", "py") else block


def unit_test_reward(text: str, tests: Mapping[str, Any], seconds: float = 2.0, megabytes: int = 256) -> float:
    """The share of unit tests that the code in a text passes; see `run_tests`, which also says what it raises."""
    verdict = run_tests(code_in(text), tests, seconds, megabytes)
    return verdict.passed / max(verdict.total, 1)


def correct(text: str, problem: Problem) -> float:
    """1 if a text solves a problem of `tasks`, whatever its task."""
    if problem.target is not None:
        return countdown_reward(text, problem.given, problem.target)
    return answer_reward(text, problem.answer)


def well_formed(style: str = "lines") -> Reward:
    """`format_reward` as a reward of a text and a problem, to be combined with others."""
    return lambda text, problem: format_reward(text, style)


@dataclass(frozen=True)
class Combined:
    """A weighted sum of rewards, {"correct": (1.0, correct), "format": (0.1, well_formed())}.

    ValueError where there is none, and for a weight that is not finite.
    """

    rewards: Mapping[str, tuple[float, Reward]]

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("rewards: got none, expected at least one")
        for name, (weight, _) in self.rewards.items():
            if not math.isfinite(weight):
                raise ValueError(f"rewards: got the weight {weight} for {name!r}, expected a finite number")

    def __call__(self, text: str, problem: Problem) -> float:
        """The sum. ValueError, naming the reward, for one that is not finite."""
        return math.fsum(self.rewards[name][0] * part for name, part in self.parts(text, problem).items())

    def parts(self, text: str, problem: Problem) -> dict[str, float]:
        """Each reward alone, without its weight, to watch while training. Raises as the sum does."""
        found = {name: float(reward(text, problem)) for name, (_, reward) in self.rewards.items()}
        if wrong := [name for name, part in found.items() if not math.isfinite(part)]:
            raise ValueError(f"rewards: {wrong[0]!r} gave {found[wrong[0]]}, expected a finite number")
        return found
