"""The process in which a model's code runs, as a script of its own: `python -I -S cage.py`, with nothing of tinymoe.

It reads {"code", "calls", "seconds", "megabytes"} as JSON from its input, locks itself in, runs the code, and writes
one line of JSON for each call to its output: {"value": …} or {"error": …}. What is expected never comes in here, so
there is nothing to find out, and a forged line is worth no more than a wrong answer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import sys
import types
import typing
from collections.abc import Iterator

# All that code may import; what they need is imported before the door is shut.
OFFERED = (
    "_strptime bisect cmath collections copy dataclasses datetime decimal enum fractions functools heapq itertools "
    "json math operator random re statistics string textwrap time typing"
).split()
NOBODY = 65534
OUTPUT = 1 << 16  # bytes that it may write
# What Python code may do that an audit hook is asked about (PEP 578). Files, imports, processes, sockets, signals,
# ctypes and all the rest are refused.
HARMLESS = {
    "array.__new__",
    "builtins.id",
    "compile",
    "exec",
    "function.__new__",
    "object.__delattr__",
    "object.__getattr__",
    "object.__setattr__",
    "sys._getframe",
    "sys._getframemodulename",
    "time.sleep",
}


def answers(code: str, calls: list[str]) -> Iterator[str]:
    """Run the code, and then each call: lines of JSON. Whatever they raise becomes an error."""
    module = sys.modules["answer"] = types.ModuleType("answer")  # where a dataclass looks for its own module
    space = vars(module)
    failed = _attempt(lambda: exec(compile(code, "<answer>", "exec"), space))
    for call in calls:
        yield failed if "error" in failed else _attempt(lambda call=call: eval(compile(call, "<test>", "eval"), space))


def _attempt(action: typing.Callable[[], object]) -> str:
    try:
        return json.dumps({"value": action()}, allow_nan=False)
    except BaseException as error:  # SystemExit too
        return json.dumps({"error": type(error).__name__})


def lock(seconds: float, megabytes: int) -> None:
    """Give up what code has no need for: memory, processor time, new files and sockets, new processes, and root.

    Limits hold where the system has them (Windows has none). The audit hook can never be removed again; what asks no
    hook, as os.mkfifo, is deleted.
    """
    try:
        import resource
    except ImportError:
        resource = None
    if resource is not None:
        if os.getuid() == 0:  # for root the number of processes has no limit
            with contextlib.suppress(OSError):  # some containers know no other user
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
        limits = {"AS": megabytes << 20, "CPU": math.ceil(seconds) + 1, "FSIZE": OUTPUT}
        for name, most in (limits | dict.fromkeys(("CORE", "NPROC", "NOFILE"), 0)).items():
            _limit(resource, getattr(resource, f"RLIMIT_{name}", None), most)
    # The system's functions are really in posix or nt; _imp could load those anew.
    for name in ("resource", "os", os.name, "_imp"):
        module = sys.modules.pop(name, None)
        for entry in [entry for entry in (vars(module) if module else ()) if not entry.startswith("__")]:
            delattr(module, entry)
    sys.addaudithook(_refuse)


def _limit(resource: typing.Any, number: int | None, most: int) -> None:
    if number is None:  # this system has no such limit
        return
    hard = resource.getrlimit(number)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(number, (most, most))
    except (ValueError, OSError):
        return  # macOS refuses some of them


def _refuse(event: str, arguments: tuple) -> None:
    if event not in HARMLESS:
        raise PermissionError(event)


def main() -> None:
    """Read the task, close what was open, and run it. Ends without Python's own cleaning up, which code could use."""
    task = json.loads(sys.stdin.buffer.read())
    out, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    for name in OFFERED:
        importlib.import_module(name)
    write, leave = os.write, os._exit
    lock(task["seconds"], task["megabytes"])
    for line in answers(task["code"], task["calls"]):
        write(out, line.encode() + b"\n")
    leave(0)


if __name__ == "__main__":
    main()
