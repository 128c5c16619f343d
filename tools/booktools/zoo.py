"""The table of the zoo: every published model that tinymoe knows, computed from its config."""

from __future__ import annotations

import html

from tinymoe.models import zoo
from tinymoe.models.published import PUBLISHED
from tinymoe.viz.zoo import ModelCard, model_cards

_TOKENS = 8192  # of context, at which the cache is compared
_HEAD = """---
html_theme.sidebar_secondary.remove: true
---

# The zoo

{count} published models of {families} families, all of which `tm.zoo.config(name)` describes and `tm.from_pretrained`
loads. Sizes are computed from the configs, cell by cell as [chapter 11](/chapters/11_model_zoo.ipynb) does it, not
copied. The cache is what one token leaves in memory, in 16 bits, averaged over a context of {tokens:,}. Click a heading
to sort by it, or type to find a model.

```{{raw}} html
{table}
```

## To train yourself

`tm.zoo.build(name)` makes one of these from random weights. They are small enough for a laptop, and built as their
large relatives are.

| name | family | parameters | used for a token | layers | width | experts |
|---|---|---|---|---|---|---|
{small}
"""
_COLUMNS = (
    ("model", "", "text"), ("maker", "", "text"), ("out", "month of release", "text"),
    ("parameters", "all of them", "number"), ("active", "used for one token", "number"),
    ("experts", "chosen of all", "text"), ("attention", "", "text"), ("context", "longest, in tokens", "number"),
    ("cache", "bytes a token", "number"), ("license", "of the weights", "text"),
)  # fmt: skip


def zoo_page() -> str:
    """The page in Markdown."""
    cards = sorted(model_cards(), key=lambda card: card.month, reverse=True)
    families = len({card.family for card in cards})
    return _HEAD.format(
        count=len(cards), families=families, tokens=_TOKENS, table=_table(cards), small="\n".join(_small_models())
    )


def _table(cards: list[ModelCard]) -> str:
    heads = "".join(
        f'<th scope="col" data-kind="{kind}"><button type="button" title="{note}">{name}</button></th>'
        for name, note, kind in _COLUMNS
    )
    rows = "".join(_row(card) for card in cards)
    search = '<label class="tm-find">find <input type="search" placeholder="moe, 2025, Apache …"></label>'
    return (
        f'<div class="tm-zootable">{search}<div class="tm-scrollable" tabindex="0" role="region" aria-label="the zoo">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _row(card: ModelCard) -> str:
    cache = card.kv_bytes_at(_TOKENS)
    cells: list[tuple[object, str]] = [
        (card.name, f"<code>{html.escape(card.name)}</code>"),
        (card.maker, html.escape(card.maker)),
        (card.month, card.month),
        (card.parameters, _count(card.parameters)),
        (card.active, "all" if card.is_dense else _count(card.active)),
        (card.experts, html.escape(card.experts) or "–"),
        (card.attention, html.escape(card.attention)),
        (card.context, f"{card.context:,}"),
        (cache, f"{cache / 1024:,.0f} KiB"),
        (card.license, f'<span title="{html.escape(card.terms)}">{html.escape(card.license)}</span>'),
    ]
    return (
        "<tr>" + "".join(f'<td data-value="{html.escape(str(value))}">{text}</td>' for value, text in cells) + "</tr>"
    )


def _small_models() -> list[str]:
    rows = []
    for name in zoo.list():
        if name in PUBLISHED:
            continue
        config, model = zoo.config(name), zoo.build(name)
        experts = f"{config.num_experts_per_tok} of {config.num_experts}" if config.num_experts else "–"
        sizes = f"{_count(model.num_parameters())} | {_count(model.num_parameters(active=True))}"
        shape = f"{config.num_hidden_layers} | {config.hidden_size}"
        rows.append(f"| `{name}` | `{config.model_type}` | {sizes} | {shape} | {experts} |")
    return rows


def _count(size: float) -> str:
    for unit, word in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.{2 if size < 10 * unit else 1 if size < 100 * unit else 0}f} {word}"
    return str(size)
