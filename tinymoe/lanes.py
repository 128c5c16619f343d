"""Lanes: parts of a batch computed at the same time, each by a thread of its own, forwards and backwards.

NumPy, BLAS and compiled kernels let go of Python's lock while they compute. Two threads that each take half of the
batch through the whole model meet twice a step; two threads inside each product and each kernel meet hundreds of
times, and wait for each other, and for Python, at every one.
"""

from __future__ import annotations

import bisect
import contextvars
import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np

from .backend import current
from .backend.reference import Array
from .tensor import Node, Several, Tensor, backward

Result = TypeVar("Result")
Thing = TypeVar("Thing")

LANE_NUMBERS = 1 << 20  # numbers to pass over once; fewer are not worth a thread

_here = threading.local()


def in_lane() -> bool:
    """Whether this thread computes a part of something that others compute the rest of."""
    return getattr(_here, "lane", False)


def at_once(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """What the tasks return, each run by a thread of its own; the first exception, once all have ended, if any."""
    if len(tasks) == 1:
        return [tasks[0]()]
    with current().one_thread_each():
        others = [_threads().submit(contextvars.copy_context().run, _run, task) for task in tasks[1:]]
        try:
            first = _run(tasks[0])
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]


def split_evenly(things: Sequence[Thing], sizes: Sequence[int]) -> list[Sequence[Thing]]:
    """Neighbors together, in as many shares of about the same size as are worth a thread: one or more."""
    total = sum(sizes)
    lanes = max(1, min(current().threads, total // LANE_NUMBERS))
    ends = [total * lane // lanes for lane in range(1, lanes)]
    cuts = [0, *(bisect.bisect(list(itertools.accumulate(sizes)), end) for end in ends), len(things)]
    return [things[start:stop] for start, stop in itertools.pairwise(cuts)]


def side_by_side(work: Callable[[int], tuple[Result, Sequence[Tensor]]], lanes: int) -> list[Result]:
    """[result of work(0), of work(1), …], computed at once; what is computed from them has its gradients found so too.

    work returns its result and the tensors in it. Its tape may begin at leaves only, not at what was computed before.
    The gradients of a leaf are added up in the order of the lanes, so that a run can be repeated to the last bit.
    """
    done = at_once([partial(work, lane) for lane in range(lanes)])
    if any(t.requires_grad for _, tensors in done for t in tensors):
        _Fork([[t for t in tensors if t.node] for _, tensors in done])
    return [result for result, _ in done]


class _Fork(Several):
    """One entry of the tape for all that lanes have computed: it collects the gradients of their results.

    The results' own nodes become the ends of the lanes, from which each goes back.
    """

    __slots__ = ("found", "roots")

    def __init__(self, lanes: list[list[Tensor]]):
        self.roots, start = [Tensor(np.zeros(())) for _ in lanes], 0
        for end, tensors in zip(self.roots, lanes, strict=True):
            end.requires_grad = True
            places = slice(start, start := start + len(tensors))
            end.node = Node("lane", [t.node for t in tensors], partial(self._hand_on, places), end)
        super().__init__("side_by_side", [], self._keep, [t for tensors in lanes for t in tensors])

    def _keep(self, grads: Sequence[Array | None]) -> tuple[()]:
        self.found = grads
        return ()

    def _hand_on(self, places: slice, grad: Array) -> Sequence[Array | None]:
        return self.found[places]

    def pull_back(self, grad: Array, retain_graph: bool) -> Sequence[Array | None]:
        """Each lane goes back through what it has computed, at once."""
        super().pull_back(grad, retain_graph)
        sums = _Sums(len(self.roots))
        at_once([
            partial(backward, root, retain_graph=retain_graph, deliver=partial(sums.deliver, lane))
            for lane, root in enumerate(self.roots)
        ])  # fmt: skip
        sums.finish()
        return ()


class _Sums:
    """Gradients of leaves from several lanes. What a lane brings n-th is added to what the others bring n-th."""

    def __init__(self, lanes: int):
        self.lock = threading.Lock()
        self.lanes = lanes
        self.brought: list[dict[int, int]] = [defaultdict(int) for _ in range(lanes)]  # times, by lane and leaf
        self.waiting: dict[tuple[int, int], tuple[Tensor, dict[int, Array]]] = {}  # by leaf and time

    def deliver(self, lane: int, leaf: Tensor, grad: Array) -> None:
        with self.lock:
            key = id(leaf), self.brought[lane][id(leaf)]
            self.brought[lane][id(leaf)] += 1
            _, parts = self.waiting.setdefault(key, (leaf, {}))
            parts[lane] = grad
            if len(parts) == self.lanes:
                self._add(key)

    def finish(self) -> None:
        """Add what not every lane has brought: a layer may be used by some texts only."""
        for key in sorted(self.waiting, key=lambda key: key[1]):
            self._add(key)

    def _add(self, key: tuple[int, int]) -> None:
        leaf, parts = self.waiting.pop(key)
        total, *others = (parts[lane] for lane in sorted(parts))
        if others and not (total.base is None and total.flags.owndata):
            total = total.copy()  # a view of somebody else's memory
        for other in others:
            total += other
        leaf._accumulate(total)


def _run(task: Callable[[], Any]) -> Any:
    before, _here.lane = in_lane(), True
    try:
        return task()
    finally:
        _here.lane = before


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="tinymoe-lane")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child process has none of its parent's threads
