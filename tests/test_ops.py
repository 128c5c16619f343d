"""Every operation: gradients by finite differences on every backend, and Numba equal to the reference."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradients
from op_cases import CASES, r

import tinymoe as tm
from tinymoe import ops
from tinymoe.backend import current, reference
from tinymoe.tensor import OPS, Tensor


def test_every_operation_has_a_case():
    assert {name.split()[0] for name in CASES} == set(OPS)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case, backend):
    check_gradients(*_flat(case))


@pytest.mark.parametrize("case", ["attention", "attention grouped", "attention documents", "linear_cross_entropy"])
def test_gradients_across_blocks(case, backend, monkeypatch):
    """The same with blocks so small that every loop over blocks turns more than once."""
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", 2)
    monkeypatch.setattr(reference, "LOSS_CHUNK", 4)
    check_gradients(*_flat(case))


@pytest.mark.parametrize("case", CASES)
def test_backends_agree_in_float32(case, backend):
    f, arrays = CASES[case]
    singles = [a.astype(np.float32) for a in arrays]
    got = _run(f, singles)
    with tm.using("numpy"):
        expected = _run(f, singles)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


def test_blocks_do_not_change_attention(backend, monkeypatch):
    q, k, v = r(1, 300, 2, 4), r(1, 300, 1, 4), r(1, 300, 1, 4)
    whole = ops.attention(Tensor(q), Tensor(k), Tensor(v), scale=0.5).numpy()
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", 7)
    np.testing.assert_allclose(ops.attention(Tensor(q), Tensor(k), Tensor(v), scale=0.5).numpy(), whole, rtol=1e-12)


def test_attention_is_the_plain_formula(backend):
    q, k, v = r(2, 6, 4, 3), r(2, 6, 2, 3), r(2, 6, 2, 3)
    scores = np.einsum("bthd,bshd->bhts", q, np.repeat(k, 2, axis=2)) * 0.5
    scores[..., ~np.tril(np.ones((6, 6), dtype=bool))] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bhts,bshd->bthd", p / p.sum(-1, keepdims=True), np.repeat(v, 2, axis=2))
    got = ops.attention(Tensor(q), Tensor(k), Tensor(v), scale=0.5).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
def test_extreme_scores_stay_finite(backend, scale):
    """Scores in the thousands, masked and not, must neither overflow nor leak weight to hidden keys."""
    q, k, v = (np.float32(scale) * r(1, 9, 2, 4).astype(np.float32) for _ in range(3))
    leaves = [Tensor(a, requires_grad=True) for a in (q, k, v)]
    out = ops.attention(*leaves, scale=1.0)
    out.sum().backward()
    assert np.isfinite(out.numpy()).all()
    assert all(np.isfinite(current().to_numpy(leaf.grad)).all() for leaf in leaves)
    np.testing.assert_allclose(out.numpy()[:, 0], v[:, 0], rtol=1e-6)  # the first token sees only itself


def test_extreme_logits_stay_finite(backend):
    x, w = np.array([[300.0, -300.0]], dtype=np.float32), np.array([[300, 0], [0, 300], [1, 1]], dtype=np.float32)
    losses = [
        ops.linear_cross_entropy(Tensor(x), Tensor(w), targets=current().asarray(np.array([t]))).item()
        for t in range(3)
    ]
    np.testing.assert_allclose(losses, [0, 180000, 90000], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_not_hidden(backend, value):
    """A poisoned input must reach the loss, or training would go on with nonsense."""
    x = np.ones((2, 4), dtype=np.float32)
    x[0, 0] = value
    w = np.ones(4, dtype=np.float32)
    table = np.ones((3, 4), dtype=np.float32)
    targets = current().asarray(np.array([0, 1]))
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(ops.rms_norm(Tensor(x), Tensor(w), eps=1e-5).numpy()).all()
        assert not np.isfinite(ops.linear_cross_entropy(Tensor(x), Tensor(table), targets=targets).item())
        assert np.isnan(ops.swiglu(Tensor(np.full((1, 2), np.nan, np.float32)), Tensor(x[:1, :2])).numpy()).all()


def test_linear_cross_entropy_is_log_softmax(backend):
    x, w, targets = r(6, 4), r(5, 4), np.array([0, 4, -100, 2, -100, 1])
    logits = x @ w.T
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = targets >= 0
    expected = -log_p[np.arange(6), np.where(counted, targets, 0)][counted].mean()
    got = ops.linear_cross_entropy(Tensor(x), Tensor(w), targets=current().asarray(targets)).item()
    assert got == pytest.approx(expected, rel=1e-12)


def test_all_targets_ignored_is_an_error(backend):
    with pytest.raises(ValueError, match="every target is -100"):
        ops.linear_cross_entropy(Tensor(r(2, 3)), Tensor(r(4, 3)), targets=current().asarray(np.array([-100, -100])))


def test_max_shares_ties():
    x = Tensor(np.array([[1.0, 3.0, 3.0]]), requires_grad=True)
    x.max(axis=1).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 0.5, 0.5]])


def test_matmul_of_vectors_is_an_error():
    with pytest.raises(ValueError, match=r"matmul: .* got shapes \(3,\)"):
        Tensor(np.ones(3)) @ Tensor(np.ones((3, 2)))


def _flat(case):
    f, arrays = CASES[case]
    return f, *arrays


def _run(f, arrays):
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    out = f(*leaves)
    out.sum().backward()
    return [out.numpy(), *(current().to_numpy(leaf.grad) for leaf in leaves)]


@pytest.mark.parametrize("operation", [lambda x, y, w: ops.add(x, y), lambda *a: ops.add_rms_norm(*a, eps=1e-5)[0]])
def test_leaves_that_are_added_have_gradients_of_their_own(operation, backend):
    leaves = [Tensor(r(2, 4), requires_grad=True) for _ in range(2)]
    operation(*leaves, Tensor(r(4))).sum().backward()
    leaves[0].grad += 1
    np.testing.assert_array_equal(current().to_numpy(leaves[1].grad), np.ones((2, 4)))
