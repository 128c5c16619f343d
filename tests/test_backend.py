"""Selecting a backend, and the kernels that no operation reaches."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

import tinymoe as tm
from tinymoe.backend import available, current, get, select


def test_use_and_using():
    before = tm.backend()
    with tm.using("numpy"):
        assert tm.backend() == "numpy"
        with pytest.raises(ZeroDivisionError), tm.using("numba"):
            assert tm.backend() == "numba"
            raise ZeroDivisionError
        assert tm.backend() == "numpy"
    assert tm.backend() == before


def test_the_default_is_numba():
    before = tm.backend()
    try:
        tm.use(None)
        assert tm.backend() == "numba"
        tm.use("numpy")
        assert tm.backend() == "numpy"
    finally:
        tm.use(before)


def test_unknown_backend():
    with pytest.raises(ValueError, match="got 'torch', expected one of numpy, numba, cupy"):
        tm.use("torch")


@pytest.mark.parametrize("name", ["numba", "cupy"])
def test_a_missing_library_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    module = {"numba": "numba_cpu", "cupy": "cupy_gpu"}[name]
    monkeypatch.delitem(sys.modules, f"tinymoe.backend.{module}", raising=False)
    monkeypatch.setattr(select, "_made", {})
    with pytest.raises(ImportError, match=f"pip install {name}"):
        get(name)


def test_cupy_without_a_device_is_an_import_error(monkeypatch):
    class NoDeviceError(Exception):
        pass

    class FakeRuntime:
        CUDARuntimeError = NoDeviceError

        @staticmethod
        def getDeviceCount():  # noqa: N802
            raise NoDeviceError("no CUDA-capable device is detected")

    fake = type(sys)("cupy")
    fake.cuda = type("cuda", (), {"runtime": FakeRuntime})
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(select, "_made", {})
    with pytest.raises(ImportError, match="no CUDA device"):
        get("cupy")
    FakeRuntime.getDeviceCount = staticmethod(lambda: 0)
    with pytest.raises(ImportError, match="no CUDA device"):
        get("cupy")


def test_without_numba_the_default_is_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "tinymoe.backend.numba_cpu", raising=False)
    monkeypatch.setattr(select, "_made", {})
    monkeypatch.setattr(select, "available", lambda: ["numpy", "numba"])
    assert select._default_name() == "numpy"
    monkeypatch.setattr(select, "available", lambda: ["numpy"])
    assert select._default_name() == "numpy"


def test_available_lists_the_reference_first():
    assert available()[0] == "numpy"


def test_softmax_and_sigmoid_do_not_overflow(backend):
    xp = current().xp
    x = xp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(current().to_numpy(current().softmax(x)), [[1, 0, 0]])
    np.testing.assert_allclose(current().to_numpy(current().log_softmax(x)), [[0, -2e4, -1e4]])
    np.testing.assert_allclose(current().to_numpy(current().sigmoid(x)), [[1, 0, 0.5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adamw_is_the_formula(backend, dtype):
    rng = np.random.default_rng(0)
    p, m, v = (rng.standard_normal((5, 3)).astype(dtype) for _ in range(3))
    v = v * v
    g = rng.standard_normal((5, 3)).astype(dtype)
    lr, b1, b2, eps, decay, step, scale = 0.01, 0.9, 0.95, 1e-8, 0.1, 3, 0.5
    gs = g * scale
    m2, v2 = b1 * m + (1 - b1) * gs, b2 * v + (1 - b2) * gs**2
    expected = p * (1 - lr * decay) - lr * (m2 / (1 - b1**step)) / (np.sqrt(v2 / (1 - b2**step)) + eps)
    arrays = [current().asarray(a) for a in (p, g, m, v)]
    current().adamw(*arrays, lr=lr, beta1=b1, beta2=b2, eps=eps, weight_decay=decay, step=step, scale=scale)
    tol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(current().to_numpy(arrays[0]), expected, rtol=tol)
    np.testing.assert_allclose(current().to_numpy(arrays[2]), m2, rtol=tol)
    np.testing.assert_allclose(current().to_numpy(arrays[3]), v2, rtol=tol)
    np.testing.assert_array_equal(current().to_numpy(arrays[1]), g)


def test_adamw_of_many_is_adamw_of_each(backend):
    """From step to step; with arrays that change their place, others in shape and type, and none."""
    random, memo = np.random.default_rng(0), {}
    options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    current().adamw_all([], [], 1.0, memo)
    many = [[random.random(shape).astype(np.float32) for _ in range(4)] for shape in ((3, 5), (7,), (0,), (2, 40))]
    each = [[array.copy() for array in four] for four in many]
    for step in range(1, 7):
        if step == 3:
            many = [[array.copy() for array in four] for four in many]
        if step == 4:
            many, each = many[1:], each[1:]
        if step == 5:
            many[0], each[0] = ([array.astype(np.float64) for array in four] for four in (many[0], each[0]))
        if step == 6:  # a gradient that lies across
            many[-1][1] = each[-1][1] = np.asfortranarray(random.random((2, 40)).astype(np.float32))
        ours, theirs = ([[current().asarray(array) for array in four] for four in both] for both in (many, each))
        settings = [{**options, "weight_decay": 0.1 * i, "step": step + i} for i in range(len(many))]
        current().adamw_all(list(map(tuple, ours)), settings, 0.5, memo)
        for arrays, its_own in zip(theirs, settings, strict=True):
            current().adamw(*arrays, **its_own, scale=0.5)
        many, each = ([[current().to_numpy(array) for array in four] for four in both] for both in (ours, theirs))
        for mine, other in zip(itertools.chain(*many), itertools.chain(*each), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_adamw_leaves_alone_what_is_read_only(backend):
    if current().on_device:
        pytest.skip("arrays of a GPU can all be written to")
    p, g, m, v = (np.ones(3, np.float32) for _ in range(4))
    p.flags.writeable = False
    settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "step": 1}
    with pytest.raises(Exception, match=r"read-?only"):
        current().adamw_all([(p, g, m, v)], [settings], 1.0, {})
    assert (p == 1).all()


def test_sum_of_squares(backend):
    assert current().sum_of_squares(current().asarray(np.arange(6.0).reshape(2, 3))) == 55.0


def test_exp_is_accurate():
    """Numba's float32 exponential against NumPy's, over its whole range."""
    pytest.importorskip("numba")
    x = np.linspace(-80, 80, 20001, dtype=np.float32)[:, None]
    with tm.using("numba") as numba_backend:
        # swiglu(x, 1) / x is the sigmoid, which holds one exponential.
        got = numba_backend.swiglu(x, np.ones_like(x))
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(got, exact, rtol=3e-6, atol=1e-30)


def test_threads_may_share_the_numba_backend():
    """Numba's work queue aborts the process on concurrent entry; the backend must take turns instead."""
    pytest.importorskip("numba")
    x = np.random.default_rng(0).standard_normal((512, 64)).astype(np.float32)
    w = np.ones(64, dtype=np.float32)
    numba_backend = get("numba")
    expected = numba_backend.rms_norm(x, w, 1e-6)[0]
    results: list[np.ndarray] = []

    def work() -> None:
        for _ in range(50):
            results.append(numba_backend.rms_norm(x, w, 1e-6)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200
    assert all(np.array_equal(r, expected) for r in results)


def test_the_package_trains_without_numba():
    """In a process where Numba cannot be imported, the default backend is NumPy and a model learns."""
    code = """
import sys
sys.modules["numba"] = None
import numpy as np, tinymoe as tm
model = tm.zoo.build("llama-pico", vocab_size=16, num_hidden_layers=1)
ids = np.tile(np.arange(16), (2, 2))
optimizer = tm.AdamW(model.parameters(), lr=1e-2)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert tm.backend() == "numpy", tm.backend()
assert losses[-1] < 0.5 * losses[0], losses
"""
    run_alone(code)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is managed by another library than glibc")
def test_freed_memory_is_kept_in_every_thread():
    """A thread whose arrays fill several of glibc's heaps gets the same pages again, and no fault is taken for them."""
    pytest.importorskip("numba")
    code = """
import resource, threading
import numpy as np, tinymoe as tm
tm.use("numba")
faults = []

def allocate():
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(1 << 18, dtype=np.float32) for _ in range(150)]  # of 256 pages each
        del arrays
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=allocate)
thread.start()
thread.join()
assert faults[0] > 30000, faults
assert sum(faults[1:]) < 1000, faults
"""
    run_alone(code)


def run_alone(code: str) -> None:
    """Run code in a process of its own, which has to end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
