"""A batch read without waste: the same results and gradients as of all its tokens, from fewer of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import VOCABULARY

from tinymoe import Tensor, zoo
from tinymoe.backend import current
from tinymoe.models.decoder import Decoder
from tinymoe.nn.recorder import collecting, recording
from tinymoe.posttrain import token_logps
from tinymoe.posttrain.texts import similar_lengths

ALIKE = np.random.default_rng(1).integers(0, VOCABULARY, (6, 9))
ALIKE[1:3, :4], ALIKE[4, :4] = ALIKE[0, :4], ALIKE[3, :4]  # three, two and one text to a prompt
READ_ONCE = {"llama-pico", "gpt2-nano", "bloom-nano", "mistral-nano", "gemma3-nano", "qwen3-nano", "phi-nano"}


def read_and_found(
    name: str, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[int, dict[str, np.ndarray]]:
    """How many tokens a model reads, and its results and gradients."""
    reach = {"mistral-nano": {"sliding_window": 3}}.get(name, {})
    model = zoo.build(name, vocab_size=VOCABULARY, seed=0, num_hidden_layers=2, **reach)
    forward, read = Decoder.__call__, []
    weights = np.random.default_rng(2).normal(size=(len(ids), ids.shape[1] - 1)).astype(np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "__call__", lambda self, ids, *rest, **options: (
            read.append(ids.size), forward(self, ids, *rest, **options))[1])  # fmt: skip
        with collecting() as own:
            logps, entropies = token_logps(model, ids, **options)
    loss = ((logps + entropies) * Tensor(current().asarray(weights))).sum() / len(ids)
    for other in own:
        loss = loss + other
    loss.backward()
    gradients = {name: current().to_numpy(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return sum(read), {"logps": logps.numpy(), "entropies": entropies.numpy(), **gradients}


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], exactly: bool = False) -> None:
    for part, values in expected.items():
        scale = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(found[part], values, atol=0 if exactly else 2e-5 * scale, err_msg=part)


@pytest.mark.parametrize("prompt", [1, 4, 7])
@pytest.mark.parametrize("name", [*sorted(READ_ONCE), "mixtral-nano", "deepseek-v3-nano", "llama4-nano"])
def test_a_prompt_is_read_once_for_the_texts_that_go_on_from_it(numpy_backend, name, prompt, monkeypatch):
    every, expected = read_and_found(name, ALIKE, monkeypatch)
    read, found = read_and_found(name, ALIKE, monkeypatch, prompt=prompt)
    texts = 1 + (ALIKE[1:, :prompt] != ALIKE[:-1, :prompt]).any(axis=1).sum()
    shared = name in READ_ONCE and texts < 6
    assert every == 6 * 8 and read == (texts * prompt + 6 * (8 - prompt) if shared else 6 * 8)
    compare(found, expected, exactly=not shared)


def test_every_backend_reads_a_prompt_once(backend, monkeypatch):
    expected = read_and_found("llama-pico", ALIKE, monkeypatch)[1]
    compare(read_and_found("llama-pico", ALIKE, monkeypatch, prompt=4)[1], expected)


def ragged(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Texts of 2 to 40 tokens, four to a prompt, and which of their tokens are scored; of the last, none."""
    ids = rng.integers(0, VOCABULARY, (96, 40))
    ids[:, :5] = np.repeat(ids[::4, :5], 4, axis=0)
    ends = rng.integers(2, 41, len(ids))
    mask = (np.arange(40) < ends[:, None]) & (np.arange(40) >= 5)
    mask[-1] = False
    return ids, mask


@pytest.mark.parametrize("prompt", [0, 5])
@pytest.mark.parametrize("name", ["llama-pico", "bloom-nano", "mixtral-nano"])
def test_padding_is_not_read(numpy_backend, name, prompt, monkeypatch):
    ids, mask = ragged(np.random.default_rng(0))
    every, expected = read_and_found(name, ids, monkeypatch)  # no mask: all of it
    assert every == 96 * 39
    read, found = read_and_found(name, ids, monkeypatch, mask=mask, prompt=prompt)
    share = {"mixtral-nano": 1}.get(name, 0.65 if prompt == 0 else 0.6)  # half of it is padding
    assert share - 0.1 < read / every <= share
    for part in ("logps", "entropies"):
        np.testing.assert_allclose(found[part], expected[part] * mask[:, 1:], atol=1e-4)
    with monkeypatch.context() as patch:
        patch.setattr("tinymoe.posttrain.logps.reads_apart", lambda model: False)
        compare(found, read_and_found(name, ids, monkeypatch, mask=mask)[1])


def test_whoever_looks_sees_one_batch(numpy_backend):
    ids, mask = ragged(np.random.default_rng(0))
    model = zoo.build("llama-pico", vocab_size=VOCABULARY)
    with recording() as seen:
        token_logps(model, ids, mask, prompt=5)
    assert [weights.shape for weights in seen["attention"]] == [(96, model.config.num_attention_heads, 39, 39)] * 2


def cost(lengths, parts, overhead):
    return sum(len(part) * lengths[part].max() + overhead for part in parts)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=80), st.integers(0, 2000))
def test_parts_hold_every_text_once_longest_first(lengths, overhead):
    lengths = np.array(lengths)
    parts = similar_lengths(lengths, overhead)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert all((np.diff(part) > 0).all() for part in parts)
    for part, rest in itertools.pairwise(parts):
        assert lengths[part].min() > lengths[rest].max()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 60))
def test_no_other_parts_would_cost_less(lengths, overhead):
    lengths = np.array(lengths)
    ordered, found = np.argsort(-lengths), cost(lengths, similar_lengths(lengths, overhead), overhead)
    for ends in itertools.product((False, True), repeat=len(lengths) - 1):
        others = np.split(ordered, 1 + np.flatnonzero(ends))
        assert found <= cost(lengths, others, overhead)

