"""A layer of Llama as one operation, for backends that are quicker at the whole than at its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import ops
from ..backend import current
from ..backend.reference import Array, LayerRules
from ..nn.attention import Attention, Places
from ..nn.mlp import MLP
from ..nn.module import Linear, are_plain
from ..nn.norm import RMSNorm
from ..nn.recorder import is_recording
from ..tensor import OPS, Tensor, are_own, is_tape_kept

if TYPE_CHECKING:
    from .decoder import DecoderLayer

# What `llama_layer` stands in for, unless a learner's has taken its place.
_PARTS = (
    "add", "add_rms_norm", "attention", "linear", "linears", "qkv_rope", "rms_norm", "rope", "swiglu", "swiglu_mlp"
)  # fmt: skip


def whole_layer(layer: DecoderLayer, x: Tensor, places: Places) -> Tensor | None:
    """What the layer makes of x (B, T, C) in one operation, or None where it has to go through its parts.

    It has to where somebody looks inside, where documents share a row, and where the layer is not `is_llama`.
    """
    seen = is_recording() or is_tape_kept()
    if seen or not current().whole_layers or places.q_documents is not None or not is_llama(layer):
        return None
    assert places.cos is not None and places.sin is not None  # Llama's attention turns its heads
    return ops.llama_layer(x, *layer_weights(layer), rules=layer_rules(layer, places.cos, places.sin))


def is_llama(layer: DecoderLayer) -> bool:
    """Whether it is made of Llama's parts and plain matrices, and nobody has put an operation of his own there."""
    parts = layer.input_layernorm, layer.self_attn, layer.post_attention_layernorm, layer.mlp
    known = tuple(map(type, parts)) == (RMSNorm, Attention, RMSNorm, MLP)
    return known and are_plain(*_linears(layer)) and are_own(*(OPS[name] for name in _PARTS))


def layer_weights(layer: DecoderLayer) -> list[Tensor]:
    """Those of both norms, then of all matrices, as `llama_layer` takes them."""
    return [part.weight for part in (layer.input_layernorm, layer.post_attention_layernorm, *_linears(layer))]


def layer_rules(layer: DecoderLayer, cos: Array, sin: Array) -> LayerRules:
    """What `llama_layer` has to know besides, for tokens that these angles turn."""
    eps = layer.input_layernorm.eps, layer.post_attention_layernorm.eps
    return LayerRules(cos, sin, layer.self_attn.head_dim, layer.self_attn.scale, eps)


def _linears(layer: DecoderLayer) -> list[Linear]:
    attention, mlp = layer.self_attn, layer.mlp
    its = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    return [*its, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
