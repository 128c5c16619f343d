"""Llama against Transformers: logits, loss, gradients, cached decoding, and export, over many shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tinymoe as tm

BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough for attention that is far from uniform
    "attn_implementation": "eager",
}
VARIANTS = {
    "multi-head": {"num_key_value_heads": 4},
    "grouped": {"num_key_value_heads": 2},
    "multi-query": {"num_key_value_heads": 1},
    "tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "attention bias": {"num_key_value_heads": 2, "attention_bias": True},
    "mlp bias": {"num_key_value_heads": 4, "mlp_bias": True},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 22},
    "narrow heads": {"num_key_value_heads": 4, "head_dim": 6},
    "three heads": {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10},
    "theta and eps": {"num_key_value_heads": 2, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    settings = {**BASE, **VARIANTS[request.param]}
    theirs = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide a mistake
                p.add_(0.3 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    return theirs, tm.from_pretrained(folder)


def tokens(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, BASE["vocab_size"], (batch, length))


def test_logits_with_padding(pair, backend):
    theirs, ours = pair
    ids, mask = tokens(3, 12), np.ones((3, 12), dtype=np.int64)
    mask[0, 8:], mask[1, 5:] = 0, 0
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    got = ours(ids, attention_mask=mask).numpy()
    np.testing.assert_allclose(got[mask > 0], expected[mask > 0], atol=1e-5 * np.abs(expected).max())


def test_greedy_tokens_of_padded_prompts(pair):
    theirs, ours = pair
    prompt, mask = tokens(2, 8), np.ones((2, 8), dtype=np.int64)
    mask[0, :3] = 0
    expected = [
        theirs.generate(
            torch.tensor(prompt[i : i + 1, 8 - n :]),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        for i, n in enumerate([5, 8])
    ]
    got = ours.generate(prompt, max_new_tokens=16, temperature=0, attention_mask=mask)
    for i in range(2):
        np.testing.assert_array_equal(got[i, 8:], expected[i][0, -16:].numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files(dtype, tmp_path):
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**BASE)).to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = dict(tm.from_pretrained(tmp_path).named_parameters())
    for name, p in theirs.named_parameters():
        np.testing.assert_array_equal(ours[name].numpy(), p.detach().float().numpy())


def test_sharded_files(tmp_path):
    theirs = LlamaForCausalLM(LlamaConfig(**BASE)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = tokens(1, 9)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(tm.from_pretrained(tmp_path)(ids).numpy(), expected, atol=1e-4)


def test_our_own_random_model_loads_in_transformers(tmp_path):
    ours = tm.zoo.build("llama-pico", vocab_size=300, seed=3, num_key_value_heads=2)
    ours.save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = np.random.default_rng(0).integers(0, 300, (2, 33))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours(ids).numpy(), expected, atol=1e-5)
