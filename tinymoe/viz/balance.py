"""Balance without a loss to play with: biases that follow the load of a router's experts, step by step."""

from __future__ import annotations

from typing import Any

import traitlets as t

from .assets import script, style_sheet
from .widgets import _View

_SPEEDS = (1e-4, 0.3)  # where the slider ends; 0 is allowed too
_TOKENS = (16, 256)


class BalancePlay(_View):
    """A thermostat for experts: choose how fast biases move, and watch the load of every expert over the steps.

    The router does not learn. It has lasting preferences, from unpopular to popular, and noise on top: scores are
    sigmoids, of which each token takes the 2 best by score plus bias. After each step every bias moves by `speed`
    against its expert's load, as `nn.balance.bias_step` says; with `fading`, by ever less, down to nothing at the end.
    `tokens` are read in each of the `steps`.

    Raises ValueError for a setting out of its range.
    """

    _esm = script("balanceplay")
    _css = style_sheet("common", "chart", "balanceplay")
    settings = t.Dict().tag(sync=True)

    def __init__(
        self,
        *,
        experts: int = 12,
        steps: int = 300,
        tokens: int = 128,
        speed: float = 0.005,
        fading: bool = False,
        title: str = "Balance by biases",
    ):
        slowest, fastest = _SPEEDS
        least, most = _TOKENS
        checks: dict[str, tuple[Any, bool, str]] = {
            "experts": (experts, 3 <= experts <= 16, "3 to 16"),
            "steps": (steps, 100 <= steps <= 500, "100 to 500"),
            "tokens": (tokens, least <= tokens <= most, f"{least} to {most}"),
            "speed": (speed, speed == 0 or slowest <= speed <= fastest, f"0, or {slowest:g} to {fastest:g}"),
        }
        for name, (got, ok, expected) in checks.items():
            if not ok:
                raise ValueError(f"{name}: got {got!r}, expected {expected}")
        super().__init__(
            title=title, settings={name: got for name, (got, _, _) in checks.items()} | {"fading": bool(fading)}
        )

    def _summary(self) -> str:
        return f"{self.settings['experts']} experts over {self.settings['steps']} steps"
