"""The source of a learner's function: whether it is written yet, and what of it can be kept for later chapters."""

from __future__ import annotations

import ast
import dis
import linecache
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

from .adoption import Target, plain_function

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# A chapter's cell that shows a definition of the package begins with this line.
TAG = re.compile(r"# tinymoe: (?P<path>[\w/]+\.py)::(?P<name>\w+)\s*")

LATER = "from __future__ import annotations"  # annotations are not evaluated, so what they name need not be kept
LONGEST_CONSTANT = 10_000  # characters of a constant that is copied into a kept solution


class CannotKeep(Exception):  # noqa: N818 - no error of anybody's, but a fact to tell
    """Why the source of a solution cannot stand on its own."""


class Found(NamedTuple):
    """A definition where it was written: its syntax, its lines, and the tag of its cell."""

    node: Definition
    text: str
    tag: re.Match[str] | None


def unfinished(function: FunctionType) -> str | None:
    """What is still missing from the function, or None when it is written.

    Missing are a body of nothing but a docstring, `...`, `pass` or `raise NotImplementedError`; and a `...` that
    stands for a value: assigned, returned or passed to a call.
    """
    found = _find(function.__code__, function.__name__)
    if found is None:
        return "is not written yet" if _does_nothing(function.__code__) else None
    return gap_in(found.node)


def gap_in(node: Definition) -> str | None:
    """`unfinished`, for a function's syntax alone."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if all(_is_placeholder(statement) for statement in body):
        return "is not written yet"
    blanks = [value.lineno for statement in body for value in _values(statement) if _is_ellipsis(value)]
    return f"is not finished (line {min(blanks)} still has `...`)" if blanks else None


def kept_source(function: FunctionType, target_of: Callable[[str], str | None]) -> str:
    """Source that defines the function, and everything of the notebook that it uses, on its own.

    Modules, and what was imported from modules, become imports; helper functions, classes and constants are copied.
    Cells that show package code become imports of it, and so do other exercises with a target in the package:
    `target_of` gives the target of an exercise by its id. Raises CannotKeep with the reason where it cannot be done.
    """
    if function.__closure__:
        names = ", ".join(f"`{name}`" for name in function.__code__.co_freevars)
        raise CannotKeep(f"it uses {names} from inside another function")
    found = _find(function.__code__, function.__name__)
    if found is None:
        raise CannotKeep("its source cannot be read")
    imports: set[str] = set()
    definitions: list[str] = []
    seen = {function.__name__}

    def define(text: str) -> None:
        for name in sorted(_names_used(text) - seen):
            seen.add(name)
            if name not in function.__globals__:
                continue  # a builtin; or undefined here, as it will be there
            line, source = _as_source(name, function, target_of)
            if line:
                imports.add(line)
            else:
                define(source)
        definitions.append(text)  # after all that it needs

    define(_without_exercise(found))
    head = sorted(imports, key=lambda line: (line.startswith("from "), line))
    return "\n".join([LATER, *head]) + "\n\n" + "\n\n\n".join(definitions) + "\n"


def last_function(text: str) -> str:
    """The name of the last function at the top level of a source: the solution, in a kept file."""
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    if not names:
        raise ValueError("it defines no function")
    return names[-1]


def definition_in(file: Path, qualname: str) -> str:
    """The source of a function, or of a class's method, as it stands in a file, decorators included."""
    text = file.read_text(encoding="utf-8")
    node: ast.Module | Definition = ast.parse(text)
    for part in qualname.split("."):
        inside = [n for n in node.body if isinstance(n, Definition) and n.name == part]
        if not inside:
            raise ValueError(f"{file.name} defines no {qualname}")
        node = inside[-1]
    return _lines(text.splitlines(), node) if isinstance(node, Definition) else text


def exercise_ids(node: Definition) -> list[str]:
    """The ids of the exercises that a definition is decorated as an answer to."""
    return [id for decorator in node.decorator_list if (id := _exercise_id(decorator))]


def _find(code: CodeType, name: str) -> Found | None:
    """The definition that `code` was compiled from."""
    lines = [line.rstrip("\n") for line in linecache.getlines(code.co_filename)]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, Definition) and node.name == name and _first_line(node) == code.co_firstlineno:
            return Found(node, _lines(lines, node), TAG.fullmatch(lines[0]))
    return None


def _find_class(cls: type) -> Found | None:
    """The definition of a notebook's class: in the file of one of its methods, else in the newest cell that has it."""
    methods = filter(None, map(plain_function, vars(cls).values()))
    sources = [linecache.getlines(method.__code__.co_filename) for method in methods]
    if "get_ipython" in vars(sys.modules.get("__main__", object)):
        cells = vars(sys.modules["__main__"])["get_ipython"]().user_ns.get("In", [])
        sources += [cell.splitlines(keepends=True) for cell in reversed(cells)]
    for lines in sources:
        lines = [line.rstrip("\n") for line in lines]
        try:
            body = ast.parse("\n".join(lines)).body
        except SyntaxError:
            continue
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                return Found(node, _lines(lines, node), TAG.fullmatch(lines[0]))
    return None


def _as_source(name: str, function: FunctionType, target_of: Callable[[str], str | None]) -> tuple[str, str]:
    """How the global `name` of `function` is had elsewhere: an import line, or the source that defines it."""
    value = function.__globals__[name]
    if isinstance(value, ModuleType):
        return f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""), ""
    home = getattr(value, "__module__", None) or ""
    if isinstance(value, (int, float, complex, str, bytes, NoneType)):
        pass  # the same small number may stand in many modules, by chance
    elif home.startswith("my_tinymoe."):
        # An earlier solution that stands in; its module has its exercise's name.
        if line := _import_of_exercise([home.removeprefix("my_tinymoe.").replace("_", ".", 1)], name, target_of):
            return line, ""
    elif home != function.__module__:
        if line := _import_of(name, value, home):
            return line, ""
    elif found := _find_value(value):
        if found.tag:
            return _import_line(Target(f"{found.tag['path']}::{found.tag['name']}"), name), ""
        line = _import_of_exercise(exercise_ids(found.node), name, target_of)
        alias = f"\n\n\n{name} = {found.node.name}" if found.node.name != name else ""
        return (line, "") if line else ("", _without_exercise(found) + alias)
    text = repr(value)
    if len(text) <= LONGEST_CONSTANT and _is_literal(text, value):
        return "", f"{name} = {text}"
    raise CannotKeep(f"it uses `{name}`, of type {type(value).__name__}, which is made elsewhere in the notebook")


def _find_value(value: Any) -> Found | None:
    if isinstance(value, type):
        return _find_class(value)
    plain = plain_function(value)
    return _find(plain.__code__, plain.__name__) if plain else None


def _import_of(name: str, value: Any, home: str) -> str | None:
    """The import of something that a loaded module holds under its own name, or under the one used here."""
    homes = [home, "numpy", "math", *sorted((m for m in sys.modules if m.split(".")[0] == "tinymoe"), key=len)]
    for own in (getattr(value, "__name__", name), name):
        for home in homes:
            if home != "__main__" and vars(sys.modules.get(home, object)).get(own, _find) is value:
                return f"from {home} import {own}" + (f" as {name}" if own != name else "")
    return None


def _import_of_exercise(ids: list[str], name: str, target_of: Callable[[str], str | None]) -> str | None:
    """The import of the package's function that a solution replaces there."""
    for id in ids:
        target = target_of(id)
        if target and "." not in Target(target).qualname:
            return _import_line(Target(target), name)
    return None


def _import_line(target: Target, name: str) -> str:
    own = target.qualname
    return f"from {target.module_name} import {own}" + (f" as {name}" if own != name else "")


def _is_literal(text: str, value: Any) -> bool:
    try:
        same = ast.literal_eval(text) == value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return same is True


def _exercise_id(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "exercise":
        for arg in decorator.args:
            if isinstance(arg, ast.Constant) and re.fullmatch(r"\d\d\.\w+", str(arg.value)):
                return str(arg.value)
    return None


def _without_exercise(found: Found) -> str:
    """The definition without the decorator that submits it; other decorators and all comments stay."""
    lines = found.text.splitlines()
    first = _first_line(found.node)
    for decorator in reversed(found.node.decorator_list):
        if _exercise_id(decorator):
            del lines[decorator.lineno - first : (decorator.end_lineno or decorator.lineno) - first + 1]
    return "\n".join(lines)


def _first_line(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _lines(lines: list[str], node: Definition) -> str:
    return textwrap.dedent("\n".join(lines[_first_line(node) - 1 : node.end_lineno]))


def _does_nothing(code: CodeType) -> bool:
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname != "RESUME"]
    return steps in ([("LOAD_CONST", None), ("RETURN_VALUE", None)], [("RETURN_CONST", None)])


def _is_placeholder(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return _is_ellipsis(statement.value)
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return False


def _is_ellipsis(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is Ellipsis


def _values(statement: ast.stmt) -> Iterator[ast.expr]:
    """Every expression that stands as a value of its own: so not the `...` of `x[..., 0]`, nor that of a type."""
    for node in ast.walk(statement):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)) and node.value:
            yield node.value
        elif isinstance(node, ast.Call):
            yield from node.args
            yield from (keyword.value for keyword in node.keywords)


def _names_used(text: str) -> set[str]:
    """The global names that a source reads when it is defined or run: seen in its compiled code, so no annotations."""
    waiting = [compile(f"{LATER}\n{text}", "<kept>", "exec", dont_inherit=True)]
    names: set[str] = set()
    while waiting:
        code = waiting.pop()
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
                names.add(step.argval)
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]
    return {name for name in names if not name.startswith("__")}
