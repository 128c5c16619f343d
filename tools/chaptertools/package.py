"""The package as the chapters see it: its modules, what each defines, and what a public name stands for."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

# Not taught by chapters: the course itself, its pictures, the command line, and what it measures.
OUTSIDE = ("course/", "viz/", "cli/", "bench.py", "__main__.py")


@dataclass(frozen=True)
class Definition:
    """A function, class or constant at the top level of a module, and the lines that hold it."""

    path: str
    name: str
    kind: str
    text: str
    first: int
    last: int
    indent: str

    @property
    def key(self) -> str:
        """`nn/attention.py::Attention`"""
        return f"{self.path}::{self.name}"

    @property
    def public(self) -> bool:
        """Whether a chapter has to teach it, or `untaught.txt` to list it."""
        return self.kind != "constant" and not self.name.startswith("_") and not is_outside(self.path)


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: str
    text: str
    tree: ast.Module
    definitions: dict[str, Definition]

    @property
    def package(self) -> str:
        """The dotted name that its relative imports start from."""
        return ".".join(["tinymoe", *self.path.split("/")[:-1]])


class Package:
    """All modules of the package in `folder`, read but never imported."""

    def __init__(self, folder: Path):
        if not (folder / "__init__.py").is_file():
            raise FileNotFoundError(f"package: {folder} holds no __init__.py")
        self.folder = folder
        files = sorted(file for file in folder.rglob("*.py") if "__pycache__" not in file.parts)
        self.modules = {
            file.relative_to(folder).as_posix(): _read(file, file.relative_to(folder).as_posix()) for file in files
        }

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Every definition by its key."""
        return {d.key: d for module in self.modules.values() for d in module.definitions.values()}

    def module(self, dotted: str) -> str | None:
        """The path of the module called `dotted`, or None."""
        parts = dotted.split(".")[1:]
        for path in ("/".join([*parts, "__init__.py"]), "/".join(parts) + ".py"):
            if path in self.modules:
                return path
        return None

    def resolve(self, home: str, names: tuple[str, ...] = ()) -> str | None:
        """What `names`, one inside the other, stand for in the module called `home`.

        The key of a definition, the path of a module, "" for what the package imports from elsewhere, or None when
        there is no such thing. Attributes of a definition are not looked at. `home` is needed because a package may
        export a name that one of its modules has too: `tinymoe.backend` is a function, and a folder.
        """
        for name in names:
            found = self._named(home, name)
            if found is None or not found.startswith("tinymoe"):
                return found
            home = found
        return self.module(home)

    def _named(self, module: str, name: str) -> str | None:
        """One name in one module: a key, a dotted module, "" or None."""
        path = self.module(module)
        if path is None:
            return None
        if name in self.modules[path].definitions:
            return f"{path}::{name}"
        home, original = self._imports(path).get(name, (module, name))
        if (home, original) == (module, name):
            return f"{module}.{name}" if self.module(f"{module}.{name}") else None
        if not home.startswith("tinymoe"):
            return ""
        return home if original is None else self._named(home, original)

    @cache  # noqa: B019 - one package lives as long as the command
    def _imports(self, path: str) -> dict[str, tuple[str, str | None]]:
        """Names that a module has from elsewhere: name -> (dotted module, name there; None for the module itself)."""
        module, names = self.modules[path], {}
        for node in _top_level(module.tree.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    names[alias.asname or alias.name.split(".")[0]] = (alias.name, None)
            elif isinstance(node, ast.ImportFrom):
                home = _home(node, module.package)
                for alias in node.names:
                    names[alias.asname or alias.name] = (home, alias.name)
        if "__getattr__" in module.definitions:
            names |= self._lazy(module, names)
        return names

    def _lazy(self, module: Module, known: dict[str, tuple[str, str | None]]) -> dict[str, tuple[str, str | None]]:
        """Names that a module's `__getattr__` loads on demand: its tables of name -> submodule."""
        names: dict[str, tuple[str, str | None]] = {}
        for node in module.tree.body:
            table = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            for key, value in zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ():
                name, place = getattr(key, "value", None), getattr(value, "value", None)
                if not (isinstance(name, str) and isinstance(place, str)):
                    continue
                home = f"{module.package}.{place}"
                if self.module(home) and name not in known:
                    names[name] = (home, name if self._named(home, name) is not None else None)
        return names


def is_outside(path: str) -> bool:
    """Whether a module is of the kind that chapters do not teach."""
    return path.startswith(OUTSIDE)


def _read(file: Path, path: str) -> Module:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=path)
    definitions: dict[str, Definition] = {}
    lines = text.splitlines()
    for node in _top_level(tree.body):
        for name, kind in _names(node):
            if name in definitions and kind != "constant":
                raise ValueError(
                    f"{path}: {name} is defined twice, in lines {definitions[name].first} and {node.lineno}"
                )
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            last = node.end_lineno or node.lineno
            body = "\n".join(lines[first - 1 : last])
            indent = body[: len(body) - len(body.lstrip())]
            definitions[name] = Definition(path, name, kind, textwrap.dedent(body), first, last, indent)
    return Module(path, text, tree, definitions)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those inside `if`, `try` and `with`."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(node, inner, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)


def _names(node: ast.stmt) -> list[tuple[str, str]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [(node.name, "function")]
    if isinstance(node, ast.ClassDef):
        return [(node.name, "class")]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [(target.id, "constant") for target in targets if isinstance(target, ast.Name)]


def _home(node: ast.ImportFrom, package: str) -> str:
    """The absolute dotted module that a `from ... import` names."""
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])
