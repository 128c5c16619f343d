"""A larger vocabulary for a model that exists: how chat templates get their tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..backend import current
from .decoder import CausalLM


def resize_token_embeddings(model: CausalLM, vocab_size: int, seed: int = 0) -> CausalLM:
    """Give the model rows for more tokens, in its embedding and its output layer. Returns the model.

    The scores of the old tokens stay as they are. The new rows are the mean of the old ones, with a hundredth of their
    spread as noise: rows at random could take nearly all probability, the mean never takes much (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").

    Raises ValueError for fewer tokens than there are.
    """
    before = model.config.vocab_size
    if vocab_size < before:
        raise ValueError(f"vocab_size: got {vocab_size}, expected at least the model's {before}")
    if vocab_size == before:
        return model
    tables = [model.model.embed_tokens.weight]
    if not model.config.tie_word_embeddings:
        tables += model.lm_head.parameters()  # (V, C) and, in some families, a bias (V,)
    rng = np.random.default_rng(seed)
    for table in tables:
        old = table.numpy()
        noise = rng.normal(size=(vocab_size - before, *old.shape[1:])) * old.std(axis=0) / 100
        grown = np.concatenate([old, (old.mean(axis=0) + noise).astype(old.dtype)])
        table.data, table.grad = current().asarray(grown), None
    model.config = dataclasses.replace(model.config, vocab_size=vocab_size)
    return model
