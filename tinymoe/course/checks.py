"""The checks that an exercise is made of.

    EXERCISES = [
        Exercise(
            id="03.rms_norm", title="...", target="ops.py::rms_norm", hints=["..."],
            checks=[
                matches("one row", [case(np.array([[3.0, 4.0]]), np.ones(2))]),
                matches("random rows", lambda rng, size: case(rng.normal(size=(size, 3)), np.ones(3)), count=10),
                gradients("its vjp", [case(np.array([[1.0, -2.0]]), np.array([0.5, 2.0]))]),
                raises("a weight of another width", ValueError, [case(np.ones((1, 3)), np.ones(2))]),
                holds("every row comes out with mean square 1", mean_square_is_one),
            ],
        ),
    ]

List checks and cases from small to large: the first one that fails is the one that is shown. Every call gets its own
copies of the arguments, under the NumPy backend. Where the reference's first parameter is `ctx`, as in operations,
cases leave it out.
"""

from __future__ import annotations

import inspect
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from tinymoe.backend import current, using
from tinymoe.tensor import Context, Tensor

from .calling import Attempt, TimeUp, attempt
from .values import clone, difference, show

Function = Callable[..., Any]

SHRINKING = 3.0  # seconds spent on looking for a smaller failing case


@dataclass(frozen=True)
class Case:
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def case(*args: Any, **kwargs: Any) -> Case:
    """The arguments of one call, written as in the call."""
    return Case(args, kwargs)


RandomCase = Callable[[np.random.Generator, int], Case]


@dataclass(frozen=True)
class Failure:
    """What a check found wrong: the problem in a line, and as far as they apply what was given, expected and got."""

    problem: str
    given: str = ""
    expected: str = ""
    got: str = ""
    printed: str = ""
    check: str = ""


class Wrong(Exception):  # noqa: N818 - raised by a check, told to the learner as a failure
    """Carries a Failure out of a check."""

    def __init__(self, failure: Failure):
        super().__init__(failure.problem)
        self.failure = failure


@dataclass(frozen=True)
class Check:
    """One thing a right answer does. Made by `matches`, `gradients`, `raises` and `holds`."""

    name: str
    run: Callable[[Trial], None]  # raises Wrong


@dataclass(frozen=True)
class Trial:
    """A function on trial against a reference, each run in the place that the function is written for."""

    id: str
    function: Function
    reference: Function
    seconds: float
    running: Callable[[Function | None], AbstractContextManager[None]]

    def failure(self, checks: Sequence[Check]) -> Failure | None:
        """The first check that fails, as a Failure; None when all pass."""
        with using("numpy"):
            for check in [Check("its parameters", _same_parameters), *checks]:
                try:
                    check.run(self)
                except Wrong as wrong:
                    return replace(wrong.failure, check=check.name)
        return None

    def call(self, case: Case) -> Attempt:
        """Call the learner's function."""
        with self.running(self.function):
            return self._call(self.function, case)

    def expect(self, case: Case) -> Attempt:
        """Call the reference. Raises RuntimeError where it fails, which is a fault of the exercise."""
        with self.running(None):
            done = self._call(self.reference, case)
        if done.error is not None:
            raise RuntimeError(
                f"exercise {self.id}: the reference fails on {self.given(case)}: {done.trouble}"
            ) from done.error
        return done

    def given(self, case: Case) -> str:
        """The arguments as text, with their names."""
        return "\n".join(f"{name} = {show(value)}" for name, value in self.named(case).items())

    def named(self, case: Case) -> dict[str, Any]:
        """The arguments by the names of the reference's parameters."""
        parameters = _parameters(self.reference)
        names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        names = names[self.is_op :]
        positional = {names[i] if i < len(names) else f"argument {i + 1}": a for i, a in enumerate(case.args)}
        return {**positional, **case.kwargs}

    @property
    def is_op(self) -> bool:
        """Whether the reference is the inner function of an operation, which a Context is passed to first."""
        return next(iter(_parameters(self.reference)), "") == "ctx"

    def _call(self, function: Function, case: Case) -> Attempt:
        if not self.is_op:
            return attempt(function, case.args, case.kwargs, self.seconds)
        context = Context(current(), current().xp, (True,) * len(case.args))
        done = attempt(function, (context, *case.args), case.kwargs, self.seconds)
        return replace(done, args=done.args[1:])


def matches(
    name: str,
    cases: Sequence[Case] | RandomCase,
    *,
    count: int = 20,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    in_place: bool = False,
    read: Function | None = None,
) -> Check:
    """Values, shapes and dtypes equal the reference's, on the cases given, or on `count` random ones.

    Random cases come from `cases(rng, size)`, with sizes from 1 to `count`. The arguments must come out unchanged;
    `in_place=True` says instead that they change as the reference changes them. `read` turns an answer into what is
    compared, where that is not the answer itself. Of an answer (out, vjp), `out` is compared here and the vjp by
    `gradients`.
    """

    def one(trial: Trial, case: Case) -> None:
        wanted, done = trial.expect(case), trial.call(case)
        _no_error(trial, case, done, show(wanted.value))
        expected, got = wanted.value, done.value
        if read is not None:
            expected = read(clone(expected))
            reading = attempt(read, (got,), seconds=trial.seconds)
            _no_error(trial, case, replace(reading, printed=done.printed), show(expected))
            got = reading.value
        if _is_op_result(expected):
            if not _is_op_result(got):
                _wrong("expected the result and its vjp, (out, vjp)", trial, case, done, show(expected), show(got))
            expected, got = expected[0], got[0]
        if problem := difference(expected, got, rtol, atol):
            _wrong(problem, trial, case, done, show(expected), show(got))
        _same_arguments(trial, case, wanted, done, in_place, rtol, atol)

    def run(trial: Trial) -> None:
        if not callable(cases):
            for case in cases:
                one(trial, case)
            return
        seed = zlib.crc32(f"{trial.id} {name}".encode())
        for size in range(1, count + 1):
            try:
                one(trial, cases(np.random.default_rng([seed, size]), size))
            except Wrong as wrong:
                if TimeUp.__name__ != wrong.failure.got:
                    _smaller(cases, size, seed, lambda case: one(trial, case))
                raise

    return Check(name, run)


def gradients(name: str, cases: Sequence[Case], *, rtol: float = 1e-4, atol: float = 1e-6, step: float = 1e-5) -> Check:
    """Gradients equal finite differences of the reference in float64, for every float array among the arguments.

    For functions that return (out, vjp), and for functions of Tensors. Keep the cases small, and away from kinks.
    """

    def one(trial: Trial, case: Case) -> None:
        wanted, done = trial.expect(case), trial.call(case)
        _no_error(trial, case, done, show(wanted.value))
        upstream = np.random.default_rng(0).normal(size=_output(wanted.value).shape)
        given = f"{trial.given(case)}\ngradient of the result = {show(upstream)}"
        pulled = attempt(lambda: _pull_back(done, upstream), seconds=trial.seconds, author=trial.function)
        if pulled.error is not None:
            raise Wrong(Failure(f"its gradient fails: {pulled.trouble}", given, printed=pulled.printed))
        expected = _pull_back(wanted, upstream)
        if len(pulled.value) != len(expected):
            problem = f"expected {len(expected)} gradients, one for each array, got {len(pulled.value)}"
            raise Wrong(Failure(problem, given, printed=done.printed))
        for number, argument in enumerate(list(trial.named(case))[: len(expected)]):
            if expected[number] is None:
                continue
            slope, got = _finite_differences(trial, case, number, upstream, step), pulled.value[number]
            if problem := difference(slope, got, rtol, atol):
                problem = f"gradient of {argument}: {problem}"
                raise Wrong(Failure(problem, given, show(slope), show(got), done.printed))

    def run(trial: Trial) -> None:
        for case in cases:
            one(trial, Case(tuple(map(_as_float64, case.args)), case.kwargs))

    return Check(name, run)


def raises(name: str, error: type[Exception], cases: Sequence[Case]) -> Check:
    """Each case is answered by that exception, with a message that says something."""

    def run(trial: Trial) -> None:
        for case in cases:
            done = trial.call(case)
            wanted = f"{error.__name__} with a message"
            if not isinstance(done.error, error):
                got = done.trouble or show(done.value)
                _wrong(f"it should raise {error.__name__}", trial, case, done, wanted, got)
            if not str(done.error):
                _wrong("the exception has no message", trial, case, done, wanted, done.trouble)

    return Check(name, run)


def holds(name: str, test: Callable[[Function], str | None]) -> Check:
    """A property: `test(function)` returns None, or the problem in a line, or calls `wrong(...)` to say more."""

    def run(trial: Trial) -> None:
        with trial.running(trial.function):
            done = attempt(test, (trial.function,), seconds=trial.seconds, author=trial.function)
        if isinstance(done.error, Wrong):
            raise Wrong(replace(done.error.failure, printed=done.printed))
        problem = done.trouble or done.value
        if problem is not None:
            raise Wrong(Failure(problem, printed=done.printed))

    return Check(name, run)


def wrong(problem: str, **values: Any) -> NoReturn:
    """Inside the test of `holds`: say what is wrong. `given`, `expected` and `got` are shown, a str as it is."""
    texts = {name: value if isinstance(value, str) else show(value) for name, value in values.items()}
    raise Wrong(Failure(problem, **texts))


def _is_op_result(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and callable(value[1])


def _output(value: Any) -> Any:
    return value[0] if _is_op_result(value) else value


def _wrong(problem: str, trial: Trial, case: Case, done: Attempt, expected: str, got: str) -> NoReturn:
    raise Wrong(Failure(problem, trial.given(case), expected, got, done.printed))


def _no_error(trial: Trial, case: Case, done: Attempt, expected: str) -> None:
    if done.error is not None:
        _wrong(done.trouble, trial, case, done, expected, type(done.error).__name__)


def _smaller(cases: RandomCase, size: int, seed: int, one: Callable[[Case], None]) -> None:
    """Look among cases smaller than the one that failed: the first that fails too is raised in its place."""
    end = time.monotonic() + SHRINKING
    for smaller in range(1, size):
        for turn in range(1, 11):
            if time.monotonic() < end:
                one(cases(np.random.default_rng([seed, smaller, turn]), smaller))


def _same_arguments(
    trial: Trial, case: Case, wanted: Attempt, done: Attempt, in_place: bool, rtol: float, atol: float
) -> None:
    after = trial.named(Case(done.args, done.kwargs))
    reference = trial.named(Case(wanted.args, wanted.kwargs))
    for name, value in trial.named(case).items():
        if not _is_data(value):
            continue
        if in_place:
            if problem := difference(reference[name], after[name], rtol, atol):
                problem = f"{name} afterwards: {problem}"
                _wrong(problem, trial, case, done, show(reference[name]), show(after[name]))
        elif difference(value, reference[name], 0, 0):
            raise RuntimeError(f"exercise {trial.id}: the reference changes {name}; say in_place=True")
        elif difference(value, after[name], 0, 0):
            _wrong(f"it changes its argument {name}", trial, case, done, show(value), show(after[name]))


def _is_data(value: Any) -> bool:
    if isinstance(value, (list, tuple, set)):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(map(_is_data, value.values()))
    return isinstance(value, (np.ndarray, Tensor, int, float, str, bytes, type(None)))


def _as_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Tensor(value.data.astype(np.float64), requires_grad=True) if value.dtype.kind == "f" else value
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return value


def _pull_back(done: Attempt, upstream: np.ndarray) -> list[Any]:
    """The gradients of a call's arguments, None where there is none: by its vjp, or by `backward`."""
    if _is_op_result(done.value):
        return list(done.value[1](upstream))
    done.value.backward(upstream)
    return [getattr(arg, "grad", None) for arg in done.args]


def _finite_differences(trial: Trial, case: Case, number: int, upstream: np.ndarray, step: float) -> np.ndarray:
    def loss() -> float:
        return float((np.asarray(_output(trial.expect(case).value)) * upstream).sum())

    array = case.args[number].data if isinstance(case.args[number], Tensor) else case.args[number]
    slope = np.zeros_like(array)
    for where in np.ndindex(array.shape):
        middle = array[where]
        array[where] = middle + step
        above = loss()
        array[where] = middle - step
        slope[where] = (above - loss()) / (2 * step)
        array[where] = middle
    return slope


def _parameters(function: Function) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _same_parameters(trial: Trial) -> None:
    """The learner's function takes what the reference takes, by the same names and with the same defaults."""
    theirs, mine = _parameters(trial.reference), _parameters(trial.function)
    rest = [parameter for parameter in mine.values() if parameter.kind is parameter.VAR_KEYWORD]
    order = [name for name, parameter in mine.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    for position, (name, parameter) in enumerate(theirs.items()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or (rest and name not in mine):
            continue
        if name not in mine:
            problem = f"the parameter {name} is missing"
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and order[position : position + 1] != [name]:
            problem = f"the parameter {name} should be number {position + 1}"
        elif repr(parameter.default) != repr(mine[name].default):
            problem = f"the parameter {name} has another default"
        else:
            continue
        raise Wrong(Failure(problem, "", _signature(trial.reference), _signature(trial.function)))
    for name, parameter in mine.items():
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in theirs and not optional and parameter.default is parameter.empty:
            problem = f"the parameter {name} is one too many"
            raise Wrong(Failure(problem, "", _signature(trial.reference), _signature(trial.function)))


def _signature(function: Function) -> str:
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    parameters = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    return f"{function.__name__}{parameters}"
