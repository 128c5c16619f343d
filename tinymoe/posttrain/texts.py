"""Reading a batch of texts without waste: padding that is not read, and prompts that are read once.

    B texts   T tokens of the longest   C hidden_size   P tokens of a prompt   n prompts
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..models.decoder import CausalLM
from ..nn.attention import Attention
from ..nn.cache import KVCache, SharedPrompt, go_on
from ..nn.moe import MoE
from ..nn.recorder import is_recording
from ..tensor import Tensor
from .states import States, recalled


class Texts(NamedTuple):
    """Rows to read: ids (B, T), the tokens that follow them, -1 where none is scored, documents or None, and what is
    kept of what follows their prompts, if they were sampled."""

    ids: Array
    targets: Array
    documents: Array | None
    states: States | None = None

    def take(self, rows: Array) -> Texts:
        """Some of the rows, up to the last token that is scored."""
        width = max(1, int(self.lengths()[rows].max()))
        documents = None if self.documents is None else self.documents[rows, :width]
        states = None if self.states is None else self.states.take(current().to_numpy(rows))
        return Texts(self.ids[rows, :width], self.targets[rows, :width], documents, states)

    def lengths(self) -> Array:
        """How many tokens of each row have to be read for the last one that is scored: (B,)."""
        return ((self.targets >= 0) * current().xp.arange(1, self.targets.shape[1] + 1)).max(axis=1)


def similar_lengths(lengths: np.ndarray, overhead: int = 128) -> list[np.ndarray]:
    """Rows of texts in parts of similar length, longest first: the cheapest parts, where each is read as wide as its
    longest text, and costs `overhead` tokens more: calls of many operations, and prompts that are read again.

    Of the texts from the i-th longest on, the first part ends where its own cost and that of the best parts of the rest
    are least (dynamic programming, from the end). Within a part rows are in order.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = lengths[order]
    cuts = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1))  # before the first of each length, and at the end
    cost, following = np.zeros(len(cuts), dtype=np.int64), np.zeros(len(cuts), dtype=np.int64)
    for i in range(len(cuts) - 2, -1, -1):
        ways = sizes[cuts[i]] * (cuts[i + 1 :] - cuts[i]) + overhead + cost[i + 1 :]
        cost[i], following[i] = ways.min(), i + 1 + ways.argmin()
    parts, i = [], 0
    while i < len(cuts) - 1:
        parts.append(np.sort(order[cuts[i] : cuts[following[i]]]))
        i = following[i]
    return parts


def hidden_states(
    model: CausalLM, ids: Array, documents: Array | None = None, prompt: int = 0, states: States | None = None
) -> Tensor:
    """The decoder's output for ids (B, T), (B, T, C): `model.model(ids)`, with less work where texts begin alike.

    Of texts that follow each other and have their first `prompt` tokens in common, the first one's are read for all,
    and gradients come back to them from all. A model that balances its experts by the tokens it reads reads them all,
    and so does one whose attention keeps other things than keys and values. What was sampled behind the prompts is not
    read at all where states were kept; the prompts are then as long as `prompt`, and stand where they stood.
    """
    if not 0 < prompt < ids.shape[1] or documents is not None or not reads_apart(model):
        return model.model(ids, documents=documents)
    xp = current().xp
    new = xp.ones(len(ids), dtype=bool)
    new[1:] = (ids[1:, :prompt] != ids[:-1, :prompt]).any(axis=1)
    if new.all() and states is None:
        return model.model(ids)
    rows = xp.cumsum(new) - 1  # which prompt each text goes on from
    start = 0 if states is None else states.stop - prompt
    cache = KVCache([SharedPrompt(rows, start) for _ in model.model.layers])
    prompts = model.model(ids[new, :prompt], cache)  # (n, prompt, C)
    rest = ids[:, prompt:]
    answers = model.model(rest, cache) if states is None else recalled(model.model, rest, cache, rows, states)
    return go_on(prompts, answers, rows)


def laid_together(parts: Sequence[tuple[Array, Tensor]], shape: tuple[int, int]) -> Tensor:
    """What was found of rows (n,) of a batch, (k, n, width), in its place among all: (k, B, T), and 0 elsewhere.

    Every part has the same k, and is no wider than T.
    """
    xp, count = current().xp, 1
    places = xp.zeros(shape, dtype=np.int64)  # among what is found; at 0 there is nothing
    for rows, found in parts:
        _, n, width = found.shape
        places[rows, :width] = xp.arange(count, count + n * width).reshape(n, width)
        count += n * width
    _, first = parts[0]
    nothing = Tensor(xp.zeros((len(first), 1), dtype=first.dtype))
    return ops.concatenate(nothing, *(found.reshape(len(found), -1) for _, found in parts), axis=1)[:, places]


def reads_apart(model: CausalLM) -> bool:
    """Whether all that a model computes are keys, values and what comes of them: nothing about a batch as a whole."""
    experts = any(isinstance(module, MoE) for module in model.modules())
    plain = all(isinstance(layer.self_attn, Attention) for layer in model.model.layers)
    return plain and not experts and not is_recording()
