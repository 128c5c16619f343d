"""The threads of the BLAS that NumPy uses."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def thread_pools() -> list[Any]:
    """What sets the number of threads of the BLAS that NumPy uses; nothing where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return ThreadpoolController().select(user_api="blas").lib_controllers
