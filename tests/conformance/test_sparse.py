"""Sparse attention against Transformers' DeepSeek V3.2 and GLM-5, with dense feed-forward layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, GlmMoeDsaConfig, GlmMoeDsaForCausalLM

from tinymoe.backend import current
from tinymoe.models import CausalLM, Config
from tinymoe.nn.recorder import recording
from tinymoe.tensor import no_grad

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "index_n_heads": 16,  # with few, many scores are exactly 0, and which of equal ones PyTorch takes is not defined
    "index_head_dim": 12,
    "index_topk": 6,
    "max_position_embeddings": 512,
}
THEIRS = {"deepseek_v32": (DeepseekV32Config, DeepseekV32ForCausalLM), "glm": (GlmMoeDsaConfig, GlmMoeDsaForCausalLM)}


def half_split(rows: np.ndarray, heads: int, first: int, rope: int) -> np.ndarray:
    """Each head's `rope` interleaved rows, from number `first` on, half-split and put before its other rows."""
    heads_apart = rows.reshape(heads, -1, *rows.shape[1:])
    turned, rest = heads_apart[:, first : first + rope], np.delete(heads_apart, range(first, first + rope), axis=1)
    return np.concatenate([turned[:, 0::2], turned[:, 1::2], rest], axis=1).reshape(rows.shape)


def ours_of(name: str, array: np.ndarray, kind: str) -> np.ndarray:
    """A published matrix in our order of rows: rope's channels first and half-split, for one head after the other."""
    rope = SIZES["qk_rope_head_dim"]
    if "q_b_proj" in name:
        return half_split(array, SIZES["num_attention_heads"], SIZES["qk_nope_head_dim"], rope)
    if "kv_a_proj_with_mqa" in name:
        return half_split(array, 1, SIZES["kv_lora_rank"], rope)
    if kind == "glm" and "wq_b" in name:  # DeepSeek's indexer is half-split already
        return half_split(array, SIZES["index_n_heads"], 0, rope)
    if kind == "glm" and ("indexer.wk" in name or "indexer.k_norm" in name):
        return half_split(array, 1, 0, rope)
    return array


@pytest.fixture(scope="module", params=["deepseek_v32", "glm"])
def pair(request):
    kind, layers = request.param, SIZES["num_hidden_layers"]
    make_config, make_model = THEIRS[kind]
    torch.manual_seed(0)
    config = make_config(
        **SIZES, mlp_layer_types=["dense"] * layers, initializer_range=0.2, attn_implementation="eager"
    )
    theirs = make_model(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
    eps = config.rms_norm_eps
    ours = CausalLM(Config(attention="sparse", rms_norm_eps=eps, rope_theta=10000.0, **SIZES))
    published = {name: ours_of(name, p.detach().numpy(), kind) for name, p in theirs.named_parameters()}
    weights = dict(ours.named_parameters())
    assert published.keys() == weights.keys()
    for name, array in published.items():
        assert weights[name].shape == array.shape, name
        weights[name].data = current().asarray(np.ascontiguousarray(array))
    return theirs, ours, kind


def tokens(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, SIZES["vocab_size"], (2, length))


@pytest.mark.parametrize("length", [1, 6, 7, 40, 150])
def test_logits(pair, backend, length):
    theirs, ours, _ = pair
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens(length))).logits.numpy()
    assert np.abs(ours(tokens(length)).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_same_tokens_are_selected(pair, backend):
    theirs, ours, _ = pair
    found = []
    hooks = [
        layer.self_attn.indexer.register_forward_hook(lambda module, inputs, output: found.append(output.numpy()))
        for layer in theirs.model.layers
    ]
    with torch.no_grad():
        theirs(torch.tensor(tokens(40)))
    for hook in hooks:
        hook.remove()
    with no_grad(), recording() as records:
        ours(tokens(40))
    assert len(found) == 2
    for expected, got in zip(found, records["selected"], strict=True):
        np.testing.assert_array_equal(got[:, 6:], np.sort(expected, axis=-1)[:, 6:])  # before, all are


def test_gradients_of_the_language_loss(pair, backend):
    theirs, ours, kind = pair
    ids = tokens(30)
    theirs.zero_grad()
    theirs(torch.tensor(ids), labels=torch.tensor(ids)).loss.backward()
    for p in ours.parameters():
        p.grad = None
    ours.loss(ids[:, :-1], ids[:, 1:]).backward()
    got = {name: current().to_numpy(p.grad) for name, p in ours.named_parameters()}
    for name, p in theirs.named_parameters():
        if p.grad is None:
            assert ".indexer." in name, name  # theirs cannot train it
            continue
        wanted = ours_of(name, p.grad.numpy(), kind)
        assert np.abs(got[name] - wanted).max() < 1e-3 * np.abs(wanted).max(), name


def test_greedy_tokens(pair, backend):
    theirs, ours, _ = pair
    prompt = tokens(9)
    expected = theirs.generate(
        torch.tensor(prompt), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    ).numpy()
    np.testing.assert_array_equal(ours.generate(prompt, max_new_tokens=64, temperature=0), expected)
