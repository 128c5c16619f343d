"""The learner's solutions on disk: one readable Python file each, in `my_tinymoe/`."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from pathlib import Path
from types import FunctionType, ModuleType

from ..files import write_atomically
from .calling import attempt
from .source import last_function

HEADER = re.compile(
    r"# Your solution of exercise [\w.]+, solved (?P<solved>[-\d]+ [:\d]+), checked (?P<stamp>\w+)\n.*\n"
)


def folder() -> Path:
    """Where the solutions are: TINYMOE_MY, or `my_tinymoe` in the course's folder, or else in the current one.

    In a browser the course's folder holds no package; the browser keeps what is written there.
    """
    if named := os.environ.get("TINYMOE_MY"):
        return Path(named)
    here = Path.cwd()
    beside = "tinymoe" if sys.platform != "emscripten" else "chapters"
    homes = [home for home in (here, *here.parents) if (home / "chapters").is_dir() and (home / beside).is_dir()]
    return (homes[0] if homes else here) / "my_tinymoe"


def path(id: str) -> Path:
    """The file of the solution of exercise `id`."""
    return folder() / f"{id}.py"


def ids() -> list[str]:
    """The exercises that have a file, in order."""
    return sorted(file.stem for file in folder().glob("*.py") if re.fullmatch(r"\d\d\.\w+", file.stem))


def store(id: str, body: str, checks: bytes) -> None:
    """Keep a solution that has passed. One that is the same as before keeps its date."""
    header, before = _read(id)
    stamp = _stamp(body, checks)
    if before == body and header is not None and header["stamp"] == stamp:
        return
    solved = header["solved"] if before == body and header is not None else time.strftime("%Y-%m-%d %H:%M")
    _write(
        path(id),
        f"# Your solution of exercise {id}, solved {solved}, checked {stamp}\n"
        f"# tinymoe runs on it. Edit it as you like: it is checked again when it has changed.\n{body}",
    )


def load(id: str) -> FunctionType:
    """The function in a solution's file. Raises RuntimeError, in one line, for a file that does not run."""
    try:
        text = path(id).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuntimeError(f"it cannot be read: {error}") from error
    return run(text, str(path(id)), id)


def run(text: str, filename: str, id: str) -> FunctionType:
    """Run the source of a solution in a module of its own and return its function, the last one defined.

    Raises RuntimeError, in one line, where that fails.
    """
    try:
        code = compile(text, filename, "exec", dont_inherit=True)
        name = last_function(text)
    except SyntaxError as error:
        raise RuntimeError(f"{type(error).__name__} in line {error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    # Dataclasses look up the module that they are defined in.
    module = ModuleType("my_tinymoe." + id.replace(".", "_"))
    sys.modules[module.__name__] = module
    done = attempt(FunctionType(code, vars(module)))
    if done.error is not None:
        raise RuntimeError(done.trouble) from done.error
    function = vars(module).get(name)
    if not isinstance(function, FunctionType):
        raise RuntimeError(f"{name} is a {type(function).__name__}, expected a plain function")
    return function


def source(id: str) -> str:
    """What a solution's file holds under its header; empty when there is no file."""
    return _read(id)[1]


def checked(id: str, checks: bytes) -> bool:
    """Whether the file is exactly what passed, and the checks are still the same."""
    header, body = _read(id)
    return header is not None and header["stamp"] == _stamp(body, checks)


def solved_on(id: str) -> str:
    """Date and time at which the solution first passed."""
    header, _ = _read(id)
    return header["solved"] if header else ""


def set_aside(id: str) -> Path | None:
    """Rename a solution's file to `….py.old`, so that it is out of use but not lost. None when there is no file."""
    file = path(id)
    if not file.exists():
        return None
    aside = file.with_name(file.name + ".old")
    os.replace(file, aside)
    return aside


def _read(id: str) -> tuple[re.Match[str] | None, str]:
    try:
        text = path(id).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None, ""
    header = HEADER.match(text)
    return header, text[header.end() :] if header else text


def _stamp(body: str, checks: bytes) -> str:
    return hashlib.sha256(body.encode() + checks).hexdigest()[:16]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())
