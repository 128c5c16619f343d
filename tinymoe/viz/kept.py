"""Sparse attention to play with: which tokens of a text an indexer keeps for a query, and what it misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .widgets import _readable_token, _View


class KeptTokens(_View):
    """Which tokens an indexer keeps: choose a query, a layer and how many, and compare with where attention looks.

    `attention` maps the name of a layer to its attention weights (tokens, tokens), averaged over the heads: row by row,
    queries against keys. `scores` holds the indexer's scores under the same names, which only have to be in order. `k`
    keys are kept at first, for the query number `query`, the last one unless given.

    Raises ValueError for tables of another shape, and for a query or a k out of range.
    """

    _esm = script("kept")
    _css = style_sheet("common", "chart", "kept")
    tokens = t.List(t.Unicode()).tag(sync=True)
    layers = t.List(t.Unicode()).tag(sync=True)
    weights = t.Bytes().tag(sync=True)  # (layers, tokens, tokens) uint16, in parts of 65535
    ranks = t.Bytes().tag(sync=True)  # (layers, tokens, tokens) uint16: 0 for the key that the indexer wants most
    k = t.Int().tag(sync=True)
    query = t.Int().tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        attention: Mapping[str, Any],
        scores: Mapping[str, Any],
        *,
        k: int = 16,
        query: int | None = None,
        title: str = "What does the indexer keep?",
    ):
        count = len(tokens)
        query = count - 1 if query is None else query
        for name, got, last, first in (("query", query, count - 1, 0), ("k", k, count, 1)):
            if not first <= got <= last:
                raise ValueError(f"{name}: got {got}, expected {first} to {last}")
        if not attention or list(scores) != list(attention):
            raise ValueError(f"scores: got the layers {list(scores)}, expected those of attention, {list(attention)}")
        weights = _tables("attention", attention, count)
        if weights.min() < 0 or weights.max() > 1:
            raise ValueError(f"attention: got weights from {weights.min():g} to {weights.max():g}, expected 0 to 1")
        super().__init__(
            title=title,
            tokens=[_readable_token(token) for token in tokens],
            layers=list(attention),
            weights=np.round(weights * 65535).astype("<u2").tobytes(),
            ranks=_ranks(_tables("scores", scores, count)).tobytes(),
            k=k,
            query=query,
        )

    def _summary(self) -> str:
        return f"{len(self.layers)} layers over {len(self.tokens)} tokens"


def _tables(name: str, layers: Mapping[str, Any], count: int) -> np.ndarray:
    """(layers, tokens, tokens); what lies after the query is 0."""
    arrays = {layer: np.asarray(values, dtype=np.float64) for layer, values in layers.items()}
    for layer, array in arrays.items():
        if array.shape != (count, count):
            raise ValueError(f"{name}[{layer!r}]: got shape {array.shape}, expected ({count}, {count})")
        if not np.isfinite(array[np.tril_indices(count)]).all():
            raise ValueError(f"{name}[{layer!r}]: got numbers that are not finite up to the query")
    past = np.tri(count, dtype=bool)
    return np.stack([np.where(past, array, 0) for array in arrays.values()])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Each key's place in its query's order, 0 for the best; of equals the nearest first, and the future last."""
    count = scores.shape[-1]
    scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
    order = count - 1 - np.argsort(-scores[..., ::-1], axis=-1, kind="stable")
    return np.argsort(order, axis=-1).astype("<u2")
