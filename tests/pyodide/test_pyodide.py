"""The package's own unit tests inside Pyodide, on NumPy alone, but for those of `exceptions.txt`.

Skipped, with the reason, where Node or Pyodide's packages are missing: `python tools/lite_fixture.py`.
"""

from __future__ import annotations

import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import exceptions
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIXTURE = ROOT / "_build" / "pyodide"
NAMES = sorted(file.name for file in (ROOT / "tests").glob("test_*.py"))
# Files that are left out as a whole are not even imported: what they import may not exist.
FILES = [f"tests/{name}" for name in NAMES if f"{name}::*" not in exceptions.read()]
SHARES = 6  # so that each has little to remember: WebAssembly gives no memory back


def test_every_exception_is_about_a_test_and_has_a_reason():
    for pattern, reason in exceptions.read().items():
        file, _, test = pattern.partition("::")
        assert reason.strip() and any(fnmatch(name, file) for name in NAMES), pattern
        bare = test.partition("[")[0]
        assert test == "*" or any(f"def {bare.rstrip('*')}" in (ROOT / "tests" / name).read_text("utf-8")
                                  for name in NAMES if fnmatch(name, file)), pattern  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_the_unit_tests_pass_in_pyodide(share):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Pyodide is tried in Node, which is not installed")
    if not (FIXTURE / "tools").exists():
        pytest.skip("Pyodide's packages are not here: python tools/lite_fixture.py")
    command = [node, HERE / "run.mjs", FIXTURE, ROOT, HERE / "inside.py", *FILES[share::SHARES]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert " passed" in done.stdout
