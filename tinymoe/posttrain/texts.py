"""Reading a batch of texts without waste: padding that is not read, and prompts that are read once.

    B texts   T tokens of the longest   C hidden_size   P tokens of a prompt   n prompts
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backend import current
from ..backend.reference import Array
from ..models.decoder import CausalLM
from ..nn.attention import Attention
from ..nn.cache import KVCache, SharedPrompt, go_on
from ..nn.moe import MoE
from ..nn.recorder import is_recording
from ..tensor import Tensor


class Texts(NamedTuple):
    """Rows to read: ids (B, T), the tokens that follow them, -1 where none is scored, and documents or None."""

    ids: Array
    targets: Array
    documents: Array | None

    def take(self, rows: Array) -> Texts:
        """Some of the rows, up to the last token that is scored."""
        width = max(1, int(self.lengths()[rows].max()))
        return Texts(*(None if array is None else array[rows, :width] for array in self))

    def lengths(self) -> Array:
        """How many tokens of each row have to be read for the last one that is scored: (B,)."""
        return ((self.targets >= 0) * current().xp.arange(1, self.targets.shape[1] + 1)).max(axis=1)


def similar_lengths(lengths: np.ndarray, least: int = 512) -> list[np.ndarray]:
    """Rows of texts in parts that need little padding: a part's longest text is a quarter longer than its shortest.

    Parts of fewer than `least` tokens take others in: products of small matrices would cost more than the padding does.
    Within a part rows are in order.
    """
    parts: list[list[int]] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        longest = lengths[parts[-1][0]] if parts else 0
        if not parts or (longest > 1.25 * lengths[row] and longest * len(parts[-1]) >= least):
            parts.append([])
        parts[-1].append(row)
    return [np.sort(part) for part in parts]


def hidden_states(model: CausalLM, ids: Array, documents: Array | None = None, prompt: int = 0) -> Tensor:
    """The decoder's output for ids (B, T), (B, T, C): `model.model(ids)`, with less work where texts begin alike.

    Of texts that follow each other and have their first `prompt` tokens in common, the first one's are read for all,
    and gradients come back to them from all. A model that balances its experts by the tokens it reads reads them all,
    and so does one whose attention keeps other things than keys and values.
    """
    if not 0 < prompt < ids.shape[1] or documents is not None or not reads_apart(model):
        return model.model(ids, documents=documents)
    xp = current().xp
    new = xp.ones(len(ids), dtype=bool)
    new[1:] = (ids[1:, :prompt] != ids[:-1, :prompt]).any(axis=1)
    if new.all():
        return model.model(ids)
    rows = xp.cumsum(new) - 1  # which prompt each text goes on from
    cache = KVCache([SharedPrompt(rows) for _ in model.model.layers])
    prompts = model.model(ids[new, :prompt], cache)  # (n, prompt, C)
    return go_on(prompts, model.model(ids[:, prompt:], cache), rows)


def reads_apart(model: CausalLM) -> bool:
    """Whether all that a model computes are keys, values and what comes of them: nothing about a batch as a whole."""
    experts = any(isinstance(module, MoE) for module in model.modules())
    plain = all(isinstance(layer.self_attn, Attention) for layer in model.model.layers)
    return plain and not experts and not is_recording()
