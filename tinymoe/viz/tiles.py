"""Attention tile by tile: what is computed, what is skipped, and what each query knows so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .widgets import _View


class TilePlay(_View):
    """Causal attention computed in tiles: choose their size, step through them, see each query's running softmax.

    `scores` (tokens, tokens) are as after scaling, row by row, queries against keys; the future is hidden in the
    browser. `rows` queries and `columns` keys make a tile at first; `done` tiles are computed then.

    Raises ValueError for scores that are not square or not finite, and for tiles that are empty or larger than that.
    """

    _esm = script("tiles")
    _css = style_sheet("common", "tiles")
    tokens = t.Int().tag(sync=True)
    scores = t.Bytes().tag(sync=True)  # (tokens, tokens) float32
    rows = t.Int().tag(sync=True)
    columns = t.Int().tag(sync=True)
    done = t.Int().tag(sync=True)

    def __init__(
        self, scores: Any, *, rows: int = 4, columns: int = 4, done: int = 1, title: str = "Attention, tile by tile"
    ):
        array = np.asarray(scores, dtype=np.float32)
        tokens = len(array)
        if array.shape != (tokens, tokens) or not tokens or not np.isfinite(array).all():
            raise ValueError(f"scores: got shape {array.shape}, expected finite numbers (tokens, tokens)")
        for name, size in (("rows", rows), ("columns", columns)):
            if not 1 <= size <= tokens:
                raise ValueError(f"{name}: got {size}, expected 1 to {tokens}")
        if done < 1:
            raise ValueError(f"done: got {done}, expected at least 1")
        super().__init__(title=title, tokens=tokens, scores=array.tobytes(), rows=rows, columns=columns, done=done)

    def _summary(self) -> str:
        return f"{self.tokens} tokens in tiles of {self.rows} × {self.columns}"
