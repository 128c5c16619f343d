"""Sampling rules by their definitions, and the generation loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tinymoe as tm
from tinymoe.generate import generate, sampling, stream
from tinymoe.generate.engine import next_token_probabilities

LOGITS = arrays(np.float64, (2, 7), elements=st.floats(-20, 20), unique=True)


@pytest.fixture(scope="module")
def model():
    return tm.zoo.build("llama-pico", vocab_size=19, seed=0, initializer_range=0.3, num_hidden_layers=1)


@given(LOGITS, st.integers(1, 9))
def test_top_k_keeps_the_k_highest(logits, k):
    kept = np.isfinite(sampling.top_k_filter(logits, k))
    assert (kept.sum(axis=-1) == min(k, 7)).all()
    for row, keep in zip(logits, kept, strict=True):
        assert row[keep].min() >= (row[~keep].max() if (~keep).any() else -np.inf)


@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    probabilities = sampling.softmax(logits)
    kept = np.isfinite(sampling.top_p_filter(logits, p))
    assert np.take_along_axis(kept, logits.argmax(axis=-1, keepdims=True), axis=-1).all()
    for row, keep in zip(probabilities, kept, strict=True):
        assert row[keep].sum() >= p - 1e-9 or keep.all()
        assert row[keep].sum() - row[keep].min() < p + 1e-9


@given(LOGITS, st.floats(0.01, 1.0))
def test_min_p_keeps_what_is_likely_enough(logits, p):
    probabilities = sampling.softmax(logits)
    ratio = probabilities / probabilities.max(axis=-1, keepdims=True)
    kept = np.isfinite(sampling.min_p_filter(logits, p))
    clear = np.abs(ratio - p) > 1e-9
    assert (kept == (ratio >= p))[clear].all()


def test_ties_with_the_last_of_the_top_k_stay():
    assert np.isfinite(sampling.top_k_filter(np.array([[1.0, 2.0, 2.0, 0.0]]), 1)).tolist() == [
        [False, True, True, False]
    ]


def test_repetition_penalty_lowers_seen_tokens_of_either_sign():
    logits = np.array([[2.0, -2.0, 1.0]])
    out = sampling.repetition_penalty(logits, np.array([[0, 1, 1]]), 2.0)
    np.testing.assert_array_equal(out, [[1.0, -4.0, 1.0]])
    np.testing.assert_array_equal(logits, [[2.0, -2.0, 1.0]])


def test_sampling_follows_the_probabilities():
    p = np.tile([[0.5, 0.3, 0.0, 0.2]], (20000, 1))
    counts = np.bincount(sampling.sample(p, np.random.default_rng(0)), minlength=4) / 20000
    np.testing.assert_allclose(counts, p[0], atol=0.015)
    assert counts[2] == 0


def test_sampling_survives_rounding():
    """Probabilities that sum to a little less than one must not run past the last token."""

    class AlmostOne:
        def random(self, shape):
            return np.full(shape, np.nextafter(1.0, 0))

    assert sampling.sample(np.array([[0.3, 0.3, 0.4 - 1e-12]]), AlmostOne())[0] == 2


def test_temperature_sharpens():
    logits = np.array([[1.0, 2.0, 3.0]])
    cold, warm = (next_token_probabilities(logits, t, None, None, None) for t in (0.1, 10.0))
    assert cold[0, 2] > 0.99 and warm[0, 2] < 0.4
    np.testing.assert_allclose(next_token_probabilities(logits, 0, 1, None, None), sampling.softmax(logits))


def test_filters_combine():
    logits = np.array([[4.0, 3.0, 2.0, 1.0, 0.0]])
    p = next_token_probabilities(logits, 1.0, 4, 0.9, 0.2)
    assert p[0, 0] > p[0, 1] > 0 and p[0, 3:].sum() == 0
    assert p.sum() == pytest.approx(1)


def test_greedy_needs_no_seed_and_one_dimension_stays(model):
    a = model.generate([1, 2, 3], max_new_tokens=12, temperature=0)
    b = model.generate(np.array([[1, 2, 3]]), max_new_tokens=12, temperature=0)
    assert a.shape == (15,) and b.shape == (1, 15)
    np.testing.assert_array_equal(a, b[0])
    np.testing.assert_array_equal(a[:3], [1, 2, 3])


def test_seeds(model):
    run = [model.generate([[1, 2], [3, 4]], max_new_tokens=20, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(run[0], run[1])
    assert not np.array_equal(run[0], run[2])


def test_top_k_one_is_greedy(model):
    greedy = model.generate([[5]], max_new_tokens=10, temperature=0)
    np.testing.assert_array_equal(model.generate([[5]], max_new_tokens=10, top_k=1, seed=3), greedy)


def test_stream_gives_the_same_tokens_with_their_probabilities(model):
    steps = list(stream(model, [[5, 6]], max_new_tokens=7, seed=4, top_p=0.8))
    out = generate(model, [[5, 6]], max_new_tokens=7, seed=4, top_p=0.8)
    np.testing.assert_array_equal(np.concatenate([s.tokens for s in steps]), out[0, 2:])
    for step in steps:
        assert step.probabilities.shape == (1, 19)
        assert step.probabilities[0, step.tokens[0]] > 0


def test_generation_stops_at_the_end_token(model):
    free = model.generate([[1], [2]], max_new_tokens=30, seed=0)
    eos = int(free[0, 4])
    out = model.generate([[1], [2]], max_new_tokens=30, seed=0, eos_token_id=eos)
    for row in out:
        ends = np.flatnonzero(row[1:] == eos)
        if len(ends):
            assert (row[1 + ends[0] :] == eos).all()
    assert out.shape[1] <= 31
    single = model.generate([1], max_new_tokens=30, temperature=0)
    stop = int(single[3])
    short = model.generate([1], max_new_tokens=30, temperature=0, eos_token_id=stop)
    assert short[-1] == stop and len(short) <= 4


def test_no_new_tokens(model):
    np.testing.assert_array_equal(model.generate([1, 2], max_new_tokens=0), [1, 2])


def test_repetition_penalty_in_the_loop(model):
    plain = model.generate([[1]], max_new_tokens=18, temperature=0)
    varied = model.generate([[1]], max_new_tokens=18, temperature=0, repetition_penalty=50.0)
    assert len(set(varied[0])) > len(set(plain[0]))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_new_tokens", -1),
        ("temperature", -0.5),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
    ],
)
def test_settings_out_of_range(model, setting, value):
    with pytest.raises(ValueError, match=f"{setting}: got {value}, expected"):
        model.generate([[1]], **{setting: value})
