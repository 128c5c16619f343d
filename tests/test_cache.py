"""The KV cache: however a text is cut, attention through a cache is that over the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe import ops
from tinymoe.backend.reference import AttentionRules
from tinymoe.models import CausalLM
from tinymoe.nn import Config
from tinymoe.nn.cache import KVCache, LayerCache, RollingCache
from tinymoe.tensor import Tensor

pieces = st.lists(st.integers(1, 9), min_size=1, max_size=12)  # lengths of what is read at a time
windows = st.integers(1, 12)

MODEL = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
MODELS = {
    "contiguous": {},
    "rolling and contiguous": {
        "attention": "variant",
        "layer_types": ("sliding_attention", "full_attention"),
        "sliding_window": 5,
    },
    "latent": {
        "attention": "latent",
        "kv_lora_rank": 6,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2,
        "v_head_dim": 3,
    },
}


def text(length: int, batch: int = 2, heads: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries (B, S, 2 heads, 4), keys (B, S, heads, 4) and values (B, S, heads, 3) in float64."""
    rng = np.random.default_rng(seed)
    q, k, v = ((batch, length, n, d) for n, d in ((2 * heads, 4), (heads, 4), (heads, 3)))
    return rng.normal(size=q), rng.normal(size=k), rng.normal(size=v)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None) -> np.ndarray:
    return ops.ruled_attention(Tensor(q), Tensor(k), Tensor(v), None, rules=AttentionRules(0.5, window=window)).data


def cuts(lengths: list[int]) -> list[slice]:
    ends = np.cumsum(lengths)
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def read(cache: LayerCache, lengths: list[int], window: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Attention through the cache, piece by piece, and attention over the whole."""
    q, k, v = text(sum(lengths))
    parts = [attend(q[:, s], *cache.append(k[:, s], v[:, s]), window) for s in cuts(lengths)]
    return np.concatenate(parts, axis=1), attend(q, k, v, window)


@given(pieces)
def test_any_pieces_give_the_attention_of_the_whole(lengths):
    got, whole = read(LayerCache(), lengths)
    np.testing.assert_allclose(got, whole, rtol=1e-10)


@given(pieces, windows)
def test_any_pieces_give_the_attention_of_the_whole_within_a_window(lengths, window):
    got, whole = read(RollingCache(window), lengths, window)
    np.testing.assert_allclose(got, whole, rtol=1e-10)


@given(pieces)
def test_a_contiguous_cache_returns_all_tokens_in_order(lengths):
    cache, (_, k, v) = LayerCache(), text(sum(lengths))
    for s in cuts(lengths):
        keys, values = cache.append(k[:, s], v[:, s])
        np.testing.assert_array_equal(keys, k[:, : s.stop])
        np.testing.assert_array_equal(values, v[:, : s.stop])
        assert cache.length == s.stop
        assert cache.nbytes == k[:, : s.stop].nbytes + v[:, : s.stop].nbytes


@given(pieces, windows)
def test_a_rolling_cache_returns_what_the_new_tokens_can_see(lengths, window):
    cache, (_, k, v) = RollingCache(window), text(sum(lengths))
    for s in cuts(lengths):
        first = max(0, s.start - window + 1)
        keys, values = cache.append(k[:, s], v[:, s])
        np.testing.assert_array_equal(keys, k[:, first : s.stop])
        np.testing.assert_array_equal(values, v[:, first : s.stop])
        assert cache.length == s.stop


@given(pieces, windows)
def test_a_rolling_cache_stays_small(lengths, window):
    """It counts at most window - 1 tokens, and its buffers hold no more than twice the window, or what came at once."""
    cache, (_, k, v) = RollingCache(window), text(sum(lengths))
    for s, length in zip(cuts(lengths), lengths, strict=True):
        for returned in cache.append(k[:, s], v[:, s]):
            assert returned.base.shape[1] <= max(2 * window, window - 1 + length)
        kept = min(s.stop, window - 1)
        assert cache.nbytes == kept * (k[:, :1].nbytes + v[:, :1].nbytes)


def test_a_rolling_cache_lets_go_of_a_long_prompt():
    cache, (_, k, v) = RollingCache(4), text(101)
    cache.append(k[:, :100], v[:, :100])
    keys, _ = cache.append(k[:, 100:], v[:, 100:])
    assert keys.base.shape[1] == 8


@given(pieces, st.one_of(st.none(), windows))
def test_what_was_returned_stays_as_it_was(lengths, window):
    """Later tokens do not change earlier views, and the caller's arrays are copied."""
    cache = LayerCache() if window is None else RollingCache(window)
    _, k, v = text(sum(lengths))
    seen = []
    for s in cuts(lengths):
        new = k[:, s].copy(), v[:, s].copy()
        views = cache.append(*new)
        seen += [(view, view.copy()) for view in views]
        for array in new:
            array[:] = np.nan
    for view, before in seen:
        np.testing.assert_array_equal(view, before)


def test_copying_grows_with_the_text_and_not_with_its_square():
    """Room is doubled: 1000 tokens that come one at a time move the old ones ten times, not a thousand times."""
    cache, (_, k, v) = LayerCache(), text(1000, batch=1, heads=1)
    buffers = {id(base): base for base in (cache.append(k[:, [i]], v[:, [i]])[0].base for i in range(1000))}
    assert len(buffers) <= 11


@pytest.mark.parametrize("cache", [LayerCache(), RollingCache(4)], ids=["contiguous", "rolling"])
def test_another_batch_size_is_refused_and_changes_nothing(cache):
    _, k, v = text(3)
    assert (cache.length, cache.nbytes) == (0, 0)
    cache.append(k, v)
    before = cache.nbytes
    with pytest.raises(ValueError, match="cache: it holds a batch of 2, got a batch of 1"):
        cache.append(k[:1], v[:1])
    assert (cache.length, cache.nbytes) == (3, before)


def test_documents_are_remembered():
    cache = KVCache([LayerCache()])
    _, k, v = text(5)
    assert cache.append_documents(None, 2, 3) is None
    cache.layers[0].append(k[:, :3], v[:, :3])
    later = np.array([[7, 7], [8, 9]])
    np.testing.assert_array_equal(cache.append_documents(later, 2, 2), [[0, 0, 0, 7, 7], [0, 0, 0, 8, 9]])
    cache.layers[0].append(k[:, 3:], v[:, 3:])
    np.testing.assert_array_equal(cache.append_documents(None, 2, 1)[:, -2:], [[7, 0], [9, 0]])


@pytest.mark.parametrize("kind", MODELS)
@given(lengths=pieces, packed=st.booleans())
def test_any_pieces_give_the_logits_of_the_whole(kind, lengths, packed):
    """Through whole models, also with two documents packed into each row."""
    model = CausalLM(Config(**MODEL, **MODELS[kind]), seed=3)
    rng = np.random.default_rng(len(lengths))
    ids = rng.integers(0, 33, (2, sum(lengths)))
    documents = np.sort(rng.integers(0, 2, ids.shape), axis=1) if packed else None
    cache = model.new_cache()
    parts = [
        model(ids[:, s], cache=cache, documents=None if documents is None else documents[:, s]).numpy()
        for s in cuts(lengths)
    ]
    whole = model(ids, documents=documents).numpy()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=5e-5 * np.abs(whole).max())


@pytest.mark.parametrize("kind", MODELS)
def test_the_cache_grows_as_its_layers_say(kind):
    """`cached` counts what the next token can be compared with: with a window, the query itself is in it."""
    model = CausalLM(Config(**MODEL, **MODELS[kind]))
    cache = model.new_cache()
    ids = np.zeros((2, 9), dtype=np.int64)
    model(ids, cache=cache)
    for layer, held in zip(model.model.layers, cache.layers, strict=True):
        rolling = isinstance(held, RollingCache)
        per_token = layer.self_attn.cached(1)
        assert layer.self_attn.cached(9) == per_token * (5 if rolling else 9)
        assert held.nbytes == 2 * 4 * per_token * (4 if rolling else 9)
