"""What a model costs: parameters, work a token, and memory a token of context. Computed from the config alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.config import Config
from ..nn.module import Embedding, shapes_only
from .decoder import CausalLM


@dataclass(frozen=True)
class Size:
    """A model's size and costs.

    `flops_per_token` counts the forward pass at the middle of a full context of `context` tokens, two operations to a
    multiply-add; training costs three times that. `kv_cache_bytes` is for one token in all layers, on average over a
    full context (a window bounds what its layers hold). `active_parameters` are those that a token uses.
    """

    parameters: int
    active_parameters: int
    context: int
    flops_per_token: int
    kv_cache_bytes: int


def measure(config: Config, context: int | None = None, bytes_per_number: int = 2) -> Size:
    """Size and costs of a model of this shape; `context` defaults to the longest it was made for."""
    with shapes_only():
        model = CausalLM(config)
    context = context or config.max_position_embeddings
    layers = [layer.self_attn for layer in model.model.layers]
    # A token in the middle of the text sees half of it.
    attention = sum(layer.work(context // 2) for layer in layers)
    return Size(
        parameters=model.num_parameters(),
        active_parameters=model.num_parameters(active=True),
        context=context,
        flops_per_token=2 * _multiplied_weights(model) + attention,
        kv_cache_bytes=sum(layer.cached(context) for layer in layers) * bytes_per_number // context,
    )


def _multiplied_weights(model: CausalLM) -> int:
    """Weights of all matrix products of a token: the output layer counts, a table only looked up does not."""
    matrices = sum(p.size for p in model.parameters() if p.ndim >= 2)
    tables = sum(module.weight.size for module in model.modules() if isinstance(module, Embedding))
    output = model.output_weight.size if model.config.tie_word_embeddings else 0
    return matrices - sum(module.idle for module in model.modules()) - tables + output
