"""tinymoe against answers of PyTorch, Transformers and `tokenizers` that tools/goldens.py has stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.models import from_pretrained

GOLDENS = Path(__file__).parent / "goldens"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def llama(tmp_path):
    from safetensors.numpy import save_file

    stored = golden("llama")
    (tmp_path / "config.json").write_text(str(stored["config"]))
    weights = {name.removeprefix("weight."): array for name, array in stored.items() if name.startswith("weight.")}
    save_file(weights, tmp_path / "model.safetensors")
    return stored, tmp_path


def test_llama_gives_the_logits_and_gradients_of_transformers(llama, backend):
    stored, folder = llama
    model, ids = from_pretrained(folder), stored["ids"]
    np.testing.assert_allclose(model(ids).numpy(), stored["logits"], atol=1e-5)
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(float(stored["loss"]), rel=1e-5)
    for name, p in model.named_parameters():
        expected = stored[f"grad.{name}"]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(current().to_numpy(p.grad), expected, atol=atol, err_msg=name)


def test_llama_chooses_the_tokens_of_transformers(llama, backend):
    stored, folder = llama
    got = from_pretrained(folder).generate(stored["ids"][:, :4], max_new_tokens=24, temperature=0)
    np.testing.assert_array_equal(got, stored["greedy"])


def test_adamw_takes_the_steps_of_torch(backend):
    stored = golden("adamw")
    p = tm.Tensor(current().asarray(stored["start"].copy()), requires_grad=True)
    optimizer = tm.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for gradient, expected in zip(stored["gradients"], stored["after"], strict=True):
        p.grad = current().asarray(gradient.copy())
        tm.clip_grad_norm([p], 1.0)
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), expected, rtol=2e-6, atol=1e-7)


def test_the_tokenizer_reads_the_file_and_gives_the_ids_of_tokenizers(tmp_path):
    stored = golden("tokenizer")
    (tmp_path / "tokenizer.json").write_text(str(stored["json"]), encoding="utf-8")
    tokenizer = tm.Tokenizer.load(tmp_path)
    for text, ids in zip(json.loads(str(stored["texts"])), json.loads(str(stored["ids"])), strict=True):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
