"""Sparse attention that chooses once for several layers."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.models import CausalLM, zoo
from tinymoe.nn import sparse
from tinymoe.nn.recorder import recording
from tinymoe.nn.sharing import BorrowingAttention, LendingAttention
from tinymoe.tensor import no_grad

IDS = np.random.default_rng(0).integers(0, 33, (2, 20))


def build(**changes) -> CausalLM:
    """Four layers, the second of which takes over what the first chose: 5 tokens."""
    shape = {"vocab_size": 33, "index_topk": 5, "indexer_types": ("full", "shared", "full", "full")}
    return zoo.build("glm-moe-dsa-nano", **{**shape, **changes})


def test_only_full_layers_have_an_indexer():
    kinds = [type(layer.self_attn) for layer in build().model.layers]
    assert kinds == [LendingAttention, BorrowingAttention, LendingAttention, LendingAttention]
    names = [name for name, _ in build().named_parameters() if ".indexer.wk." in name]
    assert names == [f"model.layers.{i}.self_attn.indexer.wk.weight" for i in (0, 2, 3)]


def test_a_shared_layer_looks_where_the_last_full_one_chose_to(backend):
    with no_grad(), recording() as records:
        build()(IDS)
    (first, third, _), looks = records["selected"], [a > 0 for a in records["attention"]]
    for chosen, layers in ((first, looks[:2]), (third, looks[2:3])):
        allowed = np.zeros((2, 20, 20), dtype=bool)
        for text, query in np.ndindex(2, 20):
            keys = chosen[text, query]
            allowed[text, query, keys[keys >= 0]] = True
        for seen in layers:
            np.testing.assert_array_equal(seen.any(1), allowed)
    assert (first != third).any()


@pytest.mark.parametrize("topk", [1, 5, 64])
def test_the_cache_gives_the_same_logits(backend, topk):
    """Token by token too, where few queries fetch their keys."""
    model = build(index_topk=topk)
    cache, whole = model.new_cache(), model(IDS).numpy()
    pieces = [model(IDS[:, a:b], cache=cache).numpy() for a, b in ((0, 11), (11, 12), (12, 13), (13, 20))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5 * np.abs(whole).max())


def test_work_and_cache_without_an_indexer():
    full, shared = (layer.self_attn for layer in build().model.layers[:2])
    assert (shared.work(100), shared.work(3)) == (2 * 4 * (48 + 32) * 5, 2 * 4 * (48 + 32) * 3)
    assert full.work(100) - shared.work(100) == 2 * 8 * (16 + 1) * 100
    assert full.cached(100) - shared.cached(100) == 16 * 100


def test_while_indexers_warm_up_every_layer_sees_all():
    model = build()
    with sparse.warming_up(model) as parameters, recording() as records:
        model.loss(IDS[:, :-1], IDS[:, 1:]).backward()
    assert len(parameters) == 3 * 5 and all(p.grad is not None for p in parameters)
    past = np.tril(np.ones((19, 19), dtype=bool))
    assert all(((layer > 0).any(1) == past).all() for layer in records["attention"])
