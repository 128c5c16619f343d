"""Chapters in Pyodide: the same outputs as in the repository, and the processor time beside that of native NumPy.

    python benchmarks/browser.py [--chapters 00 01 ...] [--json FILE]

Each chapter runs three times: natively, on one thread, as if Numba were not installed, first in full and then with its
training runs as short as in a browser (`tinymoe/course/pace.py`); and so in Pyodide, in Node, with the packages that
`python tools/lite_fixture.py` fetches. All have to show what the committed chapter shows; in cells that are tagged
because they train, sample or measure, outputs of the same kinds. Seconds are the processor's, of all cells of a chapter
together, imports among them. «ratio» is what a reader waits in a browser beside native NumPy, each as the chapter runs
there; «same work» compares with the equally short native run, and says how much slower NumPy is there: it has no BLAS
and uses no vector instructions, so matrix products take it many times as long, and most else two to three times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / folder) for folder in ("pyodide", "browser"))]

import in_node  # noqa: E402
import lite_site  # noqa: E402
from common.turns import THREADS  # noqa: E402

from tinymoe.bench import machine  # noqa: E402
from tinymoe.course.pace import BROWSER  # noqa: E402

PYODIDE = json.loads((ROOT / "tools" / "lite_assets.json").read_text("utf-8"))["core"]["version"]
SLOWEST = 3  # cells of a chapter that are named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapters", nargs="+", default=list(lite_site.CHAPTERS), metavar="NN")
    parser.add_argument("--json", type=Path, help="write the results to this file; chapters that stand there are kept")
    options = parser.parse_args()
    if reason := why_not():
        print(f"Nothing to measure. {reason}")
        return
    report = {"benchmark": "browser", **machine(), "backend": "numpy", "pyodide": PYODIDE, "scale": BROWSER, "rows": []}
    if options.json and options.json.exists():
        before = json.loads(options.json.read_text("utf-8"))
        report["rows"] = before["rows"] if before["scale"] == BROWSER else []
    print(f"{'chapter':>8}{'in full':>10}{'short':>8}{'Pyodide':>9}{'ratio':>8}{'same work':>11}   its slowest cells")
    for number in options.chapters:
        row = compare(number)
        report["rows"] = sorted([row, *(one for one in report["rows"] if one["chapter"] != number)], key=_chapter)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report, indent=1) + "\n")


def why_not() -> str | None:
    """Why nothing can be measured here."""
    return in_node.why_not() or (None if find_spec("IPython") else "The chapters need IPython: make course")


def compare(number: str) -> dict[str, Any]:
    """Run a chapter in both, print a line, and return it. RuntimeError if one shows another thing than committed."""
    path = lite_site.CHAPTERS[number]
    committed = json.loads(path.read_text("utf-8"))["cells"]
    native = [sys.executable, str(ROOT / "tests" / "pyodide" / "chapter.py"), path.name]
    ways = {
        "native_in_full": lambda: _run(native, 1.0),
        "native": lambda: _run(native, BROWSER),
        "pyodide": lambda: _run(in_node.command("chapter.py", path.name), BROWSER),
    }
    ran = {way: run() for way, run in ways.items()}
    seconds = {way: [cell.get("seconds", 0.0) for cell in cells] for way, cells in ran.items()}
    row: dict[str, Any] = {"chapter": number, **{way: round(sum(cells), 1) for way, cells in seconds.items()}}
    row["ratio"] = round(row["pyodide"] / row["native_in_full"], 2)
    row["ratio_same_work"] = round(row["pyodide"] / row["native"], 2)
    slowest = sorted(range(len(committed)), key=lambda cell: -seconds["pyodide"][cell])[:SLOWEST]
    row["slowest"] = [{"cell": cell, **{way: cells[cell] for way, cells in seconds.items()}} for cell in slowest]
    named = ", ".join(f"{one['cell']} ({one['native']:.1f} → {one['pyodide']:.1f})" for one in row["slowest"])
    totals = f"{row['native_in_full']:>10.1f}{row['native']:>8.1f}{row['pyodide']:>9.1f}"
    print(f"{number:>8}{totals}{row['ratio']:>8.2f}{row['ratio_same_work']:>11.2f}   {named}", flush=True)
    for way, cells in ran.items():
        if wrong := lite_site.errors(cells) + lite_site.differences(number, cells, committed):
            raise RuntimeError(f"chapter {number}, {way}:\n" + "\n".join(wrong))
    return row


def _run(command: list[str], scale: float) -> list[dict[str, Any]]:
    """The cells as `command` ran them with such a share of the steps. Pyodide sees no variable: its own is BROWSER."""
    environment = {**os.environ, "TINYMOE_SCALE": str(scale), **dict.fromkeys(THREADS, "1")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _chapter(row: dict[str, Any]) -> str:
    return row["chapter"]


if __name__ == "__main__":
    main()
