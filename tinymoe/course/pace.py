"""How far a chapter trains: as far as it says, or a share of that where a computer is slow."""

from __future__ import annotations

import math
import os
import sys

from .display import Note, tell

# NumPy for browsers has no BLAS: a matrix product takes it ten to fifty times as long. Chapters should end in minutes.
BROWSER = 0.15

_told: set[float] = set()


def scale() -> float:
    """The share of its training steps that a chapter takes here: 1, and less in a browser.

    The environment variable TINYMOE_SCALE sets it. Raises ValueError where that is no number above 0 and up to 1.
    """
    text = os.environ.get("TINYMOE_SCALE")
    if text is None:
        return BROWSER if sys.platform == "emscripten" else 1.0
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ValueError(f"TINYMOE_SCALE: got {text!r}, expected a number above 0 and up to 1")
    return share


def steps_here(wanted: int) -> int:
    """How many steps to train for here: all that are wanted, or `scale()` of them; at least one.

    A chapter calls it where it says how long it trains: that number is all that differs where a computer is slow.
    Where it does differ, it is said once.
    """
    share = scale()
    if share < 1 and share not in _told:
        _told.add(share)
        tell(Note("·", f"Training runs are shortened here, to {share:.0%} of the steps that the chapter tells of."))
    return max(1, round(wanted * share))
