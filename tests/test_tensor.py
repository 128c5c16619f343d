"""The Tensor and its tape."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st

import tinymoe as tm
from tinymoe import ops
from tinymoe.tensor import Tensor, is_grad_enabled, keep_tape


def test_dtypes_of_new_tensors():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(3.5).dtype == np.float32
    assert Tensor(np.ones(2)).dtype == np.float64
    assert Tensor(np.ones(2, dtype=np.float32)).dtype == np.float32
    assert Tensor([1, 2]).dtype.kind == "i"
    assert Tensor(Tensor([1.0])).dtype == np.float32


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="only float tensors"):
        Tensor([1, 2], requires_grad=True)


def test_numbers_do_not_change_the_precision():
    x = Tensor(np.ones(2, dtype=np.float32), requires_grad=True)
    y = (2.0 * x + 1.0 - 0.5) / 3.0
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float32


def test_arrays_on_the_left_keep_the_history():
    x = Tensor(np.ones(2), requires_grad=True)
    for y in (np.ones(2) * x, np.ones(2) + x, np.ones(2) - x, np.ones(2) / x):
        assert isinstance(y, Tensor) and y.requires_grad
    left = np.ones((1, 2)) @ Tensor(np.ones((2, 2)), requires_grad=True)
    assert isinstance(left, Tensor) and left.requires_grad


def test_numpy_functions_read_tensors():
    x = Tensor([-1.0, 2.0])
    np.testing.assert_array_equal(np.abs(x), [1, 2])
    assert np.array(x, copy=True) is not x.data
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert float(x[1]) == 2.0 and [float(v) for v in x] == [-1.0, 2.0]
    assert len(x) == 2 and x.ndim == 1 and x.size == 2 and x.T.shape == (2,)


def test_a_value_used_twice_gets_both_gradients():
    x = Tensor(3.0, requires_grad=True)
    y = x * x + x
    y.backward()
    assert x.grad == 7.0


def test_leaves_of_a_sum_do_not_share_their_gradient():
    a, b = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    (a + b).backward()
    a.grad *= 5
    assert b.grad[0] == 1.0


def test_gradients_accumulate_over_backwards():
    x = Tensor([2.0], requires_grad=True)
    (x * 3.0).backward()
    (x * 4.0).backward()
    assert x.grad[0] == 7.0


def test_diamond_order():
    """A node is passed on only when all its gradient has arrived, whatever the order of the branches."""
    check_gradients(lambda x: ops.mul(ops.exp(x), ops.tanh(ops.exp(x) + x)) + x, np.array([0.3, -0.2]))


@given(st.lists(st.sampled_from(["add", "mul", "tanh", "exp", "neg"]), min_size=1, max_size=12), st.data())
def test_random_graphs(names, data):
    """Any graph of these operations, each fed from any earlier value, has the gradient of finite differences."""
    picks = [data.draw(st.tuples(st.integers(0, i), st.integers(0, i))) for i in range(len(names))]

    def f(x):
        values = [x]
        for name, (i, j) in zip(names, picks, strict=True):
            a, b = values[i], values[j]
            binary = {"add": lambda a, b: a + b * 0.5, "mul": lambda a, b: ops.tanh(a) * ops.tanh(b)}
            y = binary[name](a, b) if name in binary else getattr(ops, name)(ops.tanh(a))
            values.append(y)
        return values[-1]

    check_gradients(f, np.array([0.4, -0.7]), tol=1e-6)


def test_backward_wants_a_scalar_or_a_gradient():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a `grad`"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match=r"grad has shape \(3,\)"):
        (x * 2.0).backward([1.0, 2.0, 3.0])
    (x * 2.0).backward(Tensor([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad, [2, 20])


def test_backward_without_history():
    with pytest.raises(RuntimeError, match="not computed from one with requires_grad"):
        Tensor([1.0]).backward()
    leaf = Tensor([1.0], requires_grad=True)
    leaf.backward()
    assert leaf.grad[0] == 1


def test_a_graph_is_used_once_unless_kept():
    x = Tensor([3.0], requires_grad=True)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad[0] == 12
    with pytest.raises(RuntimeError, match="already used"):
        y.backward()


def test_saved_buffers_are_released_during_backward():
    x = Tensor(np.ones(4), requires_grad=True)
    y = ops.exp(x)
    saved = weakref.ref(y.node.vjp)
    z = y.sum()
    z.backward()
    gc.collect()
    assert saved() is None


def test_no_grad_records_nothing_and_nests():
    x = Tensor([1.0], requires_grad=True)
    with tm.no_grad():
        with tm.no_grad():
            pass
        assert not is_grad_enabled()
        assert not (x * 2.0).requires_grad
    assert is_grad_enabled() and (x * 2.0).requires_grad
    assert not x.detach().requires_grad


def test_no_grad_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), tm.no_grad():
        raise ZeroDivisionError
    assert is_grad_enabled()


def test_keep_tape_shows_values_and_gradients():
    x = Tensor([2.0], requires_grad=True)
    with keep_tape() as tape:
        y = x * x
        z = y + 1.0
    z.backward()
    assert [t.node.op for t in tape] == ["mul", "add"]
    assert [float(t.grad[0]) for t in tape] == [1.0, 1.0]
    assert "made by mul" in repr(y) and "requires_grad" in repr(x)


def test_an_untracked_input_gets_no_gradient():
    x, c = Tensor([2.0], requires_grad=True), Tensor([3.0])
    (x * c).backward()
    assert x.grad[0] == 3 and c.grad is None


def _several():
    x, v, w = (Tensor(np.full(shape, 2.0), requires_grad=True) for shape in ((1, 3), (2, 3), (1, 3)))
    return x, v, w, *ops.linears(x, v, w)


def test_an_operation_with_several_results():
    x, v, w, first, second = _several()
    (first.sum() * second.sum()).backward()
    assert (x.grad == 24 * 2 + 12 * 4).all() and (v.grad == 24).all() and (w.grad == 48).all()


def test_a_result_that_nobody_uses_has_no_gradient():
    x, v, w, first, _ = _several()
    first.sum().backward()
    assert (x.grad == 4).all() and (v.grad == 2).all() and w.grad is None


def test_several_results_are_pulled_back_once_unless_kept():
    x, *_, first, second = _several()
    first.sum().backward(retain_graph=True)
    (y := second.sum() + first.sum()).backward()
    assert (x.grad == 4 + 6).all(), "what came the first time is not added again"
    with pytest.raises(RuntimeError, match="already used"):
        y.backward()


def test_keep_tape_shows_each_of_several_results():
    with keep_tape() as tape:
        *_, first, second = _several()
        y = first.sum() + second.sum() * 3.0
    y.backward()
    assert tape[0] is first and tape[1] is second
    assert (first.grad == 1).all() and (second.grad == 3).all()


def test_without_gradients_several_results_have_no_history():
    with tm.no_grad():
        *_, first, second = _several()
    assert first.node is None and not second.requires_grad
