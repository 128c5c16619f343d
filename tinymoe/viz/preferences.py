"""Learning from a reward model to look at: what it gives, what the answers are worth, and the answers themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as t

from .assets import script, style_sheet
from .widgets import _View

_FIGURES = ("step", "kl", "gold", "proxy")


class RewardPath(_View):
    """Runs of training on a reward model: choose a run and a step, and read what is written then.

    `runs` maps the name of a run to its entries in order, each with the "step", the "kl" from the start in nats, the
    mean "gold" reward and that of the reward model, "proxy", and "notes". A note has its "prompt", its "text", what it
    is worth by which rule, "points", and its "gold" and "proxy" rewards. `step` is what is shown at first.

    Raises ValueError for no runs, a run of fewer than two entries, and a figure that is missing or not finite.
    """

    _esm = script("preferences")
    _css = style_sheet("common", "chart", "preferences")
    runs = t.Dict().tag(sync=True)
    step = t.Int().tag(sync=True)

    def __init__(
        self,
        runs: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        step: int = 0,
        title: str = "What the reward model likes, and what it is worth",
    ):
        if not runs:
            raise ValueError("runs: got none, expected at least one")
        for name, entries in runs.items():
            if len(entries) < 2:
                raise ValueError(f"runs[{name!r}]: got {len(entries)} entries, expected two or more")
            for number, entry in enumerate(entries):
                _check(entry, f"runs[{name!r}][{number}]")
        kept = {
            name: [{**{f: entry[f] for f in _FIGURES}, "notes": list(entry.get("notes", ()))} for entry in entries]
            for name, entries in runs.items()
        }
        super().__init__(title=title, runs=kept, step=step)

    def _summary(self) -> str:
        return f"{len(self.runs)} runs"


def _check(entry: Mapping[str, Any], where: str) -> None:
    for figure in _FIGURES:
        got = entry.get(figure)
        if not isinstance(got, int | float) or not math.isfinite(got):
            raise ValueError(f"{where}: got {got!r} as {figure!r}, expected a finite number")
