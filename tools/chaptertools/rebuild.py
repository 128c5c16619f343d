"""`rebuild`: the package put together from what the chapters show and `untaught.txt` lists, under its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from .notebooks import Chapter, is_listed, taught
from .package import Definition, Package

# About the chapters, or against other libraries: not the package's own unit tests.
OTHER_TESTS = ("test_house.py", "test_course.py", "test_chapters_tool.py", "exercises", "conformance", "pyodide")
LEFT_OUT = {"tinymoe", "tests", "my_tinymoe", "_build", "runs", "build", "dist", "node_modules", "htmlcov"}

GUARD = """
import pathlib, tinymoe
def pytest_sessionstart(session):
    if pathlib.Path(tinymoe.__file__).resolve().parent != pathlib.Path(__file__).resolve().parent / "tinymoe":
        raise RuntimeError(f"the tests import {tinymoe.__file__}, not the rebuilt package")
"""


def rebuild(root: Path, package: Package, chapters: list[Chapter], untaught: dict[str, str], fast: bool) -> list[str]:
    """Build the package in a temporary folder and run the tests on it. Returns the problems."""
    with tempfile.TemporaryDirectory(prefix="rebuilt-") as folder:
        home = Path(folder).resolve()
        missing = assemble(package, chapters, untaught, home / "tinymoe")
        for entry in root.iterdir():
            if not entry.name.startswith(".") and entry.name not in LEFT_OUT:
                (home / entry.name).symlink_to(entry)
        shutil.copytree(root / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__", *OTHER_TESTS))
        (home / "rebuilt_guard.py").write_text(GUARD, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "rebuilt_guard", "-p", "no:cacheprovider"]
        command += ["-m", "not slow"] if fast else []
        path = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(command, cwd=home, env={**os.environ, "PYTHONPATH": path})
    problems = [f"{definition.key}: is missing from the rebuilt package" for definition in missing]
    if done.returncode:
        problems.append(f"the tests of the rebuilt package fail (pytest ended with {done.returncode})")
    return problems


def assemble(package: Package, chapters: list[Chapter], untaught: dict[str, str], folder: Path) -> list[Definition]:
    """Write the package to `folder` with every taught definition as its chapter has it.

    Public definitions that are neither taught nor listed are left out; they are returned.
    """
    shutil.copytree(package.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    cells = taught(chapters)
    missing = []
    for path, module in package.modules.items():
        lines = module.text.splitlines()
        for definition in sorted(module.definitions.values(), key=lambda d: -d.first):
            span = slice(definition.first - 1, definition.last)
            if definition.key in cells:
                _, cell = cells[definition.key][0]
                lines[span] = textwrap.indent(cell.body, definition.indent).splitlines()
            elif definition.public and not is_listed(definition.key, untaught):
                lines[span] = [f"{definition.indent}pass"]
                missing.append(definition)
        (folder / path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return missing
