"""The zoo on one map: what every model costs, computed from its config, and who published it under which license."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets as t

from ..models import zoo
from ..models.decoder import CausalLM
from ..models.published import PUBLISHED
from ..models.releases import LICENSES, RELEASES
from ..models.size import measure
from ..nn.config import Config
from ..nn.module import shapes_only
from .assets import script, style_sheet
from .widgets import _View

LENGTHS = [2**k for k in range(10, 21)]  # tokens of context, 1k to 1M
AXES = {
    "parameters": "parameters",
    "active": "active parameters",
    "flops": "operations a token",
    "kv": "KV cache a token",
    "context": "longest context",
    "year": "year",
}
# Which families are drawn alike: no eye tells more than seven apart.
_SERIES = {
    "Llama": "llama llama4_text",
    "Mistral": "mistral mixtral",
    "Gemma": "gemma gemma2 gemma3_text",
    "Qwen": "qwen2 qwen3 qwen2_moe qwen3_moe",
    "DeepSeek and its kind": "deepseek_v2 deepseek_v3 deepseek_v32 glm_moe_dsa",
    "GPT": "gpt2 gpt_oss",
}
_OTHERS = "others"
_SERIES_OF = {family: series for series, families in _SERIES.items() for family in families.split()}


@dataclass(frozen=True)
class ModelCard:
    """A published model in a few words and numbers: the words from its release, the numbers from its config.

    `year` is the middle of the month it came out in. `heads` is "multi-head", "grouped", "multi-query" or "latent";
    `attention` says more. `flops` and `kv_bytes` are `Size.flops_per_token` and `Size.kv_cache_bytes` for contexts of
    `LENGTHS` tokens, in 16 bits.
    """

    name: str
    family: str
    series: str
    maker: str
    month: str
    year: float
    license: str
    openness: str
    terms: str
    parameters: int
    active: int
    context: int
    heads: str
    attention: str
    experts: str
    flops: tuple[int, ...]
    kv_bytes: tuple[int, ...]

    @property
    def is_dense(self) -> bool:
        """Whether every token uses every parameter."""
        return not self.experts

    def flops_at(self, context: int) -> int:
        """Operations a token at the middle of a context that is one of `LENGTHS`."""
        return self.flops[LENGTHS.index(context)]

    def kv_bytes_at(self, context: int) -> int:
        """Bytes of cache a token, on average over a full context that is one of `LENGTHS`."""
        return self.kv_bytes[LENGTHS.index(context)]


def model_cards(names: Iterable[str] | None = None) -> list[ModelCard]:
    """A card for each published model, or for those named, oldest first. Raises ValueError for a name without release.

    It builds every model's shapes, which for all of them takes about a second.
    """
    names = PUBLISHED if names is None else list(names)
    if unknown := [name for name in names if name not in RELEASES]:
        raise ValueError(f"names: got {unknown[0]!r}, expected published models of the zoo")
    return sorted((_card(name, zoo.config(name)) for name in names), key=lambda card: card.month)


def _card(name: str, config: Config) -> ModelCard:
    size, release = measure(config, context=2), RELEASES[name]  # its token sees one
    with shapes_only():
        layers = [layer.self_attn for layer in CausalLM(config).model.layers]
    weights = size.flops_per_token - sum(layer.work(1) for layer in layers)
    return ModelCard(
        name=name,
        family=config.model_type,
        series=_SERIES_OF.get(config.model_type, _OTHERS),
        maker=release.maker,
        month=release.month,
        year=release.year,
        license=release.license,
        openness=release.openness,
        terms=LICENSES[release.license][1],
        parameters=size.parameters,
        active=size.active_parameters,
        context=config.max_position_embeddings,
        heads=_heads(config),
        attention=_attention(config),
        experts=_experts(config),
        flops=tuple(weights + sum(layer.work(length // 2) for layer in layers) for length in LENGTHS),
        kv_bytes=tuple(sum(layer.cached(length) for layer in layers) * 2 // length for length in LENGTHS),
    )


def _heads(config: Config) -> str:
    if config.kv_lora_rank is not None:
        return "latent"
    if config.num_key_value_heads == config.num_attention_heads:
        return "multi-head"
    return "multi-query" if config.num_key_value_heads == 1 else "grouped"


def _attention(config: Config) -> str:
    """Its heads, and how far layers reach that do not see all."""
    c, heads = config, _heads(config)
    words = {
        "latent": f"latent of {c.kv_lora_rank} + {c.qk_rope_head_dim}",
        "multi-query": f"multi-query, 1 key head for {c.num_attention_heads}",
        "grouped": f"grouped, {c.num_key_value_heads} key heads for {c.num_attention_heads}",
    }
    parts = [words.get(heads, f"{heads}, {c.num_attention_heads} heads")]
    reach = {
        "sliding_attention": f"a window of {c.sliding_window or 0:,}",
        "chunked_attention": f"chunks of {c.attention_chunk_size or 0:,}",
    }
    for kind, count in Counter(c.layer_types).items():
        if kind in reach:
            parts.append(f"{count} of {c.num_hidden_layers} layers with {reach[kind]}")
    if c.index_topk is not None:
        chooses = c.indexer_types.count("full")
        where = f" in {chooses} of {c.num_hidden_layers} layers" if chooses < len(c.indexer_types) else ""
        parts.append(f"an indexer{where} keeps {c.index_topk:,}")
    return "; ".join(parts)


def _experts(config: Config) -> str:
    """How many experts there are and who uses them; nothing for a dense model."""
    c, layers = config, config.mlp_types.count("moe")
    if not layers:
        return ""
    shared = ", and a shared one" if c.shared_expert_intermediate_size else ""
    where = "" if layers == c.num_hidden_layers else f", in {layers} of {c.num_hidden_layers} layers"
    return f"{c.num_experts_per_tok} of {c.num_experts}{shared}{where}"


class ModelMap(_View):
    """All published models as points: choose the axes, the context, which families and licenses; point at one to read.

    `x` and `y` are keys of `AXES`, `context` is one of `LENGTHS`. `models` are names of published models, by default
    all of them; `selected` is the one whose card is open at first.

    Raises ValueError for an axis, a context or a name that there is not.
    """

    _esm = script("zoo")
    _css = style_sheet("common", "chart", "zoo")
    models = t.List().tag(sync=True)
    series = t.List(t.Unicode()).tag(sync=True)
    axes = t.Dict().tag(sync=True)
    lengths = t.List(t.Int()).tag(sync=True)
    flops = t.Bytes().tag(sync=True)  # (models, lengths) float64
    kv = t.Bytes().tag(sync=True)  # (models, lengths) float64
    x = t.Unicode().tag(sync=True)
    y = t.Unicode().tag(sync=True)
    context = t.Int().tag(sync=True)
    selected = t.Int().tag(sync=True)

    def __init__(
        self,
        models: Iterable[str] | None = None,
        *,
        x: str = "parameters",
        y: str = "active",
        context: int = 8192,
        selected: str | None = None,
        title: str = "The zoo",
    ):
        cards = model_cards(models)
        if not cards:
            raise ValueError("models: got none, expected names of published models")
        for name, axis in (("x", x), ("y", y)):
            if axis not in AXES:
                raise ValueError(f"{name}: got {axis!r}, expected one of {', '.join(AXES)}")
        if context not in LENGTHS:
            raise ValueError(f"context: got {context}, expected a power of two from {LENGTHS[0]} to {LENGTHS[-1]}")
        names = [card.name for card in cards]
        if selected is not None and selected not in names:
            raise ValueError(f"selected: got {selected!r}, expected one of the models shown")
        present = {card.series for card in cards}
        super().__init__(
            title=title,
            models=[_shown(card) for card in cards],
            series=[series for series in (*_SERIES, _OTHERS) if series in present],
            axes=AXES,
            lengths=LENGTHS,
            flops=np.array([card.flops for card in cards], dtype=np.float64).tobytes(),
            kv=np.array([card.kv_bytes for card in cards], dtype=np.float64).tobytes(),
            x=x,
            y=y,
            context=context,
            selected=len(names) - 1 if selected is None else names.index(selected),
        )

    def _summary(self) -> str:
        return f"{len(self.models)} models, {AXES[self.y]} over {AXES[self.x]}"


def _shown(card: ModelCard) -> dict[str, Any]:
    """What the page gets of a card beside its two rows of numbers."""
    fields = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    return {name: value for name, value in fields.items() if name not in ("flops", "kv_bytes")}
