"""Attention's rules to play with: what each token of a sentence sees, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .widgets import _readable_token, _View

OFF: dict[str, Any] = {"window": None, "softcap": None, "sink": None, "slope": 0.0, "documents": False}

# Settings in the spirit of published models, at the scale of a sentence.
PRESETS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"window": 8},
    "Gemma 2": {"window": 8, "softcap": 3.0},
    "GPT-OSS": {"window": 8, "sink": 1.0},
    "BLOOM": {"slope": 0.25},
    "packed texts": {"documents": True},
}


class MaskPlay(_View):
    """One sentence under every mask and rule: choose a variant or set the rules, point at a token, see what it sees.

    `scores` maps the name of a head to its scores (tokens, tokens) as they are after scaling: row by row, queries
    against keys. `documents` numbers the text that each token is from. `presets` maps a name to settings that differ
    from `OFF`: "window" in tokens, "softcap", "sink" (the sink's score), "slope" (ALiBi's), "documents" (whether
    attention stays inside one). What the rules make of the scores is computed in the browser. `query` is the token
    looked at first, the last one unless given.

    Raises ValueError for scores of another shape, and for settings that are unknown or out of range.
    """

    _esm = script("masks")
    _css = style_sheet("common", "masks")
    tokens = t.List(t.Unicode()).tag(sync=True)
    heads = t.List(t.Unicode()).tag(sync=True)
    scores = t.Bytes().tag(sync=True)  # (heads, tokens, tokens) float32
    documents = t.List(t.Int()).tag(sync=True)
    presets = t.List().tag(sync=True)
    query = t.Int(0).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        scores: Mapping[str, Any],
        *,
        documents: Sequence[int] | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        query: int | None = None,
        title: str = "What does a token see?",
    ):
        count = len(tokens)
        query = count - 1 if query is None else query
        if not 0 <= query < count:
            raise ValueError(f"query: got {query}, expected 0 to {count - 1}")
        if documents is not None and len(documents) != count:
            raise ValueError(f"documents: got {len(documents)} numbers, expected one for each of the {count} tokens")
        chosen = PRESETS if presets is None else presets
        super().__init__(
            title=title,
            tokens=[_readable_token(token) for token in tokens],
            heads=list(scores),
            scores=_checked_scores(scores, count).tobytes(),
            documents=[0] * count if documents is None else [int(number) for number in documents],
            presets=[{"name": name, **_checked_settings(name, settings)} for name, settings in chosen.items()],
            query=query,
        )

    def _summary(self) -> str:
        return f"{len(self.presets)} variants over {len(self.tokens)} tokens"


def _checked_scores(scores: Mapping[str, Any], count: int) -> np.ndarray:
    """(heads, tokens, tokens) float32."""
    if not scores:
        raise ValueError("scores: got none, expected a mapping from names of heads to their scores")
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in scores.items()}
    for name, array in arrays.items():
        if array.shape != (count, count) or not np.isfinite(array).all():
            raise ValueError(f"scores[{name!r}]: got shape {array.shape}, expected finite numbers ({count}, {count})")
    return np.stack([*arrays.values()])


def _checked_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(settings.keys() - OFF.keys()):
        raise ValueError(f"presets[{name!r}]: got {unknown[0]!r}, expected {', '.join(OFF)}")
    whole = {**OFF, **settings}
    if whole["window"] is not None and whole["window"] < 1:
        raise ValueError(f"presets[{name!r}]: got the window {whole['window']}, expected at least 1")
    if whole["softcap"] is not None and whole["softcap"] <= 0:
        raise ValueError(f"presets[{name!r}]: got the softcap {whole['softcap']}, expected a positive number")
    return whole
