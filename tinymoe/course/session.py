"""What a chapter calls: submit an exercise, ask for a hint or the solution, see the progress, start over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from types import FunctionType
from typing import Any

from . import adoption, registry, shelf
from .checks import Failure
from .display import Note, tell
from .registry import Exercise
from .source import CannotKeep, kept_source, unfinished

Function = Callable[..., Any]

_hints_shown: dict[str, int] = {}
_solved: dict[str, Function] = {}  # the solutions in use: passed in this process, or adopted from their files
_started = False


def exercise(id: str) -> Callable[[Function], Function]:
    """Decorate your answer to an exercise: it is checked, and once it passes the course runs on it.

    While the body is still `...`, or the answer is wrong, the reference stands in, or your own earlier solution.
    Raises ValueError, with the nearest names, for an unknown id.
    """
    known = registry.find(id)

    def submit(function: Function) -> Function:
        if not isinstance(function, FunctionType):
            raise TypeError(f"exercise {id}: got a {type(function).__name__}, expected a function")
        if missing := unfinished(function):
            tell(Note("…", f"{id} {missing}; {_standing_in(known)}."))
            return _go_on_with(known, _solved.get(id), function.__globals__)
        with _bound(function):
            failure = known.failure(function)
        if failure:
            tell(failure_note(known, failure))
            return _go_on_with(known, _solved.get(id), function.__globals__)
        kept = _keep(known, function)
        _solved[id] = function
        checks = f"{len(known.checks)} check{'s' * (len(known.checks) != 1)}"
        tell(Note("✓", f"{id}: your function passes {checks}; {kept}."))
        return _go_on_with(known, function, function.__globals__)

    return submit


def hint(id: str) -> Note:
    """The next hint of an exercise; the earlier ones stay in sight."""
    hints = registry.find(id).hints
    shown = _hints_shown[id] = min(_hints_shown.get(id, 0) + 1, len(hints))
    more = f"hint({id!r}) again gives the next" if shown < len(hints) else f"solution({id!r}) shows an answer"
    details = [(f"{number}.", text) for number, text in enumerate(hints[:shown], 1)]
    return Note("·", f"{id}: hint {shown} of {len(hints)}; {more}.", details, prose=True)


def solution(id: str) -> Note:
    """The reference's source, folded up in a notebook."""
    known = registry.find(id)
    return Note("·", f"{id}: {known.title}", fold=("Show the solution", known.solution))


def progress(chapter: str | None = None) -> Note:
    """The whole course, a line a chapter: its exercises, and whether each is solved (✓ or ·).

    progress("09") tells of one chapter what its exercises are about, and since when they are solved. ValueError for a
    chapter without exercises.
    """
    chapters = {name: list(members) for name, members in groupby(registry.every(), lambda known: known.chapter)}
    if not chapters:
        return Note("·", "There are no exercises yet.")
    if chapter is None:
        return _count([(f"chapter {name}", _summary(known)) for name, known in chapters.items()], registry.every())
    if chapter not in chapters:
        raise ValueError(f"chapter: got {chapter!r}, expected one of {', '.join(chapters)}")
    rows = [(f"{_mark(known)} {known.id}", f"{known.title}  {_since(known)}".rstrip()) for known in chapters[chapter]]
    return _count(rows, chapters[chapter], f" of chapter {chapter}")


def _count(rows: list[tuple[str, str]], exercises: list[Exercise], which: str = "") -> Note:
    done, every = sum(known.id in _solved for known in exercises), len(exercises)
    return Note("✓" if done == every else "·", f"{done} of {every} exercises{which} solved", rows, prose=True)


def _mark(known: Exercise) -> str:
    return "✓" if known.id in _solved else "·"


def _since(known: Exercise) -> str:
    return (shelf.solved_on(known.id) or "in this session") if known.id in _solved else ""


def _summary(exercises: list[Exercise]) -> str:
    solved = sum(known.id in _solved for known in exercises)
    names = (f"{_mark(known)} {known.id.split('.', 1)[1]}" for known in exercises)
    return f"{solved} of {len(exercises)}:  {'  '.join(names)}"


def reset(id: str) -> Note:
    """Go back to the reference. Your solution is not lost: its file is renamed to `….py.old`."""
    known = registry.find(id)
    if known.place:
        adoption.release(known.place)
    aside = shelf.set_aside(id)
    if _solved.pop(id, None) is None and aside is None:
        return Note("·", f"{id} was not solved; the reference is in use.")
    kept = f"; your solution is set aside in {aside.parent.name}/{aside.name}" if aside else ""
    return Note("·", f"{id}: the reference is in use again{kept}.")


def adopt_all() -> None:
    """Run on every kept solution, as at the start of a chapter; say which, and which cannot be used and why."""
    global _started
    _started = True
    adopted = []
    for id in shelf.ids():
        try:
            _adopt_kept(id)
            adopted.append(id)
        except (ValueError, RuntimeError) as error:
            tell(Note("✗", f"{shelf.folder().name}/{id}.py is not used, the reference is: {error}"))
    if adopted:
        tell(Note("✓", f"tinymoe runs on your own {', '.join(adopted)}."))


def started() -> bool:
    """Whether this process has looked for kept solutions yet."""
    return _started


def _adopt_kept(id: str) -> None:
    known = registry.find(id)
    body, checks = shelf.source(id), registry.checks_source(known)
    function = shelf.load(id)
    if not shelf.checked(id, checks):
        if failure := known.failure(function):
            raise RuntimeError(f'it fails "{failure.check}": {failure.problem}')
        _store(id, body, checks)
    _solved[id] = function
    if known.place:
        adoption.adopt(known.place, function)


def _go_on_with(known: Exercise, solved: Function | None, namespace: dict[str, Any]) -> Function:
    """What the decorated name means from here on: the solution if there is one, else the reference."""
    if known.place is None:
        return solved or known.answer
    if solved is not None:
        adoption.adopt(known.place, solved, namespace)
    # Inside decorators: the chapter goes on with what the package makes of it, such as a function of Tensors.
    return solved if solved is not None and known.place.bare else known.place.public


@contextmanager
def _bound(function: FunctionType) -> Iterator[None]:
    """Bind the function's name already, which Python does only after its decorators have run: it may call itself."""
    names, name = function.__globals__, function.__name__
    before = {name: names[name]} if name in names else {}
    if function.__qualname__ == name:
        names[name] = function
    try:
        yield
    finally:
        names.pop(name, None)
        names.update(before)


def _standing_in(known: Exercise) -> str:
    return "your earlier solution stands in" if known.id in _solved else "the reference stands in"


def failure_note(known: Exercise, failure: Failure) -> Note:
    """How a failed check is told."""
    values = {"given": failure.given, "expected": failure.expected, "got": failure.got, "printed": failure.printed}
    details = [(label, text.rstrip()) for label, text in values.items() if text.strip()]
    text = f'{known.id} fails "{failure.check}": {failure.problem}'
    return Note("✗", f"{text}\n({_standing_in(known)}; hint({known.id!r}) may help)", details)


def _keep(known: Exercise, function: FunctionType) -> str:
    """Write the solution down for the later chapters, if it can stand on its own; what to say about it."""
    try:
        body = kept_source(function, lambda id: registry.find(id).target)
        alone = shelf.run(body, f"<{known.id}>", known.id)
        if failure := known.failure(alone):
            raise CannotKeep(f"outside this notebook it fails: {failure.problem}")
        _store(known.id, body, registry.checks_source(known))
    except (CannotKeep, RuntimeError) as reason:
        now = "this chapter now runs on it, but it" if known.place else "it"
        return f"{now} is not kept for later chapters, because {reason}"
    return "the course now runs on it" if known.place else f"it is kept in {shelf.folder().name}"


def _store(id: str, body: str, checks: bytes) -> None:
    try:
        shelf.store(id, body, checks)
    except OSError as error:
        raise RuntimeError(f"{shelf.path(id).name} cannot be written: {error.strerror}") from error
