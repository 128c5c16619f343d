"""What a model costs: parameters, work a token, and memory a token of context. Computed from the config alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..nn.module import shapes_only
from .config import Config
from .decoder import CausalLM


@dataclass(frozen=True)
class Size:
    """A model's size and costs.

    `flops_per_token` counts the forward pass at the middle of a full context of `context` tokens, two operations to a
    multiply-add; training costs three times that. `kv_cache_bytes` is for one token in all layers.
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
    total = model.num_parameters()
    context = context or config.max_position_embeddings
    width = config.num_attention_heads * config.head_dim
    # Each of the two products, q k^T and p v, costs 2 * width a key, and a token sees half of the context on average.
    attention = 2 * 2 * width * context // 2 * config.num_hidden_layers
    return Size(
        parameters=total,
        active_parameters=total,
        context=context,
        flops_per_token=2 * _multiplied_weights(model) + attention,
        kv_cache_bytes=2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * bytes_per_number,
    )


def _multiplied_weights(model: CausalLM) -> int:
    """Weights of all matrix products: the output layer counts, a table only looked up does not."""
    table = 0 if model.config.tie_word_embeddings else model.model.embed_tokens.weight.size
    return sum(p.size for p in model.parameters() if p.ndim == 2) - table
