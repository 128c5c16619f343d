"""The zoo: models by name. Small ones to train here, at least one of each family, and published ones to look at.

A small model comes with a recipe: the settings with which `python -m tinymoe train` trains it well.
"""

from __future__ import annotations

import builtins
import dataclasses
import difflib
from typing import Any

from ..nn.config import Config
from .decoder import CausalLM
from .families import family
from .published import PUBLISHED


def _small(model_type: str, hidden: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    """Fields of `Config`, and some of the family's own. Tokens with a meaning are left to the tokenizer."""
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": model_type, "vocab_size": 2048, "max_position_embeddings": 256, **tokens, **shape, **others}


def _nano(model_type: str, **others: Any) -> dict[str, Any]:
    # The published 0.02 suits widths in the thousands. Narrow models want weights nearer to 1/sqrt(width): on Tiny
    # Shakespeare's characters llama-nano ends 0.05 lower with 0.06 than with 0.02.
    return _small(model_type, 128, 4, 4, **{"initializer_range": 0.06, **others})


_PLAIN = {"intermediate_size": 512}  # a block of two matrices
_GATED = {"intermediate_size": 344}  # as many numbers in three
_EIGHT = {"num_experts": 8, "num_experts_per_tok": 2}
_BALANCED = {"layer_aux_loss_coef": 0.01}  # a loss in each layer: one for all of them lets single layers go uneven
_EXPERTS = {**_GATED, **_EIGHT, "moe_intermediate_size": 128}
_GROUPS = {"n_group": 4, "topk_group": 2, "n_shared_experts": 1, "first_k_dense_replace": 1}
_LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}
_INDEX = {"index_n_heads": 8, "index_head_dim": 16, "index_topk": 32}

_SMALL: dict[str, dict[str, Any]] = {
    "llama-pico": _small("llama", 64, 2, 4, intermediate_size=172, vocab_size=1024, initializer_range=0.08),
    "llama-nano": _nano("llama", **_GATED),
    "llama-small": _small(
        "llama",
        256,
        8,
        8,
        intermediate_size=704,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=1024,
        initializer_range=0.04,
    ),
    "gpt2-nano": _nano("gpt2", **_PLAIN),
    "bloom-nano": _nano("bloom"),
    "falcon-nano": _nano("falcon"),
    "mistral-nano": _nano("mistral", **_GATED, num_key_value_heads=2, sliding_window=32),
    "gemma-nano": _nano("gemma", **_GATED, num_key_value_heads=1, head_dim=64),
    "gemma2-nano": _nano("gemma2", **_GATED, num_key_value_heads=2, head_dim=64, sliding_window=32),
    "gemma3-nano": _nano(
        "gemma3_text", **_GATED, num_key_value_heads=2, head_dim=64, sliding_window=32, sliding_window_pattern=4
    ),
    "qwen2-nano": _nano("qwen2", **_GATED, num_key_value_heads=2),
    "qwen3-nano": _nano("qwen3", **_GATED, num_key_value_heads=2, head_dim=64),
    "phi-nano": _nano("phi", **_PLAIN),
    "phi3-nano": _nano("phi3", **_GATED, num_key_value_heads=2),
    "starcoder-nano": _nano("gpt_bigcode", **_PLAIN),
    "starcoder2-nano": _nano("starcoder2", **_PLAIN, num_key_value_heads=2, sliding_window=32),
    "mixtral-nano": _nano("mixtral", **_BALANCED, **_EIGHT, intermediate_size=128, num_key_value_heads=2),
    # the shape of makeMoE (A. Hanna, 2024): 8 layers of 8 experts, 32 characters at a time
    "mixtral-makemoe": _small("mixtral", 128, 8, 8, **_BALANCED, **_GATED, **_EIGHT, initializer_range=0.06),
    "qwen2-moe-nano": _nano(
        "qwen2_moe", **_BALANCED, **_EXPERTS, num_key_value_heads=4, shared_expert_intermediate_size=128
    ),
    "qwen3-moe-nano": _nano(
        "qwen3_moe", **_BALANCED, **_EXPERTS, num_key_value_heads=2, head_dim=64, norm_topk_prob=True
    ),
    "olmoe-nano": _nano("olmoe", **_BALANCED, **_EIGHT, intermediate_size=128),
    "gpt-oss-nano": _nano(
        "gpt_oss",
        **_BALANCED,
        **_EIGHT,
        intermediate_size=128,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=32,
        rope_scaling=None,
    ),
    "deepseek-v2-nano": _nano(
        "deepseek_v2",
        **_BALANCED,
        **_EXPERTS,
        **_GROUPS,
        **_LATENT,
        q_lora_rank=None,
        topk_method="group_limited_greedy",
    ),
    # The published speed is 0.001, over a hundred thousand steps and more; here there are two thousand.
    "deepseek-v3-nano": _nano("deepseek_v3", **_EXPERTS, **_GROUPS, **_LATENT, q_lora_rank=64, bias_update_speed=0.01),
    "deepseek-v32-nano": _nano(
        "deepseek_v32", **_EXPERTS, **_GROUPS, **_LATENT, **_INDEX, q_lora_rank=64, bias_update_speed=0.01
    ),
    "glm-moe-dsa-nano": _nano(
        "glm_moe_dsa",
        **_EXPERTS,
        **_LATENT,
        **_INDEX,
        q_lora_rank=64,
        first_k_dense_replace=1,
        index_topk_freq=2,
        bias_update_speed=0.01,
    ),
    "grok1-nano": _nano("grok-1", **_BALANCED, **_EIGHT, intermediate_size=128, num_key_value_heads=2),
    "llama4-nano": _nano(
        "llama4_text",
        **_BALANCED,
        **_GATED,
        num_experts=4,
        num_experts_per_tok=1,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
        num_key_value_heads=2,
        head_dim=32,
        attention_chunk_size=32,
        interleave_moe_layer_step=2,
    ),
}
_RECIPES: dict[str, dict[str, Any]] = {
    "llama-pico": {"lr": 3e-3, "steps": 400, "batch_size": 16, "context": 64},
    "nano": {"lr": 2e-3, "steps": 2000, "batch_size": 12, "context": 64},
    "mixtral-makemoe": {"lr": 2e-3, "steps": 5000, "batch_size": 16, "context": 32},
    "other": {"lr": 1e-3, "steps": 2000, "batch_size": 8, "context": 256},
}
_COMMON = {"schedule": "cosine", "warmup": 100, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0}


def list() -> builtins.list[str]:
    """Names of all models: the small ones that train here first, then the published ones."""
    return [*_SMALL, *PUBLISHED]


def config(name: str, vocab_size: int | None = None, **overrides: Any) -> Config:
    """The config of the model called `name`, with any field changed.

    Raises ValueError for an unknown name, with the nearest ones, or an unknown field.
    """
    if name not in _SMALL and name not in PUBLISHED:
        near = difflib.get_close_matches(name, list(), n=3) or list()
        raise ValueError(f"model: got {name!r}, which is not in the zoo; did you mean {', '.join(near)}?")
    known = {field.name for field in dataclasses.fields(Config)}
    if unknown := sorted(overrides.keys() - known):
        raise ValueError(f"{unknown[0]}: not a field of Config, which has {', '.join(sorted(known))}")
    if vocab_size is not None:
        overrides["vocab_size"] = vocab_size
    if name in PUBLISHED:
        published, ours = PUBLISHED[name].config, {}
    else:
        ours = {field: value for field, value in _SMALL[name].items() if field in known - {"model_type"}}
        published = {field: value for field, value in _SMALL[name].items() if field not in ours}
    return family(published["model_type"]).config_from_hf(published, **{**ours, **overrides})


def build(name: str, vocab_size: int | None = None, seed: int = 0, **overrides: Any) -> CausalLM:
    """A new model with random weights, the same for the same seed on every backend."""
    return CausalLM(config(name, vocab_size, **overrides), seed=seed)


def recipe(name: str) -> dict[str, Any]:
    """Training settings for the model called `name`; those of llama-small for the published ones."""
    config(name)
    kind = name if name in _RECIPES else "nano" if name.endswith("-nano") else "other"
    settings = {**_COMMON, **_RECIPES[kind]}
    return {**settings, "min_lr": settings["lr"] / 10}
