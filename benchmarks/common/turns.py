"""Contenders that take turns: each in a process of its own, asleep while another one works.

Two libraries in one process share its memory allocator and fight for the cores with their two pools of threads; two
processes that run at once share the cores. So everybody gets a process with the same number of threads, and between
turns a pause in which the threads of the last one stop spinning. What is compared are the turns of one round, which
lie close together in time: the median over the rounds forgives a busy machine.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

# Seconds after which the threads of OpenBLAS, OpenMP and Numba sleep: they were seen to spin for up to 110 ms.
PAUSE = 0.2
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Turn(NamedTuple):
    """Seconds of each step on the clock and of all cores together, and what the last step returned."""

    seconds: float
    processor_seconds: float
    value: Any


class Contender:
    """A process that makes something with `make(*arguments)`, a function of no arguments, and calls it when asked to.

    `make` is a function of a module's top level. RuntimeError, with the traceback, for whatever goes wrong in there.
    """

    def __init__(self, name: str, make: Callable[..., Callable[[], Any]], *arguments: Any, threads: int):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(dict.fromkeys(THREADS, str(threads)))  # read by the libraries when they are imported
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()

    def turn(self, steps: int, warm: int = 1) -> Turn:
        """Call it `warm` times, to find its data in the caches again, and then `steps` times against the clock."""
        self._pipe.send((steps, warm))
        answer = self._receive()
        time.sleep(PAUSE)
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _receive(self) -> Turn:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"{self.name}: the process ended with code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}:\n{answer}")
        return answer


def rounds(contenders: Sequence[Contender], steps: Iterable[int], count: int) -> dict[str, list[Turn]]:
    """Let everybody have `count` turns of their number of steps, each round beginning with another contender."""
    numbers = dict(zip([contender.name for contender in contenders], steps, strict=True))
    turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
    for start in range(count):
        for place in range(len(contenders)):
            contender = contenders[(start + place) % len(contenders)]
            turns[contender.name].append(contender.turn(numbers[contender.name]))
    return turns


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median over the rounds of this figure divided by that of the same round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _serve(pipe: Any, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    try:
        step = make(*arguments)
        while True:
            steps, warm = pipe.recv()
            for _ in range(warm):
                step()
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(steps):
                value = step()
            seconds = (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps
            pipe.send(Turn(*seconds, value))
    except EOFError:  # the parent has closed the pipe
        return
    except Exception:
        pipe.send(traceback.format_exc())
