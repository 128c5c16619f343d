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
from ..backend.decoding import LayerStates
from ..backend.reference import Array, AttentionRules
from ..models.compiled import decoder_weights
from ..models.decoder import CausalLM, Decoder, DecoderLayer
from ..nn.attention import Attention
from ..nn.cache import KVCache, SharedPrompt
from ..nn.mlp import MLP
from ..nn.module import Linear, are_plain
from ..nn.norm import RMSNorm
from ..nn.position import RotaryEmbedding
from ..ops import Result, op
from ..tensor import OPS, Context, Tensor, are_own

# What the way back stands in for, unless a learner's has taken its place.
_OPS = ("add", "add_rms_norm", "attention", "linear", "linears", "qkv_rope", "rms_norm", "rope", "swiglu", "swiglu_mlp")


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
        norms, (cos, sin) = (layer.input_layernorm, layer.post_attention_layernorm), turns[decoder.layer_types[i]]
        x = recalled_layer(
            x, *held.prompts, *(module.weight for module in (*norms, *_linears(layer))),
            states=states.of_layer(i, ids.shape[1]), rows=rows, cos=cos, sin=sin, scale=layer.self_attn.scale,
            eps=[norm.eps for norm in norms],
        )  # fmt: skip
    return decoder.norm(x)


@op
def recalled_layer(
    ctx: Context,
    x: Array,
    prompt_keys: Array,
    prompt_values: Array,
    input_norm: Array,
    post_norm: Array,
    query: Array,
    key: Array,
    value: Array,
    output: Array,
    gate: Array,
    up: Array,
    down: Array,
    *,
    states: LayerStates,
    rows: Array,
    cos: Array,
    sin: Array,
    scale: float,
    eps: Sequence[float],
) -> Result:
    """A layer of Llama whose results are known: x (B, T, C) -> states.end (B, T, C).

    prompt_keys and prompt_values (n_p, P, K, D) are what the texts look back at, text i at number rows[i]. The vjp is
    the layer's, written out: through SwiGLU and its norm, attention and its norm, with the residual stream beside both.
    """
    backend, matrices, prompt = ctx.backend, [query, key, value], prompt_keys.shape[1]

    def flat(array: Array) -> Array:
        return array.reshape(-1, x.shape[-1])  # (B T, C)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        stream, middle = flat(x), flat(states.middle)
        factors = states.factors.reshape(len(middle), -1)  # (B T, 2 I)
        normed, inverse_rms = backend.rms_norm(middle, post_norm, eps[1])
        mlp, needs = (gate, up, down), (True, *ctx.needs[9:])
        saved = backend.swiglu_mlp_saved(normed, *mlp, factors)
        dnormed, *dmlp = backend.swiglu_mlp_backward(flat(g), normed, *mlp, saved, needs)
        dmiddle, dpost = backend.add_rms_norm_backward(flat(g), dnormed, middle, post_norm, inverse_rms)

        mixed = states.mixed.reshape(len(middle), -1)  # (B T, H D)
        dmixed, doutput = backend.linears_backward([dmiddle], mixed, [output], (True, ctx.needs[8]))
        assert dmixed is not None  # it was asked for
        keys, values = (
            ctx.xp.concatenate([its[rows], own], axis=1)  # (B, P + T, K, D)
            for its, own in ((prompt_keys, states.keys), (prompt_values, states.values))
        )
        lse = states.lse.transpose(0, 2, 1).reshape(len(rows), keys.shape[2], -1, x.shape[1], 1)  # (B, K, H/K, T, 1)
        dq, dk, dv, _ = backend.attention_backward(
            dmixed.reshape(states.mixed.shape), states.queries, keys, values, None, AttentionRules(scale),
            states.mixed, lse,
        )  # fmt: skip
        dprompts = (_by_prompt(ctx, d[:, :prompt], rows, prompt_keys.shape) for d in (dk, dv))

        normed, inverse_rms = backend.rms_norm(stream, input_norm, eps[0])
        given = [dq, dk[:, prompt:], dv[:, prompt:]]
        dnormed, dqkv = backend.qkv_rope_backward(given, normed, matrices, cos, sin, (True, *ctx.needs[5:8]))
        dx, dinput = backend.add_rms_norm_backward(dmiddle, dnormed, stream, input_norm, inverse_rms)
        return dx.reshape(x.shape), *dprompts, dinput, dpost, *dqkv, *doutput, *dmlp

    return states.end, vjp


def _by_prompt(ctx: Context, g: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    """Gradients of what texts have seen of their prompts, summed up for each of these."""
    return ctx.backend.embedding_backward(g.reshape(len(g), -1), rows, shape[0]).reshape(shape)


def _is_known(model: CausalLM) -> bool:
    """Whether a model's layers are Llama's, and nobody has put a part of his own among what they compute with."""
    if decoder_weights(model) is None or not are_own(*(OPS[name] for name in _OPS)):
        return False
    turned = all(type(turn) is RotaryEmbedding for turn in model.model.positions.values())
    return turned and all(map(_is_llama, model.model.layers))


def _linears(layer: DecoderLayer) -> list[Linear]:
    attention, mlp = layer.self_attn, layer.mlp
    return [getattr(attention, f"{name}_proj") for name in "qkvo"] + [mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _is_llama(layer: DecoderLayer) -> bool:
    attention, mlp, norms = layer.self_attn, layer.mlp, (layer.input_layernorm, layer.post_attention_layernorm)
    if type(attention) is not Attention or type(mlp) is not MLP or any(type(norm) is not RMSNorm for norm in norms):
        return False
    return are_plain(*_linears(layer))
