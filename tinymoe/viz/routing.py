"""Routers at work: a text colored by expert, the ways between two layers, and a router to set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .routes import expert_information
from .widgets import _readable_token, _View


class RoutingExplorer(_View):
    """A text colored by the experts its tokens went to: choose a layer, a token, an expert, and see who does what.

    `router` and `experts` are those of `model.trace(ids)` for one text: a list with an array for each layer, scores in
    [0, 1] (T, E) and chosen experts (T, k), the best first, -1 for a choice that was dropped; a batch axis of size 1
    is allowed. Where experts choose (k is E), a token's are put in order here. `tokens` are the texts of the T tokens,
    or bytes. `layers` names the layers, by their numbers from 0 unless given. Color, pattern and number tell up to 64
    experts apart. Scores travel as 16-bit fractions.

    Raises ValueError for shapes that do not fit, scores that are no fractions, and a choice out of range.
    """

    _esm = script("routing")
    _css = style_sheet("common", "routingbase", "routing")
    tokens = t.List(t.Unicode()).tag(sync=True)
    layers = t.List(t.Unicode()).tag(sync=True)
    shape = t.Dict().tag(sync=True)
    scores = t.Bytes().tag(sync=True)  # (layers, T, E) uint16, in parts of 65535
    choices = t.Bytes().tag(sync=True)  # (layers, T, k) int16
    layer = t.Int(0).tag(sync=True)
    token = t.Int(0).tag(sync=True)
    expert = t.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        router: Sequence[Any],
        experts: Sequence[Any],
        *,
        layers: Sequence[int | str] | None = None,
        layer: int = 0,
        token: int | None = None,
        expert: int | None = None,
        title: str = "Which experts read which tokens?",
    ):
        scores = _stacked("router", router, len(tokens))
        if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1.001:
            raise ValueError("router: expected scores from 0 to 1")
        size = scores.shape[-1]
        choices = _choices(experts, len(tokens), size)  # (layers, T, k)
        if len(choices) != len(scores):
            raise ValueError(f"experts: got {len(choices)} layers, expected {len(scores)}, as in router")
        if choices.shape[-1] == size and choices.min() < 0:
            choices = _by_score(choices, scores)
        token = min(len(tokens) - 1, 12) if token is None else token
        for name, got, end in (("layer", layer, len(scores)), ("token", token, len(tokens)), ("expert", expert, size)):
            if got is not None and not 0 <= got < end:
                raise ValueError(f"{name}: got {got}, expected 0 to {end - 1}")
        super().__init__(
            title=title,
            tokens=[_readable_token(one) for one in tokens],
            layers=_layer_names(layers, len(scores)),
            shape={"experts": size, "k": choices.shape[-1]},
            scores=np.round(np.minimum(scores, 1) * 65535).astype("<u2").tobytes(),
            choices=choices.astype("<i2").tobytes(),
            layer=layer,
            token=token,
            expert=expert,
        )

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens through {len(self.layers)} layers of {self.shape['experts']} experts"


class RoutingFlow(_View):
    """Which expert follows which: the ways of a text's tokens from the experts of one layer to those of the next.

    `experts` are those of `model.trace(ids)` for one text: a list of at least two layers, (T, k) each, or (1, T, k).
    A token with k experts in both layers goes k × k ways. `layers` names the layers. Point at an expert or a way; in
    the drawing the arrow keys move. Below stands how much the one expert tells about the other, in bits, and how much
    is left of that when the choices of the second layer are shuffled.

    Raises ValueError for shapes that do not fit, and numbers of experts out of range.
    """

    _esm = script("routingflow")
    _css = style_sheet("common", "routingbase", "routingflow")
    tokens = t.List(t.Unicode()).tag(sync=True)
    layers = t.List(t.Unicode()).tag(sync=True)
    shape = t.Dict().tag(sync=True)
    choices = t.Bytes().tag(sync=True)  # (layers, T, k) int16
    information = t.List().tag(sync=True)  # for each two neighbors: bits, and bits when shuffled

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        experts: Sequence[Any],
        num_experts: int,
        *,
        layers: Sequence[int | str] | None = None,
        title: str = "Which expert follows which?",
    ):
        choices = _choices(experts, len(tokens), num_experts)
        if len(choices) < 2:
            raise ValueError(f"experts: got {len(choices)} layer, expected at least 2")
        super().__init__(
            title=title,
            tokens=[_readable_token(one) for one in tokens],
            layers=_layer_names(layers, len(choices)),
            shape={"experts": num_experts, "k": choices.shape[-1]},
            choices=choices.astype("<i2").tobytes(),
            information=[_followers(first, second, num_experts) for first, second in pairwise(choices)],
        )

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens between {len(self.layers)} layers of {self.shape['experts']} experts"


class RouteIt(_View):
    """A router by hand: set the logits of a few tokens, k, the capacity and each expert's bias, and see what follows.

    `logits` (tokens, experts) are what the sliders begin at, within -4 and 4, for up to 12 tokens and 8 experts. The
    page computes what `nn.moe`'s routers do: scores by "softmax" or "sigmoid", the k best by score plus bias, weights
    from the scores alone. With a `capacity`, an expert takes the first ceil(capacity · k · tokens / experts) of its
    tokens, in the order of the text, and the rest is dropped (Switch Transformers, Fedus et al. 2021). With `chooser`
    "experts" each expert takes as many, those with its best scores (Expert Choice, Zhou et al. 2022).

    Raises ValueError for a setting out of its range.
    """

    _esm = script("routingplay")
    _css = style_sheet("common", "routingbase", "routingplay")
    tokens = t.List(t.Unicode()).tag(sync=True)
    logits = t.List().tag(sync=True)
    settings = t.Dict().tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes] = ("The", " fox", " ran", " to", " the", " well"),
        logits: Any = None,
        *,
        k: int = 2,
        capacity: float | None = None,
        scoring: str = "softmax",
        normalize: bool = True,
        chooser: str = "tokens",
        title: str = "Route it yourself",
    ):
        if logits is None:
            logits = np.random.default_rng(5).normal([0.3, 1.2, 0.3, -0.3], 1.1, (len(tokens), 4)).round(1).clip(-4, 4)
        table = np.asarray(logits, dtype=float)
        if table.ndim != 2 or len(table) != len(tokens) or not (1 <= len(table) <= 12 and 2 <= table.shape[1] <= 8):
            raise ValueError(
                f"logits: got shape {table.shape}, expected ({len(tokens)}, experts) for 1 to 12 tokens, 2 to 8 experts"
            )
        if not np.isfinite(table).all() or np.abs(table).max() > 4:
            raise ValueError("logits: expected finite numbers from -4 to 4, where the sliders end")
        checks: dict[str, tuple[Any, bool, str]] = {
            "k": (k, 1 <= k <= table.shape[1], f"1 to {table.shape[1]}, the number of experts"),
            "capacity": (capacity, capacity is None or 0 < capacity <= 3, "None, or a factor above 0 and up to 3"),
            "scoring": (scoring, scoring in ("softmax", "sigmoid"), "'softmax' or 'sigmoid'"),
            "chooser": (chooser, chooser in ("tokens", "experts"), "'tokens' or 'experts'"),
        }
        for name, (got, ok, expected) in checks.items():
            if not ok:
                raise ValueError(f"{name}: got {got!r}, expected {expected}")
        super().__init__(
            title=title,
            tokens=[_readable_token(one) for one in tokens],
            logits=table.tolist(),
            settings={name: got for name, (got, _, _) in checks.items()} | {"normalize": bool(normalize)},
        )

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens to {len(self.logits[0])} experts"


def _stacked(name: str, layers: Sequence[Any], tokens: int) -> np.ndarray:
    """(layers, tokens, n) from one array a layer, in which a batch axis of size 1 is allowed."""
    arrays = [np.asarray(layer) for layer in layers]
    arrays = [array[0] if array.ndim == 3 and len(array) == 1 else array for array in arrays]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != tokens or not shapes[0][1]:
        raise ValueError(f"{name}: got layers of shapes {shapes}, expected ({tokens}, n) in each for {tokens} tokens")
    return np.stack(arrays)


def _choices(experts: Sequence[Any], tokens: int, num_experts: int) -> np.ndarray:
    choices = _stacked("experts", experts, tokens)
    if choices.dtype.kind not in "iu" or choices.min() < -1 or choices.max() >= num_experts:
        raise ValueError(f"experts: expected whole numbers from -1 to {num_experts - 1}")
    return choices


def _by_score(choices: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Choices (layers, T, E) with each token's best first and -1 last, without columns in which nobody has any."""
    worth = np.where(choices >= 0, np.take_along_axis(scores, np.maximum(choices, 0), axis=-1), -1)
    choices = np.take_along_axis(choices, np.argsort(-worth, axis=-1, kind="stable"), axis=-1)
    return choices[..., : max(1, int((choices >= 0).sum(axis=-1).max()))]


def _layer_names(layers: Sequence[int | str] | None, count: int) -> list[str]:
    names = [str(layer) for layer in (range(count) if layers is None else layers)]
    if len(names) != count:
        raise ValueError(f"layers: got {len(names)} names, expected {count}")
    return names


def _followers(first: np.ndarray, second: np.ndarray, num_experts: int) -> list[float]:
    """What a token's expert in one layer (T, k) tells of that in the next (T, k): bits, and bits when shuffled."""
    pairs = np.repeat(first[:, None], second.shape[-1], axis=1)[second >= 0]  # (choices in the second, k)
    information = expert_information(pairs, second[second >= 0], num_experts, repeats=5)
    return [information.bits, information.shuffled]
