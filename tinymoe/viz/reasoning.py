"""Many answers to one problem, and what becomes of them: votes, scores, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as t

from .assets import script, style_sheet
from .widgets import _View

_SAMPLE = {"answer": str | None, "right": bool, "logp": float, "score": float, "tokens": int, "text": str}


class AnswersPlay(_View):
    """A bag of a model's answers to each of some problems: draw a few or many, and see what each rule takes.

    A problem has a "question", the right "answer", and "samples": each a mapping with the "answer" that was read from
    it or None, whether it is "right", its "logp" under the model, a verifier's "score", its number of "tokens", and its
    "text". The curves are over all problems. `problem` and `drawn` are what is shown at first.

    Raises ValueError for a field that is missing or of another type, and for numbers out of range.
    """

    _esm = script("reasoning")
    _css = style_sheet("common", "chart", "reasoning")
    problems = t.List().tag(sync=True)
    problem = t.Int().tag(sync=True)
    drawn = t.Int().tag(sync=True)

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any]],
        *,
        problem: int = 0,
        drawn: int = 8,
        title: str = "A bag of answers",
    ):
        if not problems:
            raise ValueError("problems: got none, expected at least one")
        checked = [_checked(one, f"problems[{number}]") for number, one in enumerate(problems)]
        least = min(len(one["samples"]) for one in checked)
        for name, got, low, high in (("problem", problem, 0, len(checked) - 1), ("drawn", drawn, 1, least)):
            if not low <= got <= high:
                raise ValueError(f"{name}: got {got}, expected {low} to {high}")
        super().__init__(title=title, problems=checked, problem=problem, drawn=drawn)

    def _summary(self) -> str:
        return f"{sum(len(one['samples']) for one in self.problems)} answers to {len(self.problems)} problems"


def _checked(problem: Mapping[str, Any], where: str) -> dict[str, Any]:
    samples = problem.get("samples") or ()
    if not samples:
        raise ValueError(f"{where}: got no samples, expected at least one")
    for number, sample in enumerate(samples):
        for field, kind in _SAMPLE.items():
            if field not in sample or not isinstance(sample[field], kind):
                got, wanted = repr(sample.get(field, "nothing")), getattr(kind, "__name__", kind)
                raise ValueError(f"{where}, samples[{number}]: got {got} as {field!r}, expected {wanted}")
    return {
        "question": str(problem["question"]),
        "answer": str(problem["answer"]),
        "samples": [{field: sample[field] for field in _SAMPLE} for sample in samples],
    }
