"""What only single families have: attention in chunks, norms over all heads, packed weights."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.backend import current
from tinymoe.models import CausalLM, from_pretrained, zoo
from tinymoe.models.families.gpt_oss import FP4_VALUES, from_mxfp4
from tinymoe.nn.attention import Places
from tinymoe.nn.recorder import recording
from tinymoe.nn.specials import BareRMSNorm, WideNormAttention, in_chunks
from tinymoe.tensor import Tensor, no_grad

IDS = np.random.default_rng(0).integers(0, 33, (2, 20))
CHUNKS = {"attention_chunk_size": 6, "floor_scale": 4, "vocab_size": 33}


def weights(model: CausalLM, **options) -> list[np.ndarray]:
    """(B, H, T, T) a layer."""
    with no_grad(), recording() as records:
        model.model(current().asarray(IDS), **options)
    return records["attention"]


def test_who_sees_whom_in_chunks(backend):
    """Tokens see what stands before them in their own chunk; the fourth layer sees all."""
    i, j = np.indices((20, 20))
    *chunked, whole = weights(zoo.build("llama4-nano", **CHUNKS))
    for layer in chunked:
        np.testing.assert_array_equal(layer[0, 0] > 0, (j <= i) & (i // 6 == j // 6))
    np.testing.assert_array_equal(whole[0, 0] > 0, j <= i)


def test_chunks_of_packed_documents(backend):
    """A token sees neither another document nor another chunk, padding (-1) being a document of its own."""
    documents = np.repeat([[0, 1, 2], [-1, 0, 0]], [5, 8, 7], axis=1)
    i, j = np.indices((20, 20))
    layer = weights(zoo.build("llama4-nano", **CHUNKS), documents=current().asarray(documents))[0]
    for row in range(2):
        same = documents[row][:, None] == documents[row][None]
        np.testing.assert_array_equal(layer[row, 0] > 0, (j <= i) & (i // 6 == j // 6) & same)


def test_numbers_of_chunks(backend):
    places = in_chunks(Places(None, None), 4, batch=2, tokens=3, end=10)
    assert current().to_numpy(places.k_documents).tolist() == 2 * [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2]]
    assert current().to_numpy(places.q_documents).tolist() == 2 * [[1, 2, 2]]


def test_a_chunk_bounds_the_cache():
    model = zoo.build("llama4-nano", **CHUNKS)
    cache = model.new_cache()
    model(IDS, cache=cache)
    held = [layer.nbytes // (2 * 2 * 2 * 32 * 4) for layer in cache.layers]  # of two texts, k and v, 2 heads of 32
    assert held == [5, 5, 5, 20] and cache.length == 20
    chunked, whole = (model.model.layers[i].self_attn for i in (0, 3))
    assert (chunked.cached(100), whole.cached(100)) == (6 * 2 * 64, 100 * 2 * 64)
    assert chunked.work(100) * 100 == whole.work(100) * 3


def test_queries_without_positions_grow_with_the_text(backend):
    """By 1 + attn_scale ln(1 + floor((position + 1) / floor_scale))."""
    config = zoo.config("llama4-nano", **CHUNKS, attn_scale=0.5)
    plain = dataclasses.replace(config, attn_temperature_tuning=False)
    got, expected = (weights(CausalLM(c))[3] for c in (config, plain))
    np.testing.assert_array_equal(got[:, :, :3], expected[:, :, :3])
    raised = 1 + 0.5 * np.log1p(np.arange(1, 21) // 4)[:, None]
    with np.errstate(divide="ignore"):
        bent = np.exp(np.log(expected) * raised)
    np.testing.assert_allclose(got, bent / bent.sum(-1, keepdims=True), rtol=2e-4)


def test_bare_norm(backend):
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    got = BareRMSNorm(4, eps=1e-2)(Tensor(x)).numpy()
    np.testing.assert_allclose(got, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2), rtol=1e-6)
    assert BareRMSNorm(4).parameters() == []


def test_wide_norms_see_all_heads(backend):
    """All queries of a token together have the length that the weights say; those of one head need not."""
    attention = zoo.build("olmoe-nano").model.layers[0].self_attn
    assert isinstance(attention, WideNormAttention)
    x = Tensor(np.random.default_rng(0).normal(size=(1, 5, 128)).astype(np.float32))
    ones = current().asarray(np.ones((1, 5, 16), dtype=np.float32))
    q, k, _ = attention.heads(x, Places(ones, 0 * ones))
    for heads in (q, k):
        squares = (heads.numpy() ** 2).mean(-1)  # (1, T, H)
        np.testing.assert_allclose(squares.mean(-1), 1, rtol=1e-3)
        assert np.ptp(squares) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ("sliding_attention",) * 4}, "layer_types: got 'sliding_attention', expected"),
        ({"attention_chunk_size": None}, "attention_chunk_size: got None, expected at least 1"),
        ({"attention_chunk_size": 0}, "attention_chunk_size: got 0, expected at least 1"),
    ],
)
def test_chunks_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        CausalLM(dataclasses.replace(zoo.config("llama4-nano"), **changes))


def test_numbers_in_four_bits():
    """Of each byte the lower half comes first; a scale of 127 is a factor of one, of 128 of two."""
    assert FP4_VALUES.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    blocks = np.zeros((1, 2, 1, 16), dtype=np.uint8)
    blocks[0, 0, 0, 0], blocks[0, 1, 0, 15] = 0xF2, 0x71
    numbers = from_mxfp4(blocks, np.array([[[127], [128]]], dtype=np.uint8))
    assert numbers.shape == (1, 32, 2) and numbers.dtype == np.float32
    assert numbers[0, :2, 0].tolist() == [1.0, -6.0] and numbers[0, 30:, 1].tolist() == [1.0, 12.0]
    assert np.count_nonzero(numbers) == 4
    with pytest.raises(ValueError, match=r"blocks, scales: got shapes \(1, 2, 1, 16\) and \(1, 2\), expected"):
        from_mxfp4(blocks, np.zeros((1, 2), dtype=np.uint8))


def test_a_multimodal_llama_4_gives_its_text_model(tmp_path):
    """Config and weights of the text model stand beside those of a vision tower."""
    model = zoo.build("llama4-nano", vocab_size=33, num_hidden_layers=2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": "llama4", "text_config": config, "vision_config": {}, "image_token_index": 32}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    tensors = {f"language_model.{name}": a for name, a in load_file(tmp_path / "model.safetensors").items()}
    vision = {"vision_model.class_embedding": np.ones(3), "multi_modal_projector.linear_1.weight": np.ones((2, 2))}
    save_file({**tensors, **vision}, tmp_path / "model.safetensors")
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(again(IDS).numpy(), model(IDS).numpy())


def test_packed_numbers_where_none_belong(tmp_path):
    """Only GPT-OSS unpacks bytes; elsewhere they are no weights."""
    zoo.build("llama-pico").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(64, dtype=np.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight is stored as uint8, expected floating-point numbers"):
        from_pretrained(tmp_path)
