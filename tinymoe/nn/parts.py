"""A batch in parts: what a model does with its texts, computed at once for some of them and for the others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from ..backend import current
from ..lanes import in_lane, side_by_side
from ..tensor import Tensor, is_tape_kept
from .module import Module
from .recorder import Offers, absorb, counted, is_recording, offered

LANE_TOKENS = 256  # fewer are not worth a thread
MOST_LANES = 4  # each holds gradients of its own until they are added up


def by_lanes(model: Module, work: Callable[[slice], Tensor], shape: tuple[int, int]) -> list[Tensor]:
    """work(rows) for all rows of a batch of `shape` (B, T), in as many parts as are worth it on this backend.

    What the layers offer (`contribute`) is offered once, as by the whole batch. There is one part where somebody
    looks at the tape or at what is recorded, or where the model treats a text by what the others are.
    """
    lanes = _number_of_lanes(model, *shape)
    if lanes == 1:
        return [work(slice(shape[0]))]
    parts = [slice(*ends) for ends in pairwise(shape[0] * lane // lanes for lane in range(lanes + 1))]
    mask = counted()

    def lane(number: int) -> tuple[tuple[Tensor, Offers], list[Tensor]]:
        rows = parts[number]
        with offered(None if mask is None else mask[rows]) as offers:
            result = work(rows)
        return (result, offers), [result, *offers.tensors()]

    results, offers = zip(*side_by_side(lane, lanes), strict=True)
    absorb(offers, [(rows.stop - rows.start) / shape[0] for rows in parts])
    return list(results)


def _number_of_lanes(model: Module, texts: int, tokens: int) -> int:
    lanes = min(current().threads, MOST_LANES, texts, texts * tokens // LANE_TOKENS)
    if lanes < 2 or in_lane() or is_recording() or is_tape_kept():
        return 1
    return 1 if any(module.whole_batch for module in model.modules()) else lanes
