"""The exercises of the course: written in a chapter, checked at once, and then what the course runs on.

    from tinymoe.course import exercise, hint, solution, progress, reset

    @exercise("09.top_k_routing")
    def top_k_routing(logits, k):
        ...

While the body is `...` the reference stands in. Once it is written it is checked; when it passes, its source is
kept in `my_tinymoe/` (or in the folder that the environment variable TINYMOE_MY names) and tinymoe itself runs on
it: in this chapter, and in every later one, which adopts it by importing any of these functions. `reset` undoes that.

`steps_here(1000)` is how many steps a chapter trains: 1000, and fewer where a computer is slow, as in a browser. The
environment variable TINYMOE_SCALE sets the share: `TINYMOE_SCALE=0.1` for a quick look, 1 for all of it.

How an exercise is defined: `tinymoe.course.registry.Exercise` and `tinymoe.course.checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pace import steps_here

if TYPE_CHECKING:
    from .session import adopt_all, exercise, hint, progress, reset, solution

__all__ = ["adopt_all", "exercise", "hint", "progress", "reset", "solution", "steps_here"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the modules below can be used (by tests, by tools) without adopting anybody's solutions.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import session

    if not session.started():
        session.adopt_all()
    return getattr(session, name)
