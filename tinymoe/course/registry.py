"""Which exercises there are, and what each is made of."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import exercises
from .adoption import Target, run_by
from .checks import Check, Failure, Trial
from .source import definition_in

Function = Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """One exercise, as a chapter's module `tinymoe/course/exercises/chNN.py` lists it in `EXERCISES`.

    `target` names the function of the package that the learner writes, and that a right answer replaces there:
    `text/tokenizer.py::train_merges`, or a method, `nn/moe.py::MoE.__call__`. An operation of `ops.py` is written as
    there: a function of `ctx` and raw arrays that returns the result and its vjp. `reference` is the right answer;
    it defaults to the target, and an exercise that replaces nothing has to give it. `checks` go from small to large;
    `hints` from a nudge to nearly the answer. `seconds` is the most that one call may take.
    """

    id: str
    title: str
    checks: Sequence[Check]
    hints: Sequence[str]
    target: str | None = None
    reference: Function | None = None
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.[a-z][a-z0-9_]*", self.id):
            raise ValueError(f"id: got {self.id!r}, expected the chapter and a name, as in '09.top_k_routing'")
        if self.target is None and self.reference is None:
            raise ValueError(f"exercise {self.id}: needs a target, a reference, or both")
        if self.target is not None and not re.fullmatch(r"[\w/]+\.py::\w+(\.\w+)?", self.target):
            raise ValueError(f"target: got {self.target!r}, expected the form 'nn/moe.py::top_k_routing'")
        if not self.checks or not self.hints:
            raise ValueError(f"exercise {self.id}: needs at least one check and one hint")

    @property
    def chapter(self) -> str:
        """The two digits of its chapter."""
        return self.id[:2]

    @cached_property
    def place(self) -> Target | None:
        """The target, if it has one."""
        return Target(self.target) if self.target else None

    @property
    def answer(self) -> Function:
        """The reference, as the checks call it: never the learner's, whatever has been adopted."""
        if self.reference is not None:
            return self.reference
        assert self.place is not None  # __post_init__ saw to that
        return self.place.original

    @property
    def solution(self) -> str:
        """Source of the reference."""
        if self.reference is None and self.place is not None:
            return definition_in(self.place.source_file, self.place.qualname)
        return inspect.getsource(self.answer).rstrip()

    def failure(self, function: Function) -> Failure | None:
        """The first check that `function` fails, with its smallest failing case; None when it passes them all."""
        place = self.place

        def running(function: Function | None) -> AbstractContextManager[None]:
            return run_by(place, function) if place else nullcontext()

        trial = Trial(self.id, function, self.answer, self.seconds, running)
        return trial.failure(self.checks)


def find(id: str) -> Exercise:
    """The exercise called `id`. Raises ValueError, with the nearest names, when there is none."""
    for exercise in _of_chapter(str(id)[:2]):
        if exercise.id == id:
            return exercise
    known = [exercise.id for exercise in every()]
    by_name = {name.partition(".")[2]: name for name in known}
    near = difflib.get_close_matches(str(id), known, 2, 0.8)
    near += [by_name[name] for name in difflib.get_close_matches(str(id).partition(".")[2], by_name, 2, 0.8)]
    advice = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else "progress() lists them all"
    raise ValueError(f"exercise: there is no {id!r}; {advice}")


def every() -> list[Exercise]:
    """All exercises, in the order of the chapters. Raises ValueError when two have the same id or the same target."""
    names = sorted(module.name for module in pkgutil.iter_modules(exercises.__path__))
    found = [exercise for name in names if re.fullmatch(r"ch\d\d", name) for exercise in _of_chapter(name[2:])]
    for what in ("id", "target"):
        values = [value for exercise in found if (value := getattr(exercise, what))]
        if twice := {value for value in values if values.count(value) > 1}:
            raise ValueError(f"exercises: two have the {what} {sorted(twice)[0]!r}")
    return found


def checks_source(exercise: Exercise) -> bytes:
    """The file that the exercise is defined in: when it changes, kept solutions are checked anew."""
    return Path(str(_module(exercise.chapter).__file__)).read_bytes()


def _module(chapter: str) -> Any:
    return importlib.import_module(f"{exercises.__name__}.ch{chapter}")


def _of_chapter(chapter: str) -> list[Exercise]:
    name = f"{exercises.__name__}.ch{chapter}"
    if not re.fullmatch(r"\d\d", chapter):
        return []
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        return []
    for exercise in module.EXERCISES:
        if exercise.chapter != chapter:
            raise ValueError(f"exercise {exercise.id}: stands in the module of chapter {chapter}")
    return list(module.EXERCISES)
