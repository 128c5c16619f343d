"""The chapters: `NN_name.ipynb`, their cells and tags, and `untaught.txt` beside them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from tinymoe.course.source import TAG, exercise_ids, gap_in

NAME = re.compile(r"(?P<number>\d\d)_[a-z0-9_]+\.ipynb")


@dataclass(frozen=True)
class Cell:
    """A cell of a chapter, numbered from 1 as in the messages about it."""

    number: int
    node: Any

    @property
    def source(self) -> str:
        return self.node["source"]

    @property
    def is_code(self) -> bool:
        return self.node["cell_type"] == "code"

    @property
    def key(self) -> str | None:
        """The definition that the cell shows, as `nn/attention.py::Attention`; None in a cell without a tag."""
        match = TAG.fullmatch(self.source.partition("\n")[0]) if self.is_code else None
        return f"{match['path']}::{match['name']}" if match else None

    @property
    def body(self) -> str:
        """A tagged cell without its tag."""
        return self.source.partition("\n")[2]

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax, magics and shell lines turned into calls. Raises SyntaxError."""
        return ast.parse(TransformerManager().transform_cell(self.source) if self.is_code else "")

    @property
    def exercises(self) -> Iterator[tuple[str, str | None]]:
        """Ids of the exercises that it asks for, each with what is still missing from the function."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from ((id, gap_in(node)) for id in exercise_ids(node))


class Chapter:
    """One notebook."""

    def __init__(self, file: Path):
        self.file = file
        self.name = file.name
        match = NAME.fullmatch(file.name)
        self.number = match["number"] if match else ""
        self.notebook: Any = nbformat.read(file, as_version=4)
        self.cells = [Cell(number, node) for number, node in enumerate(self.notebook.cells, 1)]

    def where(self, cell: Cell | int) -> str:
        """`01_tokenizer.ipynb, cell 3`"""
        return f"{self.name}, cell {cell if isinstance(cell, int) else cell.number}"

    def save(self) -> None:
        """Write the notebook back, atomically."""
        draft = self.file.with_name(self.file.name + ".part")
        draft.write_text(nbformat.writes(self.notebook).rstrip("\n") + "\n", encoding="utf-8")
        draft.replace(self.file)


def read_chapters(folder: Path, numbers: list[str] | None = None) -> list[Chapter]:
    """The chapters of a folder, or those with the given numbers. Raises ValueError where there are none."""
    chapters = [Chapter(file) for file in sorted(folder.glob("*.ipynb"))]
    if not chapters:
        raise ValueError(f"chapters: there are no notebooks in {folder}")
    if not numbers:
        return chapters
    found = [chapter for chapter in chapters if chapter.number in numbers]
    missing = set(numbers) - {chapter.number for chapter in found}
    if missing:
        known = ", ".join(chapter.number for chapter in chapters)
        raise ValueError(f"chapters: there is no {', '.join(sorted(missing))}; there are {known}")
    return found


def read_untaught(folder: Path) -> dict[str, str]:
    """`untaught.txt`: what no chapter teaches, and why. Lines are `path.py::Name — reason` or `path.py::* — reason`."""
    file = folder / "untaught.txt"
    entries: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.partition("—")
            entries[key.strip()] = reason.strip()
    return entries


def is_listed(key: str, untaught: dict[str, str]) -> bool:
    """Whether a definition, or its whole module, stands in `untaught.txt`."""
    return key in untaught or f"{key.partition('::')[0]}::*" in untaught


def taught(chapters: list[Chapter]) -> dict[str, list[tuple[Chapter, Cell]]]:
    """The cells that show each definition."""
    cells: dict[str, list[tuple[Chapter, Cell]]] = {}
    for chapter in chapters:
        for cell in chapter.cells:
            if cell.key:
                cells.setdefault(cell.key, []).append((chapter, cell))
    return cells
