"""A dashboard for reinforcement learning: how rewards, lengths and entropies go, and what the model wrote, by group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets as t

from .assets import script, style_sheet
from .widgets import _REFRESH, _SYNC, _Throttle, _View, _when_cell_ends

# Each curve, and what the trainers call it.
_CURVES = {
    "reward": "reward",
    "held_out": "eval_reward",
    "length": "completions/mean_length",
    "entropy": "entropy",
    "kl": "kl",
    "idle": "frac_reward_zero_std",
    "speed": "tokens_per_s",
}


class Dashboard(_View):
    """Curves that grow while a policy is trained, and the answers that it wrote on the way, to go back and forth in.

    `dash = Dashboard(total_steps=100); display(dash); trainer.run(on_step=dash.update)`, with the metrics of
    `GRPOTrainer` or `PPOTrainer`. Of each step the first `groups` groups among its `rollouts` are shown; when more than
    `kept` steps have answers, those of every second are let go, so that the page stays small. Curves keep every step.

    Raises ValueError for groups or kept below 1.
    """

    _esm = script("dashboard")
    _css = style_sheet("common", "chart", "dashboard")
    total_steps = t.Int(None, allow_none=True).tag(sync=True)
    running = t.Bool(False).tag(sync=True)
    steps = t.List().tag(sync=True)  # of each step its number, its curves, and its groups

    def __init__(
        self,
        title: str = "Reinforcement learning",
        *,
        total_steps: int | None = None,
        groups: int = 4,
        kept: int = 80,
    ):
        for name, value in (("groups", groups), ("kept", kept)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        super().__init__(title=title, total_steps=total_steps)
        self._groups, self._kept = groups, kept
        self._every = 1  # of so many steps the answers of one are kept
        self._steps: list[dict[str, Any]] = []
        self._sent = 0  # steps the page has
        self._refresh, self._full = _Throttle(_REFRESH), _Throttle(_SYNC)

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of a step. The page is updated ten times a second.

        Raises ValueError where there is no step in them, or steps go backwards.
        """
        number, last = metrics.get("step"), self._steps[-1]["step"] if self._steps else -math.inf
        if number is None or not number > last:
            raise ValueError(f"metrics: got the step {number} after {last}, expected one that is larger")
        step: dict[str, Any] = {"step": int(number), "groups": _grouped(metrics.get("rollouts", ()))[: self._groups]}
        self._steps.append(step | _curves(metrics))
        if not self.running:
            self.running = True
            _when_cell_ends(self.finish)
        if self._thin_out() or self._full():
            self._sync()
        elif self._refresh():
            self.send({"kind": "steps", "from": self._sent, "steps": self._steps[self._sent :]})
            self._sent = len(self._steps)

    def finish(self) -> None:
        """Say that the run has ended, and show all of it. Happens by itself at the end of a notebook's cell."""
        self._sync()
        self.running = False

    def _thin_out(self) -> bool:
        """Let go of answers where there are too many, evenly, but never the newest; whether many at once."""
        before = self._steps[-2:-1]
        if before and (len(self._steps) - 2) % self._every:
            before[0]["groups"] = []
        if sum(bool(step["groups"]) for step in self._steps) <= self._kept:
            return False
        self._every *= 2
        for number, step in enumerate(self._steps[:-1]):
            if number % self._every:
                step["groups"] = []
        return True

    def _sync(self) -> None:
        self.steps = [dict(step) for step in self._steps]
        self._sent = len(self._steps)

    def _summary(self) -> str:
        return f"{len(self._steps)} steps" if self._steps else "no steps yet"


def _curves(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers to draw, by the names in _CURVES; what is missing or not finite is left out."""
    found = {curve: float(metrics[name]) for curve, name in _CURVES.items() if name in metrics}
    return {curve: round(value, 5) for curve, value in found.items() if math.isfinite(value)}


def _grouped(rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers by group, each as [completion, reward, advantage or None, how often]: the best first, equal ones once."""
    groups: dict[Any, dict[str, Any]] = {}
    for one in rollouts:
        group = groups.setdefault(one.get("group", one["prompt"]), {"prompt": one["prompt"], "answers": {}})
        answer = (one["completion"], float(one["reward"]), one.get("advantage"))
        group["answers"][answer] = group["answers"].get(answer, 0) + 1
    return [
        {
            "prompt": group["prompt"],
            "answers": sorted(([*key, times] for key, times in group["answers"].items()), key=_rank),
        }
        for group in groups.values()
    ]


def _rank(answer: Sequence[Any]) -> tuple[float, int]:
    return -answer[1], -answer[3]
