"""Which backend computes: one choice for the whole process, changed by `use` and scoped by `using`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from .reference import ReferenceBackend

INSTALL = {
    "numpy": "pip install numpy",
    "numba": "pip install numba",
    "cupy": "pip install cupy-cuda12x  (or cupy-cuda13x, to match your CUDA driver)",
}

_made: dict[str, ReferenceBackend] = {}
_current: ReferenceBackend | None = None


def available() -> list[str]:
    """Names of the backends whose library is installed here, the reference first."""
    return [name for name in INSTALL if importlib.util.find_spec(name) is not None]


def get(name: str) -> ReferenceBackend:
    """The backend called `name`, made on first use.

    Raises ValueError for an unknown name, and ImportError, with the command that installs it, for a backend
    whose library or device is missing.
    """
    if name not in INSTALL:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(INSTALL)}")
    if name not in _made:
        _made[name] = _make(name)
    return _made[name]


def _make(name: str) -> ReferenceBackend:
    try:
        if name == "numba":
            from .numba_cpu import NumbaBackend

            return NumbaBackend()
        if name == "cupy":
            from .cupy_gpu import CupyBackend

            return CupyBackend()
    except ImportError as missing:
        raise ImportError(f"the {name} backend is not usable here ({missing}); {INSTALL[name]}") from missing
    return ReferenceBackend()


def use(name: str | None = None) -> None:
    """Select the backend that computes from now on: "numpy", "numba" or "cupy".

    `None` goes back to the default: numba where it can be imported, else numpy.
    """
    global _current
    _current = get(_default_name() if name is None else name)


def current() -> ReferenceBackend:
    """The backend object in use; the default one is made at the first call."""
    if _current is None:
        use(None)
    assert _current is not None  # for the type checker: `use` has just set it
    return _current


def backend() -> str:
    """The name of the backend in use."""
    return current().name


@contextmanager
def using(name: str) -> Iterator[ReferenceBackend]:
    """Compute with another backend inside a `with` block."""
    global _current
    before = _current
    _current = get(name)
    try:
        yield _current
    finally:
        _current = before


def _default_name() -> str:
    # find_spec alone is not enough: a Numba too old for the installed NumPy raises only when it is imported.
    if "numba" in available():
        try:
            get("numba")
        except ImportError:
            return "numpy"
        return "numba"
    return "numpy"
