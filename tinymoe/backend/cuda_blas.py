"""Matrix products on the GPU, straight from cuBLAS.

CuPy's own products (`a @ b`) refuse to be recorded in a CUDA graph ("calling cuBLAS API during stream capture is
currently unsupported", CuPy 14.2), and give back bfloat16 where float32 sums are wanted. cuBLAS itself can do both.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from .reference import Array

# From library_types.h and cublas_api.h.
TYPES = {"uint16": 14, "float32": 0, "float64": 1}  # CUDA_R_16BF, CUDA_R_32F, CUDA_R_64F
_IN_FLOAT32, _IN_FLOAT64, _IN_TF32 = 68, 70, 77  # CUBLAS_COMPUTE_32F, _64F, _32F_FAST_TF32
_DEFAULT_ALGORITHM = -1

WORKSPACE = 32 << 20  # bytes: what NVIDIA recommends for Hopper. A graph must not make cuBLAS allocate its own


def load(cupy: Any) -> Any:
    """The cuBLAS library that CuPy uses."""
    cupy.cuda.device.get_cublas_handle()  # CuPy knows where it is; once it is loaded, its name is enough
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    return ctypes.CDLL(f"cublas64_{major}.dll" if os.name == "nt" else f"libcublas.so.{major}")


class Blas:
    """cuBLAS on CuPy arrays. `tf32` lets float32 products round their factors to TF32's 10 bits."""

    def __init__(self, cupy: Any):
        self._cupy, self._library = cupy, load(cupy)
        self._handle, self._stream = ctypes.c_void_p(), None
        self._check("cublasCreate_v2", ctypes.byref(self._handle))
        self._workspace = cupy.cuda.alloc(WORKSPACE)
        self.tf32 = False

    def multiply(self, a: Array, b: Array, out: Array, add: bool = False) -> None:
        """out = a @ b, or out += a @ b: (m, k), (k, n) and (m, n), or each with a batch axis before them.

        a and b are float32, float64, or bfloat16 as uint16, with float32 sums in a float32 `out`; transposed views are
        taken as they are. `out` is row-major, but its rows may have gaps between them.
        """
        if out.size == 0:
            return
        (m, k), n = a.shape[-2:], b.shape[-1]
        if k == 0:
            if not add:
                out.fill(0)
            return
        real = ctypes.c_double if out.dtype == np.float64 else ctypes.c_float
        compute = _IN_FLOAT64 if out.dtype == np.float64 else _IN_TF32 if self.tf32 else _IN_FLOAT32
        a, flip_a, step_a = self._laid_out(a)
        b, flip_b, step_b = self._laid_out(b)
        # cuBLAS is column-major, where a row-major matrix is its own transpose: it computes out^T = b^T a^T.
        self._use_current_stream()
        self._check(
            "cublasGemmStridedBatchedEx",
            self._handle,
            *(ctypes.c_int(number) for number in (flip_b, flip_a, n, m, k)),
            ctypes.byref(real(1)),
            *_matrix(b, step_b),
            *_matrix(a, step_a),
            ctypes.byref(real(add)),
            *_matrix(out, out.strides[-2] // out.itemsize if m > 1 else n),
            ctypes.c_int(len(out) if out.ndim == 3 else 1),
            ctypes.c_int(compute),
            ctypes.c_int(_DEFAULT_ALGORITHM),
        )

    def _laid_out(self, x: Array) -> tuple[Array, int, int]:
        """The matrix, whether it lies transposed, and the step from one of its lines to the next; copied if need be."""
        rows, columns = x.shape[-2:]
        down, across = (stride // x.itemsize for stride in x.strides[-2:])
        if (across == 1 or columns == 1) and (down >= columns or rows == 1):
            return x, 0, down if rows > 1 else columns
        if (down == 1 or rows == 1) and (across >= rows or columns == 1):
            return x, 1, across if columns > 1 else rows
        return self._cupy.ascontiguousarray(x), 0, columns

    def _use_current_stream(self) -> None:
        stream = self._cupy.cuda.get_current_stream().ptr
        if stream != self._stream:
            self._check("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
            pointer, size = ctypes.c_void_p(self._workspace.ptr), ctypes.c_size_t(WORKSPACE)
            self._check("cublasSetWorkspace_v2", self._handle, pointer, size)  # a new stream forgets it
            self._stream = stream

    def _check(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._library, function)(*arguments):
            raise RuntimeError(f"{function} failed with status {status} of cublasStatus_t")


def _matrix(x: Array, step: int) -> tuple[Any, ...]:
    """A matrix as cuBLAS takes it: pointer, type, leading dimension, step from one of the batch to the next."""
    batch = x.strides[0] // x.itemsize if x.ndim == 3 else 0
    code = ctypes.c_int(TYPES[x.dtype.name])
    return ctypes.c_void_p(x.data.ptr), code, ctypes.c_int(step), ctypes.c_longlong(batch)
