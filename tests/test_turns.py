"""How contenders of a benchmark take turns: in processes of their own, one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from common.turns import THREADS, Contender, Turn, median_ratio, rounds


def counting(start: int) -> Callable[[], list[Any]]:
    calls = [start]

    def step() -> list[Any]:
        calls[0] += 1
        return [calls[0], os.getpid(), {os.environ[name] for name in THREADS}]

    return step


def failing() -> Callable[[], None]:
    def step() -> None:
        raise ArithmeticError("no more apples")

    return step


def dying() -> Callable[[], None]:
    return lambda: os._exit(3)


def test_a_turn_is_some_steps_in_another_process():
    before = dict(os.environ)
    contender = Contender("counter", counting, 10, threads=3)
    assert dict(os.environ) == before
    first, second = contender.turn(4, warm=2), contender.turn(1)
    contender.close()
    assert first.value[0] == 16 and second.value[0] == 18  # the second turn has one step to warm up
    assert first.value[1] == second.value[1] != os.getpid()
    assert first.value[2] == {"3"}
    assert first.seconds > 0


@pytest.mark.parametrize(
    ("make", "message"), [(failing, "apples:\nTraceback .*no more apples"), (dying, "the process ended with code 3")]
)
def test_what_goes_wrong_in_there_is_told(make, message):
    contender = Contender("apples", make, threads=1)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        contender.turn(1)
    contender.close()


class Said:
    """A contender that writes down when it was asked."""

    def __init__(self, name: str, said: list[tuple[str, int]]):
        self.name, self.said = name, said

    def turn(self, steps: int) -> Turn:
        self.said.append((self.name, steps))
        return Turn(1.0, 2.0, len(self.said))


def test_every_round_begins_with_another_one():
    said: list[tuple[str, int]] = []
    turns = rounds([Said("a", said), Said("b", said)], [5, 7], 2)  # pyright: ignore[reportArgumentType]
    assert said == [("a", 5), ("b", 7), ("b", 7), ("a", 5)]
    assert {name: [turn.value for turn in its] for name, its in turns.items()} == {"a": [1, 4], "b": [2, 3]}


def test_ratios_are_taken_round_by_round():
    assert median_ratio([1, 20, 3], [2, 10, 3]) == 1
