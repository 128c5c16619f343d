"""Module: a named tree of parameters. And the two parts every model begins and ends with."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..tensor import Tensor


class Parameter(Tensor):
    """A leaf tensor that is trained."""

    __slots__ = ()

    def __init__(self, data: Any):
        super().__init__(data, requires_grad=True)


class Module:
    """Holds parameters and other modules as plain attributes; a list of modules is a plain list.

    A parameter's name is its path, `layers.0.self_attn.q_proj.weight`: the names that Hugging Face files use, so that
    for Llama a checkpoint's names are the model's own.
    """

    idle = 0  # numbers of this module's own that a token leaves unused: experts it is not sent to
    whole_batch = False  # whether what it does with a text depends on the other texts of the batch

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter under this module with its path, in the order the attributes were set."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item.named_parameters(f"{prefix}{name}.{i}.")

    def modules(self) -> Iterator[Module]:
        """This module and every one under it."""
        yield self
        for value in vars(self).values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Module):
                    yield from item.modules()

    def after_step(self) -> dict[str, Any]:
        """Called on every module after each step of training: what it then does, and figures it has to report."""
        return {}

    def parameters(self) -> list[Parameter]:
        """Every parameter once, also where two names share one (tied embeddings)."""
        return list({id(p): p for _, p in self.named_parameters()}.values())

    def num_parameters(self, active: bool = False) -> int:
        """How many numbers are trained; shared ones count once. active: only those that one token makes use of."""
        total = int(np.sum([p.size for p in self.parameters()], dtype=np.int64))
        return total - sum(module.idle for module in self.modules()) if active else total


PARTS: dict[tuple[str, str], Callable[..., Any]] = {}  # (kind, name) -> what makes it; filled by `part`


def part(kind: str, name: str) -> Callable[[Any], Any]:
    """Enter a class in the table of parts, so that a config can ask for it by name: `norm="rms_norm"`.

    All parts of a kind are made with the same arguments.
    """

    def enter(maker: Any) -> Any:
        PARTS[kind, name] = maker
        return maker

    return enter


def make(kind: str, name: str, *arguments: Any, **options: Any) -> Any:
    """The part of this kind and name. Raises ValueError, listing those there are, for a name that is unknown."""
    if (kind, name) not in PARTS:
        known = sorted(other for its_kind, other in PARTS if its_kind == kind)
        raise ValueError(f"{kind}: got {name!r}, expected one of {', '.join(known)}")
    return PARTS[kind, name](*arguments, **options)


_shapes_only = False


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside the block new parameters have a shape but take no memory: for counting, or to be filled from a file."""
    global _shapes_only
    before, _shapes_only = _shapes_only, True
    try:
        yield
    finally:
        _shapes_only = before


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> Parameter:
    """A parameter drawn from a normal distribution of mean 0, in float32."""
    return _parameter(shape, lambda: rng.standard_normal(shape, dtype=np.float32) * np.float32(std))


def constant(shape: tuple[int, ...], value: float) -> Parameter:
    """A parameter filled with one value, in float32."""
    return _parameter(shape, lambda: np.full(shape, value, dtype=np.float32))


def _parameter(shape: tuple[int, ...], values: Callable[[], np.ndarray]) -> Parameter:
    if not _shapes_only:
        return Parameter(current().asarray(values()))
    parameter = Parameter(np.float32(0))
    parameter.data = _outline(shape)  # one number, seen shape-many times
    return parameter


def _outline(shape: tuple[int, ...]) -> Any:
    if 4 * math.prod(shape) <= sys.maxsize:
        return np.broadcast_to(np.float32(0), shape)
    return _Outline(shape)  # with 32 bits, as in a browser, NumPy cannot count so far, even if there is nothing to hold


class _Outline:
    """Stands for an array of float32 that is too large to be one."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.ndim, self.size = shape, len(shape), math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]


class Linear(Module):
    """y = x weight^T + bias, with weight (out_features, in_features)."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, rng: np.random.Generator, std: float = 0.02
    ):
        self.weight = normal(rng, (out_features, in_features), std)
        if bias:
            self.bias = constant((out_features,), 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        return ops.linear(x, self.weight, self.bias) if hasattr(self, "bias") else ops.linear(x, self.weight)


def are_plain(*layers: Module) -> bool:
    """Whether each layer is a matrix and nothing else."""
    return all(type(layer) is Linear and not hasattr(layer, "bias") for layer in layers)


def linears(x: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """What several layers make of the same x: in one operation, if all are plain."""
    if are_plain(*layers):
        return ops.linears(x, *(layer.weight for layer in layers))
    return tuple(layer(x) for layer in layers)


class Embedding(Module):
    """A table with one row a token: weight (num_embeddings, embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rng: np.random.Generator, std: float = 0.02):
        self.weight = normal(rng, (num_embeddings, embedding_dim), std)

    def __call__(self, ids: Any) -> Tensor:
        """ids (...) of integers -> (..., embedding_dim)."""
        return ops.embedding(self.weight, ids=ids)
