"""How deep JSON is nested, known before it is read: in a browser, what is too deep ends Python instead of raising."""

from __future__ import annotations

import re

DEEPEST = 200  # brackets within brackets, in what somebody means to be read

# A string as a whole, closed or not: its brackets do not count.
_SIGNS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def nesting(text: str) -> int:
    """How deep the brackets of the JSON value that a text begins with are nested; 0 for a number or a string."""
    depth = deepest = 0
    for sign in _SIGNS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign[0], 0)
        deepest = max(deepest, depth)
        if depth <= 0:
            break
    return deepest


def check_nesting(text: str, deepest: int = DEEPEST) -> None:
    """ValueError where the JSON value that a text begins with is nested deeper than that."""
    if nesting(text) > deepest:
        raise ValueError("nested too deeply")
