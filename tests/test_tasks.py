"""The tasks of post-training: every problem is right, and none is in both splits."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.posttrain import expressions, rewards, tasks
from tinymoe.posttrain import tools as tools_module
from tinymoe.text import chat

LEVELS = [(task, level) for task in tasks.TASKS for level in range(1, tasks.LEVELS[task] + 1)]


# -- expressions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("8-3-2", 3),
        ("8/4/2", 1),
        (" 7 / 2 ", Fraction(7, 2)),
        ("-2**2", -4),
        ("2**3**2", 512),
        ("2**-1", Fraction(1, 2)),
        ("2*-3", -6),
        ("2--3", 5),
        ("-(2+3)", -5),
        ("0.5+1.25", Fraction(7, 4)),
        ("0**0", 1),
        ("1**999999999999", 1),
        ("(-1)**999999999999999", -1),
        ("10**30", 10**30),
        ("-" * 60 + "5", 5),
        ("(" * 31 + "1" + ")" * 31, 1),
    ],
)
def test_an_expression_has_its_value(text, value):
    assert expressions.value(expressions.parse(text)) == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "ends too early"),
        ("2+", "ends too early"),
        ("*2", "a number is missing before '\\*'"),
        ("(1", "not closed"),
        ("1)", "'\\)' is not expected"),
        ("2 3", "'3' is not expected"),
        ("1/0", "division by zero"),
        ("1/(2-2)", "division by zero"),
        ("0**-1", "division by zero"),
        ("4**(1/2)", "no whole number"),
        ("9**9**9", "too large"),
        ("10**31", "too large"),
        ("999999999999999*999999999999999*999999999999999", "too large"),
        ("2**999999999999999", "too large"),
        ("(" * 5000, "characters"),
        ("(" * 300, "numbers and signs"),
        ("1+" * 50 + "1", "numbers and signs"),
        ("٣+1", "no number"),  # Arabic three
        ("²", "no number"),
        ("1e9", "no number"),
        ("inf", "no number"),
        ("nan", "no number"),
        ("__import__('os')", "no number"),
        ("1\n+1", "no number"),
        ("\0", "no number"),
    ],
)
def test_what_is_no_expression_is_an_error(text, error):
    with pytest.raises(ValueError, match=error):
        expressions.value(expressions.parse(text))


@st.composite
def calculations(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        return str(draw(st.integers(0, 99)))
    left, right = draw(calculations(depth=depth - 1)), draw(calculations(depth=depth - 1))
    return f"({left}{draw(st.sampled_from('+-*/'))}{right})"


@given(calculations())
def test_values_are_those_of_exact_fractions(text):
    """The oracle is Python's own parser, over text that this test has made."""
    wrapped = "".join(f"F({part})" if part.isdigit() else part for part in _pieces(text))
    try:
        expected = eval(wrapped, {"F": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="division by zero"):
            expressions.value(expressions.parse(text))
    else:
        assert expressions.value(expressions.parse(text)) == expected


def _pieces(text):
    return ["".join(run) for _, run in itertools.groupby(text, key=lambda sign: sign if sign in "+-*/()" else "0")]


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(1, 99)), min_size=2, max_size=6), st.randoms())
def test_the_canonical_form_forgets_the_order(terms, random):
    first = next((term for term in terms if term[0] == "+"), ("+", 1))
    rest = [term for term in terms if term is not first]
    shuffled = random.sample(rest, len(rest))
    one, other = (f"{first[1]}" + "".join(f"{sign}{term}" for sign, term in part) for part in (rest, shuffled))
    grouped = f"({other})"
    forms = {expressions.canonical(expressions.parse(text)) for text in (one, other, grouped)}
    assert len(forms) == 1
    changed = expressions.canonical(expressions.parse(f"{other}+1"))
    assert changed not in forms


def test_the_canonical_form_tells_calculations_apart():
    texts = "2-3 3-2 2+3 2*3 2/3 3/2 2**3 3**2 2*3+4 2*(3+4) 2-(3+4) 2-(3-4) 8/(4/2) 8/4/2".split()
    assert len({expressions.canonical(expressions.parse(text)) for text in texts}) == len(texts)
    same = [("2-(3-4)", "2+4-3"), ("8/(4/2)", "8*2/4"), ("2*3*4", "4*(3*2)")]
    for one, other in same:
        assert expressions.canonical(expressions.parse(one)) == expressions.canonical(expressions.parse(other))


def test_steps_stand_in_the_order_of_the_computation():
    assert expressions.steps(expressions.parse("83+(9+4)*2-1")) == ["9+4=13", "13*2=26", "83+26=109", "109-1=108"]
    assert expressions.steps(expressions.parse("5")) == []


# -- problems


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_no_problem_is_in_both_splits(task, level):
    """Of most tasks that is a good part of what there is, so that a split that leaks is caught."""

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 2**32), st.integers(0, 2**32), st.sampled_from(LEVELS))
    def check(seed, other_seed, other):
        train = {_asked(problem) for problem in tasks.problems(task, "train", seed=seed, count=80, level=level)}
        for name, other_level in ((task, level), other):
            test = tasks.problems(name, "test", seed=other_seed, count=20, level=other_level)
            assert not train & {_asked(problem) for problem in test}

    check()


def _asked(problem):
    """What is asked, found anew from the problem and not from its key."""
    if problem.task == "countdown":
        return problem.target, tuple(sorted(problem.given))
    if problem.task == "letters":
        return problem.prompt.removesuffix(".").split()[-1]
    if problem.task == "tools" and problem.table:
        return tuple(sorted(problem.prompt.removeprefix("Price of ").removesuffix("?").split(" and ")))
    if problem.task == "words":
        return tuple(step.partition("=")[0] for step in problem.steps)
    terms = re.findall(r"[+-](?:\([^)]*\)|[^+-])+", f"+{problem.prompt.removesuffix('=?')}")
    return tuple(sorted((term[0], *sorted(term[1:].split("*"))) for term in terms))


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_a_worked_solution_is_right(task, level):
    for split, seed in (("train", 0), ("test", 1)):
        problems = tasks.problems(task, split, seed=seed, count=6, level=level)
        assert len({problem.key for problem in problems}) == len(problems)
        for problem in problems:
            assert problem.task == task and problem.level == level
            assert rewards.correct(problem.solution, problem) == rewards.correct(problem.tagged, problem) == 1
            assert rewards.final_answer(problem.solution) == problem.answer
            assert problem.solution.isascii() and len(problem.prompt + problem.solution) < 200
            assert tasks.split_of(problem.key) == split
            for step in problem.steps if task != "letters" else ():
                left, _, right = step.rpartition("=")
                assert expressions.value(expressions.parse(left)) == rewards.number(right)
            if problem.steps:
                assert rewards.format_reward(problem.solution) == rewards.format_reward(problem.tagged, "tags") == 1


def test_problems_are_the_same_everywhere():
    """Frozen: whoever changes a generator changes what published accuracies were measured on."""
    made = {task: tasks.problems(task, "test", seed=3, count=1, level=2)[0] for task in tasks.TASKS}
    assert {task: (problem.prompt, problem.answer) for task, problem in made.items()} == FROZEN
    assert tasks.problems("words", seed=1, count=3) == tasks.problems("words", seed=1, count=3)
    assert tasks.problems("words", seed=1, count=3) != tasks.problems("words", seed=2, count=3)
    assert tasks.problems("words", seed=1, count=5)[:3] == tasks.problems("words", seed=1, count=3)


FROZEN = {
    "arithmetic": ("3+9*6+8=?", "65"),
    "countdown": ("13 from 7 4 5?", "4*5-7"),
    "letters": ("Count u in kukuku.", "3"),
    "words": ("Tom has 20 cards. Diego has 7 more. How many together?", "47"),
    "tools": ("Price of 55 maps?", "1045"),
}


@pytest.mark.parametrize(("level", "operations"), [(1, 2), (2, 3), (3, 3), (4, 4)])
def test_arithmetic_has_its_operations_and_never_goes_below_zero(level, operations):
    problems = tasks.problems("arithmetic", count=200, level=level)
    assert any("-" in problem.prompt for problem in problems)
    assert all("=-" not in problem.solution for problem in problems)
    assert {len(problem.steps) for problem in problems} == {operations}
    assert any("(" in problem.prompt for problem in problems) == (level == 4)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_word_problems_have_as_many_operations_as_their_level(level):
    problems = tasks.problems("words", count=100, level=level)
    assert {len(problem.steps) for problem in problems} == {level}


def test_letters_are_counted():
    for problem in tasks.problems("letters", count=100, level=3):
        _, letter, _, word = problem.prompt.removesuffix(".").split()
        assert len(word) == 8 and problem.answer == str(word.count(letter))
        assert problem.steps[0].split()[-1] == f"{word[-1]}{problem.answer}"
    assert len({problem.answer for problem in tasks.problems("letters", count=100, level=3)}) > 3


def test_countdown_needs_all_its_numbers():
    for problem in tasks.problems("countdown", count=20, level=3):
        assert problem.target is not None and len(problem.given) == 4 and 0 < problem.target < 100
        used = expressions.numbers(expressions.parse(problem.answer))
        assert sorted(used) == sorted(problem.given)
        for fewer in itertools.combinations(problem.given, 3):
            assert tasks.solve(fewer, problem.target) is None
        assert not any("/" in step.rpartition("=")[2] or "=-" in step for step in problem.steps)


def test_solve_finds_what_needs_fractions():
    answer = tasks.solve((1, 3, 4, 6), 24)
    assert answer and expressions.value(expressions.parse(answer)) == 24
    assert tasks.solve((2, 2, 4, 6), 15) == "(2+2/4)*6"  # there is no other way
    assert tasks.solve((1, 1, 1, 1), 24) is None
    assert tasks.solve((7,), 7) == "7"
    with pytest.raises(ValueError, match="got 5 numbers, expected 1 to 4"):
        tasks.solve((1, 2, 3, 4, 5), 6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(-20, 120))
def test_solve_is_as_good_as_trying_everything(given_numbers, target):
    """The oracle reduces the list two numbers at a time, another way to try everything."""
    found = tasks.solve(tuple(given_numbers), target)
    assert (found is not None) == _reachable([Fraction(number) for number in given_numbers], Fraction(target))
    if found is not None:
        assert rewards.countdown_reward(f"Answer: {found}", given_numbers, target) == 1


def _reachable(left, target):
    if target in left:
        return True
    for i, j in itertools.permutations(range(len(left)), 2):
        rest = [number for place, number in enumerate(left) if place not in (i, j)]
        a, b = left[i], left[j]
        if any(_reachable([*rest, made], target) for made in (a + b, a - b, a * b, *([a / b] if b else []))):
            return True
    return False


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_tools_give_the_answers(level):
    for problem in tasks.problems("tools", count=10, level=level):
        at_hand = {"calculator": tools_module.calculator, "lookup": tools_module.lookup(problem.table)}
        for (name, arguments), result in zip(problem.calls, problem.results, strict=True):
            assert tools_module.call(at_hand, name, arguments, seconds=20) == tools_module.Result(result)
        assert problem.results[-1] == problem.answer
        assert len(problem.calls) == level if level < 4 else len(problem.calls) in (1, 3)


def test_the_last_level_of_tool_use_has_what_the_others_lack():
    problems = tasks.problems("tools", count=300, level=4)
    baskets = [problem.prompt for problem in problems if "Price" in problem.prompt]
    assert 100 < len(baskets) < 200
    assert all(re.fullmatch(r"Price of (a \w+ and \d+ \w+s|\d+ \w+s and a \w+)\?", prompt) for prompt in baskets)
    calculations = [re.findall(r"\d+", problem.prompt) for problem in problems if "Price" not in problem.prompt]
    lengths = Counter((len(a), len(b)) for a, b in calculations)
    assert set(lengths) == set(itertools.product((1, 2, 3, 4), repeat=2)) and max(lengths.values()) < 30
    others = {p.key for level in (1, 2, 3) for p in tasks.problems("tools", "test", count=30, level=level)}
    assert not others & {problem.key for problem in tasks.problems("tools", "train", count=3000, level=4)}


@pytest.mark.parametrize("template", ["qwen3", "llama3.1", "mistral"])
def test_problems_are_conversations(template):
    for task in tasks.TASKS:
        problem = tasks.problems(task)[0]
        talk = problem.messages
        for message in talk:  # Mistral knows a call by its id
            for call in message.get("tool_calls", ()):
                call["id"] = "123456789"
            if message["role"] == "tool":
                message["tool_call_id"] = "123456789"
        text = chat.render(talk, template)
        assert problem.prompt in text and f"Answer: {problem.answer}" in text
        assert all(str(result) in text for result in problem.results)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"task": "chess"}, "task: got 'chess', expected one of arithmetic, countdown"),
        ({"split": "dev"}, "split: got 'dev', expected one of train, test"),
        ({"level": 0}, "level: got 0, expected 1 to 3 for the task 'words'"),
        ({"level": 4}, "level: got 4, expected 1 to 3"),
    ],
)
def test_wrong_arguments_are_named(arguments, error):
    with pytest.raises(ValueError, match=error):
        tasks.problems(**{"task": "words", **arguments})


def test_a_task_that_has_too_few_problems_says_so():
    with pytest.raises(ValueError, match=r"count: got 1000, but test of 'countdown' has about \d+ at level 1"):
        tasks.problems("countdown", "test", count=1000, level=1)
