"""The Tensor and its tape: an array that remembers how it was computed, so that gradients can flow back.

Reverse mode (Linnainmaa 1970; Baydin et al. 2018, section 3.2): every operation leaves a node on the tape with the
nodes of its inputs and a function, its *vjp*, that turns the gradient of its output into those of its inputs.
The operations themselves stand in `ops.py`, in the table `OPS`.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .backend import ReferenceBackend, current
from .backend.reference import Array

Vjp = Callable[[Array], Sequence[Array | None]]
OPS: dict[str, Callable[..., tuple[Array, Vjp]]] = {}  # name -> forward; filled by ops.py

_counter = itertools.count()


def are_own(*functions: Callable[..., Any]) -> bool:
    """Whether functions are the package's, and do what they do there: one adopted in place of another leaves
    `__wrapped__`.

    Whatever stands in for several of them asks, so that what a learner has written is not passed over.
    """
    ours = all(function.__module__.startswith("tinymoe.") for function in functions)
    return ours and not any(hasattr(function, "__wrapped__") for function in functions)


class Context(NamedTuple):
    """What an operation may ask for: the backend, its array module, and which inputs need a gradient."""

    backend: ReferenceBackend
    xp: Any
    needs: tuple[bool, ...]


class Node:
    """One entry of the tape. `inputs` holds nodes, leaf tensors, or None for what needs no gradient."""

    __slots__ = ("index", "inputs", "keep_grad", "op", "output", "vjp")

    def __init__(self, op: str, inputs: list[Node | Tensor | None], vjp: Vjp, output: Tensor):
        self.index = next(_counter)  # later nodes never feed earlier ones, so this is a topological order
        self.op = op
        self.inputs = inputs
        self.vjp: Vjp | None = vjp
        self.output = weakref.ref(output)
        self.keep_grad = _state.tape is not None

    def pull_back(self, grad: Array, retain_graph: bool) -> Sequence[Array | None]:
        """The gradients of the inputs. RuntimeError when they were asked for before and what they need is gone."""
        if self.vjp is None:
            raise RuntimeError(
                "backward: this graph was already used; call backward(retain_graph=True) to use it twice"
            )
        grads = self.vjp(grad)
        if not retain_graph:
            self.vjp = None
        return grads


class Several(Node):
    """The entry of an operation with several results: it keeps their gradients until all have come.

    Each result has a node of its own that hands its gradient to this one; what comes with it is only a sign that this
    one is to be visited. The vjp takes the gradients of all results, None for one that has none.
    """

    __slots__ = ("given",)

    def __init__(self, op: str, inputs: list[Node | Tensor | None], vjp: Any, results: Sequence[Tensor]):
        super().__init__(op, inputs, vjp, Tensor.__new__(Tensor))  # which is nobody's
        self.given: list[Array | None] = [None] * len(results)
        for place, result in enumerate(results):
            result.node = Node(op, [self], partial(self._take, place), result)

    def _take(self, place: int, grad: Array) -> tuple[Array]:
        self.given[place] = grad
        return (np.zeros(()),)

    def pull_back(self, grad: Array, retain_graph: bool) -> Sequence[Array | None]:
        """As of any node, from all gradients that have come."""
        given, self.given = self.given, [None] * len(self.given)
        return super().pull_back(given, retain_graph)


class _State:
    grad_enabled = True
    tape: list[Tensor] | None = None


_state = _State()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside the block nothing is recorded: the right mode for evaluation and generation."""
    before, _state.grad_enabled = _state.grad_enabled, False
    try:
        yield
    finally:
        _state.grad_enabled = before


def is_grad_enabled() -> bool:
    """Whether operations are being recorded."""
    return _state.grad_enabled


def is_tape_kept() -> bool:
    """Whether somebody looks at the tape: see `keep_tape`."""
    return _state.tape is not None


@contextmanager
def keep_tape() -> Iterator[list[Tensor]]:
    """Keep every tensor computed in the block, and let `backward` fill in the gradient of each: for looking."""
    before, _state.tape = _state.tape, []
    try:
        yield _state.tape
    finally:
        _state.tape = before


class Operators:
    """Python's operators and the usual array methods: each is one operation of the table, recorded by `apply`."""

    __slots__ = ()
    __array_priority__ = 1000  # so that `array * tensor` is ours, not NumPy's
    ndim: int

    def __add__(self, other: Any) -> Tensor:
        return apply("add", self, other)

    def __sub__(self, other: Any) -> Tensor:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return apply("sub", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return apply("mul", self, other)

    def __truediv__(self, other: Any) -> Tensor:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return apply("div", other, self)

    def __pow__(self, exponent: float) -> Tensor:
        return apply("power", self, exponent=exponent)

    def __matmul__(self, other: Any) -> Tensor:
        return apply("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return apply("matmul", other, self)

    def __neg__(self) -> Tensor:
        return apply("neg", self)

    def __getitem__(self, index: Any) -> Tensor:
        return apply("getitem", self, index=index)

    __radd__ = __add__
    __rmul__ = __mul__

    def exp(self) -> Tensor:
        return apply("exp", self)

    def log(self) -> Tensor:
        return apply("log", self)

    def sqrt(self) -> Tensor:
        return apply("power", self, exponent=0.5)

    def tanh(self) -> Tensor:
        return apply("tanh", self)

    def sigmoid(self) -> Tensor:
        return apply("sigmoid", self)

    def relu(self) -> Tensor:
        return apply("relu", self)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return apply("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return apply("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return apply("max", self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return apply("reshape", self, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)

    def transpose(self, *axes: int) -> Tensor:
        return apply("transpose", self, axes=axes or tuple(range(self.ndim))[::-1])


class Tensor(Operators):
    """An array of the current backend with an optional gradient.

    `data` is the raw array; `grad`, an array of the same shape, is None until `backward` reaches a tensor made with
    `requires_grad=True`. NumPy float64 arrays keep their precision; Python numbers and lists become float32.
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        self.data = current().asarray(data)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(f"requires_grad: only float tensors have gradients, got dtype {self.data.dtype}")
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def T(self) -> Tensor:  # noqa: N802
        return self.transpose()

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array in main memory (no copy on the CPU backends)."""
        return current().to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor that holds exactly one."""
        return self.numpy().item()

    def detach(self) -> Tensor:
        """The same values with no history."""
        return Tensor(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.numpy()
        return values.copy() if copy and dtype is None else values.astype(dtype or values.dtype, copy=bool(copy))

    def __float__(self) -> float:
        return self.item()

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made_by = f", made by {self.node.op}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), precision=4, separator=', ', prefix='Tensor(')}{made_by})"

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Gradients of every leaf that this tensor was computed from: see the function `backward`."""
        backward(self, grad, retain_graph)

    def _accumulate(self, grad: Array) -> None:
        # The first gradient is copied when it is a view of somebody else's memory, which a later += would change.
        if self.grad is None:
            self.grad = grad if grad.base is None and grad.flags.owndata else grad.copy()
        else:
            self.grad = self.grad + grad


def apply(name: str, *inputs: Any, **options: Any) -> Tensor:
    """Run the operation `name` of the table on tensors, arrays or numbers, and record it where a gradient is wanted."""
    needs = tuple(_state.grad_enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs)
    backend = current()
    data, vjp = OPS[name](Context(backend, backend.xp, needs), *map(_raw, inputs), **options)
    out = Tensor.__new__(Tensor)
    out.data = data if data.ndim else backend.xp.asarray(data)  # NumPy turns 0-d results into bare numbers
    out.grad, out.node = None, None
    out.requires_grad = any(needs)
    if out.requires_grad:
        sources = [(x.node or x) if need else None for x, need in zip(inputs, needs, strict=True)]
        out.node = Node(name, sources, vjp, out)
        if _state.tape is not None:
            _state.tape.append(out)
    return out


def apply_several(name: str, *inputs: Any, **options: Any) -> tuple[Tensor, ...]:
    """As `apply`, for an operation with several results."""
    needs = tuple(_state.grad_enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs)
    backend = current()
    results: Any
    results, vjp = OPS[name](Context(backend, backend.xp, needs), *map(_raw, inputs), **options)
    outs = tuple(map(Tensor, results))
    if any(needs):
        for out in outs:
            out.requires_grad = True
        Several(name, [(x.node or x) if need else None for x, need in zip(inputs, needs, strict=True)], vjp, outs)
        if _state.tape is not None:
            _state.tape.extend(outs)
    return outs


def backward(
    root: Tensor,
    grad: Any = None,
    retain_graph: bool = False,
    deliver: Callable[[Tensor, Array], None] = Tensor._accumulate,
) -> None:
    """Add d(root)/d(leaf), times `grad`, to `leaf.grad` for every leaf that root was computed from.

    Nodes are visited from the newest to the oldest, so that each gradient is complete before it is passed on;
    what a node saved is released as soon as it has been used, unless `retain_graph`. `deliver(leaf, gradient)` is what
    adds it.

    Raises ValueError when root is not a scalar and no `grad` of its shape is given, RuntimeError when there is no
    graph, or when it has already been consumed.
    """
    if not root.requires_grad:
        raise RuntimeError("backward: this tensor was not computed from one with requires_grad=True")
    if grad is None and root.size != 1:
        raise ValueError(f"backward: a tensor of shape {root.shape} needs a `grad` of that shape")
    xp = current().xp
    grad = xp.ones_like(root.data) if grad is None else xp.asarray(_raw(grad), dtype=root.dtype)
    if grad.shape != root.shape:
        raise ValueError(f"backward: grad has shape {grad.shape}, expected {root.shape}")
    if root.node is None:
        deliver(root, grad)
        return

    waiting = {root.node.index: (root.node, grad)}
    newest = [-root.node.index]
    while newest:
        node, grad = waiting.pop(-heapq.heappop(newest))
        output = node.output()
        if node.keep_grad and output is not None:
            output._accumulate(grad)
        for source, source_grad in zip(node.inputs, node.pull_back(grad, retain_graph), strict=True):
            if source is None or source_grad is None:
                continue
            if isinstance(source, Tensor):
                # A sum hands its own gradient on: a leaf must not share it with anybody.
                deliver(source, source_grad.copy() if source_grad is grad else source_grad)
            elif source.index in waiting:
                # Not in place: two nodes may have handed on the very same array.
                waiting[source.index] = (source, waiting[source.index][1] + source_grad)
            else:
                waiting[source.index] = (source, source_grad)
                heapq.heappush(newest, -source.index)


def _raw(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x
