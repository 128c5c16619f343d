"""NumPy's own matrix product, called from inside compiled loops: no Python between one product and the next."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

# What NumPy's wheels call it; its integers have 64 bits.
_NAMES = ("scipy_cblas_sgemm64_", "cblas_sgemm64_")
_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # from cblas.h


@cache
def thread_pools() -> list[Any]:
    """What sets the number of threads of the BLAS that NumPy uses; nothing where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return ThreadpoolController().select(user_api="blas").lib_controllers


@cache
def sgemm_address() -> int:
    """Where the float32 product stands in memory, or 0 where NumPy brings another BLAS than its wheels have."""
    found = (getattr(pool.dynlib, name, None) for pool in thread_pools() for name in _NAMES)
    function = next(filter(None, found), None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


@intrinsic
def _call_sgemm(
    typing_context: Any,
    address: Any,
    across_a: Any,
    across_b: Any,
    m: Any,
    n: Any,
    k: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> tuple[Signature, Any]:
    """cblas_sgemm at an address, on row-major matrices that are given as addresses, with an alpha of 1."""
    whole, real = types.int64, types.float32
    signature = types.void(*[whole] * 10, real, whole, whole)

    def generate(context: Any, builder: Any, signature: Signature, values: Any) -> Any:
        address, across_a, across_b, m, n, k, a, lda, b, ldb, beta, c, ldc = values
        short, wide, single = ir.IntType(32), ir.IntType(64), ir.FloatType()
        matrix = [single.as_pointer(), wide]
        kind = ir.FunctionType(ir.VoidType(), [short] * 3 + [wide] * 3 + [single, *matrix, *matrix, single, *matrix])
        order = (ir.Constant(short, _ROW_MAJOR), builder.trunc(across_a, short), builder.trunc(across_b, short))
        a, b, c = (builder.inttoptr(start, single.as_pointer()) for start in (a, b, c))
        function = builder.inttoptr(address, kind.as_pointer())
        builder.call(function, [*order, m, n, k, ir.Constant(single, 1), a, lda, b, ldb, beta, c, ldc])
        return context.get_dummy_value()

    return signature, generate


def sgemm(address, a, a_transposed, b, b_transposed, c, keep):  # type: ignore[no-untyped-def]
    """c = op(a) op(b), added to what is there if `keep`: float32 with contiguous rows; `address` is sgemm_address()."""
    product = (a.T if a_transposed else a) @ (b.T if b_transposed else b)
    c[:] = c + product if keep else product


@overload(sgemm, jit_options={"nogil": True})
def _sgemm_overload(address, a, a_transposed, b, b_transposed, c, keep):  # type: ignore[no-untyped-def]
    def compiled(address, a, a_transposed, b, b_transposed, c, keep):  # type: ignore[no-untyped-def]
        rows, columns = c.shape
        _call_sgemm(  # pyright: ignore[reportCallIssue] - Numba passes the first argument
            address,
            _TRANSPOSED if a_transposed else _PLAIN,
            _TRANSPOSED if b_transposed else _PLAIN,
            rows,
            columns,
            a.shape[0] if a_transposed else a.shape[1],
            a.ctypes.data,
            a.strides[0] // 4,
            b.ctypes.data,
            b.strides[0] // 4,
            np.float32(1 if keep else 0),
            c.ctypes.data,
            c.strides[0] // 4,
        )

    return compiled
