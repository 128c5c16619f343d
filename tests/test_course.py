"""The course machinery, on a toy chapter 98 and a toy module of the package that live in a temporary folder."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import tinymoe
from tinymoe.course import adoption, calling, checks, exercises, registry, session, shelf, source, values
from tinymoe.course.adoption import Target
from tinymoe.course.display import Note
from tinymoe.tensor import OPS, Tensor

TOY = '''
"""A module of the package, as the course finds it."""
from functools import lru_cache
import numpy as np
from tinymoe.ops import op

RATE = 3

def scale(x, by=2.0):
    """x * by."""
    return x * by

@op
def square_toy(ctx, a):
    """a * a."""
    return a * a, lambda g: (2 * g * a,)

@lru_cache
def slow_square(n):
    return n * n

def double_in_place(x):
    x *= 2

def tally(n):
    """Counts down."""
    while n:
        yield n
        n -= 1

def total(x):
    """Sum of a Tensor's squares."""
    return (x * x).sum()

def depth(tree):
    if not tree:
        return 0
    return 1 + max(depth(branch) for branch in tree)

class Box:
    weight = 5
    def weigh(self, n):
        return self.weight * n
    @classmethod
    def of(cls, weight):
        box = cls()
        box.weight = weight
        return box
    @property
    def twice(self):
        return 2 * self.weight

def _closed():
    start = 7
    def closed(n):
        return start + n
    return closed

closed = _closed()
'''

USER = '''
from tinymoe import toy
from tinymoe.toy import scale
from tinymoe.tensor import OPS
TABLE = {"scale": scale}
def by_default(x, how=scale):
    return how(x)
def everywhere(x):
    """The same function, reached in four ways."""
    return [scale(x), toy.scale(x), TABLE["scale"](x), by_default(x)]
'''

CHAPTER = '''
import numpy as np
from tinymoe.course.checks import case, gradients, holds, matches, raises, wrong
from tinymoe.course.registry import Exercise
from tinymoe.tensor import Tensor

def refuse(n):
    """Half of an even number."""
    if n % 2:
        raise ValueError(f"n: got {n}, expected an even number")
    return n // 2

def linear(function):
    a, b = function(np.ones(2)), function(np.full(2, 2.0))
    if not np.allclose(2 * a, b):
        wrong("it is not linear", given="twice the input", expected=2 * a, got=b)

def random_scale(rng, size):
    return case(rng.normal(size=size).astype(np.float32), by=float(rng.normal()))

HINTS = ["Multiply.", "Multiply by `by`."]
EXERCISES = [
    Exercise("98.scale", "Scale an array", target="toy.py::scale", hints=HINTS, checks=[
        matches("a number", [case(2.0), case(2.0, 3.0)]),
        matches("random arrays", random_scale, count=6),
        holds("linear", linear),
    ]),
    Exercise("98.square", "A vjp", target="toy.py::square_toy", hints=HINTS, checks=[
        matches("forward", [case(np.array([1.0, -2.0]))]),
        gradients("vjp", [case(np.array([[1.0, -2.0]], np.float32))]),
    ]),
    Exercise("98.halve", "Refuse odd numbers", reference=refuse, hints=HINTS, checks=[
        matches("even", [case(0), case(4)]),
        raises("odd", ValueError, [case(3)]),
    ]),
    Exercise("98.weigh", "A method", target="toy.py::Box.weigh", hints=HINTS, checks=[
        holds("five times", lambda f: None if f(type("B", (), {"weight": 5})(), 2) == 10 else "2 boxes weigh 10"),
    ]),
    Exercise("98.in_place", "In place", target="toy.py::double_in_place", hints=HINTS, checks=[
        matches("an array", [case(np.array([1.0, 2.0]))], in_place=True),
    ]),
    Exercise("98.tally", "A generator", target="toy.py::tally", hints=HINTS, seconds=0.3, checks=[
        matches("counts", lambda rng, size: case(size), count=4),
    ]),
    Exercise("98.total", "Of Tensors", target="toy.py::total", hints=HINTS, checks=[
        matches("values", [case(Tensor(np.array([1.0, 2.0])))]),
        gradients("gradients", [case(Tensor(np.array([1.0, 2.0])))]),
    ]),
    Exercise("98.depth", "Recursive", target="toy.py::depth", hints=HINTS, checks=[
        matches("trees", [case([]), case([[]]), case([[], [[]]])]),
    ]),
    Exercise("98.slow", "Cached", target="toy.py::slow_square", hints=HINTS, checks=[
        matches("squares", [case(3)]),
    ]),
]
'''


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A fresh course: nothing solved, an empty folder of solutions, the toy module and the toy chapter."""
    package, chapters, my = tmp_path / "package", tmp_path / "chapters", tmp_path / "my_tinymoe"
    for folder in (package, chapters):
        folder.mkdir()
    (package / "toy.py").write_text(TOY)
    (package / "toyuser.py").write_text(USER)
    (chapters / "ch98.py").write_text(CHAPTER)
    monkeypatch.setattr(tinymoe, "__path__", [*tinymoe.__path__, str(package)])
    monkeypatch.setattr(exercises, "__path__", [str(chapters)])
    monkeypatch.setenv("TINYMOE_MY", str(my))
    monkeypatch.setattr(session, "_solved", {})
    monkeypatch.setattr(session, "_hints_shown", {})
    monkeypatch.setattr(session, "_started", True)
    importlib.invalidate_caches()
    yield tmp_path
    for name in [*adoption._adopted]:
        adoption.release(Target(name))
    assert not adoption._adopted and not adoption._saved
    OPS.pop("square_toy", None)
    for name in [*sys.modules]:
        if name in ("tinymoe.toy", "tinymoe.toyuser", "tinymoe.course.exercises.ch98") or "my_tinymoe" in name:
            vars(tinymoe).pop(name.removeprefix("tinymoe."), None)
            del sys.modules[name]


cells = iter(range(1000))


def cell(text: str, namespace: dict | None = None) -> dict:
    """Run text as a notebook's cell does: with a file name of its own, and source that can be looked up."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    text = textwrap.dedent(text).lstrip("\n")
    name = f"<cell {next(cells)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile("from tinymoe.course import exercise\n", name, "exec"), namespace)
    exec(compile(text, name, "exec"), namespace)
    return namespace


SCALE = """
    @exercise("98.scale")
    def scale(x, by=2.0):
        calls.append(1)
        return by * x
"""
PLAIN_SCALE = """
    @exercise("98.scale")
    def scale(x, by=2.0):
        return by * x
"""


@pytest.mark.parametrize(
    "body",
    [
        "...",
        '"""Only a docstring."""',
        '"""A docstring."""\n        ...',
        "pass",
        "raise NotImplementedError",
        "raise NotImplementedError('write me')",
    ],
)
def test_a_stub_is_unsolved_and_the_reference_stands_in(course, capsys, body):
    got = cell(f"""
    @exercise("98.scale")
    def scale(x, by=2.0):
        {body}
    """)
    assert capsys.readouterr().out == "… 98.scale is not written yet; the reference stands in.\n"
    assert got["scale"](3.0) == 6.0
    assert not list(course.glob("my_tinymoe/*"))


@pytest.mark.parametrize(
    "line", ["y = ...", "return ...", "return np.sum(x, axis=...)", "return scale(...)", "y: int = ..."]
)
def test_a_gap_left_open_is_unfinished(course, capsys, line):
    cell(f"""
    @exercise("98.scale")
    def scale(x, by=2.0):
        x = x + 0
        {line}
    """)
    assert "is not finished (line 4 still has `...`); the reference stands in" in capsys.readouterr().out


def test_an_ellipsis_in_an_index_or_a_type_is_no_gap(course):
    got = cell("""
    def f(x: tuple[int, ...]):
        return x[..., None], x[...]
    """)
    assert source.unfinished(got["f"]) is None


def test_a_stub_without_source_is_seen_in_its_bytecode():
    namespace = {}
    exec("def stub(x): ...\ndef documented(x): 'What it does.'\ndef written(x): return x", namespace)
    assert source.unfinished(namespace["stub"]) and source.unfinished(namespace["documented"])
    assert source.unfinished(namespace["written"]) is None


def test_a_right_answer_is_what_every_user_runs(course, capsys):
    from tinymoe import toyuser

    calls = []
    before = toyuser.scale.__code__
    namespace = cell(SCALE, {"__name__": "__main__", "calls": calls})
    assert "✓ 98.scale: your function passes 3 checks; " in capsys.readouterr().out
    calls.clear()
    assert toyuser.everywhere(3.0) == [6.0, 6.0, 6.0, 6.0]
    assert len(calls) == 4
    assert namespace["scale"].__module__ == "__main__"

    assert "the reference is in use again" in str(session.reset("98.scale"))
    calls.clear()
    assert toyuser.everywhere(3.0) == [6.0] * 4 and calls == []
    assert toyuser.scale.__code__ is before
    assert toyuser.scale.__defaults__ == (2.0,) and not hasattr(toyuser.scale, "__wrapped__")
    assert "was not solved" in str(session.reset("98.scale"))


def test_modules_loaded_after_the_adoption_run_on_it_too(course):
    namespace = cell(SCALE, {"__name__": "__main__", "calls": (calls := [])})
    assert "tinymoe.toyuser" not in sys.modules
    from tinymoe import toyuser

    calls.clear()
    toyuser.everywhere(1.0)
    assert len(calls) == 4 and namespace["scale"] is adoption.adopted(Target("toy.py::scale"))


def test_it_is_kept_readable_and_adopted_in_a_fresh_process(course, capsys):
    cell(PLAIN_SCALE)
    assert capsys.readouterr().out == "✓ 98.scale: your function passes 3 checks; the course now runs on it.\n"
    kept = (course / "my_tinymoe" / "98.scale.py").read_text()
    assert kept.startswith("# Your solution of exercise 98.scale, solved 20")
    assert kept.endswith("def scale(x, by=2.0):\n    return by * x\n")

    assert fresh_process(course, "") == {
        "said": "✓ tinymoe runs on your own 98.scale.\n",
        "where": str(course / "my_tinymoe" / "98.scale.py"),
        "value": [6.0] * 4,
    }


def fresh_process(course: Path, extra: str) -> dict:
    """A new Python opens a chapter: what it says, which file the target's code now comes from, what it computes."""
    program = f"""
import contextlib, inspect, io, json, tinymoe, tinymoe.course.exercises as exercises
tinymoe.__path__.append({str(course / "package")!r})
exercises.__path__[:] = [{str(course / "chapters")!r}]
said = io.StringIO()
with contextlib.redirect_stdout(said):
    from tinymoe.course import exercise
    {extra}
from tinymoe import toyuser
where = inspect.unwrap(toyuser.scale).__code__.co_filename
print(json.dumps(dict(said=said.getvalue(), where=where, value=toyuser.everywhere(3.0))))
"""
    env = {**os.environ, "TINYMOE_MY": str(course / "my_tinymoe"), "PYTHONPATH": str(Path(tinymoe.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("by * x", "by + x"), 'it fails "a number": expected 6.0, got 5.0'),
        (("by * x", "by *"), "SyntaxError in line 6: invalid syntax"),
        (("from __future__ import annotations", "import nowhere_at_all"), "No module named 'nowhere_at_all'"),
        (("def scale(x, by=2.0):\n    return by * x", "scale = 3"), "it defines no function"),
        (("def scale", "@property\ndef scale"), "scale is a property, expected a plain function"),
        (("by * x", "by * y"), "it fails \"a number\": NameError: name 'y' is not defined, in line 6: return by * y"),
    ],
)
def test_a_kept_file_that_was_spoiled_is_told_in_one_line(course, capsys, edit, why):
    cell(PLAIN_SCALE)
    file = course / "my_tinymoe" / "98.scale.py"
    file.write_text(file.read_text().replace(*edit))
    adoption.release(Target("toy.py::scale"))
    session._solved.clear()
    capsys.readouterr()
    session.adopt_all()
    said = capsys.readouterr().out
    assert said.startswith("✗ my_tinymoe/98.scale.py is not used, the reference is: ") and said.count("\n") == 1
    assert why in said
    assert adoption.adopted(Target("toy.py::scale")) is None


def test_a_kept_file_edited_rightly_is_checked_once_and_used(course, capsys, monkeypatch):
    cell(PLAIN_SCALE)
    file = course / "my_tinymoe" / "98.scale.py"
    file.write_text(file.read_text().replace("by * x", "x * by + 0"))
    assert not shelf.checked("98.scale", (course / "chapters" / "ch98.py").read_bytes())
    session.adopt_all()
    assert "runs on your own 98.scale" in capsys.readouterr().out
    assert shelf.checked("98.scale", (course / "chapters" / "ch98.py").read_bytes())
    monkeypatch.setattr(registry.Exercise, "failure", lambda *_: pytest.fail("checked though nothing changed"))
    session.adopt_all()


def test_a_kept_file_of_no_exercise(course, capsys):
    (course / "my_tinymoe").mkdir()
    (course / "my_tinymoe" / "98.scle.py").write_text("def scle(): return 1\n")
    (course / "my_tinymoe" / "notes.py").write_text("not Python at all")
    session.adopt_all()
    assert capsys.readouterr().out == (
        "✗ my_tinymoe/98.scle.py is not used, the reference is: "
        "exercise: there is no '98.scle'; did you mean 98.scale?\n"
    )


def test_a_stub_run_again_goes_on_with_the_earlier_solution(course, capsys):
    mine = cell(PLAIN_SCALE)["scale"]
    stub = cell('@exercise("98.scale")\ndef scale(x, by=2.0):\n    ...')["scale"]
    bad = cell('@exercise("98.scale")\ndef scale(x, by=2.0):\n    return x')["scale"]
    assert stub is mine and bad is mine
    said = capsys.readouterr().out
    assert "98.scale is not written yet; your earlier solution stands in." in said
    assert "(your earlier solution stands in; hint('98.scale') may help)" in said


def said_of(capsys, text: str, namespace: dict | None = None) -> str:
    """What the course says when a cell runs."""
    capsys.readouterr()
    cell(text, namespace)
    return capsys.readouterr().out


def test_the_smallest_failing_case_is_shown(course, capsys):
    text = """
    @exercise("98.scale")
    def scale(x, by=2.0):
        print("scaling")
        return x * by if by in (2.0, 3.0) else x
    """
    said = said_of(capsys, text)
    assert said == said_of(capsys, text), "a random case is the same each time"
    lines = said.splitlines()
    assert lines[0].startswith('✗ 98.scale fails "random arrays": 1 of 1 values differ; at [0]: expected ')
    assert lines[1] == "(the reference stands in; hint('98.scale') may help)"
    assert [line.split()[0] for line in lines[2:]] == ["given", "by", "expected", "got", "printed"]
    assert "(1,) float32" in lines[2] and lines[-1] == "  printed   scaling"


def test_a_random_failure_is_shrunk(course, capsys):
    said = said_of(
        capsys,
        """
        seen = []
        @exercise("98.scale")
        def scale(x, by=2.0):
            seen.append(x)
            return x * by if isinstance(x, float) or len(seen) < 7 else x
        """,
    )
    assert "at [0]" in said and "(1,) float32" in said


HEADS = {
    "98.scale": "def scale(x, by=2.0):",
    "98.square": "def square_toy(ctx, a):",
    "98.halve": "def refuse(n):",
    "98.weigh": "def weigh(self, n):",
    "98.in_place": "def double_in_place(x):",
    "98.tally": "def tally(n):",
    "98.total": "def total(x):",
    "98.depth": "def depth(tree):",
    "98.slow": "def slow_square(n):",
}

WRONG = [  # (id, body or whole function, what has to be said of it)
    ("98.scale", "return x.tolist()", "AttributeError: 'float' object has no attribute 'tolist'"),
    ("98.scale", "\n    y = 1\n    return y / 0", "ZeroDivisionError: division by zero, in line 4: ret"),
    ("98.scale", "return None", "expected a number, got None"),
    ("98.scale", "return np.float64(x * by) if np.isscalar(x) else x * np.float64(by)", "✗ 98.scale"),
    ("98.scale", "return x * by + 0 * np.ones((1, *np.shape(x)))", "expected a number, got an array"),
    ("98.scale", "return np.ones(2) if getattr(x, 'dtype', 0) == np.float64 else x * by", '"linear": it is not linear'),
    ("98.scale", "def scale(x): return x", "the parameter by is missing"),
    ("98.scale", "def scale(by, x=2.0): return x", "the parameter x should be number 1"),
    ("98.scale", "def scale(x, by=3.0): return x", "the parameter by has another default"),
    ("98.scale", "def scale(x, by): return x", "the parameter by has another default"),
    ("98.scale", "def scale(x, *, by=2.0): return x", "the parameter by should be number 2"),
    ("98.scale", "def scale(x, by=2.0, *, more): return x", "the parameter more is one too many"),
    ("98.scale", "return scale(x, by)", "RecursionError: it calls itself without end"),
    ("98.scale", "return toy.scale(x, by)", "RecursionError: it calls itself without end"),
    ("98.scale", "exit()", "SystemExit"),
    ("98.scale", "\n    x *= by\n    return x", "it changes its argument x"),
    ("98.square", "return a * a", "expected the result and its vjp, (out, vjp)"),
    ("98.square", "return a, lambda g: (g,)", '"forward": 1 of 2 values differ'),
    ("98.square", "return a * a, lambda g: (g * a,)", "gradient of a: 2 of 2 values differ; at [0, 0]"),
    ("98.square", "return a * a, lambda g: ((2 * g * a).sum(),)", "gradient of a: expected shape (1, 2), got ()"),
    ("98.square", "return a * a, lambda g: (2 * g * a, None)", "expected 1 gradients, one for each"),
    ("98.square", "return a * a, lambda g: 1 / 0", "its gradient fails: ZeroDivisionError: division by zero, in"),
    ("98.square", "return a * a, lambda g: (None,)", "gradient of a: expected an array, got None"),
    ("98.halve", "return n // 2", "it should raise ValueError"),
    ("98.halve", "\n    if n % 2: raise ValueError\n    return n // 2", "the exception has no message"),
    ("98.halve", "\n    if n % 2: raise KeyError('odd')\n    return n // 2", "KeyError: 'odd'"),
    ("98.weigh", "return n", "2 boxes weigh 10"),
    ("98.weigh", "return self.wight", "has no attribute 'wight', in line 2: def weigh"),
    ("98.in_place", "return x * 2", "expected None, got an array"),
    ("98.in_place", "x = x * 2", "x afterwards: 2 of 2 values differ"),
    ("98.tally", "return list(range(n))", "at [0]: expected 1, got 0"),
    ("98.tally", "\n    while n: n += 1", "it was stopped after 0.3 s (an endless loop?), in line 3"),
    ("98.tally", "\n    while True:\n        try: n += 1\n        except Exception: pass", "it was stopped after"),
    ("98.total", "return x.sum()", "expected 5.0, got 3.0"),
    ("98.total", "return (x.detach() * x).sum()", "gradient of x: 2 of 2 values differ"),
    ("98.total", "return float((x.numpy() ** 2).sum())", "expected a Tensor, got a float"),
    ("98.total", "return (x * x).detach().sum()", "its gradient fails: RuntimeError: backward"),
]  # fmt: skip


@pytest.mark.parametrize(("id", "text", "why"), WRONG)
def test_wrong_answers_are_caught(course, capsys, id, text, why):
    from tinymoe import toy

    namespace = {"__name__": "__main__", "np": np, "toy": toy}
    text = text if text.startswith("def ") else f"{HEADS[id]} {text}"
    started = time.monotonic()
    said = said_of(capsys, f'@exercise("{id}")\n{text}', namespace)
    assert said.startswith(f"✗ {id} fails ") and why in said
    assert time.monotonic() - started < 5
    assert not adoption._adopted and not list(course.glob("my_tinymoe/*"))
    stand_in = namespace[text.split("(")[0].removeprefix("def ")]
    assert stand_in.__module__ in ("tinymoe.toy", "tinymoe.course.exercises.ch98")


RIGHT = {
    "98.square": "def square_toy(ctx, a): return a * a, lambda g: (a * g + g * a,)",
    "98.halve": "def refuse(n):\n    if n % 2: raise ValueError(n)\n    return n >> 1",
    "98.weigh": "def weigh(self, n): return n * self.weight",
    "98.in_place": "def double_in_place(x): x += x",
    "98.tally": "def tally(n): return (n - i for i in range(n))",
    "98.total": "def total(x): return x.__pow__(2.0).sum()",
    "98.depth": "def depth(tree):\n    return 1 + max(map(depth, tree)) if tree else 0",
    "98.slow": "def slow_square(n): return n ** 2",
}


@pytest.mark.parametrize("id", RIGHT)
def test_right_answers_pass_and_are_kept(course, capsys, id):
    said = said_of(capsys, f'@exercise("{id}")\n{RIGHT[id]}')
    end = "it is kept in my_tinymoe" if id == "98.halve" else "the course now runs on it"
    assert said.startswith(f"✓ {id}: your function passes ") and said.endswith(f"; {end}.\n")
    session._solved.clear()
    session.adopt_all()
    assert capsys.readouterr().out == f"✓ tinymoe runs on your own {id}.\n"


def test_operations_methods_and_cached_functions_follow(course):
    from tinymoe import toy
    from tinymoe.toy import Box, slow_square, square_toy

    assert slow_square(4) == 16
    box, forward = Box(), OPS["square_toy"]
    namespace = cell(
        """
        @exercise("98.square")
        def square_toy(ctx, a): return a * a, lambda g: (log.append("vjp") or 2 * g * a,)
        @exercise("98.weigh")
        def weigh(self, n): return log.append("weigh") or self.weight * n
        @exercise("98.slow")
        def slow_square(n): return log.append("slow") or n * n
        """,
        {"__name__": "__main__", "log": (log := [])},
    )
    log.clear()
    assert namespace["square_toy"] is square_toy, "in the chapter it is the function of Tensors"
    x = Tensor([3.0], requires_grad=True)
    square_toy(x).backward()
    assert box.weigh(2) == 10 and slow_square(4) == 16 and x.grad == [6.0]
    assert log == ["vjp", "weigh", "slow"]
    assert OPS["square_toy"] is forward and toy.square_toy is square_toy
    for id in ("98.square", "98.weigh", "98.slow"):
        session.reset(id)
    square_toy(x).backward()
    assert box.weigh(2) == 10 and slow_square(4) == 16 and len(log) == 3


def test_closures_class_methods_and_properties_can_be_targets(course):
    from tinymoe import toy

    for name, mine, value in [
        ("closed", lambda n: -n, lambda: toy.closed(3)),
        ("Box.of", lambda cls, weight: (cls, weight), lambda: toy.Box.of(4)),
        ("Box.twice", lambda self: "mine", lambda: toy.Box().twice),
    ]:
        target = Target(f"toy.py::{name}")
        before = value()
        adoption.adopt(target, mine)
        assert value() in (-3, (toy.Box, 4), "mine")
        assert target.original is not target.function
        assert adoption.release(target) and not adoption.release(target)
        assert str(type(value())) == str(type(before))
    assert toy.closed(3) == 10 and toy.Box.of(4).weight == 4 and toy.Box().twice == 10


@pytest.mark.parametrize(
    ("target", "error"),
    [("toy.py::nothing", "no nothing"), ("toy.py::Box.nothing", "no Box.nothing"), ("toy.py::RATE", "got a int")],
)
def test_a_target_that_is_no_function(course, target, error):
    with pytest.raises((ValueError, TypeError), match=error):
        Target(target).function  # noqa: B018


def test_the_copy_of_the_target_that_a_chapter_shows_follows_too(course):
    namespace = {"__name__": "__main__", "calls": (calls := [])}
    cell("# tinymoe: toy.py::scale\ndef scale(x, by=2.0):\n    return x * by\n", namespace)
    cell("def shown(x):\n    return scale(x)\nkept = scale", namespace)
    shown = namespace["kept"].__code__
    cell(SCALE, namespace)
    calls.clear()
    assert namespace["kept"](1.0) == namespace["shown"](1.0) == 2.0 and len(calls) == 2
    session.reset("98.scale")
    assert namespace["kept"].__code__ is shown


def test_operations_and_methods_that_a_chapter_shows_follow_too(course):
    from tinymoe import toy
    from tinymoe.ops import op

    namespace = {"__name__": "__main__", "op": op, "log": (log := [])}
    cell(
        "# tinymoe: toy.py::square_toy\n@op\ndef square_toy(ctx, a):\n    return a * a, lambda g: (2 * g * a,)",
        namespace,
    )
    cell("# tinymoe: toy.py::Box\nclass Box:\n    weight = 5\n    def weigh(self, n):\n        return 0", namespace)
    shown = OPS["square_toy"], namespace["square_toy"]
    cell(
        """
        @exercise("98.square")
        def square_toy(ctx, a): return a * a, lambda g: (log.append("vjp") or 2 * g * a,)
        @exercise("98.weigh")
        def weigh(self, n): return self.weight * n
        """,
        namespace,
    )
    assert namespace["square_toy"] is toy.square_toy
    assert OPS["square_toy"] is shown[0], "the cell put its own in the table; that one runs on the solution now"
    for function in (shown[1], namespace["square_toy"]):
        log.clear()
        function(Tensor([3.0], requires_grad=True)).backward()
        assert log == ["vjp"]
    assert namespace["Box"]().weigh(3) == 15
    session.reset("98.weigh")
    assert namespace["Box"]().weigh(3) == 0


def test_a_chapters_own_draft_of_the_same_name_is_left_alone(course):
    namespace = cell("def scale(x, by=2.0):\n    return 'draft'\ndraft = scale")
    cell(PLAIN_SCALE, namespace)
    assert namespace["draft"](1.0) == "draft"


def test_what_a_solution_uses_is_kept_with_it(course, capsys):
    from tinymoe import toy

    namespace = {"__name__": "__main__"}
    cell(
        """
        import math
        import numpy as np
        from math import prod as product
        from tinymoe import toy
        from tinymoe.toy import RATE, Box
        from tinymoe.tensor import Tensor as T, OPS
        from numpy import exp
        factor, unused = 1.0, object()
        def helper(x, by, shift=lambda: 0 * factor):
            return Base.times(x, by) + shift()
        """,
        namespace,
    )
    cell("# tinymoe: toy.py::total\ndef total(x):\n    return (x * x).sum()", namespace)
    cell(
        "class Base:\n    @staticmethod\n    def times(x, by):\n        return (x * by) * ONE\nONE = {'one': 1}['one']",
        namespace,
    )
    cell('@exercise("98.depth")\ndef depth(tree):\n    return 1 + max(map(depth, tree)) if tree else 0', namespace)
    capsys.readouterr()
    cell(
        """
        from functools import wraps
        def same(f):
            return wraps(f)(lambda *a, **k: f(*a, **k))
        def decorate(f):
            return f
        plain = decorate
        @exercise("98.scale")
        @plain  # stays
        def scale(x: "Nowhere", by=2.0):
            # a comment stays, too
            if by is None:
                return math.pi, np.pi, product, toy, RATE, Box, T, OPS, total, depth, exp, never_defined
            return helper(x, by)
        """,
        namespace,
    )
    assert "the course now runs on it" in capsys.readouterr().out
    body = shelf.source("98.scale")
    assert body.splitlines()[:12] == [
        "from __future__ import annotations",
        "import math",
        "import numpy as np",
        "import tinymoe.toy as toy",
        "from math import prod as product",
        "from numpy import exp",
        "from tinymoe.ops import OPS",
        "from tinymoe.tensor import Tensor as T",
        "from tinymoe.toy import Box",
        "from tinymoe.toy import depth",
        "from tinymoe.toy import total",
        "",
    ]
    assert "RATE = 3" in body and "# a comment stays, too" in body and "@plain  # stays\ndef scale" in body
    assert "exercise" not in body and "unused" not in body and "same" not in body
    assert shelf.run(body, "<kept>", "98.scale")(2.0, by=3.0) == 6.0
    assert toy.scale(2.0) == 4.0


def test_a_solution_may_use_an_earlier_one_that_stands_in(course, capsys):
    cell(PLAIN_SCALE)
    cell(f'@exercise("98.halve")\n{RIGHT["98.halve"]}')
    session._solved.clear()
    session.adopt_all()
    namespace = cell("""
        @exercise("98.scale")
        def scale(x, by=2.0): ...
        @exercise("98.halve")
        def refuse(n): ...
    """)
    capsys.readouterr()
    cell('@exercise("98.tally")\ndef tally(n):\n    return (scale(n - i, 1) for i in range(n))', namespace)
    assert "the course now runs on it" in capsys.readouterr().out
    assert "from tinymoe.toy import scale\n" in shelf.source("98.tally")
    cell('@exercise("98.tally")\ndef tally(n):\n    return (n - i + refuse(0) for i in range(n))', namespace)
    assert "because it uses `refuse`, of type function, which is made elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rng = np.random.default_rng()\n{0}return x * by + (rng is None)", "it uses `rng`, of type Generator, which"),
        ("big = list(range(9999))\n{0}return x * by + 0 * len(big)", "it uses `big`, of type list, which"),
        ("state = []\nalias = state\n{0}return x * by if alias is state else 0", "outside this notebook it fails"),
        ("def outer():\n    one = 1\n    {1}    return x * by * one\nouter()", "it uses `one` from inside another"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_said_but_runs_here(course, capsys, text, why):
    from tinymoe import toyuser

    head = '@exercise("98.scale")\ndef scale(x, by=2.0):\n    '
    said = said_of(capsys, text.format(head, head.replace("\n", "\n    ")), {"__name__": "__main__", "np": np})
    assert said.startswith("✓ 98.scale: your function passes 3 checks; this chapter now runs on it, but it is not kept")
    assert why in said and not list(course.glob("my_tinymoe/*.py"))
    assert adoption.adopted(Target("toy.py::scale")) is not None and toyuser.scale(1.0) == 2.0


def test_without_source_it_is_not_kept(course, capsys):
    namespace = cell("submit = exercise('98.halve')")
    exec("def refuse(n):\n    if n % 2: raise ValueError(n)\n    return n // 2", namespace)
    namespace["submit"](namespace["refuse"])
    said = capsys.readouterr().out
    assert said.startswith("✓ 98.halve: your function passes 2 checks; it is not kept for later chapters, because ")
    assert said.endswith("because its source cannot be read.\n")


def test_a_folder_that_cannot_be_written(course, capsys, monkeypatch):
    (course / "a file").write_text("")
    monkeypatch.setenv("TINYMOE_MY", str(course / "a file"))
    assert "because 98.scale.py cannot be written: File exists." in said_of(capsys, PLAIN_SCALE)


def test_the_disk_is_full_and_the_earlier_file_stays(course, capsys, monkeypatch):
    cell(PLAIN_SCALE)
    before = (course / "my_tinymoe" / "98.scale.py").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be written: No space left on device" in said_of(capsys, PLAIN_SCALE.replace("by * x", "x * by"))
    assert [file.name for file in (course / "my_tinymoe").iterdir()] == ["98.scale.py"]
    assert (course / "my_tinymoe" / "98.scale.py").read_bytes() == before


def test_running_the_same_cell_again_changes_nothing_on_disk(course):
    cell(PLAIN_SCALE)
    file = course / "my_tinymoe" / "98.scale.py"
    before = file.stat().st_mtime_ns
    cell(PLAIN_SCALE)
    assert file.stat().st_mtime_ns == before


def test_reset_sets_the_file_aside(course):
    cell(PLAIN_SCALE)
    note = session.reset("98.scale")
    assert str(note) == (
        "· 98.scale: the reference is in use again; your solution is set aside in my_tinymoe/98.scale.py.old."
    )
    assert [file.name for file in (course / "my_tinymoe").iterdir()] == ["98.scale.py.old"]
    assert shelf.ids() == []


def test_hints_come_one_at_a_time(course):
    first, second, third = (str(session.hint("98.scale")) for _ in range(3))
    assert first == "· 98.scale: hint 1 of 2; hint('98.scale') again gives the next.\n  1.  Multiply."
    assert (
        second
        == third
        == ("· 98.scale: hint 2 of 2; solution('98.scale') shows an answer.\n  1.  Multiply.\n  2.  Multiply by `by`.")
    )


def test_the_solution_is_the_references_source_even_while_mine_runs(course):
    cell(PLAIN_SCALE)
    note = session.solution("98.scale")
    assert str(note) == '· 98.scale: Scale an array\n\ndef scale(x, by=2.0):\n    """x * by."""\n    return x * by'
    assert "<details><summary>Show the solution</summary><pre>def scale" in note._repr_html_()
    assert session.solution("98.square").fold[1].startswith("@op\ndef square_toy")
    assert session.solution("98.weigh").fold[1] == "def weigh(self, n):\n    return self.weight * n"
    assert session.solution("98.halve").fold[1].startswith("def refuse(n):")
    with pytest.raises(ValueError, match=r"toy\.py defines no Box\.lift"):
        source.definition_in(course / "package" / "toy.py", "Box.lift")


def test_progress_is_a_table(course):
    assert "0 of 9 exercises solved" in str(session.progress())
    cell(PLAIN_SCALE)
    first, line = str(session.progress()).splitlines()
    assert first == "· 1 of 9 exercises solved"
    assert line.startswith("  chapter 98  1 of 9:") and "  ✓ scale" in line and "  · halve" in line
    assert "✓ scale" in session.progress()._repr_html_()


def test_progress_of_a_chapter_tells_what_its_exercises_are(course):
    cell(PLAIN_SCALE)
    text = str(session.progress("98"))
    assert text.startswith("· 1 of 9 exercises of chapter 98 solved\n")
    assert "\n  ✓ 98.scale     Scale an array  20" in text and "\n  · 98.halve     Refuse odd numbers\n" in text
    with pytest.raises(ValueError, match="chapter: got '97', expected one of 98"):
        session.progress("97")


def test_progress_before_there_are_exercises(course, monkeypatch):
    monkeypatch.setattr(exercises, "__path__", [])
    assert str(session.progress()) == "· There are no exercises yet."


def test_unknown_ids_name_the_nearest(course):
    for call in (session.exercise, session.hint, session.solution, session.reset):
        with pytest.raises(ValueError, match=r"there is no '98.scael'; did you mean 98.scale"):
            call("98.scael")
    with pytest.raises(ValueError, match=r"did you mean 98.depth\?"):
        session.hint("97.depth")
    with pytest.raises(ValueError, match=r"there is no 'zzz'; progress\(\) lists them all"):
        session.hint("zzz")


def test_only_functions_can_be_submitted(course):
    with pytest.raises(TypeError, match=r"exercise 98\.scale: got a type, expected a function"):
        session.exercise("98.scale")(int)


GOOD = {"id": "98.a", "title": "A", "checks": [checks.holds("x", lambda f: None)], "hints": ["h"], "reference": abs}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "9.a"}, "id: got '9.a'"),
        ({"id": "09.A b"}, "id: got"),
        ({"reference": None}, "needs a target, a reference, or both"),
        ({"target": "nn.moe.top_k"}, "target: got 'nn.moe.top_k'"),
        ({"checks": []}, "at least one check and one hint"),
        ({"hints": []}, "at least one check and one hint"),
    ],
)
def test_an_exercise_is_defined_wrongly(change, why):
    registry.Exercise(**GOOD)
    with pytest.raises(ValueError, match=why):
        registry.Exercise(**{**GOOD, **change})


def test_faults_of_an_exercise_are_the_authors(course):
    def bad(x):
        x[0] = 1
        return 1 // x[1]

    for case, why in [
        (checks.case([0, 0]), "the reference fails on x = .*ZeroDivisionError"),
        (checks.case([0, 1]), "the reference changes x"),
    ]:
        known = registry.Exercise("98.bad", "Bad", [checks.matches("any", [case])], ["h"], reference=bad)
        with pytest.raises(RuntimeError, match=why):
            known.failure(lambda x: 1)


def test_chapters_and_their_exercises_belong_together(course, monkeypatch):
    toy = importlib.import_module("tinymoe.course.exercises.ch98")
    monkeypatch.setattr(toy, "EXERCISES", [registry.Exercise(**{**GOOD, "id": "97.a"})])
    with pytest.raises(ValueError, match=r"97\.a: stands in the module of chapter 98"):
        registry.every()
    monkeypatch.setattr(toy, "EXERCISES", [registry.Exercise(**GOOD)] * 2)
    with pytest.raises(ValueError, match=r"two have the id '98\.a'"):
        registry.every()
    (course / "chapters" / "ch97.py").write_text("import missing_thing\n")
    with pytest.raises(ModuleNotFoundError, match="missing_thing"):
        registry.find("97.a")


def test_answers_can_be_read_before_they_are_compared(course):
    known = registry.Exercise(
        "98.pick", "Pick", [checks.matches("sorted", [checks.case([2, 1])], read=sorted)], ["h"], reference=lambda x: x
    )
    assert known.failure(lambda x: x[::-1]) is None
    assert "expected 1, got 5" in known.failure(lambda x: [5, 6]).problem
    assert "TypeError: 'int' object is not iterable" in known.failure(lambda x: 3).problem


def test_any_number_of_arguments_is_shown():
    known = registry.Exercise(
        "98.add",
        "Add",
        [checks.matches("numbers", [checks.case(1, 2, by=3)])],
        ["h"],
        reference=lambda *n, by: sum(n) * by,
    )
    assert known.failure(lambda *n, by: 0).given == "argument 1 = 1\nargument 2 = 2\nby = 3"
    assert known.failure(lambda *n, **options: sum(n) * options["by"]) is None


def test_arguments_of_every_kind_come_out_unchanged():
    given = checks.case({"a": [np.ones(2)]}, Tensor([1.0]), [3], object())
    known = registry.Exercise("98.keep", "Keep", [checks.matches("x", [given])], ["h"], reference=lambda d, t, n, o: 1)
    assert known.failure(lambda d, t, n, o: 1) is None
    for change in ("d['a'].append(2)", "d['a'][0].fill(7)", "t.data.fill(7)", "n.clear()"):
        problem = known.failure(eval(f"lambda d, t, n, o: {change} or 1")).problem
        assert problem == f"it changes its argument {change[0]}"


def test_gradients_of_what_has_none_are_not_asked_for():
    check = checks.gradients("g", [checks.case(np.array([2, 3]), np.array([2.0, 3.0]))])
    known = registry.Exercise(
        "98.times", "Times", [check], ["h"], reference=lambda n, x: (n * x, lambda g: (None, n * g))
    )
    assert known.failure(lambda n, x: (n * x, lambda g: ("anything", n * g))) is None
    assert "gradient of x" in known.failure(lambda n, x: (n * x, lambda g: (None, g))).problem


def test_values_are_shown_in_little_room():
    shown = [
        (np.float32(0.5), "0.5"), (np.array(2, np.int64), "2 (int64)"),
        (np.zeros((0, 3)), "empty array (0, 3) float64"),
        ({"a": [1, (2,)]}, "{'a': [1, (2,)]}"), (abs, "the function abs"), (object(), "<object>"), ("x" * 500, "…"),
        (list(range(10**6)), " …"), (Tensor([1.0]), "Tensor [1.] (1,) float32"),
    ]  # fmt: skip
    for value, text in shown:
        assert values.show(value).endswith(text) and len(values.show(value)) <= values.SHOWN + 2


def test_copies_share_no_array():
    class Point(NamedTuple):
        x: np.ndarray

    given = ([np.ones(1)], Point(np.ones(1)), {"a": np.ones(1)}, Tensor([1.0]), os, iter([1]), threading.Lock())
    copied = values.clone(given)
    assert copied[0][0] is not given[0][0] and copied[1].x is not given[1].x and copied[2]["a"] is not given[2]["a"]
    assert type(copied[1]) is Point and copied[3].data is not given[3].data and copied[4] is os
    assert copied[6] is given[6], "what cannot be copied is shared"


def test_it_is_found_in_the_course_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TINYMOE_MY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert shelf.folder() == tmp_path / "my_tinymoe"
    for folder in ("chapters", "tinymoe"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    assert shelf.folder() == tmp_path / "my_tinymoe"


def test_the_course_is_adopted_by_its_first_use(course, monkeypatch):
    import tinymoe.course

    monkeypatch.setattr(session, "_started", False)
    monkeypatch.setattr(session, "adopt_all", lambda: monkeypatch.setattr(session, "_started", True))
    assert tinymoe.course.hint is session.hint and session.started()
    with pytest.raises(AttributeError, match="has no attribute 'hints'"):
        tinymoe.course.hints  # noqa: B018


def test_a_file_that_cannot_be_read(course, capsys):
    (course / "my_tinymoe").mkdir()
    (course / "my_tinymoe" / "98.scale.py").write_bytes(b"\xff\xfe")
    session.adopt_all()
    assert "98.scale.py is not used, the reference is: it cannot be read" in capsys.readouterr().out


def test_a_call_outside_the_main_thread_has_no_time_limit():
    done = []
    thread = threading.Thread(target=lambda: done.append(calling.attempt(lambda: 7, seconds=0.01)))
    thread.start()
    thread.join()
    assert done[0].value == 7


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarms")
def test_the_time_limit_gives_back_an_earlier_alarm():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        assert calling.attempt(lambda: 1).value == 1
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("expected", "got", "what"),
    [
        (np.ones(2), np.ones(2), None),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), None),
        (np.ones(2), [1.0, 1.0], "expected an array, got a list"),
        (np.ones(2), np.ones(3), "expected shape (2,), got (3,)"),
        (np.ones(2), np.ones(2, np.float32), "expected dtype float64, got float32"),
        (np.ones(2, np.int64), np.ones(2), "expected dtype int64, got float64"),
        (np.ones(2, np.int64), np.ones(2, np.int32), None),
        (np.array([1, 2]), np.array([1, 3]), "1 of 2 values differ; at [1]: expected 2, got 3"),
        (np.array(1.0), np.array(2.0), "expected 1.0, got 2.0"),
        (1.0, 1.0 + 1e-9, None),
        (float("nan"), float("nan"), None),
        (0.5, Fraction(1, 2), None),
        (0.5, 1j, "expected 0.5, got 1j"),
        (1.0, np.float32(2), "expected 1.0, got 2.0"),
        (1, True, None),
        (1, "1", "expected a number, got a str"),
        ([1, 2], (1, 2), "expected a list, got a tuple"),
        ((1, 2), [1, 2], "expected a tuple, got a list"),
        ([1, [2, 3]], [1, [2, 4]], "at [1]: at [1]: expected 3, got 4"),
        ([1, 2], [1], "expected 2 items, got 1"),
        ({"a": 1}, {"a": 2}, "at ['a']: expected 1, got 2"),
        ({"a": 1}, {}, "the key 'a' is missing"),
        ({"a": 1}, {"a": 1, "b": 2}, "the key 'b' should not be there"),
        ({"a": 1}, [1], "expected a dict, got a list"),
        ("ab", "ab", None),
        ("ab", "ac", "the values differ"),
        ("ab", b"ab", "expected a str, got a bytes"),
        ({1, 2}, {1}, "the values differ"),
        (None, 1, "expected None, got an int"),
        (Note("✓", "a"), Note("✓", "b"), ".text: the values differ"),
        (abs, 3, "expected a function, got an int"),
        (abs, len, None),
        (calling.attempt.__code__, 3, "expected a code, got an int"),
        (Tensor([1.0]), np.ones(1), "expected a Tensor, got an array"),
        (Tensor([1.0]), Tensor([2.0]), "1 of 1 values differ; at [0]: expected 1.0, got 2.0"),
        (os.stat_result, 3, "expected a function, got an int"),
        (sys.version_info[:2], (3, 0), "at [1]: "),
    ],
)
def test_differences(expected, got, what):
    found = values.difference(expected, got)
    assert found is None if what is None else what in found


NOTEBOOK = [
    "# tinymoe: toy.py::Box\n{box}",
    "class Plain:\n    weight = 2.0\n@__import__('dataclasses').dataclass\nclass Data:\n    x: int = 2",
    "from tinymoe.course import exercise, hint, progress",
    "@exercise('98.scale')\ndef scale(x, by=2.0):\n    return x * by * Box().weight / 5 + 0 * Plain.weight * Data().x",
    "hint('98.scale')",
    "from tinymoe import toyuser\nprint(toyuser.everywhere(1.0))",
    "@exercise('98.tally')\ndef tally(n):\n    while True:\n        n += 1",
]


def test_in_a_notebook(course, monkeypatch):
    """In real kernels: the box, the source of cells, and the adoption when the next chapter starts."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(Path(tinymoe.__file__).parents[1]))
    box = source.definition_in(course / "package" / "toy.py", "Box")
    setup = f"""
import tinymoe, tinymoe.course.exercises as exercises
tinymoe.__path__.append({str(course / "package")!r})
exercises.__path__[:] = [{str(course / "chapters")!r}]
"""

    def outputs(cells: list[str]) -> list[list[dict]]:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in [setup, *cells]])
        nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute(cwd=str(course))
        return [cell.outputs for cell in book.cells[1:]]

    _, _, _, checked, hinted, ran, endless = outputs([text.replace("{box}", box) for text in NOTEBOOK])
    said = "✓ 98.scale: your function passes 3 checks; the course now runs on it."
    assert checked[0]["data"]["text/plain"] == said
    assert checked[0]["data"]["text/html"].startswith('<div style="border-left:4px solid #009E73')
    assert "hint 1 of 2" in hinted[0]["data"]["text/plain"]
    assert ran[0]["text"] == "[2.0, 2.0, 2.0, 2.0]\n"
    assert "it was stopped after 0.3 s (an endless loop?), in line" in endless[0]["data"]["text/plain"]
    kept = shelf.source("98.scale")
    assert "from tinymoe.toy import Box\n" in kept and "class Plain:" in kept and "class Data:" in kept

    adopted, table = outputs(["from tinymoe.course import progress", "progress()"])
    assert adopted[0]["data"]["text/plain"] == "✓ tinymoe runs on your own 98.scale."
    assert "1 of 9 exercises solved" in table[0]["data"]["text/plain"]
