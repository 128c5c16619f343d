"""A window into a running model: layers offer what they compute, and it is kept only while somebody looks.

`record` offers arrays, for looking at; for training, `contribute` offers losses of a layer's own, and
`contribute_jointly` what a loss of several layers is computed from.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Protocol, Self

import numpy as np

from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor, is_grad_enabled


class Joint(Protocol):
    """A layer's part of a joint loss, from some of the texts of a batch."""

    def tensors(self) -> list[Tensor]:
        """The tensors in it."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """The part of all texts, from that of these texts and of those that follow."""
        ...


JointLoss = Callable[[list[Any], Array | None], Tensor]


@dataclass
class Offers:
    """What layers have offered: losses of their own, and values by the joint loss that they are for."""

    mask: Array | None = None
    losses: list[Tensor] = field(default_factory=list)
    joint: dict[JointLoss, list[Joint]] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        return [*self.losses, *(t for values in self.joint.values() for value in values for t in value.tensors())]


class _Open(threading.local):
    """What is being collected in this thread."""

    records: dict[str, list[np.ndarray]] | None = None
    offers: Offers | None = None


_open = _Open()


@contextmanager
def recording() -> Iterator[dict[str, list[np.ndarray]]]:
    """Collect what `record` is offered inside the block: name -> one NumPy array for each layer, in order."""
    before, _open.records = _open.records, defaultdict(list)
    try:
        yield _open.records
    finally:
        _open.records = before


def is_recording() -> bool:
    """Whether somebody looks."""
    return _open.records is not None


def record(name: str, value: Callable[[], Array]) -> None:
    """Offer a value; it is computed only if somebody is recording."""
    if _open.records is not None:
        _open.records[name].append(np.array(current().to_numpy(value())))


@contextmanager
def offered(mask: Array | None = None) -> Iterator[Offers]:
    """Collect what layers offer inside the block, for some of the texts of a batch: see `collecting` and `absorb`."""
    before = _open.offers
    _open.offers = offers = Offers(None if mask is None else current().asarray(mask))
    try:
        yield offers
    finally:
        _open.offers = before


@contextmanager
def collecting(mask: Array | None = None) -> Iterator[list[Tensor]]:
    """Collect the losses that layers contribute inside the block: scalars, in order, joint ones at its end.

    mask (B, T) is 0 for tokens that are padding, which joint losses and the load of experts leave out.
    """
    with offered(mask) as offers:
        yield offers.losses
        offers.losses += [loss(values, mask) for loss, values in offers.joint.items()]


def absorb(parts: Sequence[Offers], shares: Sequence[float]) -> None:
    """Offer what several parts of a batch have offered apart, as the whole batch would have; `shares` of its texts."""
    if _open.offers is None:
        return
    for losses in zip(*(part.losses for part in parts), strict=True):
        _open.offers.losses.append(reduce(add, (loss * share for loss, share in zip(losses, shares, strict=True))))
    for loss in parts[0].joint:
        layers = zip(*(part.joint[loss] for part in parts), strict=True)
        _open.offers.joint.setdefault(loss, []).extend(first.join(others) for first, *others in layers)


def counted() -> Array | None:
    """The mask (B, T) that `collecting` was given, 0 for tokens that are padding; None where none was."""
    return None if _open.offers is None else _open.offers.mask


def contribute(loss: Callable[[], Tensor]) -> None:
    """Offer a loss of a layer's own, a scalar, and a mean over the texts of the batch.

    It is computed only if somebody collects, and gradients are recorded.
    """
    if _open.offers is not None and is_grad_enabled():
        _open.offers.losses.append(loss())


def contribute_jointly(loss: JointLoss, value: Callable[[], Joint]) -> None:
    """Offer a layer's part of a loss that is computed once, as loss(values, mask), from the values of all layers.

    Layers whose losses are equal share one.
    """
    if _open.offers is not None and is_grad_enabled():
        _open.offers.joint.setdefault(loss, []).append(value())
