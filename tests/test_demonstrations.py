"""The careless teacher: the form is right, every equation is true, and only some of the answers are."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from tinymoe.posttrain import demonstrations, expressions, rewards, tasks

CASES = [("arithmetic", 1), ("arithmetic", 2), ("arithmetic", 3), ("countdown", 1), ("countdown", 2), ("countdown", 3)]


def shown(task: str, level: int, count: int = 150) -> list[tuple[tasks.Problem, str]]:
    rng = random.Random(1)
    problems = tasks.problems(task, "train", seed=3, count=min(count, 60 if level == 1 else count), level=level)
    return [(problem, demonstrations.careless(problem, rng)) for problem in problems for _ in range(3)]


@pytest.mark.parametrize(("task", "level"), CASES)
def test_the_form_is_right_and_every_equation_true(task, level):
    for _, text in shown(task, level):
        assert rewards.format_reward(text, "tags") == 1
        thoughts = text.removeprefix("<think>").partition("</think>")[0]
        for line in thoughts.split("\n"):
            left, result = re.fullmatch(r"(.+)=(-?\d+)(?: no| yes)?", line).groups()
            assert expressions.value(expressions.parse(left)) == Fraction(result), text


@pytest.mark.parametrize(("task", "level"), [("arithmetic", 2), ("arithmetic", 3)])
def test_some_are_right_and_some_wrong(task, level):
    right = [rewards.correct(text, problem) for problem, text in shown(task, level)]
    assert 0.3 < sum(right) / len(right) < 0.8


def test_any_order_takes_every_way_there_is():
    problem = next(p for p in tasks.problems("arithmetic", count=50) if re.fullmatch(r"\d\+\d\*\d\+\d=\?", p.prompt))
    rng = random.Random(0)
    first = {demonstrations.any_order(problem, rng).split("=")[0].removeprefix("<think>") for _ in range(60)}
    a, b, c, d = re.findall(r"\d", problem.prompt)
    assert first == {f"{a}+{b}", f"{b}*{c}", f"{c}+{d}"}


def test_numbers_stay_small_where_there_is_a_choice():
    for _, text in shown("arithmetic", 2):
        first = text.split("\n")[0]  # later there may be none
        assert max(map(int, re.findall(r"\d+", first))) <= demonstrations.LARGEST


@pytest.mark.parametrize(("level", "low", "high"), [(1, 1.0, 1.0), (2, 0.15, 0.4), (3, 0.01, 0.15)])
def test_the_fewer_numbers_the_more_guesses_are_right(level, low, high):
    right = [rewards.correct(text, problem) for problem, text in shown("countdown", level)]
    assert low <= sum(right) / len(right) <= high


@pytest.mark.parametrize("level", [2, 3])
def test_guesses_say_yes_to_a_hit_and_no_to_a_miss(level):
    given_up = 0
    for problem, text in shown("countdown", level):
        lines = text.removeprefix("<think>").partition("</think>")[0].split("\n")
        guesses = ["\n".join(lines[i : i + level]) for i in range(0, len(lines), level)]
        ends = [re.fullmatch(r".+=(\d+) (yes|no)", line).groups() for line in lines[level - 1 :: level]]
        assert [word for _, word in ends] == ["yes" if int(end) == problem.target else "no" for end, _ in ends]
        assert "yes" not in [word for _, word in ends[:-1]]
        assert len(set(guesses)) == len(guesses) <= 6
        answer = expressions.parse(rewards.final_answer(text))
        assert expressions.value(answer) == int(ends[-1][0])
        assert sorted(map(int, expressions.numbers(answer))) == sorted(problem.given)
        given_up += ends[-1][1] == "no"
    assert given_up


def test_a_guess_takes_the_last_step_that_comes_nearest():
    for problem, text in shown("countdown", 2):
        for line in text.removeprefix("<think>").partition("</think>")[0].split("\n")[1::2]:
            a, b, result = map(int, re.fullmatch(r"(\d+)[-+*/](\d+)=(\d+)(?: no| yes)", line).groups())
            reached = [a + b, abs(a - b), a * b] + [x // y for x, y in ((a, b), (b, a)) if y and x % y == 0]
            nearest = min(abs(number - problem.target) for number in reached if number <= demonstrations.LARGEST)
            assert abs(result - problem.target) == nearest


def test_the_same_numbers_give_the_same_demonstrations():
    problems = tasks.problems("countdown", count=20)
    once, again = ([demonstrations.careless(p, rng) for p in problems] for rng in (random.Random(5), random.Random(5)))
    assert once == again


def test_what_it_has_not_learned_to_show_is_an_error():
    rng = random.Random(0)
    with pytest.raises(ValueError, match="problem: got one of 'letters', expected one of arithmetic, countdown"):
        demonstrations.careless(tasks.problems("letters")[0], rng)
    with pytest.raises(ValueError, match="expected one without parentheses"):
        demonstrations.any_order(
            next(p for p in tasks.problems("arithmetic", count=30, level=4) if "(" in p.prompt), rng
        )
