"""Low rank to play with: the change that training made to a matrix, and what is left of it at each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .widgets import _View

_MOST = 32767  # of 16 bits with a sign


class RankPlay(_View):
    """A change of a matrix and its best approximation of rank r: choose the matrix, move the rank, see what is lost.

    `changes` maps names to matrices (out, in), each what training added to one. `scores` are figures measured with the
    changes cut to some ranks: a mapping from their names, as "loss", to {rank: value}. `rank` is shown at first.

    Raises ValueError where there is no matrix, for one that is zero or not finite, for a rank out of range, and for a
    score of fewer than two ranks.
    """

    _esm = script("adapters")
    _css = style_sheet("common", "chart", "adapters")
    names = t.List(t.Unicode()).tag(sync=True)
    shapes = t.List(t.List(t.Int())).tag(sync=True)
    factors = t.Bytes().tag(sync=True)  # int16: of each matrix U S (out, k) and V^T (k, in), k = min(out, in)
    units = t.List(t.Float()).tag(sync=True)  # what 1 stands for, in each of them
    scores = t.List().tag(sync=True)  # [name, [ranks], [values]] each
    rank = t.Int().tag(sync=True)

    def __init__(
        self,
        changes: Mapping[str, Any],
        *,
        scores: Mapping[str, Mapping[int, float]] | None = None,
        rank: int = 4,
        title: str = "How low is the rank?",
    ):
        if not changes:
            raise ValueError("changes: got none, expected a mapping from names to matrices")
        parts = [_factors(name, change) for name, change in changes.items()]
        most = min(len(right) for _, right in parts)
        if not 0 <= rank <= most:
            raise ValueError(f"rank: got {rank}, expected 0 to {most}")
        super().__init__(
            title=title,
            names=list(changes),
            shapes=[[len(left), right.shape[1]] for left, right in parts],
            factors=b"".join(_rounded(part) for pair in parts for part in pair),
            units=[float(np.abs(part).max()) / _MOST for pair in parts for part in pair],
            scores=[_score(name, values) for name, values in (scores or {}).items()],
            rank=rank,
        )

    def _summary(self) -> str:
        return ", ".join(f"{name} ({out} x {into})" for name, (out, into) in zip(self.names, self.shapes, strict=True))


def _factors(name: str, change: Any) -> tuple[np.ndarray, np.ndarray]:
    """(U S, V^T), their product the matrix, the most important directions first."""
    matrix = np.asarray(change, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all() or not matrix.any():
        raise ValueError(f"changes[{name!r}]: got shape {matrix.shape}, expected a matrix of numbers, not all 0")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left * values, right


def _rounded(factor: np.ndarray) -> bytes:
    return np.round(factor * (_MOST / np.abs(factor).max())).astype("<i2").tobytes()


def _score(name: str, values: Mapping[int, float]) -> list[str | Sequence[float]]:
    ranks = sorted(values)
    if len(ranks) < 2:
        raise ValueError(f"scores[{name!r}]: got {len(ranks)} ranks, expected two or more")
    return [name, [int(rank) for rank in ranks], [float(values[rank]) for rank in ranks]]
