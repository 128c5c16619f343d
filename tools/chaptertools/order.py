"""`order`: a chapter uses only what it, or an earlier chapter, has taught."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .notebooks import Chapter, is_listed, taught
from .package import Package, is_outside

Names = tuple[str, ...]

WELCOME = "00"  # may use everything


def check_order(
    package: Package, everything: list[Chapter], untaught: dict[str, str], chosen: list[Chapter]
) -> list[str]:
    """Uses of the package's names before their chapter, in the chapters chosen."""
    first = {key: min(chapter.number for chapter, _ in cells) for key, cells in taught(everything).items()}
    problems = []
    for chapter in chosen:
        if chapter.number == WELCOME:
            continue
        uses = Uses()
        for cell in chapter.cells:
            try:
                tree = cell.tree
            except SyntaxError:
                continue  # `check` says so
            for home, names in dict.fromkeys(uses.used(tree)):
                if problem := _problem(package, home, names, chapter.number, first, untaught):
                    problems.append(f"{chapter.where(cell)}: {'.'.join([home, *names])}: {problem}")
    return problems


def _problem(
    package: Package, home: str, names: Names, number: str, first: dict[str, str], untaught: dict[str, str]
) -> str | None:
    if names[-1:] == ("*",):
        return "import what is used, by name"
    key = package.resolve(home, names)
    if key is None:
        return "the package has no such name"
    if "::" not in key or is_outside(key) or is_listed(key, untaught):
        return None
    path, _, name = key.partition("::")
    if name.startswith("__") or first.get(key, "99") <= number:
        return None
    if key in first:
        return f"is taught only in chapter {first[key]}"
    if name.startswith("_") or package.definitions[key].kind == "constant":
        # Constants and private helpers come with their module: a cell that shows its code has to have them.
        homes = [n for other, n in first.items() if other.startswith(f"{path}::")]
        return None if min(homes, default="99") <= number else f"nothing of {path} has been taught yet"
    return "is neither taught nor listed in untaught.txt"


class Uses:
    """The names of the package that a notebook's cells use, by what the notebook calls them.

    Each is a module and names in it, one inside the other: ("tinymoe", ("zoo", "build")).
    """

    def __init__(self) -> None:
        self.aliases: dict[str, tuple[str, Names]] = {}

    def used(self, tree: ast.AST) -> Iterator[tuple[str, Names]]:
        """What a cell imports from the package, or reaches through something imported earlier."""
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.Import):
                yield from self._import(node)
            elif isinstance(node, ast.ImportFrom):
                yield from self._import_from(node)
            elif isinstance(node, ast.Attribute) and (reached := self._reached(node)):
                yield reached
            else:
                yield from self.used(node)

    def _import(self, node: ast.Import) -> Iterator[tuple[str, Names]]:
        for alias in node.names:
            if alias.name.split(".")[0] == "tinymoe":
                self.aliases[alias.asname or "tinymoe"] = (alias.name if alias.asname else "tinymoe", ())
                yield alias.name, ()

    def _import_from(self, node: ast.ImportFrom) -> Iterator[tuple[str, Names]]:
        if not node.level and (node.module or "").split(".")[0] == "tinymoe":
            for alias in node.names:
                self.aliases[alias.asname or alias.name] = (str(node.module), (alias.name,))
                yield str(node.module), (alias.name,)

    def _reached(self, node: ast.expr) -> tuple[str, Names] | None:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.aliases:
            return None
        home, names = self.aliases[node.id]
        return home, (*names, *reversed(parts))
