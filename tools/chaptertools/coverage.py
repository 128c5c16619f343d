"""`coverage`: every public definition is taught in exactly one chapter, or listed with a reason."""

from __future__ import annotations

from .notebooks import Chapter, is_listed, taught
from .package import Package


def check_coverage(package: Package, chapters: list[Chapter], untaught: dict[str, str]) -> list[str]:
    """Definitions that are missing, taught twice or both taught and listed; entries of the list that are wrong."""
    cells = taught(chapters)
    problems = []
    for key, definition in package.definitions.items():
        where = [chapter.where(cell) for chapter, cell in cells.get(key, [])]
        if len(where) > 1:
            problems.append(f"{key}: is taught {len(where)} times, in {' and in '.join(where)}")
        if where and key in untaught:
            problems.append(f"{key}: is taught in {where[0]} and listed in untaught.txt")
        if definition.public and not where and not is_listed(key, untaught):
            problems.append(f"{key}: is neither taught in a chapter nor listed in untaught.txt")
    for entry, reason in untaught.items():
        path, separator, name = entry.partition("::")
        if not separator:
            problems.append(f"untaught.txt: {entry!r} is not of the form 'path.py::Name — reason'")
            continue
        if not reason:
            problems.append(f"untaught.txt: {entry} has no reason")
        if path not in package.modules:
            problems.append(f"untaught.txt: {entry}: the package has no {path}")
        elif name == "*":
            if taken := [key for key in cells if key.startswith(f"{path}::")]:
                problems.append(f"untaught.txt: {entry}: but {taken[0]} is taught")
        elif name not in package.modules[path].definitions:
            problems.append(f"untaught.txt: {entry}: {path} defines no {name}")
    return problems
