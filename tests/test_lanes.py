"""A batch computed in parts, at once, is the batch computed whole: losses, gradients, and what layers offer."""

import os
import threading

import numpy as np
import pytest

import tinymoe as tm
from tinymoe import lanes
from tinymoe.models import CausalLM
from tinymoe.nn import parts
from tinymoe.tensor import Tensor, keep_tape

FAMILIES = ["llama-pico", "gemma2-nano", "mixtral-nano", "qwen2-moe-nano", "deepseek-v3-nano", "deepseek-v32-nano"]
SMALL = {"vocab_size": 31, "num_hidden_layers": 2}


@pytest.fixture(params=["numpy", "numba"])
def threads(request, monkeypatch):
    """A function that sets how many parts a batch of any size is computed in."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    with tm.using(request.param) as backend:
        monkeypatch.setattr(parts, "LANE_TOKENS", 1)
        yield lambda count: monkeypatch.setattr(backend, "threads", count, raising=False)


def in_float64(name: str) -> CausalLM:
    model = tm.zoo.build(name, seed=1, **SMALL)
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    return model


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 31, (5, 12))
    targets = np.where(rng.random(ids.shape) < 0.3, -100, rng.integers(0, 31, ids.shape))
    targets[0] = -100  # a part may have nothing to learn
    mask = (np.arange(12) < rng.integers(6, 13, (5, 1))).astype(int)
    return {"ids": ids, "targets": targets, "attention_mask": mask}


def loss_and_gradients(model: CausalLM, **inputs: np.ndarray) -> list[np.ndarray]:
    for p in model.parameters():
        p.grad = None
    loss = model.loss(**inputs)
    loss.backward()
    model_loads = [module.load for module in model.modules() if getattr(module, "load", None) is not None]
    for module in model.modules():
        if getattr(module, "load", None) is not None:
            module.load = None
    return [loss.numpy(), *model_loads, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("count", [2, 3])
def test_parts_are_the_whole(threads, name, count):
    model, inputs = in_float64(name), batch()
    threads(1)
    whole = loss_and_gradients(model, **inputs)
    threads(count)
    together = loss_and_gradients(model, **inputs)
    assert len(whole) == len(together)
    for a, b in zip(together, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_without_gradients(threads):
    model, inputs = in_float64("mixtral-nano"), batch()
    with tm.no_grad():
        threads(1)
        whole = model.loss(**inputs)
        threads(3)
        together = model.loss(**inputs)
    assert not together.requires_grad
    np.testing.assert_allclose(together.numpy(), whole.numpy(), rtol=1e-12)


def test_a_run_repeats_to_the_last_bit(threads):
    model, inputs = tm.zoo.build("mixtral-nano", seed=1, **SMALL), batch()
    threads(3)
    first, *others = (loss_and_gradients(model, **inputs) for _ in range(4))
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_graph_is_used_once_or_kept(threads):
    model, inputs = in_float64("llama-pico"), batch()
    threads(2)
    once = loss_and_gradients(model, **inputs)[1:]
    for p in model.parameters():
        p.grad = None
    loss = model.loss(**inputs)
    loss.backward(retain_graph=True)
    loss.backward()
    for p, grad in zip(model.parameters(), once, strict=True):
        np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-12)
    with pytest.raises(RuntimeError, match="already used"):
        loss.backward()


def test_losses_add_up(threads):
    """Two batches computed in parts, then one backward pass through both."""
    model, inputs, more = in_float64("llama-pico"), batch(), batch(1)
    threads(1)
    apart = [a + b for a, b in zip(loss_and_gradients(model, **inputs), loss_and_gradients(model, **more), strict=True)]
    threads(2)
    for p in model.parameters():
        p.grad = None
    loss = model.loss(**inputs) + model.loss(**more)
    loss.backward()
    for a, b in zip([loss.numpy(), *(p.grad for p in model.parameters())], apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def number_of_parts(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> int:
    seen = []
    whole = lanes.at_once
    monkeypatch.setattr(lanes, "at_once", lambda tasks: seen.append(len(tasks)) or whole(tasks))
    model.loss(**batch())
    monkeypatch.setattr(lanes, "at_once", whole)
    return seen[0] if seen else 1


def test_when_there_are_parts(threads, monkeypatch):
    model = in_float64("mixtral-nano")
    threads(2)
    assert number_of_parts(model, monkeypatch) == 2
    with keep_tape():
        assert number_of_parts(model, monkeypatch) == 1
    threads(100)
    assert number_of_parts(model, monkeypatch) == parts.MOST_LANES
    limited = tm.zoo.build("mixtral-nano", capacity_factor=1.0, **SMALL)
    assert number_of_parts(limited, monkeypatch) == 1
    monkeypatch.setattr(parts, "LANE_TOKENS", 31)  # 60 tokens are not enough for two
    assert number_of_parts(model, monkeypatch) == 1


def test_tasks_run_at_once_and_fail_as_one():
    meeting = threading.Barrier(3, timeout=30)
    assert lanes.at_once([lambda n=n: (meeting.wait(), n)[1] for n in range(3)]) == [0, 1, 2]
    assert lanes.at_once([lanes.in_lane] * 2) == [True, True]
    assert not lanes.in_lane()
    ended = []

    def fails():
        raise KeyError("here")

    for tasks in ([fails, lambda: ended.append(1)], [lambda: ended.append(1), fails]):
        with pytest.raises(KeyError, match="here"):
            lanes.at_once(tasks)
    assert len(ended) == 2


def test_settings_of_the_thread_hold_in_every_lane():
    with np.errstate(divide="raise"):
        for result in lanes.at_once([lambda: np.geterr()["divide"]] * 2):
            assert result == "raise"


def test_blas_gets_its_threads_back():
    pytest.importorskip("numba", reason="Numba is not installed")
    from tinymoe.backend.blas import thread_pools

    with tm.using("numba"):
        before = [pool.get_num_threads() for pool in thread_pools()]
        with pytest.raises(ZeroDivisionError):
            lanes.at_once([lambda: [pool.get_num_threads() for pool in thread_pools()] and 1 / 0, lambda: 1])
        inside = lanes.at_once([lambda: [pool.get_num_threads() for pool in thread_pools()]] * 2)
        assert all(count == 1 for counts in inside for count in counts)
        assert [pool.get_num_threads() for pool in thread_pools()] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    assert lanes.at_once([lambda: 1, lambda: 2]) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if lanes.at_once([lambda: 1, lambda: 2]) == [1, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_leaf_that_only_some_lanes_use():
    w, v = (Tensor(np.array([2.0, 3.0]), requires_grad=True) for _ in range(2))

    def work(lane: int) -> tuple[Tensor, list[Tensor]]:
        y = (w * w).sum() if lane == 0 else (w * v).sum() + (w * 3).sum()
        return y, [y]

    a, b = lanes.side_by_side(work, 2)
    (a + b * 10).backward()
    np.testing.assert_array_equal(w.grad, 2 * w.data + 10 * (v.data + 3))
    np.testing.assert_array_equal(v.grad, 10 * w.data)
