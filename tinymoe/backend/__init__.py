"""Array backends: the reference in NumPy, its faster CPU twin in Numba, and CuPy for the GPU."""

from .reference import ReferenceBackend
from .select import available, backend, current, get, use, using

__all__ = ["ReferenceBackend", "available", "backend", "current", "get", "use", "using"]
