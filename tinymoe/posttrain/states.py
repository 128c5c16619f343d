"""What layers computed while answers were sampled, and the way back through it: texts need not be read again.

A policy that learns from its own answers, once, has the weights that it sampled them with. Whatever the backward pass
asks of the forward pass was there when the tokens were found; kept (`LayerStates`), it saves a third of the products.

    B texts   n tokens of each   T tokens of the longest   n_p prompts of P tokens   C hidden_size
    H query heads   K key/value heads   D head_dim
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import current
from ..backend.reference import Array, LayerRules, LayerStates
from ..models.compiled import decoder_weights
from ..models.decoder import CausalLM, Decoder
from ..models.whole_layer import is_llama, layer_rules, layer_weights
from ..nn.cache import KVCache, SharedPrompt
from ..nn.position import RotaryEmbedding
from ..ops import Result, op
from ..tensor import Context, Tensor


class States(NamedTuple):
    """What is kept of texts: of each layer, for more texts than these; which of them these are, (B,); of how many
    tokens of each, (B,); and how long their prompts are, (B,), which all end before the position `stop`."""

    layers: Sequence[LayerStates]
    rows: np.ndarray
    lengths: np.ndarray
    prompts: np.ndarray
    stop: int

    def take(self, rows: Any) -> States:
        """Those of some of the texts."""
        return States(self.layers, self.rows[rows], self.lengths[rows], self.prompts[rows], self.stop)

    def of_layer(self, number: int, width: int) -> LayerStates:
        """One layer's, (B, width, …): zeros behind a text's last token, where nothing was ever written."""
        rows: Any = self.rows
        if (np.diff(rows) == 1).all():
            rows = slice(rows[0], rows[-1] + 1)  # nothing to copy
        mine = [array[rows, :width] for array in self.layers[number]]
        behind = np.arange(width) >= self.lengths[:, None]  # (B, width)
        for array in mine if behind.any() else ():
            array[behind] = 0
        return LayerStates(*map(np.ascontiguousarray, mine))


def new_states(model: CausalLM, texts: int, tokens: int) -> list[LayerStates]:
    """Memory for what a model's layers compute of so many tokens of so many texts; none where there is no way back.

    There is one through Llama's layers, of plain matrices.
    """
    if tokens < 1 or not _is_known(model):
        return []
    c, shape = model.config, (texts, tokens)
    queries, keys = ((*shape, heads, c.head_dim) for heads in (c.num_attention_heads, c.num_key_value_heads))
    stream = (*shape, c.hidden_size)
    sizes = queries, keys, keys, queries, queries[:-1], stream, (*shape, 2 * c.intermediate_size), stream
    return [LayerStates(*(np.empty(size, np.float32) for size in sizes)) for _ in model.model.layers]


def recalled(decoder: Decoder, ids: Array, cache: KVCache, rows: Array, states: States) -> Tensor:
    """`decoder(ids, cache)` for texts ids (B, T) that go on from the prompts in the cache, text i from number rows[i]:
    what was kept of the texts, and no product. Gradients go the way they would have gone."""
    positions = current().xp.arange(cache.length, cache.length + ids.shape[1])[None]  # (1, T)
    turns = {kind: turn(positions) for kind, turn in decoder.positions.items()}
    x = decoder.embed_tokens(ids)
    for i, (layer, held) in enumerate(zip(decoder.layers, cache.layers, strict=True)):
        assert isinstance(held, SharedPrompt)
        kept, rules = states.of_layer(i, ids.shape[1]), layer_rules(layer, *turns[decoder.layer_types[i]])
        x = recalled_layer(x, *held.prompts, *layer_weights(layer), states=kept, rows=rows, rules=rules)
    return decoder.norm(x)


@op
def recalled_layer(
    ctx: Context,
    x: Array,
    prompt_keys: Array,
    prompt_values: Array,
    *weights: Array,
    states: LayerStates,
    rows: Array,
    rules: LayerRules,
) -> Result:
    """A layer of Llama whose results are known: x (B, T, C) -> states.end (B, T, C).

    prompt_keys and prompt_values (n_p, P, K, D) are what the texts look back at, text i at number rows[i]. The vjp is
    that of `llama_layer`, and sums up what the texts of a prompt give back for it.
    """
    prompts = prompt_keys, prompt_values

    def vjp(g: Array) -> tuple[Array | None, ...]:
        seen = [its[rows] for its in prompts]  # (B, P, K, D) each
        needs = ctx.needs[0], *ctx.needs[3:]
        dx, dseen, dweights = ctx.backend.llama_layer_backward(g, x, weights, rules, states, seen, needs)
        dprompts = (_by_prompt(ctx, d, rows, prompt_keys.shape) for d in dseen)
        return dx, *dprompts, *dweights

    return states.end, vjp


def _by_prompt(ctx: Context, g: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    """Gradients of what texts have seen of their prompts, summed up for each of these."""
    return ctx.backend.embedding_backward(g.reshape(len(g), -1), rows, shape[0]).reshape(shape)


def _is_known(model: CausalLM) -> bool:
    """Whether a model's layers are Llama's, and nobody has put a part of his own among what they compute with."""
    if decoder_weights(model) is None:
        return False
    turned = all(type(turn) is RotaryEmbedding for turn in model.model.positions.values())
    return turned and all(map(is_llama, model.model.layers))
