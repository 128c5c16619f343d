"""Compiled kernels are used again, but not after one of the sources has changed."""

import os
import subprocess
import sys

import pytest

from tinymoe.backend.kernel_cache import forget_stale_kernels

INNER = "import numba\n\n@numba.njit(cache=True)\ndef inner():\n    return {}\n"
OUTER = (
    "import numba\nfrom inner import inner\n\n@numba.njit(cache=True)\ndef outer():\n    return 10 * inner()\n\n"
    "print(outer(), *outer.stats.cache_hits.values())\n"
)


def run(folder):
    call = "import sys; sys.path.insert(0, '.'); from pathlib import Path\n"
    call += "from tinymoe.backend.kernel_cache import forget_stale_kernels\n"
    call += "forget_stale_kernels(Path('.').resolve()); import outer"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": root, "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run([sys.executable, "-c", call], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_kernel_is_renewed_with_what_it_calls(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "inner.py").write_text(INNER.format(1))
    (tmp_path / "outer.py").write_text(OUTER)
    assert run(tmp_path) == ["10"]
    assert run(tmp_path) == ["10", "1"]  # from the disk
    (tmp_path / "inner.py").write_text(INNER.format(200))
    assert run(tmp_path) == ["2000"]


def test_nothing_else_is_touched(tmp_path):
    kept = tmp_path / "__pycache__"
    kept.mkdir()
    for name in ("a.nbi", "a.1.nbc", "a.cpython-311.pyc"):
        (kept / name).write_bytes(b"")
    (tmp_path / "a.py").write_text("")
    forget_stale_kernels(tmp_path)
    assert {file.name for file in kept.iterdir()} == {"a.cpython-311.pyc", "kernels.stamp"}
    (kept / "a.nbi").write_bytes(b"")
    forget_stale_kernels(tmp_path)
    assert (kept / "a.nbi").exists()
    (tmp_path / "b.py").write_text("")
    forget_stale_kernels(tmp_path)
    assert not (kept / "a.nbi").exists()


def test_a_folder_that_cannot_be_written_to_is_left(tmp_path):
    (tmp_path / "a.py").write_text("")
    (tmp_path / "__pycache__").write_text("no folder")
    forget_stale_kernels(tmp_path)
    assert (tmp_path / "__pycache__").read_text() == "no folder"
