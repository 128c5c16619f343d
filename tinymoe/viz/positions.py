"""RoPE's clocks to play with: turned by hand, and stretched for texts longer than those trained on."""

from __future__ import annotations

from typing import Any

import traitlets as t

from .assets import script, style_sheet
from .widgets import _View

_KINDS = ("none", "linear", "ntk", "yarn", "llama3")
_LONGEST = 8  # times the trained length: where the sliders for position and factor end


class RopePlay(_View):
    """The clocks of one head. Drag a hand, or the slider, to move to a position; choose a way to stretch them.

    A hand turns orange where it points in a direction that it never had in the text trained on. Beside them: how long
    each clock takes for a turn, and the score of a query with an equal key over their distance. `head_dim` channels
    make half as many clocks; eight of them are drawn. kind: "none", "linear", "ntk", "yarn" or "llama3".

    Raises ValueError for a setting out of its range.
    """

    _esm = script("positions")
    _css = style_sheet("common", "chart", "positions")
    settings = t.Dict().tag(sync=True)

    def __init__(
        self,
        *,
        head_dim: int = 16,
        theta: float = 10000.0,
        trained: int = 64,
        kind: str = "none",
        factor: float = 4.0,
        position: int = 0,
        title: str = "Turn the clocks",
    ):
        checks: dict[str, tuple[Any, bool, str]] = {
            "head_dim": (head_dim, head_dim >= 4 and head_dim % 2 == 0, "an even number from 4 on"),
            "theta": (theta, theta >= 100, "at least 100"),
            "trained": (trained, trained >= 8, "at least 8 tokens"),
            "kind": (kind, kind in _KINDS, f"one of {', '.join(_KINDS)}"),
            "factor": (factor, 1 <= factor <= _LONGEST, f"1 to {_LONGEST}"),
            "position": (position, 0 <= position < _LONGEST * trained, f"0 to {_LONGEST * trained - 1}"),
        }
        for name, (got, ok, expected) in checks.items():
            if not ok:
                raise ValueError(f"{name}: got {got!r}, expected {expected}")
        super().__init__(
            title=title, settings={name: got for name, (got, _, _) in checks.items()} | {"longest": _LONGEST * trained}
        )

    def _summary(self) -> str:
        return f"{self.settings['head_dim'] // 2} clocks, trained on {self.settings['trained']} tokens"
