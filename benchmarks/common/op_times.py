"""Where a training step of tinymoe goes: each operation of the table, forward and backward, and what is around them."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tinymoe import bench
from tinymoe.tensor import OPS, Context, Tensor

from .turns import Contender

# A part of a step (forward, backward, update, the rest), and what was done there.
Place = tuple[str, str]


class Watch:
    """By place: seconds on the clock, seconds the calling thread worked, and calls, added up over all threads.

    Of calls inside calls each counts its own part.
    """

    def __init__(self) -> None:
        self.spent: dict[Place, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
        self._lock = threading.Lock()
        self._mine = threading.local()

    def wrap(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            outer, self._mine.inside = getattr(self._mine, "inside", (0.0, 0.0)), (0.0, 0.0)
            began = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                clock, worked = time.perf_counter() - began[0], time.thread_time() - began[1]
                inside, self._mine.inside = self._mine.inside, (outer[0] + clock, outer[1] + worked)
                with self._lock:
                    spent = self.spent[place]
                    spent[0] += clock - inside[0]
                    spent[1] += worked - inside[1]
                    spent[2] += 1

        return counted


def watched_training(model: str) -> Callable[[], dict[Place, list[float]]]:
    """Like `bench.training`, but the step returns what was spent in it: {place: (seconds, worked, calls)}."""
    watch, trainer = Watch(), bench.TRAINING[model].trainer()
    for name, forward in OPS.items():
        OPS[name] = _watched(watch, name, forward)
    Tensor._accumulate = watch.wrap(("backward", "keep a leaf's gradient"), Tensor._accumulate)
    trainer.descend = watch.wrap(("update", "norm, clipping and AdamW"), trainer.descend)
    step = watch.wrap(("the rest", "Python, batches, waiting for threads"), trainer.step)

    def spent_in_a_step() -> dict[Place, list[float]]:
        watch.spent.clear()
        step()
        return {place: list(spent) for place, spent in watch.spent.items()}

    return spent_in_a_step


def _watched(watch: Watch, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    forward = watch.wrap(("forward", name), forward)

    def both(ctx: Context, *inputs: Any, **options: Any) -> Any:
        result, vjp = forward(ctx, *inputs, **options)
        return result, watch.wrap(("backward", name), vjp)

    return both


def profile(model: str, steps: int, threads: int) -> dict[str, Any]:
    """Print where a step goes, each figure the median over the steps, and return the table."""
    contender = Contender("tinymoe", watched_training, model, threads=threads)
    contender.turn(2)  # compiles
    turns = [contender.turn(1) for _ in range(steps)]
    contender.close()
    several = [turn.value for turn in turns]
    step = round(1e3 * statistics.median(turn.seconds for turn in turns), 2)
    middle = {
        place: [statistics.median(step[place][column] for step in several if place in step) for column in range(3)]
        for place in several[0]
    }
    rows = [
        {"part": part, "what": what, "ms": round(1e3 * clock, 3), "worked_ms": round(1e3 * worked, 3), "calls": calls}
        for (part, what), (clock, worked, calls) in sorted(middle.items(), key=lambda item: -item[1][0])
    ]
    whole = {column: sum(row[column] for row in rows) for column in ("ms", "worked_ms")}
    print(f"\n{model}: {step:.2f} ms a step; below, milliseconds of all threads together")
    print(f"{'':>48}{'ms':>10}{'share':>7}{'worked':>10}{'share':>7}{'calls':>7}")
    for part in dict.fromkeys(row["part"] for row in rows):
        its = [row for row in rows if row["part"] == part]
        together = {column: sum(row[column] for row in its) for column in whole}
        print(f"{part:>10}{'':38}{_cells(together, whole)}")
        for row in its:
            print(f"{'':12}{row['what']:<36}{_cells(row, whole)}{row['calls']:7}")
    return {"model": model, "step_ms": step, "rows": rows}


def _cells(row: dict[str, Any], whole: dict[str, float]) -> str:
    return "".join(f"{row[column]:10.3f}{row[column] / whole[column]:7.1%}" for column in whole)
