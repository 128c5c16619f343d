"""The zoo: models by name. Small ones to train here, and published ones to look at.

A small model comes with a recipe: the settings with which `python -m tinymoe train` trains it well.
"""

from __future__ import annotations

import builtins
import dataclasses
import difflib
from typing import Any

from ..nn.config import Config
from .decoder import CausalLM

_LLAMA_2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LLAMA_3 = {"vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}


def _shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


# The published 0.02 suits widths in the thousands. Narrow models want weights nearer to 1/sqrt(width): on Tiny
# Shakespeare's characters llama-nano ends 0.05 lower with 0.06 than with 0.02.
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama-pico": _shape(64, 172, 2, 4, vocab_size=1024, max_position_embeddings=256, initializer_range=0.08),
    "llama-nano": _shape(128, 344, 4, 4, vocab_size=2048, max_position_embeddings=256, initializer_range=0.06),
    "llama-small": _shape(256, 704, 8, 8, 4, vocab_size=4096, max_position_embeddings=1024, initializer_range=0.04),
    "llama-7b": _shape(4096, 11008, 32, 32, vocab_size=32000, max_position_embeddings=2048),
    "llama-2-7b": _shape(4096, 11008, 32, 32, **_LLAMA_2),
    "llama-2-13b": _shape(5120, 13824, 40, 40, **_LLAMA_2),
    "llama-2-70b": _shape(8192, 28672, 80, 64, 8, **_LLAMA_2),
    "llama-3-8b": _shape(4096, 14336, 32, 32, 8, **_LLAMA_3),
    "llama-3-70b": _shape(8192, 28672, 80, 64, 8, **_LLAMA_3),
    "tinyllama-1.1b": _shape(2048, 5632, 22, 32, 4, vocab_size=32000, max_position_embeddings=2048, rms_norm_eps=1e-5),
}

_RECIPES: dict[str, dict[str, Any]] = {
    "llama-pico": {"lr": 3e-3, "steps": 400, "batch_size": 16, "context": 64},
    "llama-nano": {"lr": 2e-3, "steps": 2000, "batch_size": 12, "context": 64},
    "llama-small": {"lr": 1e-3, "steps": 2000, "batch_size": 8, "context": 256},
}
_COMMON = {"schedule": "cosine", "warmup": 100, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0}


def list() -> builtins.list[str]:
    """Names of all models: the small ones that train here first, then the published ones."""
    return [*_CONFIGS]


def config(name: str, vocab_size: int | None = None, **overrides: Any) -> Config:
    """The config of the model called `name`, with any field changed.

    Raises ValueError for an unknown name, with the nearest ones, or an unknown field.
    """
    if name not in _CONFIGS:
        near = difflib.get_close_matches(name, _CONFIGS, n=3) or [*_CONFIGS]
        raise ValueError(f"model: got {name!r}, which is not in the zoo; did you mean {', '.join(near)}?")
    known = {field.name for field in dataclasses.fields(Config)}
    if unknown := sorted(overrides.keys() - known):
        raise ValueError(f"{unknown[0]}: not a field of Config, which has {', '.join(sorted(known))}")
    values = {**_CONFIGS[name], **overrides}
    return Config(**(values if vocab_size is None else {**values, "vocab_size": vocab_size}))


def build(name: str, vocab_size: int | None = None, seed: int = 0, **overrides: Any) -> CausalLM:
    """A new model with random weights, the same for the same seed on every backend."""
    return CausalLM(config(name, vocab_size, **overrides), seed=seed)


def recipe(name: str) -> dict[str, Any]:
    """Training settings for the model called `name`; those of the smallest model's shape for one without its own."""
    config(name)
    settings = {**_COMMON, **_RECIPES.get(name, _RECIPES["llama-small"])}
    return {**settings, "min_lr": settings["lr"] / 10}
