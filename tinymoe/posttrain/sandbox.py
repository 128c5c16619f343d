"""Unit tests for code that a model wrote, in a process with limits."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import cage
from .functional import check_positive


@dataclass(frozen=True)
class Verdict:
    """How many tests of how many passed, and a line about what went wrong, if anything did."""

    passed: int
    total: int
    message: str = ""


def run_tests(code: str, tests: Mapping[str, Any], seconds: float = 2.0, megabytes: int = 256) -> Verdict:
    """Run code, and compare calls with what they should give: {"add(2, 3)": 5}. Values are those that JSON has.

    The code runs in a process of its own, in an empty folder, with limits of time, memory and output, without files,
    network, other processes, or imports but of some of the standard library (see `cage`). The expected values stay
    here. Nothing that the code does raises; ValueError for limits that are not above 0.
    """
    check_positive("seconds", seconds)
    check_positive("megabytes", megabytes)
    task = {"code": code, "calls": list(tests), "seconds": seconds, "megabytes": megabytes}
    try:
        output, ending = _run(json.dumps(task), seconds)
    except OSError as error:
        return Verdict(0, len(tests), f"the process could not be started: {error}")
    found = [_read(line) for line in output.splitlines()[: len(tests)]]
    missing: list[dict[str, Any]] = [{"error": ending}] * (len(tests) - len(found))
    wrong = []
    for (call, expected), result in zip(tests.items(), found + missing, strict=True):
        if "value" not in result:
            wrong.append(f"{call}: {result['error']}")
        elif not _same(result["value"], expected):
            wrong.append(f"{call} is not {expected!r}")
    return Verdict(len(tests) - len(wrong), len(tests), wrong[0] if wrong else "")


def _run(task: str, seconds: float) -> tuple[bytes, str]:
    """What the process wrote, and how it ended. Files, not pipes: the system bounds them, and none can block."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        asked, told = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        asked.write(task.encode())
        asked.seek(0)
        process = _start(folder, asked, told)
        try:
            code = process.wait(seconds)
            ending = "no result" if code == 0 else f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            ending = f"no result after {seconds:g} seconds"
        finally:
            _kill(process)
        told.seek(0)
        return told.read(cage.OUTPUT), ending


def _start(folder: str, asked: IO[bytes], told: IO[bytes]) -> subprocess.Popen:
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # Windows cannot do without
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(cage.__file__).resolve())],
        stdin=asked,
        stdout=told,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=kept,
        start_new_session=True,  # a process group of its own, which is killed as a whole
    )


def _kill(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _read(line: bytes) -> dict[str, Any]:
    """A line of the process, which code may have forged: a value, or an error that is plain text."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        result = None
    if isinstance(result, dict) and "value" in result:
        return result
    error = result.get("error") if isinstance(result, dict) else None
    return {"error": error if isinstance(error, str) and error.isidentifier() else "an output that cannot be read"}


def _same(value: Any, expected: Any) -> bool:
    """Equal, and of the same types, as JSON tells them: 1 is neither True nor "1". Floats may be off by a billionth."""
    if isinstance(value, float) and isinstance(expected, int | float) and not isinstance(expected, bool):
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(value, list) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_same(value[key], expected[key]) for key in value)
    return type(value) is type(expected) and value == expected
