"""Run a Python file in Pyodide, in Node, with the packages that `python tools/lite_fixture.py` fetches."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIXTURE = ROOT / "_build" / "pyodide"


def why_not() -> str | None:
    """Why nothing can be run here: Node or Pyodide's packages are missing."""
    if shutil.which("node") is None:
        return "Pyodide is tried in Node, which is not installed"
    if not (FIXTURE / "tools").exists():
        return "Pyodide's packages are not here: python tools/lite_fixture.py"
    return None


def command(file: str, *words: str) -> list[str]:
    """What runs `file`, of this folder, with `words` for arguments."""
    return ["node", str(HERE / "run.mjs"), str(FIXTURE), str(ROOT), str(HERE / file), *words]


def run(file: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `file` and return what came of it, with what it printed."""
    return subprocess.run(command(file, *words), capture_output=True, text=True)
