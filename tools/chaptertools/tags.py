"""`sync` and the first half of `check`: a tagged cell holds exactly the package's definition."""

from __future__ import annotations

import difflib

from .notebooks import Cell, Chapter
from .package import Package


def sync(package: Package, chapters: list[Chapter]) -> tuple[list[str], list[str]]:
    """Refresh the tagged cells from the package. Returns what was changed, and the problems."""
    changed, problems = [], []
    for chapter in chapters:
        before = len(changed)
        for cell in chapter.cells:
            if not cell.key:
                continue
            wanted = expected(package, cell.key)
            if wanted is None:
                problems.append(f"{chapter.where(cell)}: {unknown(package, cell.key)}")
            elif cell.source != wanted:
                cell.node["source"] = wanted
                cell.node["outputs"], cell.node["execution_count"] = [], None
                changed.append(f"{chapter.where(cell)}: {cell.key}")
        if len(changed) > before:
            chapter.save()
    return changed, problems


def check_tags(package: Package, chapters: list[Chapter]) -> list[str]:
    """Every tagged cell that differs from the package, with the difference."""
    problems = []
    for chapter in chapters:
        for cell in chapter.cells:
            if cell.is_code and cell.source.startswith("# tinymoe") and not cell.key:
                line = cell.source.partition("\n")[0]
                problems.append(f"{chapter.where(cell)}: {line!r} is no tag like '# tinymoe: nn/norm.py::RMSNorm'")
            elif cell.key:
                problems += _difference(package, chapter, cell, cell.key)
    return problems


def expected(package: Package, key: str) -> str | None:
    """What the cell that shows a definition holds; None when there is no such definition."""
    definition = package.definitions.get(key)
    return f"# tinymoe: {key}\n{definition.text}" if definition else None


def unknown(package: Package, key: str) -> str:
    """Says that there is no such definition, and which are near."""
    near = difflib.get_close_matches(key, package.definitions, 3)
    return f"the package has no {key}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _difference(package: Package, chapter: Chapter, cell: Cell, key: str) -> list[str]:
    wanted = expected(package, key)
    if wanted is None:
        return [f"{chapter.where(cell)}: {unknown(package, key)}"]
    if cell.source == wanted:
        return []
    lines = difflib.unified_diff(cell.source.splitlines(), wanted.splitlines(), "chapter", "package", lineterm="", n=1)
    return [f"{chapter.where(cell)}: differs from {key}; `sync` refreshes it\n" + "\n".join(f"    {x}" for x in lines)]
