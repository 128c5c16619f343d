"""What the tests of training share: a model and a text so small that a step takes a millisecond."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tinymoe.models import CausalLM, zoo
from tinymoe.train import TokenData, TrainConfig

VOCABULARY, CONTEXT = 11, 8


def tiny_model(seed: int = 0, **overrides: object) -> CausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {"num_key_value_heads": 2, "max_position_embeddings": 16, **shape, **overrides}
    return zoo.build("llama-pico", vocab_size=VOCABULARY, seed=seed, **settings)


def tiny_data(seed: int = 0, tokens: int = 600, context: int = CONTEXT) -> TokenData:
    """A text in which each token follows from the one before it, but for some noise."""
    rng = np.random.default_rng(seed)
    text = [0]
    for noise in rng.random(tokens - 1):
        text.append(int(rng.integers(VOCABULARY)) if noise < 0.1 else (3 * text[-1] + 1) % VOCABULARY)
    return TokenData.from_documents([text], context)


def tiny_config(**changes: object) -> TrainConfig:
    settings = {
        "steps": 12,
        "batch_size": 4,
        "context": CONTEXT,
        "lr": 0.02,
        "min_lr": 0.002,
        "warmup": 2,
        "eval_every": 4,
        "eval_batches": 2,
        "checkpoint_every": 5,
    }
    return TrainConfig(**{**settings, **changes})


def without_timing(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in metrics.items() if key != "tokens_per_s"} for metrics in history]


def read_metrics(run: Path) -> list[dict[str, float]]:
    return without_timing([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
