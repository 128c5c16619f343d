"""The decoder, its configs, its files and the zoo, without any other library."""

from __future__ import annotations

import dataclasses
import json
import shutil
from unittest.mock import patch

import numpy as np
import pytest
from gradients import check_gradients

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.course.adoption import Target, run_by
from tinymoe.models import Config, from_pretrained, zoo
from tinymoe.models.families import FAMILIES, family
from tinymoe.models.size import measure
from tinymoe.nn.module import Embedding, Linear
from tinymoe.nn.position import RotaryEmbedding, rope_frequencies
from tinymoe.tensor import OPS, Tensor

SMALL = {"vocab_size": 33, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}


def small(**changes):
    return tm.zoo.build("llama-pico", seed=1, **{**SMALL, "initializer_range": 0.2, **changes})


def ids_of(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, 33, (batch, length))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_cached_equals_uncached(backend, kv_heads):
    model, ids = small(num_key_value_heads=kv_heads), ids_of(2, 11)
    whole = model(ids).numpy()
    cache = model.new_cache()
    parts = [model(ids[:, a:b], cache=cache).numpy() for a, b in [(0, 4), (4, 5), (5, 9), (9, 11)]]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)
    assert cache.length == 11
    assert cache.nbytes == 2 * 2 * 2 * 11 * kv_heads * 4 * 4  # layers, k and v, batch, tokens, heads, dim, bytes


def test_a_cache_keeps_its_batch_size():
    model = small()
    cache = model.new_cache()
    assert cache.nbytes == 0
    model(ids_of(2, 3), cache=cache)
    with pytest.raises(ValueError, match="holds a batch of 2, got a batch of 3"):
        model(ids_of(3, 1), cache=cache)


@pytest.mark.parametrize(("name", "times"), [("rope", 4), ("rms_norm", 5), ("swiglu", 2)])
@pytest.mark.parametrize("adopted", [True, False])
def test_a_learners_operation_is_what_a_model_runs_on(name, times, adopted, backend):
    """Adopted, or entered in the table anew: one that does the work of several must not pass it over."""
    target, calls = Target(f"ops.py::{name}"), []

    def mine(*arrays, **options):
        calls.append(name)
        return target.original(*arrays, **options)

    model, ids = small(), ids_of(2, 12)
    expected = model.loss(ids[:, :-1], ids[:, 1:])
    with run_by(target, mine) if adopted else patch.dict(OPS, {name: mine}):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
    assert len(calls) == times  # in two layers, and before the output
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_future_does_not_change_the_past(backend):
    model, ids = small(), ids_of(1, 12)
    changed = ids.copy()
    changed[0, 8:] = (changed[0, 8:] + 1) % 33
    np.testing.assert_array_equal(model(ids).numpy()[:, :8], model(changed).numpy()[:, :8])


def test_packed_documents_do_not_see_each_other(backend):
    """Rotary positions are relative, so a document gives the same logits wherever in a packed row it stands."""
    model = small()
    a, b = ids_of(1, 5, seed=1), ids_of(1, 7, seed=2)
    documents = np.array([[3] * 5 + [9] * 7])
    packed = model(np.concatenate([a, b], axis=1), documents=documents).numpy()
    np.testing.assert_allclose(packed[:, :5], model(a).numpy(), atol=1e-5)
    np.testing.assert_allclose(packed[:, 5:], model(b).numpy(), atol=1e-5)


def test_padding_on_either_side_changes_nothing(backend):
    model, ids = small(), ids_of(1, 6)
    for left in (0, 4):
        padded = np.zeros((1, 10), dtype=np.int64)
        mask = np.zeros((1, 10), dtype=np.int64)
        padded[:, left : left + 6], mask[:, left : left + 6] = ids, 1
        got = model(padded, attention_mask=mask).numpy()[:, left : left + 6]
        np.testing.assert_allclose(got, model(ids).numpy(), atol=1e-5)


def test_padding_and_documents_together():
    model = small()
    ids = ids_of(1, 8)
    documents, mask = np.array([[1, 1, 1, 2, 2, 2, 2, 2]]), np.array([[1, 1, 1, 1, 1, 1, 0, 0]])
    both = model(ids, documents=documents, attention_mask=mask).numpy()
    np.testing.assert_allclose(both[:, :6], model(ids[:, :6], documents=documents[:, :6]).numpy(), atol=1e-5)


def test_cache_remembers_documents():
    model, ids = small(), ids_of(1, 9)
    documents = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1]])
    cache = model.new_cache()
    first = model(ids[:, :6], cache=cache, documents=documents[:, :6]).numpy()
    rest = model(ids[:, 6:], cache=cache, documents=documents[:, 6:]).numpy()
    whole = model(ids, documents=documents).numpy()
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, atol=1e-5)


def test_gradients_of_a_whole_model_by_finite_differences(backend):
    """Two layers, grouped heads, packed documents, ignored targets: everything at once, in float64."""
    model = small(num_key_value_heads=2, hidden_size=8, intermediate_size=6, vocab_size=5)
    turn = model.model.positions["full_attention"]
    turn.frequencies = turn.frequencies.astype(np.float64)
    names = ["model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    parameters = dict(model.named_parameters())
    for p in parameters.values():
        p.data = p.data.astype(np.float64)
    ids = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    targets = np.array([[1, -100, 3, 4, 0], [3, 2, 1, 0, -100]])
    documents = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    loss = model.loss(ids, targets, documents=documents)
    loss.backward()
    for name in names:
        p = parameters[name]
        analytic = current().to_numpy(p.grad)
        for index in [(0,) * p.ndim, tuple(n - 1 for n in p.shape)]:
            values = []
            for step in (1e-5, -1e-5):
                p.data[index] += step
                values.append(model.loss(ids, targets, documents=documents).item())
                p.data[index] -= step
            assert analytic[index] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7), name


def test_tied_embeddings_share_one_parameter():
    tied, untied = small(tie_word_embeddings=True), small()
    assert untied.num_parameters() - tied.num_parameters() == 33 * 16
    assert "lm_head.weight" not in dict(tied.named_parameters())
    tied.loss(ids_of(1, 5), ids_of(1, 5)).backward()
    embedding = tied.model.embed_tokens.weight
    assert np.count_nonzero(np.abs(embedding.grad).sum(axis=1)) == 33  # the softmax reaches every row


def test_the_seed_fixes_the_weights():
    a, b, c = small(), small(), tm.zoo.build("llama-pico", seed=2, **SMALL)
    assert all(np.array_equal(p.data, q.data) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not np.array_equal(a.parameters()[0].data, c.parameters()[0].data)


def test_trace_holds_the_attention_of_every_layer(backend):
    model, ids = small(num_key_value_heads=2), ids_of(2, 7)
    trace = model.trace(ids)
    assert len(trace.attention) == 2 and trace.attention[0].shape == (2, 4, 7, 7)
    np.testing.assert_allclose(trace.attention[1].sum(axis=-1), 1, rtol=1e-5)
    assert np.all(np.triu(trace.attention[0][0, 0], k=1) == 0)
    np.testing.assert_allclose(trace.logits, model(ids).numpy(), atol=1e-6)


def test_trace_weights_are_those_that_were_used(backend):
    """Weights times values, projected, must be what the layer added to its input."""
    model, ids = small(num_hidden_layers=1), ids_of(1, 6)
    weights = model.trace(ids, documents=np.array([[0, 0, 0, 1, 1, 1]])).attention[0]
    assert np.all(weights[0, :, 3:, :3] == 0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], r"ids: got shape \(3,\)"),
        ([[]], r"ids: got shape \(1, 0\)"),
        ([[1.5]], "of float32, expected"),
        ([[1, 33]], "got token id 33, expected 0 to 32"),
        ([[-1]], "got token id -1"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        small()(ids)


def test_bad_targets_and_masks():
    model, ids = small(), ids_of(1, 4)
    with pytest.raises(ValueError, match=r"targets: got shape \(1, 3\), expected that of ids, \(1, 4\)"):
        model.loss(ids, ids[:, :3])
    with pytest.raises(ValueError, match="targets: got token id -1"):
        model.loss(ids, np.full((1, 4), -1))
    with pytest.raises(ValueError, match=r"attention_mask: got shape \(4,\)"):
        model(ids, attention_mask=np.ones(4))
    with pytest.raises(ValueError, match=r"documents: got shape \(2, 4\)"):
        model.loss(ids, ids, documents=np.ones((2, 4)))


def test_config_fills_in_what_follows():
    config = Config(**SMALL)
    assert (config.num_key_value_heads, config.head_dim) == (4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 18}, "hidden_size: got 18, expected a multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: got 3, expected a divisor"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: got 0, expected at least 1"),
        ({"head_dim": 5}, "head_dim: got 5, expected an even number"),
    ],
)
def test_configs_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_save_and_load(tmp_path):
    model, ids = small(num_key_value_heads=2, attention_bias=True, mlp_bias=True), ids_of(2, 9)
    model.tokenizer = tm.CharTokenizer.train(["the quick brown fox jumps over the lazy dog"])
    model.save_pretrained(tmp_path / "a" / "b")
    again = from_pretrained(tmp_path / "a" / "b")
    np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())
    assert again.config == model.config
    assert again.tokenizer.encode("fox") == model.tokenizer.encode("fox")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    published = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert published["architectures"] == ["LlamaForCausalLM"] and published["num_key_value_heads"] == 2


def test_load_without_tokenizer_and_with_repeated_embedding(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = small(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, dtype=np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    again = from_pretrained(tmp_path)
    assert again.tokenizer is None
    np.testing.assert_array_equal(again(ids_of(1, 3)).numpy(), model(ids_of(1, 3)).numpy())


@pytest.fixture
def folder(tmp_path):
    small().save_pretrained(tmp_path)
    return tmp_path


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt5"}, "model_type: got 'gpt5', expected one of .*llama"),
        ({"sliding_window": 128}, "sliding_window = 128"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' .*only 'silu' is supported"),
        ({"rope_parameters": {"rope_type": "unheard-of", "rope_theta": 1e4}}, "unheard-of"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": 20}, "shape"),
        ({"num_hidden_layers": 3}, "missing model.layers.2"),
        ({"num_hidden_layers": 1}, "unexpected model.layers.1"),
    ],
)
def test_configs_that_do_not_fit_the_file(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)


def test_rope_parameters_in_either_spelling(folder):
    change_config(folder, rope_theta=5e5)
    assert from_pretrained(folder).config.rope_theta == 5e5
    change_config(folder, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 2e5})
    assert from_pretrained(folder).config.rope_theta == 2e5


def test_damaged_folders(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        from_pretrained(tmp_path / "nowhere")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no model_type"):
        from_pretrained(folder)


def test_damaged_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:5], whole[:200], whole[:-10], b"\xff" * 64):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or no safetensors"):
            from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\*\.safetensors"):
        from_pretrained(folder)


def test_weights_of_a_type_we_do_not_read(folder):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight is stored as I8"):
        from_pretrained(folder)


def test_a_failed_save_leaves_the_old_files(folder, monkeypatch):
    import os

    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        small(num_hidden_layers=1).save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    shutil.rmtree(folder)


def test_every_familys_tables_speak_of_our_config():
    known = {field.name for field in dataclasses.fields(Config)}
    for name in FAMILIES:
        kind = family(name)
        assert kind.model_type == name
        ours = {field for names in kind.fields.values() for field in names.split()}
        assert ours | kind.parts.keys() <= known


def test_rotary_frequencies():
    np.testing.assert_allclose(rope_frequencies(4, 100.0), [1, 0.1])
    cos, sin = RotaryEmbedding(4, 100.0)(np.array([[0, 1, 5]]))
    np.testing.assert_allclose(cos[0, 2], np.cos([5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(sin[0, 1], np.sin([1, 0.1]), rtol=1e-6)


def test_linear_and_embedding():
    rng = np.random.default_rng(0)
    layer, table = Linear(3, 2, bias=True, rng=rng), Embedding(4, 3, rng=rng)
    check_gradients(lambda x: layer(x), np.ones((2, 3)))
    assert layer(Tensor(np.zeros((1, 3), dtype=np.float32))).shape == (1, 2)
    assert table(np.array([[0, 3]])).shape == (1, 2, 3)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.num_parameters() == 8


def test_size_is_counted_from_the_config():
    """Llama 2 7B by hand: 32 layers of 4 x 4096^2 + 3 x 4096 x 11008 weights, and the output layer."""
    size = measure(zoo.config("llama-2-7b"), context=4096)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert size.flops_per_token == 2 * weights + 32 * 2 * 4096 * 4096
    assert size.kv_cache_bytes == 2 * 32 * 4096 * 2
    assert size.parameters == size.active_parameters == weights + 32000 * 4096 + 65 * 4096
    tied = measure(zoo.config("llama-pico", tie_word_embeddings=True))
    assert tied.flops_per_token == measure(zoo.config("llama-pico")).flops_per_token and tied.context == 256
