"""Products and causal attention of our own against NumPy in float64: any shape, any layout, added or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.backend.reference import AttentionRules, ReferenceBackend

pytest.importorskip("numba")

from tinymoe.backend import numba_cpu
from tinymoe.backend.numba_cpu import FEW, NumbaBackend
from tinymoe.backend.numba_product import DEPTH, NEAR, PANEL, ROWS

SIZES = st.one_of(st.integers(1, 3 * ROWS), st.sampled_from([PANEL - 1, PANEL, PANEL + 1, 2 * PANEL, 5 * PANEL + 7]))


def frozen(array):
    array.flags.writeable = False
    return array


def matrix(random, rows, columns, across):
    values = random.normal(size=(columns, rows) if across else (rows, columns)).astype(np.float32)
    return values.T if across else values


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, st.integers(1, 70), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9))
def test_a_product_of_any_shape_and_layout(alone, m, n, k, a_across, b_across, add, seed):
    random = np.random.default_rng(seed)
    a, b = matrix(random, m, k, a_across), matrix(random, k, n, b_across)
    out = random.normal(size=(m, n)).astype(np.float32)
    expected = a.astype(np.float64) @ b + (out if add else 0)
    alone.multiply(a, b, out, add)
    np.testing.assert_allclose(out, expected, atol=2e-5 * np.sqrt(k), rtol=1e-5)
    np.testing.assert_allclose(alone.matmul(a, b), a.astype(np.float64) @ b, atol=2e-5 * np.sqrt(k), rtol=1e-5)


@pytest.mark.parametrize(("m", "k", "n"), [(33, 2 * DEPTH + 5, 70), (20, DEPTH, NEAR // DEPTH + PANEL + 3)])
@pytest.mark.parametrize("add", [False, True])
def test_a_product_that_is_cut_into_blocks(alone, m, k, n, add):
    random = np.random.default_rng(0)
    a, b, out = (random.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
    expected = a.astype(np.float64) @ b + (out if add else 0)
    alone.multiply(a, b, out, add)
    np.testing.assert_allclose(out, expected, atol=1e-3)


@pytest.mark.parametrize("across", [False, True])
def test_only_its_own_place_is_written(alone, across):
    random, room = np.random.default_rng(0), np.full((40, 50), 7, dtype=np.float32)
    a, b = matrix(random, 19, 23, across), matrix(random, 23, 41, across)
    alone.multiply(a, b, room[5:24, 3:44])
    np.testing.assert_allclose(room[5:24, 3:44], a @ b, atol=1e-4)
    room[5:24, 3:44] = 7
    assert (room == 7).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_stays_so(alone, value):
    a, b = np.ones((ROWS + 1, 8), np.float32), np.ones((8, FEW), np.float32)
    a[3, 2] = value
    assert not np.isfinite(alone.matmul(a, b)[3]).any() and np.isfinite(np.delete(alone.matmul(a, b), 3, 0)).all()


def test_a_product_of_nothing(alone):
    out = np.ones((FEW, FEW), np.float32)
    alone.multiply(np.empty((FEW, 0), np.float32), np.empty((0, FEW), np.float32), out, add=True)
    assert (out == 1).all()
    alone.multiply(np.empty((FEW, 0), np.float32), np.empty((0, FEW), np.float32), out)
    assert not out.any() and alone.matmul(np.empty((0, 3), np.float32), np.ones((3, 20), np.float32)).shape == (0, 20)


def test_matrices_of_another_kind_are_left_to_blas(alone):
    random = np.random.default_rng(0)
    wide, strided = random.normal(size=(20, 20)), random.normal(size=(40, 40)).astype(np.float32)[::2, ::2]
    for matrix in (wide, strided):
        np.testing.assert_allclose(alone.matmul(matrix, matrix), matrix @ matrix, rtol=1e-5, atol=1e-5)
        assert alone.matmul(matrix, matrix).dtype == matrix.dtype
    with pytest.raises(ValueError):
        alone.matmul(np.ones((20, 3), np.float32), np.ones((4, 20), np.float32))


@settings(deadline=None, max_examples=40)
@given(
    *(st.integers(1, 2), st.integers(1, 70), st.integers(0, 40)),
    *(st.sampled_from([(1, 1), (2, 2), (4, 2)]), st.integers(1, 70), st.integers(1, 40), st.integers(0, 9)),
)
def test_causal_attention_of_any_shape(B, T, past, heads, D, E, seed):
    (H, K), S, random = heads, T + past, np.random.default_rng(seed)
    shapes = (B, T, H, D), (B, S, K, D), (B, S, K, E), (B, T, H, E)
    q, k, v, g = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    rules, found, expected = AttentionRules(scale=D**-0.5), [], []
    for backend, dtype, results in ((NumbaBackend(), np.float32, found), (ReferenceBackend(), np.float64, expected)):
        inputs = [x.astype(dtype) for x in (q, k, v)]
        out, lse = backend.attention(*inputs, None, rules)
        *grads, sinks = backend.attention_backward(g.astype(dtype), *inputs, None, rules, out, lse)
        assert sinks is None
        results += [out, lse, *grads]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_a_score_that_is_none_spoils_its_own_query_only():
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 40, 1, 8)).astype(np.float32) for _ in range(3))
    q[0, 33] = np.nan
    out, lse = NumbaBackend().attention(q, k, v, None, AttentionRules(scale=1.0))
    assert np.isnan(out[0, 33]).all() and np.isnan(lse[0, 0, 0, 33]).all()
    assert np.isfinite(np.delete(out[0], 33, 0)).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_who_makes_a_product(threads, monkeypatch):
    made = []
    monkeypatch.setattr(numba_cpu, "FASTER", True)
    monkeypatch.setattr(numba_cpu, "_multiply", lambda *a: made.append("ours"))
    monkeypatch.setattr(backend := NumbaBackend(), "threads", threads)
    a = np.ones((FEW, FEW), np.float32)
    backend.matmul(a, a)
    assert len(made) == (threads == 1)
    with backend.one_thread_each():
        backend.matmul(a, a)
        backend.matmul(a[: FEW - 1], a)
        backend.matmul(a[None], a[None])
    assert len(made) == 1 + (threads == 1)


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 61])
@pytest.mark.parametrize("needs", [(True, True, True), (True, False, True), (False, True, False)])
def test_several_products_of_the_same_rows(faster, rows, needs, monkeypatch):
    monkeypatch.setattr(numba_cpu, "FASTER", faster)
    monkeypatch.setattr(backend := NumbaBackend(), "threads", 1)
    random = np.random.default_rng(0)
    shapes = (rows, 50), (33, 50), (16, 50), (rows, 33), (rows, 16)
    x, v, w, dv, dw = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    for ours, weight in zip(backend.linears(x, [v, w]), (v, w), strict=True):
        np.testing.assert_allclose(ours, x.astype(np.float64) @ weight.T, atol=1e-5)
    dx, dweights = backend.linears_backward([dv, dw], x, [v, w], needs)
    expected = dv.astype(np.float64) @ v + dw.astype(np.float64) @ w, dv.T.astype(np.float64) @ x, dw.T @ x
    for ours, theirs, need in zip((dx, *dweights), expected, needs, strict=True):
        assert (ours is not None) == need
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("change", [np.float64, np.asfortranarray, frozen])
def test_several_products_of_matrices_of_another_kind(alone, change):
    random = np.random.default_rng(0)
    x, v, w = (random.normal(size=(20, 20)).astype(np.float32) for _ in range(3))
    w = change(w)
    (first, second), (dx, dweights) = alone.linears(x, [v, w]), alone.linears_backward([x, x], x, [v, w], [True] * 3)
    np.testing.assert_allclose(first, x @ v.T, atol=1e-5)
    np.testing.assert_allclose(second, x @ w.T, atol=1e-5)
    np.testing.assert_allclose(dx, x @ (v + w), atol=1e-5)
    np.testing.assert_allclose(np.stack(dweights), [x.T @ x] * 2, atol=1e-5)


@pytest.mark.parametrize("faster", [True, False])
def test_groups_of_rows_by_either(faster, monkeypatch):
    """Also empty groups, and such of a single row."""
    monkeypatch.setattr(numba_cpu, "FASTER", faster)
    monkeypatch.setattr(backend := NumbaBackend(), "threads", 1)
    random, offsets = np.random.default_rng(0), [0, 17, 17, 18, 60]
    x, weight, g = (random.normal(size=s).astype(np.float32) for s in ((60, 20), (4, 24, 20), (60, 24)))
    more, dmore = random.normal(size=(4, 16, 20)).astype(np.float32), random.normal(size=(60, 16)).astype(np.float32)
    reference, wide = ReferenceBackend(), [a.astype(np.float64) for a in (g, x, weight)]
    np.testing.assert_allclose(
        backend.grouped_linear(x, weight, offsets), reference.grouped_linear(*wide[1:], offsets), atol=1e-5
    )
    dx, dweight = reference.grouped_linear_backward(*wide, offsets)
    for ours, theirs in zip(backend.grouped_linear_backward(g, x, weight, offsets), (dx, dweight), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    also, dalso = reference.grouped_linear_backward(dmore.astype(np.float64), wide[1], more.astype(np.float64), offsets)
    both, dboth = backend.grouped_linears_backward([g, dmore], x, [weight, more], offsets)
    np.testing.assert_allclose(both, dx + also, atol=1e-5)
    for ours, theirs in zip(dboth, (dweight, dalso), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, single in zip(backend.grouped_linears(x, [weight, more], offsets), (weight, more), strict=True):
        np.testing.assert_allclose(ours, reference.grouped_linear(x, single, offsets), atol=1e-5)


@pytest.mark.parametrize("change", [np.float64, np.asfortranarray, frozen])
def test_groups_of_rows_with_arrays_of_another_kind(alone, change):
    random, offsets, reference = np.random.default_rng(0), [0, 20, 20, 40], ReferenceBackend()
    x, g = (random.normal(size=(40, 20)).astype(np.float32) for _ in range(2))
    v, w = (random.normal(size=(3, 20, 20)).astype(np.float32) for _ in range(2))
    wide = [a.astype(np.float64) for a in (g, x, v)]
    np.testing.assert_allclose(
        alone.grouped_linears(x, [v, change(w)], offsets)[0], reference.grouped_linear(*wide[1:], offsets), atol=1e-5
    )
    dx, dv = reference.grouped_linear_backward(*wide, offsets)
    ours, (dours,) = alone.grouped_linears_backward([change(g)], x, [v], offsets)
    np.testing.assert_allclose(ours, dx, atol=1e-5)
    np.testing.assert_allclose(dours, dv, atol=1e-5)


def block_with_a_gate(x, gate, up, down, g) -> tuple[np.ndarray, list[np.ndarray]]:
    """A SwiGLU block of one group of rows, and its gradients, in float64."""
    x, gate, up, down, g = (a.astype(np.float64) for a in (x, gate, up, down, g))
    y, saved = ReferenceBackend().swiglu_mlp(x, gate, up, down)
    return y, list(ReferenceBackend().swiglu_mlp_backward(g, x, gate, up, down, saved, [True] * 4))


@pytest.mark.parametrize("rows", [3, 16, 350, 1100])
@pytest.mark.parametrize("needs", [(True,) * 4, (False, True, True, True), (True, False, True, False)])
@pytest.mark.parametrize("faster", [True, False])
def test_a_block_with_a_gate(rows, needs, faster, alone, monkeypatch):
    """One row, less than a part, more than one, forwards and backwards."""
    monkeypatch.setattr(numba_cpu, "FASTER", faster)
    random = np.random.default_rng(0)
    x, gate, up, down, g = (
        random.normal(size=shape).astype(np.float32) for shape in ((rows, 20), (37, 20), (37, 20), (17, 37), (rows, 17))
    )
    y, gradients = block_with_a_gate(x, gate, up, down, g)
    ours, saved = alone.swiglu_mlp(x, gate, up, down)
    np.testing.assert_allclose(ours, y, atol=1e-4 * np.abs(y).max())
    found = alone.swiglu_mlp_backward(g, x, gate, up, down, saved, needs)
    for mine, theirs, need in zip(found, gradients, needs, strict=True):
        assert (mine is not None) == need
        if need:
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("change", [None, np.float64, np.asfortranarray, frozen])
@pytest.mark.parametrize("faster", [True, False])
def test_experts_with_a_gate(change, faster, alone, monkeypatch):
    """Experts of many rows, of one, and of none, whose gradients are zero; and arrays of another kind."""
    monkeypatch.setattr(numba_cpu, "FASTER", faster)
    random, offsets = np.random.default_rng(0), [0, 400, 400, 401, 430]
    x, g = (random.normal(size=(430, 20)).astype(np.float32) for _ in range(2))
    gate, up = (random.normal(size=(4, 24, 20)).astype(np.float32) for _ in range(2))
    down = random.normal(size=(4, 20, 24)).astype(np.float32)
    given, changed = (g, down) if change is None else (change(g), change(down))
    ours, saved = alone.grouped_swiglu_mlp(x, gate, up, down, offsets)
    dx, *dweights = alone.grouped_swiglu_mlp_backward(given, x, gate, up, changed, saved, offsets)
    assert all(np.all(dweight[1] == 0) for dweight in dweights)
    for e, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if start == stop:
            continue
        rows = slice(start, stop)
        y, gradients = block_with_a_gate(x[rows], gate[e], up[e], down[e], g[rows])
        np.testing.assert_allclose(ours[rows], y, atol=1e-4 * np.abs(y).max())
        for mine, theirs in zip((dx[rows], *(dweight[e] for dweight in dweights)), gradients, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("batch", [1, 2])  # of angles: the same for all texts, or each its own
@pytest.mark.parametrize("tokens", [3, 24])
@pytest.mark.parametrize("turned", [8, 6])
@pytest.mark.parametrize("change", [None, np.float64, np.asfortranarray])
def test_queries_keys_and_values(batch, tokens, turned, change, alone):
    """Few rows and more, a part of the channels turned or all, grouped heads; and weights of another kind."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2 * tokens, 20)).astype(np.float32)
    weights = [random.normal(size=(width, 20)).astype(np.float32) for width in (32, 16, 16)]
    angles = random.normal(size=(batch, tokens, turned // 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    expected = ReferenceBackend().qkv_rope(x, weights, cos, sin, 8)
    gradients = [random.normal(size=y.shape).astype(np.float32) for y in expected]
    given = [weight if change is None else change(weight) for weight in weights]
    found = alone.qkv_rope(x, given, cos, sin, 8)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    kept = [g.copy() for g in gradients]
    for needs in ([True] * 4, [False, True, False, True]):
        dx, dweights = alone.qkv_rope_backward(gradients, x, given, cos, sin, needs)
        right = ReferenceBackend().qkv_rope_backward(gradients, x, weights, cos, sin, needs)
        for ours, theirs in zip([dx, *dweights], [right[0], *right[1]], strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for g, before in zip(gradients, kept, strict=True):  # somebody else may hold them
        np.testing.assert_array_equal(g, before)
