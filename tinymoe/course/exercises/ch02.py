"""Exercises of chapter 02: the gradient machine, from nudging weights to an operation of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymoe.backend import current
from tinymoe.tensor import OPS, Context

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """How fast f(x), one number, changes with each entry of x: nudge it up, nudge it down, compare."""
    slope = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += eps
        down[i] -= eps
        slope[i] = (f(up) - f(down)) / (2 * eps)
    return slope


def square(x: np.ndarray) -> float:
    return float((x * x).sum())


def product(x: np.ndarray) -> float:
    return float(x.prod())


def cubes_times_rank(x: np.ndarray) -> float:
    return float((np.arange(1, x.size + 1) * x.ravel() ** 3).sum())


def _random_matrix(rng: np.random.Generator, size: int) -> Case:
    return case(cubes_times_rank, rng.normal(size=(size, 2)).round(2))


def reverse_order(root: Any) -> list[Any]:
    """The nodes that `root` was computed from, root first, each one before all of its `inputs`."""
    finished, seen = [], set()
    waiting = [(root, False)]
    while waiting:
        node, inputs_done = waiting.pop()
        if inputs_done:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(source, False) for source in node.inputs]
    return finished[::-1]


class Box:
    """A node with a name, to see orders by."""

    def __init__(self, name: str, inputs: Sequence[Box] = ()):
        self.name, self.inputs = name, tuple(inputs)

    def __repr__(self) -> str:
        return self.name


def graph(text: str) -> Box:
    """The last node of `"a; b = a; c = b a"`."""
    boxes: dict[str, Box] = {}
    name = ""
    for part in text.split(";"):
        name, _, inputs = (word.strip() for word in part.partition("="))
        boxes[name] = Box(name, [boxes[source] for source in inputs.split()])
    return boxes[name]


def ladder(rungs: int) -> str:
    """A node that uses the one before it twice, which uses the one before that twice, and so on."""
    return "; ".join(["x0", *(f"x{i + 1} = x{i} x{i}" for i in range(rungs))])


def in_order(text: str) -> Callable[[Callable[[Box], list[Box]]], None]:
    """A test that a function orders this graph."""

    def test(order: Callable[[Box], list[Box]]) -> None:
        root = graph(text)
        given = f"the graph {text if len(text) < 200 else text[:200] + ' …'}, from its last node"
        got = order(root)
        if not isinstance(got, (list, tuple)) or not all(isinstance(node, Box) for node in got):
            wrong("expected a list of nodes", given=given, got=got)
        names = ", ".join(node.name for node in got[:20]) + " …" * (len(got) > 20)
        if len(set(got)) < len(got):
            twice = next(node for node in got if got.count(node) > 1)
            wrong(f"the node {twice} comes {got.count(twice)} times, expected once", given=given, got=names)
        place = {node: i for i, node in enumerate(got)}
        if missing := [node for node in reverse_order(root) if node not in place]:
            wrong(f"the node {missing[0]} is missing", given=given, got=names)
        for node in got:
            for source in node.inputs:
                if place[source] < place[node]:
                    wrong(f"{source} comes before {node}, which uses it", given=given, got=names)

    return test


def _broadcast(rng: np.random.Generator, size: int) -> Case:
    shape = tuple(int(n) for n in rng.integers(1, 4, size=int(rng.integers(1, 4))))
    kept = shape[int(rng.integers(0, len(shape))) :]
    like = tuple(n if rng.random() < 0.6 else 1 for n in kept)
    return case(rng.normal(size=shape).round(2), np.ones(like))


def _stays_finite(function: Any) -> None:
    """An activation meets large numbers in a network that learns; nothing of it may overflow."""
    a = np.array([-200.0, 200.0], dtype=np.float32)
    out, vjp = function(_context(), a)
    (slope,) = vjp(np.ones_like(a))
    if not np.isfinite(out).all():
        wrong("the result is not finite for large inputs", given=a, got=out)
    if not np.isfinite(slope).all():
        wrong("the gradient is not finite for large inputs", given=a, got=slope)


def _context() -> Context:
    return Context(current(), current().xp, (True,))


_AWAY_FROM_KINKS = np.array([[-2.71, -1.43, -0.37], [0.21, 0.83, 1.87]])


def _is_an_operation(function: Any) -> None:
    for dtype in (np.float64, np.float32):
        a = _AWAY_FROM_KINKS.astype(dtype)
        before, result = a.copy(), function(_context(), a)
        if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
            wrong("expected the result and its vjp, (out, vjp)", given=before, got=result)
        out, vjp = result
        _same_kind("the result", out, before)
        gradient = vjp(np.ones_like(a))
        if not (isinstance(gradient, (tuple, list)) and len(gradient) == 1):
            wrong("the vjp should return one gradient in a tuple, (da,)", given=before, got=gradient)
        _same_kind("the gradient", gradient[0], before)
        if (a != before).any():
            wrong("it changes its argument", given=before, got=a)


def _same_kind(what: str, got: Any, like: np.ndarray) -> None:
    if not isinstance(got, np.ndarray) or got.shape != like.shape or got.dtype != like.dtype:
        wrong(f"{what} should have the shape {like.shape} and the dtype {like.dtype} of a", given=like, got=got)


def _has_its_own_gradient(function: Any) -> None:
    """Against finite differences of the learner's own forward."""
    a = _AWAY_FROM_KINKS
    out, vjp = function(_context(), a.copy())
    g = np.random.default_rng(0).normal(size=out.shape).round(2)
    (got,) = vjp(g)
    expected = numerical_gradient(lambda x: float((function(_context(), x)[0] * g).sum()), a)
    if not np.allclose(got, expected, rtol=1e-4, atol=1e-6):
        given = f"a = {a.tolist()}\ngradient of the result = {g.tolist()}"
        wrong("the vjp differs from finite differences of your own result", given=given, expected=expected, got=got)


def _is_new(function: Any) -> None:
    a = _AWAY_FROM_KINKS
    out = function(_context(), a.copy())[0]
    line = np.polynomial.Polynomial.fit(a.ravel(), out.ravel(), 1)
    if np.allclose(line(a), out):
        wrong(
            "it is a straight line: layers with nothing bent between them are no more than one layer", given=a, got=out
        )
    for name in ("tanh", "sigmoid", "relu", "silu", "exp", "softmax", "log_softmax"):
        if np.allclose(OPS[name](_context(), a.copy())[0], out):
            wrong(f"that is {name}, which the table has already; write one that it does not have")


def my_activation(ctx: Any, a: Any) -> Any:
    """GELU (Hendrycks and Gimpel 2016), in the tanh form that GPT-2 uses."""
    c = math.sqrt(2 / math.pi)
    square = a * a
    t = ctx.xp.tanh(c * a * (1 + 0.044715 * square))

    def vjp(g: Any) -> tuple[Any]:
        return (g * 0.5 * (1 + t + c * a * (1 - t * t) * (1 + 3 * 0.044715 * square)),)

    return 0.5 * a * (1 + t), vjp


EXERCISES = [
    Exercise(
        id="02.numerical_gradient",
        title="Gradients by nudging",
        reference=numerical_gradient,
        checks=[
            matches("a single number", [case(square, np.array(3.0))]),
            matches("two numbers", [case(product, np.array([2.0, 5.0]))]),
            matches("matrices", _random_matrix, count=4, rtol=1e-6),
            matches("another nudge", [case(cubes_times_rank, np.array([1.0, 2.0]), eps=0.5)]),
        ],
        hints=[
            "Go through the entries of x one by one: `for i in np.ndindex(x.shape)` gives every index.",
            "Work on copies: `up = x.copy(); up[i] += eps`, and `down` likewise, so that x itself comes out unchanged.",
            "The slope at i is `(f(up) - f(down)) / (2 * eps)`; the two nudges are 2 * eps apart.",
        ],
    ),
    Exercise(
        id="02.reverse_order",
        title="Every node after all that use it",
        reference=reverse_order,
        seconds=2.0,
        checks=[
            holds("a single node", in_order("a")),
            holds("a chain", in_order("a; b = a; c = b")),
            holds("the same input twice", in_order("a; b = a a")),
            holds("a diamond", in_order("a; b = a; c = a; d = b c")),
            holds("a long arm and a short one", in_order("a; b = a; c = b; d = c a")),
            holds("the short arm first", in_order("a; b = a; c = b; d = a c")),
            holds("a diamond on a stem", in_order("w; x; p = w x; a = p; b = a p; c = b a; d = c x; e = d p w")),
            holds("a ladder of 50 rungs", in_order(ladder(50))),
        ],
        hints=[
            "Turn it round: first find an order in which each node comes after all of its inputs; then reverse it.",
            "Visit depth-first: visit(node) does nothing for a node that was visited before, else it visits all the "
            "inputs and only then appends the node to a list.",
            "def visit(node): if node not in seen: seen.add(node); for each source in node.inputs: visit(source); "
            "order.append(node).   At the end return order[::-1].",
        ],
    ),
    Exercise(
        id="02.unbroadcast",
        title="The vjp of copying",
        target="ops.py::unbroadcast",
        checks=[
            matches("nothing was copied", [case(np.arange(6.0).reshape(2, 3), np.ones((2, 3)))]),
            matches("a row, copied to every line", [case(np.arange(6.0).reshape(2, 3), np.ones(3))]),
            matches("a column, copied to the right", [case(np.arange(6.0).reshape(2, 3), np.ones((2, 1)))]),
            matches("a Python number", [case(np.arange(6.0).reshape(2, 3), 1.0)]),
            matches("new axes and stretched ones", [case(np.arange(24.0).reshape(2, 3, 4), np.ones((3, 1)))]),
            matches("any shapes that broadcast", _broadcast, count=30),
        ],
        hints=[
            "There are two ways in which NumPy copies: it puts new axes in front, and it stretches axes of length 1.",
            "First sum away the new axes: there are `g.ndim - len(shape)` of them, all in front.",
            "Then sum with `keepdims=True` over each axis where shape has 1 and g has more, so that the 1 stays. "
            "A Python number has no shape: `getattr(like, 'shape', ())`.",
        ],
    ),
    Exercise(
        id="02.silu",
        title="The vjp of silu",
        target="ops.py::silu",
        checks=[
            matches("its values", [case(np.array([-1.0, 0.0, 2.0]))]),
            matches("large inputs, in float32", [case(np.array([-100.0, 100.0], dtype=np.float32))]),
            gradients("its gradient", [case(np.array([0.0])), case(np.array([[-1.2, 0.3], [0.9, 2.0]]))]),
        ],
        hints=[
            "It is a product, a · s(a): its slope is 1 · s + a · (slope of s).",
            "The slope of the sigmoid is s · (1 - s). You have s already. Together: s + a · s · (1 - s).",
            "The vjp gets g, the gradient of the result, and multiplies it with the slope, entry by entry: "
            "da = g * s * (1 + a * (1 - s)).",
        ],
    ),
    Exercise(
        id="02.log_softmax",
        title="The vjp of log-softmax",
        target="ops.py::log_softmax",
        checks=[
            matches("two numbers", [case(np.array([[0.0, math.log(3.0)]]))]),
            matches("large logits", [case(np.array([[1000.0, 0.0]])), case(np.array([[-1000.0, -1001.0]]))]),
            gradients("one row", [case(np.array([[0.5, -0.3, 1.2]]))]),
            gradients("rows do not mix", [case(np.array([[0.5, -0.3], [2.0, 0.1], [-1.0, 1.0]]))]),
            gradients("more axes", [case(np.linspace(-1, 1, 12).reshape(2, 3, 2))]),
        ],
        hints=[
            "Each result is y_i = a_i - log(sum_j exp(a_j)). How does y_i change with a_i itself? And with a_k?",
            "a_k reaches y_k with slope 1, and every y_i with slope -p_k, where p = softmax(a) = exp(y). "
            "So its gradient is g_k - p_k · (sum of all g_i).",
            "da = g - ctx.xp.exp(y) * g.sum(axis=-1, keepdims=True)",
        ],
    ),
    Exercise(
        id="02.my_activation",
        title="An operation of your own",
        reference=my_activation,
        checks=[
            holds("it is an operation", _is_an_operation),
            holds("its vjp", _has_its_own_gradient),
            holds("large inputs", _stays_finite),
            holds("it is new", _is_new),
        ],
        hints=[
            "Take a curve that you can differentiate on paper: softplus log(1 + exp(a)), a · tanh(a), sin(a), a leaky "
            "relu, or GELU. Write the forward first, then its slope.",
            "Return (out, vjp), with vjp = lambda g: (g * slope,) for an operation that works entry by entry.",
            "Does the check complain about large inputs? exp(200) overflows. `ctx.xp.logaddexp(0, a)` is softplus "
            "without overflow, and `ctx.backend.sigmoid(a)` is its slope.",
        ],
    ),
]
