"""Letting the package run on a learner's function, and back.

A function may be used from many places: imported into other modules, put in the table of operations, bound as a
default argument. So the place is not sought out: the function object itself stays where it is, and its `__code__`
is exchanged for one that calls the learner's. Every user of it follows, whenever it was or will be imported;
`release` puts the very same code object back; and a package that nobody adopted anything into has not changed.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

Function = Callable[..., Any]


@dataclass(frozen=True)
class Target:
    """A function of the package, named as in the chapters: `nn/moe.py::top_k_routing` or `nn/moe.py::MoE.__call__`."""

    name: str

    @property
    def module_name(self) -> str:
        """`tinymoe.nn.moe`"""
        path = self.name.partition("::")[0]
        return ".".join(["tinymoe", *path.removesuffix(".py").removesuffix("__init__").strip("/").split("/")])

    @property
    def qualname(self) -> str:
        """`top_k_routing` or `MoE.__call__`"""
        return self.name.partition("::")[2]

    @property
    def tag(self) -> str:
        """First line of the chapter's cell that shows the definition it is in."""
        return f"# tinymoe: {self.name.partition('::')[0]}::{self.qualname.partition('.')[0]}"

    @cached_property
    def found(self) -> Any:
        """What stands under that name in the package: a function, an operation, a class's method."""
        return _lookup(vars(importlib.import_module(self.module_name)), self.qualname, self.name)

    @cached_property
    def function(self) -> FunctionType:
        """The function that does the work, inside any decorators."""
        plain = plain_function(self.found)
        if plain is None:
            raise TypeError(f"target {self.name}: got a {type(self.found).__name__}, expected a function or method")
        return plain

    @cached_property
    def original(self) -> FunctionType:
        """A second function with the package's own code, which adoption does not touch."""
        return _copy_of(self.function)

    @property
    def bare(self) -> bool:
        """Whether the function stands under its name as it is, or is a method; False for one inside decorators."""
        return self.found is self.function or "." in self.qualname

    @property
    def public(self) -> Any:
        """What a chapter calls by that name: with its decorators, but a method as a plain function."""
        return self.function if "." in self.qualname else self.found

    @property
    def source_file(self) -> Path:
        """The file that defines it."""
        return Path(str(importlib.import_module(self.module_name).__file__))


@dataclass
class _Saved:
    function: FunctionType  # kept alive, so that its id stays its own
    code: Any
    defaults: Any
    kwdefaults: Any


_saved: dict[int, _Saved] = {}  # by id: the functions that stand redirected now
_adopted: dict[str, tuple[Function, list[FunctionType]]] = {}  # target name -> (the learner's, functions redirected)


def adopt(target: Target, function: Function, namespace: dict[str, Any] | None = None) -> None:
    """Let everything that uses `target` run on `function`.

    A chapter's own copy of the target, shown there in a cell that begins with `# tinymoe:`, follows too: it is looked
    for in `namespace`, the notebook's.
    """
    release(target)
    places = [target.function]
    if copy := _notebook_copy(target, namespace or {}):
        places.append(copy)
    for place in places:
        _redirect(place, function)
    _adopted[target.name] = (function, places)
    _forget_results(target)


def release(target: Target) -> bool:
    """Give the target its own code back. Returns whether anything had been adopted."""
    if target.name not in _adopted:
        return False
    for place in _adopted.pop(target.name)[1]:
        _restore(place)
    _forget_results(target)
    return True


def adopted(target: Target) -> Function | None:
    """The function that stands in for the target, or None."""
    return _adopted.get(target.name, (None, []))[0]


@contextlib.contextmanager
def run_by(target: Target, function: Function | None) -> Iterator[None]:
    """Inside the block the target runs on `function`; None means on its own code."""
    before = adopted(target)
    _restore(target.function)
    if function is not None:
        _redirect(target.function, function)
    try:
        yield
    finally:
        _restore(target.function)
        if before is not None:
            _redirect(target.function, before)


def _redirect(place: FunctionType, function: Function) -> None:
    if id(place) not in _saved:
        _saved[id(place)] = _Saved(place, place.__code__, place.__defaults__, place.__kwdefaults__)

    def call(*args: Any, _adopted: Function, **kwargs: Any) -> Any:
        return _adopted(*args, **kwargs)

    def iterate(*args: Any, _adopted: Function, **kwargs: Any) -> Any:
        return (yield from _adopted(*args, **kwargs))

    # Code has to be of the kind that it replaces: a generator's, or with the same variables closed over.
    code = (iterate if inspect.isgeneratorfunction(place) else call).__code__
    code = code.replace(co_freevars=place.__code__.co_freevars, co_name=place.__name__)
    place.__kwdefaults__ = {"_adopted": function}
    place.__defaults__ = None
    place.__code__ = code
    place.__wrapped__ = function  # so that signatures and sources asked for are the learner's  # type: ignore


def _restore(place: FunctionType) -> None:
    saved = _saved.pop(id(place), None)
    if saved is not None:
        place.__code__, place.__defaults__, place.__kwdefaults__ = saved.code, saved.defaults, saved.kwdefaults
        del place.__wrapped__


def _copy_of(function: FunctionType) -> FunctionType:
    saved = _saved.get(id(function)) or _Saved(
        function, function.__code__, function.__defaults__, function.__kwdefaults__
    )
    copy = FunctionType(saved.code, function.__globals__, function.__name__, saved.defaults, function.__closure__)
    copy.__kwdefaults__ = dict(saved.kwdefaults) if saved.kwdefaults else None
    copy.__doc__, copy.__module__ = function.__doc__, function.__module__
    copy.__annotations__, copy.__qualname__ = function.__annotations__, function.__qualname__
    return copy


def _lookup(names: Any, qualname: str, asked: str) -> Any:
    value: Any = None
    for part in qualname.split("."):
        if part not in names:
            raise ValueError(f"target {asked}: there is no {qualname} in that module")
        value = names[part]
        names = getattr(value, "__dict__", {})
    return value


def plain_function(found: Any) -> FunctionType | None:
    """The Python function inside what decorators make of it: operations, caches, class methods, properties."""
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, FunctionType) and (id(found) in _saved or not hasattr(found, "__wrapped__")):
            return found
        if isinstance(found, (staticmethod, classmethod, MethodType)):
            found = found.__func__
        elif isinstance(found, property):
            found = found.fget
        else:
            found = getattr(found, "__wrapped__", None) or getattr(found, "func", None)
    return None


def _notebook_copy(target: Target, namespace: dict[str, Any]) -> FunctionType | None:
    """The target as a tagged cell of this notebook defined it once more, unless it is the package's own."""
    try:
        copy = plain_function(_lookup(namespace, target.qualname, target.name))
    except ValueError:
        return None
    if copy is None or copy is target.function:
        return None
    return copy if linecache.getline(copy.__code__.co_filename, 1).strip() == target.tag else None


def _forget_results(target: Target) -> None:
    clear = getattr(target.found, "cache_clear", None)
    if clear is not None:
        clear()
