"""The package's own unit tests inside Pyodide, on NumPy alone, but for those of `exceptions.txt`.

Skipped, with the reason, where Node or Pyodide's packages are missing: `python tools/lite_fixture.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from fnmatch import fnmatch

import exceptions
import in_node
import pytest
from in_node import HERE, ROOT

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
    if reason := in_node.why_not():
        pytest.skip(reason)
    done = in_node.run("inside.py", *FILES[share::SHARES])
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert " passed" in done.stdout


def test_a_chapter_runs_without_a_kernel_and_its_outputs_are_those_of_one(tmp_path):
    sources = ["import warnings\nprint(1); warnings.warn('2')\n3", "display(4); 5;", "6/0"]
    cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    cells.append({"cell_type": "markdown", "source": ["text"]})
    (tmp_path / "chapter.ipynb").write_text(json.dumps({"cells": cells}))
    command = [sys.executable, HERE / "chapter.py", tmp_path / "chapter.ipynb"]
    *ran, text = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    first, second, third = [cell["outputs"] for cell in ran]
    assert {one["name"]: one["text"] for one in first[:2]}.keys() == {"stdout", "stderr"}
    assert first[0]["text"] == "1\n" and "2" in first[1]["text"] and first[2]["data"]["text/plain"] == "3"
    assert [one["data"]["text/plain"] for one in second] == ["4"]
    assert third[-1]["ename"] == "ZeroDivisionError" and [cell["execution_count"] for cell in ran] == [1, 2, 3]
    assert all(cell["seconds"] >= 0 for cell in ran) and "seconds" not in text
