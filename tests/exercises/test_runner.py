"""The tests of exercises find what they are there to find."""

from __future__ import annotations

import pytest

from tinymoe.course import registry
from tinymoe.course.checks import case, matches

from . import runner


def triple(n, by=3):
    """n, three times."""
    return n * by


def off_by_one(n, by=3):
    return n * by + 1


def only_small(n, by=3):
    return n * by if n < 2 else 0


def forgets(n, by=3):
    pass


def unwritten(n, by=3):
    return nowhere  # noqa: F821


def other(n):
    return n


HINTS = ["Multiply."]
TOY = [
    registry.Exercise("98.triple", "Triple", [matches("numbers", [case(1), case(2)])], HINTS, reference=triple),
    registry.Exercise("98.again", "Triple", [matches("numbers", [case(1), case(2)])], HINTS, reference=triple),
    registry.Exercise("98.once", "Triple", [matches("one number", [case(1)])], HINTS, reference=triple),
]


@pytest.fixture(autouse=True)
def toy_chapter(monkeypatch):
    monkeypatch.setattr(registry, "_of_chapter", lambda chapter: TOY if chapter == "98" else [])
    monkeypatch.setattr(registry, "every", lambda: TOY)


WRONG = [off_by_one, only_small, forgets]
TestExercises = runner.exercise_tests(
    "98", {"98.triple": WRONG, "98.again": WRONG, "98.once": [off_by_one, forgets, lambda n, by=3: -n]}
)


def test_a_table_with_gaps():
    assert runner.table_problems("98", {"98.triple": WRONG[:2], "98.more": WRONG, "98.once": [forgets] * 3}) == [
        "98.again: is not in the table of wrong answers",
        "98.more: there is no such exercise in chapter 98",
        "98.triple: 2 wrong answers, expected three or more",
        "98.once: 1 wrong answers, expected three or more",
    ]
    assert runner.table_problems("97", {}) == ["chapter 97: 0 exercises, expected three or more"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (only_small, "this wrong answer passes all checks"),
        (unwritten, "the wrong answer itself is broken"),
        (other, "has other parameters than the reference"),
        (lambda n, by=3: object.__repr__(n), "shows an address"),
        (off_by_one, ""),
    ],
)
def test_a_wrong_answer_that_is_none(answer, problem):
    known = registry.find("98.once")
    found = runner.message_problem(known, known.failure(answer))
    assert problem in found if problem else not found
