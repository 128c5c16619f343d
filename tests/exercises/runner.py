"""Tests of a chapter's exercises, made from a table of plausible wrong answers.

    # tests/exercises/test_ch01.py
    from .runner import exercise_tests

    def keeps_the_rarest(words, count): ...

    TestExercises = exercise_tests("01", {"01.train_merges": [keeps_the_rarest, ...], ...})

For every exercise of the chapter: it is in the table with at least three wrong answers; a stub is reported unsolved;
the reference passes; every wrong answer fails, with a message that can be read; and what passes is what the package
runs, until it is reset. Wrong answers are plain functions with the reference's parameters.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tinymoe.course import adoption, registry, session
from tinymoe.course.checks import Failure

Function = Callable[..., Any]


def exercise_tests(chapter: str, wrong: Mapping[str, Sequence[Function]]) -> type:
    """A test class for the exercises of a chapter; `wrong` maps each id to its wrong answers."""
    by_id = pytest.mark.parametrize("id", list(wrong))
    answers = [pytest.param(id, answer, id=f"{id}-{answer.__name__}") for id in wrong for answer in wrong[id]]

    class TestExercises:
        @pytest.fixture(autouse=True)
        def nothing_solved(self, tmp_path, monkeypatch):
            monkeypatch.setenv("TINYMOE_MY", str(tmp_path / "my_tinymoe"))
            monkeypatch.setattr(session, "_solved", {})

        def test_the_table_is_complete(self):
            problems = table_problems(chapter, wrong)
            assert not problems, "\n".join(problems)

        @by_id
        def test_a_stub_is_unsolved(self, id, capsys):
            function = session.exercise(id)(stub(registry.find(id)))
            assert capsys.readouterr().out == f"… {id} is not written yet; the reference stands in.\n"
            assert function is (place.public if (place := registry.find(id).place) else registry.find(id).answer)

        @by_id
        def test_the_reference_passes(self, id):
            known = registry.find(id)
            assert known.failure(known.answer) is None
            assert known.solution.strip()

        @pytest.mark.parametrize(("id", "answer"), answers)
        def test_a_wrong_answer_fails(self, id, answer):
            known = registry.find(id)
            problem = message_problem(known, known.failure(answer))
            assert not problem, problem

        @by_id
        def test_what_passes_is_what_runs(self, id, capsys):
            known = registry.find(id)

            def mine(*args: Any, **kwargs: Any) -> Any:
                return known.answer(*args, **kwargs)

            code = known.place.function.__code__ if known.place else None
            session.exercise(id)(mine)
            assert capsys.readouterr().out.startswith(f"✓ {id}: your function passes ")
            if known.place:
                assert adoption.adopted(known.place) is mine
                session.reset(id)
                assert adoption.adopted(known.place) is None and known.place.function.__code__ is code

    return TestExercises


def table_problems(chapter: str, wrong: Mapping[str, Sequence[Function]]) -> list[str]:
    """What is missing from the table, or should not be there."""
    known = {exercise.id for exercise in registry.every() if exercise.chapter == chapter}
    problems = [f"{id}: is not in the table of wrong answers" for id in sorted(known - set(wrong))]
    problems += [f"{id}: there is no such exercise in chapter {chapter}" for id in sorted(set(wrong) - known)]
    problems += [f"{id}: {len(set(answers))} wrong answers, expected three or more"
                 for id, answers in wrong.items() if len(set(answers)) < 3]  # fmt: skip
    if len(known) < 3:
        problems.append(f"chapter {chapter}: {len(known)} exercises, expected three or more")
    return problems


def message_problem(known: registry.Exercise, failure: Failure | None) -> str:
    """What is wrong with how a wrong answer was caught; empty when nothing is."""
    if failure is None:
        return f"{known.id}: this wrong answer passes all checks"
    said = str(session.failure_note(known, failure))
    if failure.problem.startswith(("NameError", "ImportError", "ModuleNotFoundError", "SyntaxError")):
        return f"{known.id}: the wrong answer itself is broken:\n{said}"
    if failure.check == "its parameters":
        return f"{known.id}: the wrong answer has other parameters than the reference:\n{said}"
    if len(said) > 3000 or " at 0x" in said:
        return f"{known.id}: the message is too long, or shows an address:\n{said}"
    return ""


def stub(known: registry.Exercise) -> Function:
    """The reference's signature with nothing but `...` in it, as a chapter's cell holds it."""
    parameters = inspect.signature(known.answer).parameters.values()
    bare = [parameter.replace(annotation=parameter.empty, default=parameter.empty if parameter.default is
            parameter.empty else None) for parameter in parameters]  # fmt: skip
    signature = inspect.Signature(bare)
    text, name = f"def {known.answer.__name__}{signature}:\n    ...\n", f"<stub of {known.id}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {}
    exec(compile(text, name, "exec"), namespace)
    return namespace[known.answer.__name__]
