"""A window into a running model: layers offer what they compute, and it is kept only while somebody looks.

`record` offers arrays, for looking at; `contribute` offers losses of a layer's own, for training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor, is_grad_enabled

_records: dict[str, list[np.ndarray]] | None = None
_losses: list[Tensor] | None = None


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
def collecting() -> Iterator[list[Tensor]]:
    """Collect the losses that layers `contribute` inside the block: scalars, in order."""
    global _losses
    before, _losses = _losses, []
    try:
        yield _losses
    finally:
        _losses = before


def contribute(loss: Callable[[], Tensor]) -> None:
    """Offer a loss of a layer's own, a scalar; it is computed only if somebody collects, and gradients are recorded."""
    if _losses is not None and is_grad_enabled():
        _losses.append(loss())
