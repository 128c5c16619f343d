"""Gradients by central differences in float64: the check that every operation must pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinymoe.tensor import Tensor


def check_gradients(f: Callable[..., Tensor], *arrays: np.ndarray, eps: float = 1e-5, tol: float = 1e-7) -> None:
    """Compare the gradients of sum(f(*arrays) * random) with (f(x + eps) - f(x - eps)) / 2 eps, entry by entry."""
    arrays = tuple(np.array(a, dtype=np.float64) for a in arrays)
    leaves = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    out = f(*leaves)
    mix = np.asarray(np.random.default_rng(7).standard_normal(out.shape))
    (out * Tensor(mix)).sum().backward()

    def value(which: int, values: np.ndarray) -> float:
        inputs = [values if i == which else a for i, a in enumerate(arrays)]
        return float((f(*map(Tensor, inputs)).numpy() * mix).sum())

    for which, (leaf, array) in enumerate(zip(leaves, arrays, strict=True)):
        expected = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            up, down = array.copy(), array.copy()
            up[index] += eps
            down[index] -= eps
            expected[index] = (value(which, up) - value(which, down)) / (2 * eps)
        assert leaf.grad is not None, f"input {which} got no gradient"
        got = np.asarray(leaf.grad) if isinstance(leaf.grad, np.ndarray) else leaf.grad.get()
        assert got.shape == array.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=tol, err_msg=f"input {which}")
