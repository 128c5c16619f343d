"""What a long text costs, model by model: the KV cache, and the operations for the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t

from ..models import zoo
from ..models.decoder import CausalLM
from ..models.size import measure
from ..nn.config import Config
from ..nn.module import shapes_only
from .assets import script, style_sheet
from .widgets import _View

SHORTEST, LONGEST, STEPS = 1024, 2**20, 80  # tokens; steps of equal factors between them
_AT_MOST = 7  # lines that can be told apart by color


class CostCalculator(_View):
    """KV-cache memory and operations a token against the length of the text, for any models side by side.

    `models` are names of the zoo, or a mapping from any names to configs. `chosen` are those shown at first (at most
    seven, by default the first three), `context` the length to begin with. Models are chosen, and the context moved,
    in the browser. All numbers come from the attention layers' own `work` and `cached`, at 81 lengths from 1k to 1M.

    Raises ValueError for no models, unknown names, or a context outside of 1k to 1M.
    """

    _esm = script("calculator")
    _css = style_sheet("common", "chart", "calculator")
    models = t.List().tag(sync=True)
    lengths = t.List(t.Int()).tag(sync=True)
    cached = t.Bytes().tag(sync=True)  # (models, lengths) float64: numbers in the cache
    work = t.Bytes().tag(sync=True)  # (models, lengths) float64: operations of attention for one token
    chosen = t.List(t.Int()).tag(sync=True)
    context = t.Int(8192).tag(sync=True)
    most = t.Int(_AT_MOST).tag(sync=True)

    def __init__(
        self,
        models: Sequence[str] | Mapping[str, Config],
        *,
        chosen: Sequence[str] | None = None,
        context: int = 8192,
        title: str = "What does a long text cost?",
    ):
        configs = dict(models) if isinstance(models, Mapping) else {name: zoo.config(name) for name in models}
        if not configs:
            raise ValueError("models: got none, expected names of the zoo or a mapping from names to configs")
        names = [*configs]
        shown = names[:3] if chosen is None else [*chosen]
        if unknown := [name for name in shown if name not in configs]:
            raise ValueError(f"chosen: got {unknown[0]!r}, expected names among {', '.join(names)}")
        if not 1 <= len(shown) <= _AT_MOST:
            raise ValueError(f"chosen: got {len(shown)} models, expected 1 to {_AT_MOST}")
        if not SHORTEST <= context <= LONGEST:
            raise ValueError(f"context: got {context}, expected {SHORTEST} to {LONGEST} tokens")
        lengths = [round(SHORTEST * (LONGEST / SHORTEST) ** (k / STEPS)) for k in range(STEPS + 1)]
        costs = [_costs(config, lengths) for config in configs.values()]
        super().__init__(
            title=title,
            models=[{"name": name, **facts} for name, (facts, _, _) in zip(names, costs, strict=True)],
            lengths=lengths,
            cached=np.array([cached for _, cached, _ in costs], dtype=np.float64).tobytes(),
            work=np.array([work for _, _, work in costs], dtype=np.float64).tobytes(),
            chosen=[names.index(name) for name in shown],
            context=context,
        )

    def _summary(self) -> str:
        return f"{len(self.models)} models from {SHORTEST:,} to {LONGEST:,} tokens"


def _costs(config: Config, lengths: Sequence[int]) -> tuple[dict[str, Any], list[int], list[int]]:
    """What does not depend on the length; numbers in the cache, and attention's operations, for each length."""
    with shapes_only():
        layers = [layer.self_attn for layer in CausalLM(config).model.layers]
    size = measure(config, context=2)  # its token sees one
    facts = {
        "parameters": size.parameters,
        "active": size.active_parameters,
        "operations": size.flops_per_token - sum(layer.work(1) for layer in layers),
        "context": config.max_position_embeddings,
    }
    cached = [sum(layer.cached(length) for layer in layers) for length in lengths]
    work = [sum(layer.work(length) for layer in layers) for length in lengths]
    return facts, cached, work
