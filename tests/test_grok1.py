"""Grok-1 against its formula, written down once more in plain NumPy from what xAI's code computes, in float64.

`formula` takes what a checkpoint's folder holds: the published config, and the tensors by their published names.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.backend import current
from tinymoe.models import CausalLM, from_pretrained, zoo
from tinymoe.models.families import family
from tinymoe.nn.recorder import recording
from tinymoe.tensor import no_grad

SMALL = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "initializer_range": 0.3,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "two of six": {},
    "one of six, multi-query": {"num_experts_per_tok": 1, "num_key_value_heads": 1},
    "all experts, a head each": {"num_experts_per_tok": 6, "num_key_value_heads": 4},
    "low cap, steep scores": {"max_attn_value": 1.5, "attn_output_multiplier": 0.9, "num_hidden_layers": 3},
    "logits as they are, not tied": {"output_multiplier_scale": 1.0, "tie_word_embeddings": False},
    "three heads, another eps": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-2,
    },
}
PUBLISHED = {
    "architectures": ["Grok1ModelForCausalLM"],
    "model_type": "grok-1",
    "vocab_size": 131072,
    "hidden_size": 6144,
    "intermediate_size": 32768,
    "num_hidden_layers": 64,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "attn_output_multiplier": 0.08838834764831845,
    "embedding_multiplier_scale": 78.38367176906169,
    "output_multiplier_scale": 0.5773502691896257,
    "max_attn_value": 30.0,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "use_cache": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
    "num_experts_per_tok": 2,
    "num_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.35.0",
}


def normed(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def turned(x: np.ndarray) -> np.ndarray:
    """Rope on heads (T, H, D), in two halves, theta 10 000; phases in float32, as published."""
    half = x.shape[-1] // 2
    speeds = (1.0 / 10_000 ** (np.arange(0, 2 * half, 2, dtype=np.float32) / (2 * half))).astype(np.float32)
    phases = np.arange(len(x), dtype=np.float32)[:, None] * speeds
    cos, sin = (np.tile(wave, 2)[:, None].astype(x.dtype) for wave in (np.cos(phases), np.sin(phases)))
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


def attention(x: np.ndarray, w: dict[str, np.ndarray], c: dict[str, Any]) -> np.ndarray:
    """x (T, C) -> (T, C); each of K key heads serves H / K query heads in turn."""
    tokens, heads = len(x), c["num_attention_heads"]
    q, k, v = (
        (x @ w[f"attn.{name}_proj.weight"].T).reshape(tokens, -1, c["hidden_size"] // heads) for name in ("q", "k", "v")
    )
    q, k = turned(q), turned(k)
    mixed = np.empty_like(q)
    for head in range(heads):
        group = head // (heads // c["num_key_value_heads"])
        scores = q[:, head] @ k[:, group].T * c["attn_output_multiplier"]
        scores = c["max_attn_value"] * np.tanh(scores / c["max_attn_value"])
        scores[np.triu_indices(tokens, 1)] = -1e30
        mixed[:, head] = softmax(scores) @ v[:, group]
    return mixed.reshape(tokens, -1) @ w["attn.o_proj.weight"].T


def experts(x: np.ndarray, w: dict[str, np.ndarray], c: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """x (T, C) -> the same shape, and each token's experts (T, k), the likeliest first."""
    shares = softmax(x @ w["moe_block.gate.weight"].T)
    chosen = np.argsort(-shares, axis=-1)[:, : c["num_experts_per_tok"]]
    y = np.zeros_like(x)
    for token, expert in ((t, e) for t in range(len(x)) for e in chosen[t]):
        into, gate, out = (w[f"moe_block.experts.{expert}.{m}.weight"] for m in ("linear_v", "linear", "linear_1"))
        y[token] += shares[token, expert] * (out @ (gelu(gate @ x[token]) * (into @ x[token])))
    return y, chosen


def formula(c: dict[str, Any], w: dict[str, np.ndarray], ids: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """ids (T,) -> logits (T, V), and the experts of each layer's tokens."""
    table, eps, choices = w["model.embed_tokens.weight"], c["rms_norm_eps"], []
    x = table[ids] * c["embedding_multiplier_scale"]
    for layer in range(c["num_hidden_layers"]):
        own = f"model.layers.{layer}."
        mine = {name.removeprefix(own): array for name, array in w.items() if name.startswith(own)}
        y = attention(normed(x, mine["pre_attn_norm.scale"], eps), mine, c)
        x = x + normed(y, mine["post_attn_norm.scale"], eps)
        y, chosen = experts(normed(x, mine["pre_moe_norm.scale"], eps), mine, c)
        x = x + normed(y, mine["post_moe_norm.scale"], eps)
        choices.append(chosen)
    logits = normed(x, w["model.norm.scale"], eps) @ w.get("lm_head.weight", table).T
    return logits * c["output_multiplier_scale"], choices


def mean_loss(c: dict[str, Any], w: dict[str, np.ndarray], ids: np.ndarray, targets: np.ndarray) -> float:
    logits, _ = formula(c, w, ids)
    return float(-np.log(softmax(logits)[np.arange(len(ids)), targets]).mean())


def tokens(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, SMALL["vocab_size"], length)


@pytest.fixture(params=VARIANTS)
def checkpoint(request, backend, tmp_path):
    """A model read from a folder, in float64, and what the folder holds: config and tensors. No weight is at 0 or 1."""
    model = CausalLM(family("grok-1").config_from_hf({**SMALL, **VARIANTS[request.param]}), seed=1)
    for p in model.parameters():
        noise = np.random.default_rng(p.size).normal(0, 0.2, p.shape)
        p.data = p.data + current().asarray(noise.astype(np.float32))
    model.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    return model, config, {name: array.astype(np.float64) for name, array in tensors.items()}


def test_logits_and_experts_are_those_of_the_formula(checkpoint):
    model, config, weights = checkpoint
    with no_grad(), recording() as records:
        got = model(tokens(40)[None]).numpy()[0]
    expected, choices = formula(config, weights, tokens(40))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_array_equal(np.concatenate(records["experts"]), choices)


def test_gradients_are_the_differences_of_the_formulas_loss(checkpoint):
    """Four entries of each parameter, moved a little both ways; no choice of an expert is so near to a tie."""
    model, config, weights = checkpoint
    ids, targets = tokens(12), tokens(13)[1:]
    model.loss(ids[None], targets[None]).backward()
    grads = {name: current().to_numpy(p.grad) for name, p in model.named_parameters()}
    grads = family("grok-1").weights_to_hf(grads, model.config)
    assert grads.keys() == weights.keys()
    rng = np.random.default_rng(0)
    for name, array in weights.items():
        for entry in [tuple(rng.integers(0, array.shape)) for _ in range(4)]:
            losses = []
            for step in (1e-5, -1e-5):
                moved = array.copy()
                moved[entry] += step
                losses.append(mean_loss(config, {**weights, name: moved}, ids, targets))
            assert grads[name][entry] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5, abs=1e-8), name


def test_with_a_cache_and_without(checkpoint):
    """Sixty-four greedy tokens; and a text in pieces of odd lengths."""
    model, config, weights = checkpoint
    got = model.generate(tokens(5), max_new_tokens=64, temperature=0)
    logits, _ = formula(config, weights, got[:-1])
    np.testing.assert_array_equal(got[5:], logits[4:].argmax(-1))
    ids, cache = tokens(40)[None], model.new_cache()
    pieces = [model(ids[:, a:b], cache=cache).numpy() for a, b in ((0, 13), (13, 14), (14, 40))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model(ids).numpy(), atol=1e-12)


def test_the_folder_of_a_checkpoint(tmp_path):
    """Names of tensors and fields as in the published conversion; what is read from it is written again, bit by bit."""
    model = CausalLM(family("grok-1").config_from_hf(SMALL), seed=1)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layer = [f"attn.{name}_proj.weight" for name in "qkvo"] + ["moe_block.gate.weight"]
    layer += [f"{at}_{block}_norm.scale" for at in ("pre", "post") for block in ("attn", "moe")]
    layer += [f"moe_block.experts.{e}.{m}.weight" for e in range(6) for m in ("linear", "linear_v", "linear_1")]
    names = {f"model.layers.{i}.{name}" for i in range(2) for name in layer}
    assert tensors.keys() == names | {"model.embed_tokens.weight", "model.norm.scale"}
    assert tensors["model.layers.0.moe_block.experts.5.linear_1.weight"].shape == (24, 20)
    written = json.loads((tmp_path / "config.json").read_text())
    notes = {"use_cache", "output_router_logits", "router_aux_loss_coef", "torch_dtype", "transformers_version"}
    assert PUBLISHED.keys() - written.keys() == notes
    # The conversion may repeat the table under the output layer's name.
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    again = from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    for name, array in load_file(tmp_path / "again" / "model.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name])
    assert from_pretrained(tmp_path / "again").config == again.config == model.config


def test_the_published_config():
    """xAI's run.py, in the fields of the conversion; nothing of it is lost on the way back."""
    kind = family("grok-1")
    config = kind.config_from_hf(PUBLISHED)
    assert (config.head_dim, config.query_pre_attn_scalar, config.attn_logit_softcapping) == (128, None, 30.0)
    assert (config.norm_topk_prob, config.hidden_act, config.experts) == (False, "gelu_pytorch_tanh", "gated")
    assert config == zoo.config("grok-1")
    written = kind.config_to_hf(config)
    common = PUBLISHED.keys() & written.keys()
    assert {name: written[name] for name in common} == {name: PUBLISHED[name] for name in common}
