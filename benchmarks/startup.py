"""What it takes to begin: importing tinymoe, compiling its kernels once, and every later start.

    python benchmarks/startup.py [--runs 5] [--models nano small moe] [--json FILE]

Each figure is of new Python processes. Importing: seconds and resident memory beyond those of importing NumPy, the
median of the runs. Compiling: the first training step of a model with an empty folder for Numba's compiled code, and
the same step in the processes after it, all with the import; «numpy» is the backend that compiles nothing. The last
column is how much of that the second step takes again: the rest is what beginning costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

from tinymoe import bench  # noqa: E402

# Prints seconds on the clock, seconds at work, and MiB in use, all beyond those of a process that has NumPy; and the
# seconds of what can be done again.
SCRIPT = """
import time, numpy
from pathlib import Path

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

before, clock, worked = held(), time.perf_counter(), time.process_time()
{what}
figures = [time.perf_counter() - clock, time.process_time() - worked, held() - before]
clock = time.perf_counter()
{again}
print(*figures, time.perf_counter() - clock)
"""
STEP = """
import tinymoe
tinymoe.use({backend!r})
from tinymoe import bench
step = bench.training(bench.TRAINING[{model!r}])
step()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each figure but the first compilation")
    parser.add_argument("--models", nargs="+", choices=bench.TRAINING, default=[*bench.TRAINING])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    print(f"{'':34}{'seconds':>9}{'at work':>9}{'MiB':>8}{'of these a step':>18}")
    rows = [show("import tinymoe", started("import tinymoe", options.runs))]
    for model in options.models:
        with tempfile.TemporaryDirectory() as empty:
            step = STEP.format(backend="numba", model=model)
            rows.append(show(f"{model}: first step, compiling", started(step, 1, empty)))
            rows.append(show(f"{model}: first step, later", started(step, options.runs, empty)))
        step = STEP.format(backend="numpy", model=model)
        rows.append(show(f"{model}: first step, numpy", started(step, options.runs)))
    if options.json:
        report = {"benchmark": "startup", **bench.machine(), "runs": options.runs, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def started(what: str, runs: int, compiled: str | None = None) -> list[float]:
    """Medians over new processes that do `what`: seconds, seconds at work, MiB, seconds of another step if any."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"NUMBA_CACHE_DIR": compiled} if compiled else {})
    command = [sys.executable, "-c", SCRIPT.format(what=what, again="step()" if "step" in what else "")]
    results = []
    for _ in range(runs):
        done = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        results.append([float(number) for number in done.stdout.split()])
    return [statistics.median(column) for column in zip(*results, strict=True)]


def show(name: str, figures: list[float]) -> dict[str, Any]:
    """Print one row of the table, and return it."""
    seconds, worked, mib, step = figures
    print(f"{name:<34}{seconds:9.2f}{worked:9.2f}{mib:8.1f}{step:18.2f}", flush=True)
    row = {"what": name, "seconds": round(seconds, 3), "at_work": round(worked, 3), "mib": round(mib, 1)}
    return {**row, "step": round(step, 3)} if "step" in name else row


if __name__ == "__main__":
    main()
