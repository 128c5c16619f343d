"""AdamW and clipping: the update by hand, groups, skipped parameters, state, and refusals."""

import copy

import numpy as np
import pytest

from tinymoe.backend import available, using
from tinymoe.nn.module import Module, Parameter
from tinymoe.tensor import Tensor
from tinymoe.train.optim import AdamW, clip_factor, clip_grad_norm, decay_groups, grad_norm


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param not in available():
        pytest.skip(f"{request.param} is not installed")
    with using(request.param) as chosen:
        yield chosen


def parameter(values, grad=None, dtype=np.float32):
    p = Tensor(np.array(values, dtype=dtype), requires_grad=True)
    p.grad = None if grad is None else np.array(grad, dtype=dtype)
    return p


def by_hand(p, grads, lr, beta1, beta2, eps, decay):
    """Algorithm 2 of Loshchilov and Hutter, word for word, in float64."""
    p = np.array(p, dtype=np.float64)
    m = v = np.zeros_like(p)
    for t, g in enumerate(np.array(grads, dtype=np.float64), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - lr * m_hat / (np.sqrt(v_hat) + eps) - lr * decay * p
    return p


def test_five_steps_equal_the_paper(backend):
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(37, 5)), rng.normal(size=(5, 37, 5))
    p = parameter(start)
    optimizer = AdamW([p], lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for g in grads:
        p.grad = g.astype(np.float32)
        optimizer.step()
    np.testing.assert_allclose(p.data, by_hand(start, grads, 0.01, 0.8, 0.95, 1e-6, 0.1), rtol=1e-5, atol=1e-6)


def test_the_first_step_has_the_size_of_the_rate_whatever_the_gradient(backend):
    p = parameter([1.0, 1.0], grad=[1e-3, -1e3])
    AdamW([p], lr=0.1, weight_decay=0).step()
    np.testing.assert_allclose(p.data, [0.9, 1.1], rtol=1e-4)


def test_decay_is_decoupled_from_the_gradient(backend):
    p = parameter([2.0], grad=[0.0])
    AdamW([p], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(p.data, [2.0 * (1 - 0.1 * 0.5)])


def test_grad_scale_is_the_same_as_scaling_the_gradient(backend):
    a, b = parameter([1.0, 2.0], grad=[0.4, -0.2]), parameter([1.0, 2.0], grad=[0.1, -0.05])
    first, second = AdamW([a], eps=0.1), AdamW([b], eps=0.1)  # a large eps, or else the scale would cancel out
    first.step(grad_scale=0.25)
    second.step()
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(a.grad, np.float32([0.4, -0.2]))


def test_groups_have_their_own_settings_and_may_change_between_steps(backend):
    a, b = parameter([1.0], grad=[1.0]), parameter([1.0], grad=[1.0])
    optimizer = AdamW([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1, weight_decay=0)
    optimizer.step()
    np.testing.assert_allclose([a.data[0], b.data[0]], [0.5, 0.9], rtol=1e-6)
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.step()
    np.testing.assert_allclose([a.data[0], b.data[0]], [0.0, 0.9], atol=1e-6)


def test_a_parameter_without_a_gradient_is_left_alone_and_its_steps_are_not_counted(backend):
    a, b = parameter([1.0], grad=[1.0]), parameter([1.0])
    optimizer = AdamW([a, b], lr=0.1)
    optimizer.step()
    assert b.data[0] == 1.0
    optimizer.zero_grad()
    assert a.grad is None
    b.grad = np.float32([1.0])
    optimizer.step()
    assert a.data[0] == b.data[0]  # both have made their first step now
    assert [s["step"] for s in optimizer.state.values()] == [1, 1]


def test_float64_parameters_stay_float64(backend):
    p = parameter([1.0], grad=[1.0], dtype=np.float64)
    optimizer = AdamW([p], lr=0.1, weight_decay=0)
    optimizer.step()
    assert p.data.dtype == optimizer.state[0]["exp_avg"].dtype == np.float64
    np.testing.assert_allclose(p.data, [0.9], rtol=1e-7)


def test_a_saved_state_goes_on_bit_by_bit_and_is_a_copy():
    def run(optimizer, p, steps):
        for s in steps:
            p.grad = np.random.default_rng(s).normal(size=p.shape).astype(np.float32)
            optimizer.step()

    start = np.random.default_rng(9).normal(size=(4, 3))
    unbroken = parameter(start)
    run(AdamW([unbroken], lr=0.3), unbroken, range(6))

    first = parameter(start)
    optimizer = AdamW([first], lr=0.3, betas=(0.9, 0.999))
    run(optimizer, first, range(3))
    saved, values = optimizer.state_dict(), first.data.copy()
    run(optimizer, first, [77])  # must not leak into what was saved
    second = parameter(values)
    resumed = AdamW([second], lr=123.0)
    resumed.load_state_dict(saved)
    run(resumed, second, range(3, 6))
    np.testing.assert_array_equal(second.data, unbroken.data)
    assert resumed.param_groups[0]["lr"] == 0.3


def test_a_state_that_does_not_fit_changes_nothing():
    p = parameter([1.0, 2.0], grad=[1.0, 1.0])
    optimizer = AdamW([p])
    optimizer.step()
    before = optimizer.state_dict()
    other = parameter([1.0], grad=[1.0])
    smaller = AdamW([other])
    smaller.step()
    with pytest.raises(ValueError, match=r"state 0 exp_avg: got shape \(1,\), expected \(2,\)"):
        optimizer.load_state_dict(smaller.state_dict())
    with pytest.raises(ValueError, match=r"param_groups: got groups of \[1, 1\] parameters, expected \[1\]"):
        optimizer.load_state_dict(AdamW([{"params": [p]}, {"params": [other]}]).state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    np.testing.assert_array_equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_only_matrices_decay():
    model = Module()
    model.weight, model.norm = Parameter(np.ones((2, 2), np.float32)), Parameter(np.ones(2, np.float32))
    matrices, vectors = decay_groups(model, 0.1)
    assert matrices["params"] == [model.weight] and matrices["weight_decay"] == 0.1
    assert vectors["params"] == [model.norm] and vectors["weight_decay"] == 0.0


def test_shared_parameters_are_in_one_group_once():
    model = Module()
    model.embedding = Parameter(np.ones((2, 2), np.float32))
    model.head = model.embedding
    (group,) = decay_groups(model, 0.1)
    assert len(group["params"]) == 1


def test_clipping_scales_down_to_the_norm_and_leaves_small_gradients(backend):
    big, none = parameter([0.0, 0.0], grad=[3.0, 4.0]), parameter([0.0])
    assert clip_grad_norm([big, none], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(big.grad, [0.6, 0.8], rtol=1e-6)
    assert clip_grad_norm(iter([big, none]), 10.0) == pytest.approx(1.0)
    np.testing.assert_allclose(big.grad, [0.6, 0.8], rtol=1e-6)
    assert grad_norm([none]) == 0.0
    assert clip_factor(0.5, 1.0) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AdamW([]), "params: got no parameters"),
        (lambda p: AdamW([p, p]), "params: a parameter is listed twice"),
        (lambda p: AdamW([{"params": [p], "rate": 1.0}]), "unknown setting 'rate', expected lr, betas"),
        (lambda p: AdamW([p], lr=-1.0), "lr: got -1.0, expected a number ≥ 0"),
        (lambda p: AdamW([p], lr=float("nan")), "lr: got nan, expected a number ≥ 0"),
        (lambda p: AdamW([p], betas=(0.9, 1.0)), r"betas: got \(0.9, 1.0\), expected two numbers in \[0, 1\)"),
        (lambda p: AdamW([p], eps=-1e-8), "eps: got -1e-08"),
        (lambda p: clip_grad_norm([p], 0.0), "max_norm: got 0.0, expected a positive number"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(parameter([1.0]))


def test_anything_but_a_tensor_is_refused():
    with pytest.raises(TypeError, match="params: got ndarray, expected Tensor"):
        AdamW([np.ones(3)])


def test_a_copy_of_an_optimizer_updates_its_own_parameters(backend):
    p = Tensor(np.ones((3, 4), np.float32), requires_grad=True)
    optimizer, p.grad = AdamW([p], lr=0.1), np.ones((3, 4), np.float32)
    optimizer.step()
    before, other = p.numpy().copy(), copy.deepcopy(optimizer)
    other.step()
    np.testing.assert_array_equal(p.numpy(), before)
    (changed,) = other.param_groups[0]["params"]
    assert (changed.numpy() < before).all()
