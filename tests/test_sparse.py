"""Sparse attention: what the indexer keeps, what attention then sees, and what trains what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradients import check_gradients

import tinymoe as tm
from tinymoe.backend import current, reference
from tinymoe.backend.reference import AttentionRules
from tinymoe.models import CausalLM, Config
from tinymoe.models.size import measure
from tinymoe.nn import sparse
from tinymoe.nn.recorder import collecting, contribute, recording
from tinymoe.tensor import Tensor, no_grad

CONFIG: dict[str, Any] = {
    "attention": "sparse",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "index_n_heads": 3,
    "index_head_dim": 8,
    "index_topk": 6,
    "initializer_range": 0.3,
}
INF = float("inf")


def build(dtype: Any = np.float64, **changes: Any) -> CausalLM:
    model = CausalLM(Config(**{**CONFIG, **changes}), seed=1)
    for p in model.parameters():
        p.data = p.data.astype(dtype)
    return model


def ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50, (batch, length))


def values(array: Any) -> np.ndarray:
    return current().to_numpy(array)


def selections(model: CausalLM, tokens: np.ndarray, **options: Any) -> list[np.ndarray]:
    with no_grad(), recording() as records:
        model(tokens, **options)
    return records["selected"]


# --- choosing keys


def test_top_keys_keeps_the_best_in_order_of_place(backend):
    scores = np.array([[[3.0, 1.0, 2.0, 5.0, 0.0]]])
    assert values(sparse.top_keys(current().asarray(scores), 3)).tolist() == [[[0, 2, 3]]]


def test_of_equal_scores_the_nearest_win(backend):
    scores = np.array([[[0.0, 0.0, 1.0, 0.0, -INF], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    assert values(sparse.top_keys(current().asarray(scores), 3)).tolist() == [[[1, 2, 3], [2, 3, 4]]]


def test_where_too_few_keys_may_be_seen_minus_one_fills_up(backend):
    scores = np.array([[[-INF, 2.0, -INF, -INF]], [[1.0, 2.0, 3.0, -INF]]])
    found = values(sparse.top_keys(current().asarray(scores), 3))
    assert sorted(found[0, 0].tolist()) == [-1, -1, 1] and found[1, 0].tolist() == [0, 1, 2]


def test_more_than_there_are_is_all(backend):
    assert values(sparse.top_keys(current().asarray(np.ones((1, 1, 3))), 9)).tolist() == [[[0, 1, 2]]]


def test_top_keys_is_sorting(backend):
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (2, 40, 30)).astype(np.float64)  # many ties
    scores[rng.random(scores.shape) < 0.3] = -INF
    for k in (1, 7, 30):
        got = values(sparse.top_keys(current().asarray(scores), k))
        by_score = np.lexsort((-np.broadcast_to(np.arange(30), scores.shape), -scores))[..., :k]
        for found, best, line in zip(got.reshape(-1, k), by_score.reshape(-1, k), scores.reshape(-1, 30), strict=True):
            assert set(found) - {-1} == {key for key in best if line[key] > -INF}


@pytest.mark.parametrize("block", [2, 128])
def test_selection_is_causal_and_stays_inside_documents(backend, block, monkeypatch):
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", block)
    documents = np.repeat([[0, 1, 2], [0, 0, 5]], [7, 9, 4], axis=1)
    for selected in selections(build(), ids(2, 20), documents=documents):
        assert selected.shape == (2, 20, 6)
        for text in range(2):
            for t in range(20):
                may = [s for s in range(t + 1) if documents[text, s] == documents[text, t]]
                found = [s for s in selected[text, t] if s >= 0]
                assert set(found) <= set(may) and len(set(found)) == len(found) == min(6, len(may))


def test_index_scores_by_the_formula(backend):
    rng = np.random.default_rng(0)
    q, k, weights = rng.normal(size=(1, 2, 3, 4)), rng.normal(size=(1, 5, 4)), rng.normal(size=(1, 2, 3))
    got = sparse.index_scores(*map(Tensor, map(current().asarray, (q, k, weights)))).numpy()
    for t in range(2):
        for s in range(5):
            expected = sum(weights[0, t, j] * max(0.0, float(q[0, t, j] @ k[0, s])) for j in range(3))
            assert got[0, t, s] == pytest.approx(expected)


# --- attention to what was chosen


def test_a_text_no_longer_than_k_is_read_densely(backend):
    tokens = ids(2, 9)
    dense, wide, exact = build(attention="latent"), build(index_topk=100), build(index_topk=9)
    for model in (wide, exact):
        weights = dict(model.named_parameters())
        for name, p in dense.named_parameters():
            weights[name].data = p.data
        np.testing.assert_allclose(model(tokens).numpy(), dense(tokens).numpy(), rtol=1e-10)
        assert not selections(model, tokens)


@pytest.mark.parametrize("block", [3, 128])
def test_selecting_every_key_is_dense_attention(backend, block, monkeypatch):
    """Through the selecting kernel itself: outputs and the gradients of everything but the indexer."""
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", block)
    dense, model, tokens = build(attention="latent"), build(), ids(2, 9)
    weights = dict(model.named_parameters())
    for name, p in dense.named_parameters():
        weights[name].data = p.data
    every = current().xp.broadcast_to(current().xp.arange(9), (2, 9, 9))
    monkeypatch.setattr(sparse, "select", lambda *_: every)
    np.testing.assert_allclose(model(tokens).numpy(), dense(tokens).numpy(), rtol=1e-10)
    for either in (model, dense):
        either.loss(tokens, tokens).backward()
    for name, p in dense.named_parameters():
        np.testing.assert_allclose(values(weights[name].grad), values(p.grad), rtol=1e-8, atol=1e-12, err_msg=name)


def test_unselected_tokens_cannot_be_seen(backend):
    """With one layer, changing a token that a query did not select leaves its logits alone; a selected one does not."""
    model, tokens = build(num_hidden_layers=1), ids(1, 20)
    (selected,) = selections(model, tokens)
    before = model(tokens).numpy()
    x = model.model.embed_tokens.weight
    kept = set(selected[0, 19].tolist())
    for place in range(19):
        if (tokens[0] == tokens[0, place]).sum() > 1:
            continue  # the table's row stands in other places, too
        table = x.data
        x.data = table.copy()
        x.data[tokens[0, place]] += 1e-6  # too little to change the choice
        changed = not np.array_equal(model(tokens).numpy()[0, 19], before[0, 19])
        x.data = table
        assert changed == (place in kept), place


def test_gathered_attention_is_masked_attention(backend):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(2, 4, 6, 5)), rng.normal(size=(2, 9, 2, 5)), rng.normal(size=(2, 9, 2, 3))
    selected = np.stack([np.sort(rng.permutation(6)[:3]) for _ in range(8)]).reshape(2, 4, 3)
    selected[0, 0] = [-1, -1, 4]
    chosen = current().asarray(selected)
    rules = AttentionRules(0.3, selected=current().asarray(np.where(selected < 0, 8, selected)))  # 8 is in the future
    tensors = [Tensor(current().asarray(array)) for array in (q, k, v)]
    masked = tm.ops.ruled_attention(*tensors, None, rules=rules).numpy()
    got = sparse.gathered_attention(*tensors, chosen, 0.3).numpy()
    np.testing.assert_allclose(got, masked, rtol=1e-10)


def test_gathered_attention_has_gradients(backend):
    selected = np.array([[[0, 1], [-1, 2], [1, 3]]])
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(1, 3, 2, 4)), rng.normal(size=(1, 4, 1, 4)), rng.normal(size=(1, 4, 1, 2))
    check_gradients(lambda q, k, v: sparse.gathered_attention(q, k, v, current().asarray(selected), 0.5), *arrays)


@pytest.mark.parametrize("pieces", [[1] * 24, [11, 1, 1, 1, 4, 1, 5], [24], [3, 2, 2, 1, 16]])
def test_cached_reading_is_uncached_reading(backend, pieces):
    model, tokens = build(), ids(2, 24)
    expected = model(tokens).numpy()
    cache, start = model.new_cache(), 0
    for length in pieces:
        got = model(tokens[:, start : start + length], cache=cache).numpy()
        np.testing.assert_allclose(got, expected[:, start : start + length], rtol=1e-7, atol=1e-9)
        start += length


def test_cached_reading_of_padded_prompts(backend):
    model, tokens = build(), ids(2, 20)
    mask = np.ones((2, 14), dtype=int)
    mask[0, :9] = 0  # fewer real tokens than are selected
    every = np.concatenate([mask, np.ones((2, 6), dtype=int)], axis=1)
    expected = model(tokens, attention_mask=every).numpy()
    cache = model.new_cache()
    got = [model(tokens[:, :14], cache=cache, attention_mask=mask).numpy()]
    got += [model(tokens[:, t : t + 1], cache=cache).numpy() for t in range(14, 20)]
    np.testing.assert_allclose(np.concatenate(got, axis=1)[every > 0], expected[every > 0], rtol=1e-7, atol=1e-9)


def test_greedy_generation_is_the_same_without_a_cache(backend):
    model, text = build(), ids(1, 5)
    got = model.generate(text, max_new_tokens=20, temperature=0)
    for _ in range(20):
        text = np.concatenate([text, model(text).numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, text)


def test_the_cache_holds_latents_and_index_keys(backend):
    model = build(np.float32)
    cache = model.new_cache()
    assert cache.nbytes == 0
    model(ids(2, 7), cache=cache)
    assert cache.nbytes == 2 * 7 * 2 * (10 + 4 + 8) * 4  # layers, tokens, texts, (latent, rope key, index key), bytes
    assert measure(model.config, context=64).kv_cache_bytes == 2 * (10 + 4 + 8) * 2


def test_work_grows_with_k_but_for_the_indexer():
    layer = build().model.layers[0].self_attn
    assert layer.work(1000) - layer.work(500) == 500 * 2 * 3 * (8 + 1)
    attention = layer.work(6) - 6 * 2 * 3 * (8 + 1)
    assert attention == 2 * 4 * (10 + 5) * 6  # heads, channels of key and value, tokens


# --- training


def test_the_loss_is_the_divergence_from_where_attention_looks(backend):
    """By hand, from the recorded weights: heads averaged, against the softmax of the index scores."""
    for topk in (6, 100):
        model, tokens = build(index_topk=topk), ids(2, 12)
        with no_grad(), recording() as records:
            model(tokens)
        expected = 0.0
        for layer in range(2):
            target = records["attention"][layer].mean(axis=1)  # (B, T, S)
            scores = np.where(target > 0, records["index_scores"][layer], -INF)
            log_q = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
            seen = target > 0
            expected += (target[seen] * (np.log(target[seen]) - log_q[seen])).sum() / (2 * 12)
        with collecting() as losses:
            model(tokens)
        assert len(losses) == 2
        assert sum(loss.item() for loss in losses) == pytest.approx(expected, rel=1e-9)


def test_extra_losses_are_added_only_in_training(backend):
    model, tokens = build(), ids(2, 12)
    with no_grad():
        plain = model.loss(tokens, tokens).item()
    with collecting() as losses:
        model(tokens)
    assert model.loss(tokens, tokens).item() == pytest.approx(plain + sum(loss.item() for loss in losses), rel=1e-12)
    assert all(loss.item() > 0 for loss in losses)


def test_contributions_outside_are_not_even_computed():
    def fail() -> Tensor:
        raise AssertionError("nobody is collecting")

    contribute(fail)
    with no_grad(), collecting() as losses:
        contribute(fail)
    assert losses == []
    with collecting() as outer:
        with collecting() as inner:
            contribute(lambda: Tensor(1.0))
        contribute(lambda: Tensor(2.0))
    assert [t.item() for t in inner] == [1.0] and [t.item() for t in outer] == [2.0]


def gradients(model: CausalLM, tokens: np.ndarray) -> dict[str, np.ndarray | None]:
    for p in model.parameters():
        p.grad = None
    model.loss(tokens, tokens).backward()
    return {name: None if p.grad is None else values(p.grad).copy() for name, p in model.named_parameters()}


def test_each_loss_trains_its_own_part(backend, monkeypatch):
    """The language loss does not reach the indexer, and the indexer's loss nothing else."""
    model, tokens = build(), ids(2, 12)
    both = gradients(model, tokens)
    monkeypatch.setattr(sparse, "contribute", lambda loss: None)
    language = gradients(model, tokens)
    for name, grad in both.items():
        if ".indexer." in name:
            assert grad is not None and np.abs(grad).max() > 0 and language[name] is None, name
        else:
            np.testing.assert_array_equal(grad, language[name], err_msg=name)


@pytest.mark.parametrize("topk", [3, 100])
def test_the_indexers_gradients_by_finite_differences(backend, topk):
    """Of a whole layer's contribution, with respect to every matrix of the indexer."""
    model, tokens = build(index_topk=topk, num_hidden_layers=1), ids(2, 7)
    indexer = model.model.layers[0].self_attn.indexer
    names, parameters = zip(*indexer.named_parameters(), strict=True)

    def loss(*tensors: Tensor) -> Tensor:
        for name, tensor in zip(names, tensors, strict=True):
            holder = indexer
            *path, last = name.split(".")
            for step in path:
                holder = getattr(holder, step)
            setattr(holder, last, tensor)
        with collecting() as losses:
            model(tokens)
        return losses[0]

    check_gradients(loss, *(values(p.data) for p in parameters), eps=1e-6, tol=1e-6)


def test_warming_up_trains_only_the_indexers_on_dense_attention(backend):
    model, tokens = build(), ids(2, 12)
    with sparse.warming_up(model) as parameters:
        assert not selections(model, tokens)
        grads = gradients(model, tokens)
        names = {id(p): name for name, p in model.named_parameters()}
        assert {names[id(p)] for p in parameters} == {name for name in names.values() if ".indexer." in name}
        assert {name for name, grad in grads.items() if grad is not None} == {names[id(p)] for p in parameters}
    assert len(selections(model, tokens)) == 2
    assert all(p.requires_grad for p in model.parameters())


def test_warming_up_leaves_frozen_what_was_frozen():
    model = build()
    model.model.embed_tokens.weight.requires_grad = False
    with pytest.raises(KeyError), sparse.warming_up(model):
        raise KeyError
    assert not model.model.embed_tokens.weight.requires_grad
    assert model.lm_head.weight.requires_grad and not model.model.layers[0].self_attn.dense


def test_warming_up_lowers_the_divergence(backend):
    model, tokens = build(np.float32), ids(4, 16)
    with sparse.warming_up(model) as parameters:
        optimizer = tm.AdamW(parameters, lr=1e-2)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = model.loss(tokens, tokens)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_topk": None}, "index_topk: got None, expected at least 1"),
        ({"index_n_heads": 0}, "index_n_heads: got 0, expected at least 1"),
        ({"q_lora_rank": None}, "q_lora_rank: got None, expected at least 1"),
        ({"index_head_dim": 2}, "index_head_dim: got 2, expected at least qk_rope_head_dim"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_only_a_sparse_model_can_warm_up():
    with (
        pytest.raises(ValueError, match="model: got one without sparse attention"),
        sparse.warming_up(build(attention="latent")),
    ):
        pytest.fail("it should not have begun")
