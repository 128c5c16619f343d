"""The generation loop: read the prompt once, then one token at a time through the KV cache.

It needs only a model that can be called with a cache, and so it stands below the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import sampling


@dataclass
class Step:
    """One step for a batch of B texts: the tokens chosen (B,), and the probabilities (B, V) they came from."""

    tokens: np.ndarray
    probabilities: np.ndarray


def stream(
    model: Any,
    ids: Any,
    *,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    attention_mask: Any = None,
) -> Iterator[Step]:
    """Yield a `Step` for each new token. ids (B, T); temperature 0 always takes the likeliest token.

    attention_mask (B, T) is 0 where a prompt is padded (on the left, so that all prompts end together).
    Raises ValueError for settings out of their range.
    """
    _check(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty)
    rng = np.random.default_rng(seed)
    ids = np.asarray(ids)
    cache = model.new_cache()
    new = ids
    for _ in range(max_new_tokens):
        logits = model(new, cache=cache, attention_mask=attention_mask).numpy()[:, -1]  # (B, V)
        attention_mask = None  # only the prompt has padding
        if repetition_penalty != 1.0:
            logits = sampling.repetition_penalty(logits, ids, repetition_penalty)
        probabilities = next_token_probabilities(logits, temperature, top_k, top_p, min_p)
        tokens = probabilities.argmax(axis=-1) if temperature == 0 else sampling.sample(probabilities, rng)
        yield Step(tokens, probabilities)
        new = tokens[:, None]
        ids = np.concatenate([ids, new], axis=1)


def next_token_probabilities(
    logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> np.ndarray:
    """The distribution a token is drawn from, (B, V): temperature first, then the filters, as Transformers orders them.

    At temperature 0 it is the model's own distribution, of which the loop takes the maximum.
    """
    if temperature == 0:
        return sampling.softmax(logits)
    logits = logits / temperature
    if top_k is not None:
        logits = sampling.top_k_filter(logits, top_k)
    if top_p is not None:
        logits = sampling.top_p_filter(logits, top_p)
    if min_p is not None:
        logits = sampling.min_p_filter(logits, min_p)
    return sampling.softmax(logits)


def generate(model: Any, ids: Any, *, eos_token_id: int | None = None, **options: Any) -> np.ndarray:
    """The prompt ids, (T,) or (B, T), with what follows them; options are those of `stream`.

    After `eos_token_id` a text is filled up with it, and generation ends when every text has ended.
    """
    ids = np.asarray(ids)
    batch = np.atleast_2d(ids)
    done = np.zeros(len(batch), dtype=bool)
    columns = [batch]
    for step in stream(model, batch, **options):
        tokens = np.where(done, eos_token_id, step.tokens) if eos_token_id is not None else step.tokens
        columns.append(tokens[:, None])
        done |= step.tokens == eos_token_id
        if done.all():
            break
    out = np.concatenate(columns, axis=1)
    return out[0] if ids.ndim == 1 else out


def _check(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
) -> None:
    for name, value, good, expected in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 0, "0 or more"),
        ("temperature", temperature, temperature >= 0, "0 or more"),
        ("top_k", top_k, top_k is None or top_k >= 1, "1 or more"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1"),
        ("min_p", min_p, min_p is None or 0 < min_p <= 1, "above 0 and at most 1"),
        ("repetition_penalty", repetition_penalty, repetition_penalty > 0, "above 0"),
    ):
        if not good:
            raise ValueError(f"{name}: got {value}, expected {expected}")
