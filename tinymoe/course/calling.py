"""Calling a learner's function so that nothing it does, not even an endless loop, stops the chapter."""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from .values import clone

MOST_ITEMS = 10_000  # that are read from a generator


class TimeUp(BaseException):
    """Raised inside a call that takes too long; a BaseException, so that `except Exception` does not swallow it."""


@dataclass(frozen=True)
class Attempt:
    """What became of one call: its value, or the error and where it happened; what it printed; its arguments after."""

    value: Any = None
    error: BaseException | None = None
    where: str = ""
    printed: str = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def trouble(self) -> str:
        """The error in one line; empty when there was none."""
        if self.error is None:
            return ""
        if isinstance(self.error, RecursionError):
            what = "RecursionError: it calls itself without end (perhaps through the function it is to replace)"
        elif isinstance(self.error, TimeUp):
            what = str(self.error)
        else:
            what = f"{type(self.error).__name__}: {self.error}" if str(self.error) else type(self.error).__name__
        return f"{what}, {self.where}" if self.where else what


def attempt(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    seconds: float = 10.0,
    author: Callable[..., Any] | None = None,
) -> Attempt:
    """Call `function` with copies of the arguments. A generator is read to its end, at most MOST_ITEMS items.

    Where an error happened is told of the source of `author`: the function itself, unless that only calls it.
    """
    args = clone(args)
    named: dict[str, Any] = clone(kwargs or {})
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(), time_limit(seconds):
            warnings.simplefilter("ignore")
            value = function(*args, **named)
            if isinstance(value, Iterator):
                value = list(itertools.islice(value, MOST_ITEMS))
    except (Exception, TimeUp, SystemExit) as error:
        return Attempt(None, error, _place(error, author or function), printed.getvalue(), args, named)
    return Attempt(value, None, "", printed.getvalue(), args, named)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after `seconds`, where the system can.

    By POSIX signals, in the main thread; in a browser, which has none, when Python next goes back to a loop's begin.
    """
    if sys.platform == "emscripten" and sys.version_info >= (3, 12):
        with _watched_loops(seconds):
            yield
        return
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise _time_up(seconds)

    before = signal.signal(signal.SIGALRM, ring)
    # It rings again every second: a bare `except:` inside an endless loop would swallow the first one.
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _watched_loops(seconds: float) -> Iterator[None]:
    watch: Any = getattr(sys, "monitoring")  # noqa: B009, for checkers that read this as Python 3.11
    jump, end = watch.events.JUMP, time.monotonic() + seconds

    def look(*where: Any) -> None:
        if time.monotonic() > end:
            raise _time_up(seconds)

    if outermost := watch.get_tool(watch.DEBUGGER_ID) is None:
        watch.use_tool_id(watch.DEBUGGER_ID, "tinymoe")
    before = watch.register_callback(watch.DEBUGGER_ID, jump, look)
    watch.set_events(watch.DEBUGGER_ID, jump)
    try:
        yield
    finally:
        watch.register_callback(watch.DEBUGGER_ID, jump, before)
        if outermost:
            watch.set_events(watch.DEBUGGER_ID, 0)
            watch.free_tool_id(watch.DEBUGGER_ID)


def _time_up(seconds: float) -> TimeUp:
    return TimeUp(f"it was stopped after {seconds:g} s (an endless loop?)")


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """The innermost line of the learner's own source that the error came through."""
    code: CodeType | None = getattr(function, "__code__", None)
    place, trace = "", error.__traceback__
    while trace is not None:
        if code is not None and trace.tb_frame.f_code.co_filename == code.co_filename:
            line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            place = f"in line {trace.tb_lineno}: {line}" if line else f"in line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
