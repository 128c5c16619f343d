"""A window into a running model: layers offer what they compute, and it is kept only while somebody looks.

`record` offers arrays, for looking at; for training, `contribute` offers losses of a layer's own, and
`contribute_jointly` what a loss of several layers is computed from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor, is_grad_enabled

_records: dict[str, list[np.ndarray]] | None = None
_losses: list[Tensor] | None = None
_joint: dict[Callable[[list[Any], Array | None], Tensor], list[Any]] = {}
_mask: Array | None = None


@contextmanager
def recording() -> Iterator[dict[str, list[np.ndarray]]]:
    """Collect what `record` is offered inside the block: name -> one NumPy array for each layer, in order."""
    global _records
    before, _records = _records, defaultdict(list)
    try:
        yield _records
    finally:
        _records = before


def record(name: str, value: Callable[[], Array]) -> None:
    """Offer a value; it is computed only if somebody is recording."""
    if _records is not None:
        _records[name].append(np.array(current().to_numpy(value())))


@contextmanager
def collecting(mask: Array | None = None) -> Iterator[list[Tensor]]:
    """Collect the losses that layers contribute inside the block: scalars, in order, joint ones at its end.

    mask (B, T) is 0 for tokens that are padding, which joint losses and the load of experts leave out.
    """
    global _losses, _joint, _mask
    before = _losses, _joint, _mask
    _losses, _joint, _mask = [], {}, None if mask is None else current().asarray(mask)
    try:
        yield _losses
        _losses += [loss(values, mask) for loss, values in _joint.items()]
    finally:
        _losses, _joint, _mask = before


def counted() -> Array | None:
    """The mask (B, T) that `collecting` was given, 0 for tokens that are padding; None where none was."""
    return _mask


def contribute(loss: Callable[[], Tensor]) -> None:
    """Offer a loss of a layer's own, a scalar; it is computed only if somebody collects, and gradients are recorded."""
    if _losses is not None and is_grad_enabled():
        _losses.append(loss())


def contribute_jointly(loss: Callable[[list[Any], Array | None], Tensor], value: Callable[[], Any]) -> None:
    """Offer a layer's part of a loss that is computed once, as loss(values, mask), from the values of all layers.

    Layers whose losses are equal share one.
    """
    if _losses is not None and is_grad_enabled():
        _joint.setdefault(loss, []).append(value())
