"""The compiled choice of a token keeps what the filters of `generate/sampling.py` keep, and draws what they draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinymoe.backend.decoding import Answers
from tinymoe.generate.engine import next_token_probabilities

kernel = pytest.importorskip("tinymoe.backend.numba_sampling")

# Scores of few values tie often; those that were masked are -inf.
TIED = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-np.inf, -3.0, -0.5, 0.0, 0.25, 1.0, 2.0]))
ANY = arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
FILTERS = st.tuples(
    st.sampled_from([0.5, 1.0, 1.5]),
    st.none() | st.integers(1, 50),
    st.none() | st.sampled_from([1e-6, 0.3, 0.5, 0.9, 1.0]),
    st.none() | st.sampled_from([1e-3, 0.2, 0.7, 1.0]),
)


def settings(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, vocab: int):
    none = np.zeros((0, 0))
    answers = Answers(*[none] * 7, temperature, 0.0, top_k, top_p, min_p)
    return kernel.make_choice(answers, vocab)


def chosen(scores: np.ndarray, draw: float, filters: tuple) -> tuple[int, float]:
    return kernel.choose(scores.copy(), draw, settings(*filters, len(scores)))


def check(scores: np.ndarray, filters: tuple) -> None:
    """Where a number falls in the middle of a token's share, or near to its ends, the token is that of the filters."""
    p = next_token_probabilities(scores[None], *filters)[0]
    ends = np.cumsum(p)
    full = np.log(next_token_probabilities(scores[None], filters[0], None, None, None)[0], where=p > 0, out=p * 0)
    for token in np.flatnonzero(p > 1e-4):
        for share in (0.01, 0.5, 0.99):
            got, logp = chosen(scores, ends[token] - (1 - share) * p[token], filters)
            assert got == token
            assert logp == pytest.approx(full[token], abs=2e-5)


def clear(scores: np.ndarray, filters: tuple) -> bool:
    """Whether nothing lies so near a limit that rounding decides."""
    near = {next_token_probabilities(scores[None], *filters).astype(bool).tobytes()}
    temperature, top_k, top_p, min_p = filters
    for factor in (1 - 1e-5, 1 + 1e-5):
        moved = [None if p is None else min(1.0, p * factor) for p in (top_p, min_p)]
        near.add(next_token_probabilities(scores[None], temperature, top_k, *moved).astype(bool).tobytes())
    return len(near) == 1


@pytest.mark.kernels
@given(TIED, FILTERS)
def test_ties_and_masked_scores(scores, filters):
    assume(np.isfinite(scores).any() and clear(scores, filters))
    check(scores, filters)


@pytest.mark.kernels
@given(ANY, FILTERS)
def test_any_scores(scores, filters):
    assume(clear(scores, filters))
    check(scores, filters)


@pytest.mark.parametrize("filters", [(0.8, 50, 0.95, None), (1.0, None, 0.9, None), (1.0, 5, None, 0.01)])
def test_a_whole_vocabulary(filters):
    rng = np.random.default_rng(0)
    scores, draws = (2 * rng.standard_normal((100, 4096))).astype(np.float32), rng.random(100)
    p = next_token_probabilities(scores, *filters)
    expected = (draws[:, None] >= np.cumsum(p, axis=-1)).sum(axis=-1)
    assert [chosen(row, draw, filters)[0] for row, draw in zip(scores, draws, strict=True)] == expected.tolist()


@pytest.mark.kernels
@given(ANY)
def test_the_likeliest_token_is_the_first_of_equals(scores):
    token, logp = chosen(scores, 0.7, (0.0, 3, 0.5, None))
    assert token == scores.argmax()
    expected = np.log(next_token_probabilities(scores[None], 1.0, None, None, None)[0, token])
    assert logp == pytest.approx(expected, abs=2e-5)


def test_a_draw_just_below_one_takes_the_last_token():
    assert chosen(np.zeros(7, np.float32), np.nextafter(1.0, 0), (1.0, None, None, None))[0] == 6


def test_scores_that_are_no_numbers_end_in_a_token():
    token, logp = chosen(np.full(5, np.nan, np.float32), 0.5, (1.0, 2, 0.5, 0.5))
    assert token == 0 and np.isnan(logp)
