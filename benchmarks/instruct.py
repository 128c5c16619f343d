"""Runs parts of chapter 14, so that the benchmarks measure what the chapter shows."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

from tinymoe.posttrain import agents, logps, sft, shop, tools  # noqa: E402
from tinymoe.text import instructions  # noqa: E402

CHAPTER = ROOT / "chapters" / "14_instruction_tuning.ipynb"


def add(file: Path | None, results: dict[str, Any], seed: int, **settings: Any) -> None:
    """Put the results of one seed into a JSON file beside those of the others, so that seeds may run side by side."""
    if file is not None:
        runs = json.loads(file.read_text("utf-8"))["runs"] if file.exists() else {}
        runs = dict(sorted({**runs, str(seed): {**runs.get(str(seed), {}), **results}}.items()))
        file.write_text(json.dumps({**settings, "runs": runs}, indent=1) + "\n", encoding="utf-8")


def chapter(*wanted: str) -> dict[str, Any]:
    """What the chapter's code cells define that contain one of these texts, the first of each.

    What other cells show of the package is taken from there.
    """
    cells = json.loads(CHAPTER.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for module in (agents, shop, tools, instructions, sft, logps):
        names |= vars(module)
    names["__name__"] = "chapter"
    os.chdir(CHAPTER.parent)
    for text in ("import numpy", "def base", "def prompt_ids", "QUESTIONS =", "def fine_tune", *wanted):
        source = next(source for source in sources if text in source)
        # What a cell shows is left out: only its definitions are wanted.
        exec(compile(source, f"{CHAPTER.name}: {text}", "exec"), names)
    return names
