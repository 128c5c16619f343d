"""`run`: execute chapters in place, and leave in them only what does not change from run to run."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from .notebooks import Chapter

LIMIT = 90.0  # seconds that a chapter may take
CELL_LIMIT = 600  # seconds after which a cell is given up
WIDGETS = "application/vnd.jupyter.widget-state+json"


def run(root: Path, chapters: list[Chapter], limit: float) -> list[str]:
    """Execute the chapters one after the other, each in a fresh kernel, and save outputs and widget state.

    A chapter that fails is left as it was. Returns the problems.
    """
    problems = []
    for chapter in chapters:
        started = time.perf_counter()
        try:
            execute(root, chapter)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problems.append(f"{chapter.name}: {type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - started
        print(f"{chapter.name}  {seconds:.1f} s", flush=True)
        clean(chapter.notebook)
        chapter.save()
        if seconds > limit:
            problems.append(f"{chapter.name}: took {seconds:.0f} s, expected at most {limit:g}")
    return problems


def execute(root: Path, chapter: Chapter) -> None:
    """Run the cells in a new kernel, as a learner who has solved nothing yet."""
    with tempfile.TemporaryDirectory(prefix="nothing-solved-") as nothing_solved:
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        env = {
            **os.environ,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": path,
            "TINYMOE_MY": nothing_solved,
        }
        client = NotebookClient(
            chapter.notebook,
            timeout=CELL_LIMIT,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": str(chapter.file.parent)}},
        )
        client.execute(env=env)


def clean(notebook: Any) -> None:
    """Take out of an executed notebook what differs from run to run: times, versions, random ids."""
    notebook.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("execution", None)
    _number_widgets(notebook)


def _number_widgets(notebook: Any) -> None:
    """Replace the widgets' random ids by their numbers in the order of the page."""
    states = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    if not states:
        return
    order: dict[str, None] = {}

    def visit(text: str) -> None:
        for id in re.findall(r"[0-9a-f]{32}", text):
            if id in states and id not in order:
                order[id] = None
                visit(json.dumps(states[id], sort_keys=True))

    visit(json.dumps([cell.get("outputs", []) for cell in notebook.cells]))
    # Those that no output shows: by their contents, without the ids in them.
    hidden = sorted(states, key=lambda id: re.sub(r"[0-9a-f]{32}", "", json.dumps(states[id], sort_keys=True)))
    for id in hidden:
        visit(id)
    numbers = {id: f"{number:032x}" for number, id in enumerate(order, 1)}
    text = re.sub(r"[0-9a-f]{32}", lambda match: numbers.get(match[0], match[0]), nbformat.writes(notebook))
    fresh = nbformat.reads(text, as_version=4)
    notebook.cells, notebook.metadata = fresh.cells, fresh.metadata
