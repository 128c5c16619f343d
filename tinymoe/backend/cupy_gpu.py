"""The GPU backend: the reference's kernels on CuPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .reference import Array, ReferenceBackend


class CupyBackend(ReferenceBackend):
    """The reference kernels with `xp = cupy`: plain array code runs on the GPU unchanged.

    Raises ImportError when CuPy is missing or finds no CUDA device.
    """

    name = "cupy"

    def __init__(self) -> None:
        import cupy  # pyright: ignore[reportMissingImports] - there is a wheel for each CUDA version

        try:
            devices = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise ImportError(f"CuPy finds no CUDA device: {error}") from error
        if devices == 0:
            raise ImportError("CuPy finds no CUDA device")
        self.xp: Any = cupy

    def to_numpy(self, array: Array) -> np.ndarray:
        """A copy in the computer's main memory."""
        return self.xp.asnumpy(array)

    def erf(self, x: Array) -> Array:
        """CUDA's own."""
        from cupyx.scipy.special import erf  # pyright: ignore[reportMissingImports]

        return erf(x)
