"""What every test may use: the backends, and the same random numbers on every run."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

import tinymoe as tm
from tinymoe.backend import ReferenceBackend, cuda_blas, get, select
from tinymoe.backend.cupy_gpu import CupyBackend

os.environ.setdefault("MPLBACKEND", "Agg")  # no window opens

# CI must not fail by chance: there the examples are the same on every run. Elsewhere they go on exploring.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# The live oracles have an environment of their own: `make conformance`.
collect_ignore = [] if importlib.util.find_spec("torch") else ["conformance"]


def _backend_of(item: pytest.Item) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None  # pyright: ignore


@functools.cache
def _why_not_cupy() -> str | None:
    try:
        get("cupy")
    except ImportError as missing:
        return str(missing)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on Numba's kernels, so that `make test` can run it again without the compiler."""
    for item in items:
        if _backend_of(item) == "numba":
            item.add_marker("kernels")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip CuPy's tests where it cannot run: here, not in the fixture, so that the report gives the reason once."""
    if _backend_of(item) == "cupy" and (reason := _why_not_cupy()):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def alone() -> Iterator[ReferenceBackend]:
    """Numba's backend, with products made by one thread each, and by us, on whatever processor."""
    from tinymoe.backend import numba_cpu

    backend = numba_cpu.NumbaBackend()
    with pytest.MonkeyPatch.context() as patch, backend.one_thread_each():
        patch.setattr(numba_cpu, "FASTER", True)
        yield backend


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(params=["numpy", "numba", "cupy"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on each backend; its name is the value."""
    with tm.using(request.param):
        yield request.param


@pytest.fixture
def numpy_backend() -> Iterator[None]:
    """Run the test on the reference alone: it is about what all backends share."""
    with tm.using("numpy"):
        yield


@pytest.fixture
def emulated_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReferenceBackend]:
    """The CuPy backend without a GPU: see `cuda_fake`. Skips where there is no C++ compiler."""
    import cuda_emulator
    import cuda_fake

    if cuda_emulator.compiler() is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setitem(sys.modules, "cupy", cuda_fake.module)
    monkeypatch.setattr(cuda_blas, "load", lambda cupy: cuda_fake.Library())
    monkeypatch.setattr(select, "_made", {**select._made, "cupy": _emulated_backend()})
    monkeypatch.setattr(cuda_fake, "waits", 0)
    with tm.using("cupy") as backend:
        yield backend


@functools.cache
def _emulated_backend() -> CupyBackend:
    return CupyBackend()
