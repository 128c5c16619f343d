"""Rewards that can be verified, for any text; and code that tries to get out of its process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.posttrain import cage, rewards, sandbox, tasks
from tinymoe.posttrain.sandbox import Verdict, run_tests

PROBLEMS = [tasks.problems(task, seed=5)[0] for task in tasks.TASKS]
WORD = next(problem for problem in PROBLEMS if problem.task == "words")

# Text as models write it: pieces of the forms, and anything.
pieces = st.sampled_from(
    ["Answer:", "\n", " ", "<think>", "</think>", "<answer>", "</answer>", "```", "```python", "=", "(", ")", "/", "0",
     "24", "-", "**", ".", ",", "nan", "inf", "٣", "²", "\ud800", "\0", "1e999", "9" * 40]
)  # fmt: skip
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=25).map("".join))


# -- answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2+2=4\nAnswer: 4", "4"),
        ("Answer:4", "4"),
        ("Answer: 4\nand so on", "4"),
        ("<think>2+2</think><answer> 4 </answer>", "4"),
        ("4", None),
        ("", None),
        ("Answer:", None),
        ("Answer: 4\nAnswer: 5", None),
        ("<answer>4</answer><answer>5</answer>", None),
        ("Answer: 4\n<answer>5</answer>", None),
        ("<answer>4", None),
        ("<answer></answer>", None),
        ("The Answer: 4", None),
    ],
)
def test_the_final_answer_is_one(text, answer):
    assert rewards.final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        (" -3 ", -3),
        ("+3", 3),
        ("2.50", Fraction(5, 2)),
        ("3/4", Fraction(3, 4)),
        ("1,234", 1234),
        ("1,234,567", 1234567),
        ("007", 7),
        ("1,23", None),
        ("1/0", None),
        ("1/2/3", None),
        ("1.5/2", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("Infinity", None),
        ("٣", None),
        ("²", None),
        ("1_000", None),
        ("4 apples", None),
        ("--4", None),
        ("", None),
        ("9" * 31, None),
    ],
)
def test_what_is_a_number(text, value):
    assert rewards.number(text) == value


@pytest.mark.parametrize(
    ("given_answer", "right", "reward"),
    [
        ("4", "4", 1),
        ("4.0", "4", 1),
        ("1/2", "0.5", 1),
        ("5", "4", 0),
        ("four", "4", 0),
        ("nan", "4", 0),
        ("6:45", "6:45", 1),
        ("6:46", "6:45", 0),
        ("2 remainder 1", "2 remainder 1", 1),
        ("4 4", "4", 0),
    ],
)
def test_the_answer_has_to_be_right(given_answer, right, reward):
    assert rewards.answer_reward(f"…\nAnswer: {given_answer}", right) == reward
    assert rewards.answer_reward(given_answer, right) == 0


@pytest.mark.parametrize(
    ("text", "lines", "tags"),
    [
        ("1+1=2\nAnswer: 2", 1, 0),
        ("1+1=2\nAnswer: wrong", 1, 0),
        ("Answer: 2", 0, 0),
        ("1+1=2\nAnswer: 2\nmore", 0, 0),
        ("1+1=2", 0, 0),
        ("<think>1+1=2</think><answer>2</answer>", 0, 1),
        ("<think>\n1+1=2\n</think>\n<answer>2</answer>\n", 0, 1),
        ("<think></think><answer>2</answer>", 0, 0),
        ("<think>1</think><answer></answer>", 0, 0),
        ("<answer>2</answer><think>1</think>", 0, 0),
        ("<think>1</think> so <answer>2</answer>", 0, 0),
        ("<think>1</think><answer>2</answer> done", 0, 0),
        ("well <think>1</think><answer>2</answer>", 0, 0),
        ("<think>1<think>2</think><answer>2</answer>", 0, 0),
        ("<think>1</think><answer>2", 0, 0),
    ],
)
def test_the_format_is_kept_or_not(text, lines, tags):
    assert rewards.format_reward(text) == lines
    assert rewards.format_reward(text, "tags") == tags


def test_an_unknown_style_is_an_error():
    with pytest.raises(ValueError, match="style: got 'xml', expected 'lines' or 'tags'"):
        rewards.format_reward("", "xml")


@pytest.mark.parametrize(
    ("expression", "reward"),
    [
        ("(1+3)*6", 1),
        ("6/(1-3/4)", 1),
        ("4*6", 1),
        ("4*6 = 24", 1),
        ("4*6=23", 0),
        ("4*6=", 0),
        ("4*6=24=24", 0),
        ("3*4+3*4", 0),  # each but once
        ("6*6-12", 0),
        ("24", 0),
        ("-4*-6", 0),  # -4 is none of the numbers
        ("4*6/1**3", 0),
        ("4*6+0", 0),
        ("6/(4-4)", 0),
        ("4*6)", 0),
        ("four times six", 0),
        ("٤*6", 0),
        ("9**9**9", 0),
        ("(" * 10**5, 0),
        ("__import__('os').abort()", 0),
        ("nan", 0),
    ],
)
def test_countdown_is_checked_with_exact_fractions(expression, reward):
    assert rewards.countdown_reward(f"…\nAnswer: {expression}", (1, 3, 4, 6), 24) == reward
    assert rewards.countdown_reward(expression, (1, 3, 4, 6), 24) == 0


def test_thirds_are_exact():
    assert rewards.countdown_reward("Answer: 8/(3-8/3)", (3, 3, 8, 8), 24) == 1
    assert rewards.countdown_reward("Answer: 3*(8/3)*3", (3, 3, 3, 8), 24) == 1


@given(texts)
def test_every_reward_of_every_text_is_finite(text):
    for wrapped in (text, f"Answer: {text}", f"<think>{text}</think><answer>{text}</answer>"):
        for problem in PROBLEMS:
            found = [rewards.correct(wrapped, problem), rewards.answer_reward(wrapped, problem.answer)]
            found += [rewards.format_reward(wrapped, style) for style in ("lines", "tags")]
            found += [rewards.countdown_reward(wrapped, (1, 2), 3), BOTH(wrapped, problem)]
            assert all(isinstance(reward, float) and 0 <= reward <= 1.5 for reward in found)
        assert isinstance(rewards.code_in(wrapped), str)


@settings(max_examples=15)
@given(texts)
def test_code_may_be_any_text(text):
    assert 0 <= rewards.unit_test_reward(text, {"1": 1, "f(2)": 4}, seconds=20) <= 1


# -- rewards together

BOTH = rewards.Combined({"correct": (1.0, rewards.correct), "format": (0.5, rewards.well_formed())})


def test_rewards_are_added_by_weight():
    assert BOTH(WORD.solution, WORD) == 1.5
    assert BOTH(f"Answer: {WORD.answer}", WORD) == 1.0
    assert BOTH("I guess\nAnswer: -1", WORD) == 0.5
    assert BOTH.parts("I guess\nAnswer: -1", WORD) == {"correct": 0.0, "format": 1.0}


@pytest.mark.parametrize(
    ("parts", "error"),
    [({}, "rewards: got none"), ({"a": (math.nan, rewards.correct)}, "got the weight nan for 'a'")],
)
def test_weights_have_to_be_finite(parts, error):
    with pytest.raises(ValueError, match=error):
        rewards.Combined(parts)


def test_a_reward_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="'mine' gave inf, expected a finite number"):
        rewards.Combined({"mine": (1.0, lambda text, problem: math.inf)})("", WORD)


# -- unit tests in a process of their own

SQUARE = "def f(x):\n    return x * x\n"
TESTS = {"f(2)": 4, "f(3)": 9}
PATIENT = 30.0  # seconds for what is expected to end by itself, on a machine however slow


def test_code_is_run_and_each_test_counts():
    assert run_tests(SQUARE, TESTS, PATIENT) == Verdict(2, 2)
    assert run_tests("f = lambda x: 4", TESTS, PATIENT) == Verdict(1, 2, "f(3) is not 9")
    assert run_tests("def f(x) return", TESTS, PATIENT) == Verdict(0, 2, "f(2): SyntaxError")
    assert run_tests("f = lambda x: 8 // (x - 2) + 1", TESTS, PATIENT) == Verdict(1, 2, "f(2): ZeroDivisionError")
    assert run_tests(SQUARE, {}, PATIENT) == Verdict(0, 0)


@pytest.mark.parametrize(
    "code",
    [
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nf = lambda x: A(x).x ** 2",
        "import collections, itertools, re, string, heapq, bisect, functools, operator\nf = lambda x: x * x",
        "from typing import List\nfrom fractions import Fraction\nf = lambda x: int(Fraction(x) ** 2)",
        "import random, time, datetime, decimal, statistics, enum, textwrap\nrandom.seed(0)\nf = lambda x: x * x",
        "print('hello ' * 10**6)\nf = lambda x: x * x",
    ],
)
def test_honest_code_may_use_much_of_the_library(code):
    assert run_tests(code, TESTS, PATIENT) == Verdict(2, 2)


@pytest.mark.parametrize(
    ("result", "expected", "same"),
    [
        ("1", 1, True),
        ("True", 1, False),
        ("1", True, False),
        ("'1'", 1, False),
        ("None", None, True),
        ("0.1 + 0.2", 0.3, True),
        ("2.0", 2, True),
        ("2.5", True, False),
        ("(1, [2])", [1, [2]], True),
        ("[1, 2]", (1, 2), True),
        ("[1]", [1, 2], False),
        ("{'a': 1}", {"a": 1}, True),
        ("{'a': 1}", {"a": 2}, False),
        ("{'a': 1}", {"b": 1}, False),
    ],
)
def test_values_are_compared_with_their_types(result, expected, same):
    assert run_tests("", {result: expected}, PATIENT).passed == same


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        ("import os\nwhile True:\n    os.fork()", "PermissionError"),
        ("import sys\nsys.modules['posix'].fork()", "KeyError"),
        ("import subprocess\nsubprocess.run(['sleep', '100'])", "PermissionError"),
        ("import threading", "PermissionError"),
        ("import _posixsubprocess", "PermissionError"),
        ("import ctypes", "PermissionError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "PermissionError"),
        ("import numpy", "PermissionError"),
        ("open('inside', 'w').write('x')", "PermissionError"),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("input()", "PermissionError"),
        ("import sys\nsys.stdin.read(1) + 1", "TypeError"),
        ("x = [0] * 10**10", "MemoryError"),
        ("x = 'a'\nwhile True:\n    x += x", "MemoryError"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def g():\n    g()\ng()", "RecursionError"),
        ("(" * 10000, ""),
        ("-" * 10**6 + "1", ""),
        ("\0", ""),
        ("\ud800", ""),
        ("1/0", "ZeroDivisionError"),
    ],
)
def test_an_attack_is_an_error(attack, error, tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    verdict = run_tests(attack + "\n" + SQUARE, TESTS, PATIENT)
    assert verdict.passed == 0 and verdict.message.startswith(f"f(2): {error}")
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize(
    "result",
    ["'x' * 10**6", "[[]] * 10**6", "10**100000", "float('nan')", "float('inf')", "{1, 2}", "f", "'\\ud800' + f"],
)
def test_a_result_that_json_cannot_tell_is_an_error(result):
    assert run_tests(f"{SQUARE}\ng = lambda: {result}", {"g()": 4}, PATIENT).passed == 0


def test_results_nested_too_deeply_are_an_error():
    deep = "x = []\nfor _ in range(100000):\n    x = [x]\nf = lambda _: x"
    assert run_tests(deep, TESTS, PATIENT).passed == 0


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(1000)", "def f(x):\n    while 1: pass"])
def test_a_loop_without_end_is_ended(code):
    assert run_tests(code, TESTS, seconds=1) == Verdict(0, 2, "f(2): no result after 1 seconds")


def test_what_was_right_before_the_time_was_over_counts():
    code = "def f(x):\n    while x > 2:\n        pass\n    return 4"
    assert run_tests(code, TESTS, seconds=3) == Verdict(1, 2, "f(3): no result after 3 seconds")


def test_no_file_is_written_outside(tmp_path):
    os.chmod(tmp_path, 0o777)
    target = str(tmp_path / "written")
    walk = "import sys\nframe = sys._getframe()\nwhile 'os' not in frame.f_globals:\n    frame = frame.f_back\n"
    load = "import sys\nimporter = sys.modules['_frozen_importlib'].BuiltinImporter\n"
    for attack in (
        f"open({target!r}, 'w')",
        f"import io\nio.FileIO({target!r}, 'w')",
        f"import os\nos.mkfifo({target!r})",
        walk + f"frame.f_globals['os'].mkfifo({target!r})",
        load + f"importer.load_module('posix').mkfifo({target!r})",
        load + f"importer.create_module(importer.find_spec('posix')).mkfifo({target!r})",
    ):
        assert run_tests(f"{attack}\n{SQUARE}", TESTS, PATIENT).passed == 0
        assert not list(tmp_path.iterdir()), attack


def test_leaving_early_and_forging_gain_nothing():
    leave = "import sys\nframe = sys._getframe()\nwhile 'leave' not in frame.f_locals:\n    frame = frame.f_back\n"
    quit_early = leave + "frame.f_locals['leave'](0)"
    assert run_tests(quit_early, TESTS, PATIENT) == Verdict(0, 2, "f(2): no result")
    failing = leave + "frame.f_locals['leave'](3)"
    assert run_tests(failing, TESTS, PATIENT) == Verdict(0, 2, "f(2): the process ended with 3")
    write = leave + "write = lambda text: frame.f_locals['write'](frame.f_locals['out'], text)\n"
    for forged in (b"true\n" * 9, b'{"passed": 2}\n' * 9, b"[" * 60000 + b"\n", b"\xff\n", b'{"value": 1e999}\n' * 2):
        assert run_tests(f"{write}write({forged!r})", TESTS, PATIENT).passed == 0
    for forged in (b'{"error": "\\ud800"}\n', b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}\n", b"{}\n"):
        verdict = run_tests(f"{write}write({forged!r})", TESTS, PATIENT)
        assert verdict == Verdict(0, 2, "f(2): an output that cannot be read")


def test_the_code_never_sees_what_is_expected():
    look = "import sys\nframe, seen = sys._getframe(), ''\nwhile frame:\n    seen += repr(frame.f_locals)\n"
    look += "    frame = frame.f_back\nf = lambda number: str(number) in seen\n"
    product = 314159 * 265359  # too long to turn up in an address
    tests = {"f(123 * 1)": True, "f(314159 * 265359)": False, "314159 * 265359": product}
    assert run_tests(look, tests, PATIENT) == Verdict(3, 3)


@pytest.mark.parametrize(("limit", "name"), [({"seconds": 0}, "seconds"), ({"megabytes": -1}, "megabytes")])
def test_limits_have_to_be_above_zero(limit, name):
    with pytest.raises(ValueError, match=f"{name}: got"):
        run_tests(SQUARE, TESTS, **limit)


def test_a_process_that_cannot_start_is_a_result(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/there/is/no/python")
    verdict = run_tests(SQUARE, TESTS)
    assert verdict.passed == 0 and verdict.message.startswith("the process could not be started")


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of Linux")
@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("fork()", "BlockingIOError"),
        ("open('/dev/null', 0)", "OSError"),
        ("pipe()", "OSError"),
        ("kill(getppid(), 0)", "PermissionError"),
    ],
)
def test_the_system_refuses_too_what_the_hook_would_let_through(action, error):
    """The hook is Python's; should code get around it, the system's limits are still there."""
    if "kill" in action and os.getuid():
        pytest.skip("only root becomes another user")
    code = (
        f"import sys\nsys.path.insert(0, {str(Path(cage.__file__).parent)!r})\nimport cage, os\n"
        "cage._refuse = lambda event, arguments: None\nspace = dict(vars(os))\ncage.lock(5, 256)\n"
        f"try:\n    eval({action!r}, space)\nexcept OSError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == error, done.stderr


def test_the_cage_runs_calls_in_turn():
    """In this process, without the locks, so that coverage sees it."""
    lines = list(cage.answers("def f(x):\n    return 8 // x", ["f(2)", "f(0)", "f(", "__name__"]))
    errors = ['{"error": "ZeroDivisionError"}', '{"error": "SyntaxError"}']
    assert lines == ['{"value": 4}', *errors, '{"value": "answer"}']
    assert list(cage.answers("1/0", ["1", "2"])) == ['{"error": "ZeroDivisionError"}'] * 2
    sys.modules.pop("answer")


# -- code in a text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\ndone", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\na\n```\nno:\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nno:\n```python\nb", "a\n"),
        ("```x = 1```", "x = 1"),
        ("```python\nx = 1", "```python\nx = 1"),
    ],
)
def test_code_stands_in_fences(text, code):
    assert rewards.code_in(text) == code


def test_a_share_of_the_tests_is_a_share_of_the_reward():
    assert rewards.unit_test_reward(f"Here:\n```python\n{SQUARE}```", TESTS, PATIENT) == 1.0
    assert rewards.unit_test_reward("```python\nf = lambda x: 4\n```", TESTS, PATIENT) == 0.5
    assert rewards.unit_test_reward("no code", TESTS, PATIENT) == 0.0
    assert rewards.unit_test_reward("no tests", {}, PATIENT) == 0.0
