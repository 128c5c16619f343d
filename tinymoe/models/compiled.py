"""The short way through a decoder: one more token for each text in a single compiled call.

A backend that has such a call (`ReferenceBackend.compile_decoder`) is told what the model is made of, if it is made of
nothing but parts that the call knows: Llama's, with the biases, norms and windows of its relatives. Any other model,
and whatever is not one token a text after others in a cache, takes the ordinary way.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from operator import is_not
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import current
from ..backend.decoding import DecoderWeights, LayerWeights
from ..backend.reference import Array, ReferenceBackend
from ..nn import recorder
from ..nn.attention import Attention
from ..nn.cache import KVCache, LayerCache
from ..nn.mlp import MLP
from ..nn.module import Embedding, Linear, Parameter
from ..nn.norm import OffsetRMSNorm, RMSNorm
from ..nn.position import NoTurning
from ..nn.variants import VariantAttention
from ..tensor import OPS, Tensor

if TYPE_CHECKING:
    from .decoder import CausalLM


@dataclass
class _Held:
    """What belongs to one cache: the compiled step, the backend it is of, and the arrays that it reads."""

    backend: ReferenceBackend
    step: Any
    parameters: list[Parameter]
    arrays: list[Array]

    def fits(self) -> bool:
        """Whether the model still has the arrays that the step was told of."""
        return self.backend is current() and not any(map(is_not, [p.data for p in self.parameters], self.arrays))


_held: weakref.WeakKeyDictionary[KVCache, _Held] = weakref.WeakKeyDictionary()


def compiled_logits(model: CausalLM, ids: Array, cache: KVCache | None, documents: Array | None) -> Tensor | None:
    """Scores (B, 1, V) of the tokens after ids (B, 1), before any soft-cap, or None: then take the ordinary way.

    The cache is updated as by the ordinary way, so that the two may follow one another. Weights are read where they
    stand, and so may change from one token to the next.
    """
    if cache is None or documents is not None or ids.shape[1] != 1 or not cache.length or recorder.is_recording():
        return None
    held = _held.get(cache)
    if held is None or not held.fits():
        held = _held[cache] = _prepare(model, cache)
    if held.step is None or not _own_code():
        return None
    decoder, position = model.model, current().xp.full((1, 1), cache.length)
    every = cache.append_documents(None, len(ids), 1)
    turns = [turn(position) for turn in decoder.positions.values()]
    angles = np.array(turns, dtype=np.float32).reshape(len(turns), 2, -1)
    places = [layer.reserve(len(ids), 1) for layer in cache.layers]
    return Tensor(held.step(ids[:, 0], places, angles, every)[:, None])


def _prepare(model: CausalLM, cache: KVCache) -> _Held:
    # A cache with an `append` of its own wants to be asked.
    known = all(type(layer).append is LayerCache.append for layer in cache.layers)
    backend, weights = current(), decoder_weights(model) if known else None
    parameters = model.parameters()
    step = None if weights is None else backend.compile_decoder(weights)
    return _Held(backend, step, parameters, [p.data for p in parameters])


def decoder_weights(model: CausalLM) -> DecoderWeights | None:
    """What a compiled step needs to know of a model, or None where it has a part that such a step does not know."""
    from .decoder import Decoder, DecoderLayer

    decoder = model.model
    norms = {type(module) for module in decoder.modules() if type(module) in (RMSNorm, OffsetRMSNorm)}
    known = {DecoderLayer, Attention, VariantAttention, MLP, Linear, Embedding, Decoder} | norms
    if {type(module) for module in decoder.modules()} - known or len(norms) != 1:
        return None
    attentions = [layer.self_attn for layer in decoder.layers]
    if decoder.inputs or decoder.scale != 1 or any(map(_is_unusual, attentions)):
        return None
    if any(p.data.dtype != np.float32 or not p.data.flags.c_contiguous for p in model.parameters()):
        return None
    turns = {kind: -1 if type(turn) is NoTurning else i for i, (kind, turn) in enumerate(decoder.positions.items())}
    return DecoderWeights(
        embedding=decoder.embed_tokens.weight.data,
        layers=tuple(map(_layer_weights, decoder.layers, (turns[kind] for kind in decoder.layer_types))),
        norm=decoder.norm.weight.data,
        output=model.output_weight.data,
        output_bias=model.lm_head.bias.data if model.config.lm_head_bias else None,
        head_dim=attentions[0].head_dim,
        eps=decoder.norm.eps,
        norm_offset=float(OffsetRMSNorm in norms),
    )


def _layer_weights(layer: Any, turn: int) -> LayerWeights:
    attention, mlp, norms = layer.self_attn, layer.mlp, {}
    linears = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    linears |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    biases = {f"{name}_bias": linear.bias.data for name, linear in linears.items() if hasattr(linear, "bias")}
    if hasattr(attention, "q_norm"):
        norms = {"q_norm": attention.q_norm.weight.data, "k_norm": attention.k_norm.weight.data}
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.data,
        post_norm=layer.post_attention_layernorm.weight.data,
        **{name: linear.weight.data for name, linear in linears.items()},
        **biases,
        **norms,
        scale=attention.scale,
        softcap=getattr(attention, "softcap", None) or 0.0,
        turn=turn if getattr(attention, "turned", True) else -1,
    )


def _is_unusual(attention: Any) -> bool:
    """Whether a layer's attention has something that compiled steps do not know."""
    return hasattr(attention, "sinks") or getattr(attention, "slopes", None) is not None


# Functions that a compiled step stands in for. In the course, a learner's own may take the place of one.
_STANDS_FOR: list[Any] = [OPS[name] for name in ("attention", "rms_norm", "rope")]
_CODE: list[CodeType] = [function.__code__ for function in _STANDS_FOR]


def _own_code() -> bool:
    """Whether those functions are the package's own."""
    return not any(map(is_not, [function.__code__ for function in _STANDS_FOR], _CODE))
