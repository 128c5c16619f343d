"""A stand-in for CuPy where there is no GPU: its arrays live in main memory, its kernels run in `cuda_emulator`.

It has CuPy's manners: no array turns into a NumPy array by itself, the two do not mix, and reading a value makes the
host wait, which is counted. A captured stream only writes down what it is given; launching the graph does it.
"""

from __future__ import annotations

import contextlib
import ctypes
import types
from collections.abc import Callable, Iterator
from typing import Any

import cuda_emulator
import numpy as np

waits = 0  # how often the host has waited for a result
COMPUTED: list[tuple[int, int]] = []  # what products were asked for: type of the factors, and of the sums
_recorded: list[Callable[[], object]] | None = None  # what a capture has written down, while there is one


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error of the driver."""


def wait(what: str) -> None:
    """The host waits for the GPU, which it must not do while a graph is captured."""
    global waits
    if _recorded is not None:
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")
    waits += 1


def change(work: Callable[[], object]) -> None:
    """Work that changes existing arrays: done at once, or when the graph is launched."""
    if _recorded is None:
        work()
    else:
        _recorded.append(work)


def fresh(make: Callable[[], Any]) -> Any:
    """A new array. In a capture its shape is right at once, its values when the graph is launched."""
    with np.errstate(all="ignore"):
        values = make()
    if isinstance(values, list | tuple):
        return type(values)(ndarray(np.array(part)) for part in values)
    out = ndarray(np.array(values, order="C" if not getattr(values, "flags", None) else "K"))
    if _recorded is not None:
        _recorded.append(lambda: np.copyto(out.host, make()))
    return out


def bare(x: Any) -> Any:
    """What NumPy is to compute with. TypeError for a NumPy array: CuPy takes none."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, list | tuple):
        return type(x)(bare(part) for part in x)
    return x


class Pointer:
    """The address of an array."""

    def __init__(self, host: np.ndarray):
        self.ptr = host.ctypes.data


class ndarray:  # noqa: N801 - CuPy's name
    """An array that only CuPy's functions may touch."""

    __array_priority__ = 100

    def __init__(self, host: np.ndarray, base: ndarray | None = None):
        self.host, self.base = host, base

    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)
    data = property(lambda self: Pointer(self.host))
    T = property(lambda self: self._view(self.host.T))

    @property
    def flags(self) -> Any:
        return types.SimpleNamespace(owndata=self.base is None, c_contiguous=self.host.flags.c_contiguous)

    def _view(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return fresh(lambda: ufunc(*(bare(x) for x in inputs), **options))

    def __array_function__(self, function: Any, _: Any, arguments: Any, options: Any) -> Any:
        return getattr(module, function.__name__)(*arguments, **options)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def get(self, *_: Any, **__: Any) -> np.ndarray:
        wait("get")
        return self.host.copy()

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __str__(self) -> str:
        return str(self.get())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.get().__index__()

    def __bool__(self) -> bool:
        return bool(self.get())

    def _basic(self, index: Any) -> bool:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
            wait("a mask as an index")
        return all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts)

    def __getitem__(self, index: Any) -> Any:
        if self._basic(index):
            return self._view(np.asarray(self.host[index]) if np.isscalar(self.host[index]) else self.host[index])
        if _recorded is None:
            return fresh(lambda: self.host[bare(index)])
        parts = index if isinstance(index, tuple) else (index,)
        zeros = tuple(np.zeros_like(part.host) if isinstance(part, ndarray) else part for part in parts)
        out = ndarray(np.array(self.host[zeros]))  # of the right shape: what the numbers are is not known yet
        _recorded.append(lambda: np.copyto(out.host, self.host[bare(index)]))
        return out

    def __setitem__(self, index: Any, value: Any) -> None:
        self._basic(index)
        index, value = bare(index), bare(value)
        change(lambda: self.host.__setitem__(index, value))

    def reshape(self, *shape: Any) -> ndarray:
        moved = self.host.reshape(*shape)
        return self._view(moved) if np.may_share_memory(moved, self.host) else fresh(lambda: self.host.reshape(*shape))

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self.host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self._view(self.host.swapaxes(a, b))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return fresh(lambda: self.host.astype(dtype))

    def copy(self) -> ndarray:
        return fresh(lambda: self.host.copy())

    def fill(self, value: Any) -> None:
        change(lambda: self.host.fill(value))

    def __matmul__(self, other: Any) -> ndarray:
        return module.matmul(self, other)

    def __eq__(self, other: Any) -> Any:
        return fresh(lambda: self.host == bare(other))

    def __ne__(self, other: Any) -> Any:
        return fresh(lambda: self.host != bare(other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _operator(name: str) -> Callable[..., Any]:
    def work(self: ndarray, other: Any) -> Any:
        return fresh(lambda: getattr(self.host, name)(bare(other))) if _fits(other) else NotImplemented

    return work


def _in_place(name: str) -> Callable[..., Any]:
    def work(self: ndarray, other: Any) -> Any:
        other = bare(other)
        change(lambda: getattr(self.host, name)(other))
        return self

    return work


def _fits(other: Any) -> bool:
    if isinstance(other, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return isinstance(other, ndarray | int | float | np.generic)


for _name in "add sub mul truediv floordiv mod pow and or xor lt le gt ge".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
    if _name not in ("lt", "le", "gt", "ge"):
        setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__"))
        setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("__neg__", "__invert__", "__abs__"):
    setattr(ndarray, _name, lambda self, _name=_name: fresh(lambda: getattr(self.host, _name)()))
for _name in "sum mean max min any all argmax argmin cumsum prod round squeeze repeat".split():

    def _method(self: ndarray, *arguments: Any, _name: str = _name, **options: Any) -> ndarray:
        return fresh(lambda: getattr(self.host, _name)(*arguments, **options))

    setattr(ndarray, _name, _method)


class Cupy(types.ModuleType):
    """The module: NumPy's functions on these arrays."""

    ndarray = ndarray
    WAITING = (
        "argsort",
        "sort",
        "nonzero",
        "unique",
        "bincount",
        "flatnonzero",
    )  # Thrust's, and checks
    LIBRARY = ("matmul", "einsum", "tensordot", "dot", "vdot")  # cuBLAS, which CuPy keeps out of captures
    VIEWS = ("broadcast_to", "expand_dims", "swapaxes", "moveaxis", "transpose")

    def __getattr__(self, name: str) -> Any:
        made = getattr(np, name)
        if not callable(made) or isinstance(made, type):
            return made
        if isinstance(made, np.ufunc) and name == "add":
            return types.SimpleNamespace(at=self._add_at)

        def function(*arguments: Any, **options: Any) -> Any:
            given = [bare(x) for x in arguments]
            if name in self.WAITING:
                wait(name)
            if name in self.LIBRARY and _recorded is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            if "out" in options:
                out = bare(options.pop("out"))
                return change(lambda: made(*given, **options, out=out))
            if name in self.VIEWS:
                return arguments[0]._view(made(*given, **options))
            if name == "split":
                return [arguments[0]._view(part) for part in made(*given, **options)]
            return fresh(lambda: made(*given, **options))

        return function

    @staticmethod
    def _add_at(x: ndarray, index: Any, value: Any) -> None:
        index, value = bare(index), bare(value)
        change(lambda: np.add.at(x.host, index, value))

    @property
    def ogrid(self) -> Any:
        class Grid:
            def __getitem__(self, key: Any) -> list[ndarray]:
                return [ndarray(part) for part in np.ogrid[key]]

        return Grid()

    @staticmethod
    def asarray(values: Any, dtype: Any = None) -> ndarray:
        if isinstance(values, ndarray):
            return values if dtype is None else values.astype(dtype, copy=False)
        if _recorded is not None:
            raise AssertionError("a graph would read this memory of the host again, when it is something else")
        return ndarray(np.array(values, dtype=dtype))

    array = asarray

    @staticmethod
    def ascontiguousarray(x: ndarray) -> ndarray:
        return x if x.host.flags.c_contiguous else fresh(lambda: np.ascontiguousarray(x.host))

    @staticmethod
    def asnumpy(x: ndarray) -> np.ndarray:
        return x.get() if isinstance(x, ndarray) else np.asarray(x)

    @staticmethod
    def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
        out = ndarray(np.empty(shape, dtype=dtype))
        out.host.view(np.uint8).fill(0xFF) if out.host.ndim and out.size else None  # NaN, -1: what is not written shows
        return out

    @staticmethod
    def empty_like(x: ndarray) -> ndarray:
        return Cupy.empty(x.shape, x.dtype)


class RawModule:
    """Kernels from source, in the emulator."""

    def __init__(self, code: str, options: tuple[str, ...] = ()):
        self.functions = cuda_emulator.compile_module(code, tuple(options))

    def get_function(self, name: str) -> Callable[..., None]:
        kernel = self.functions(name)

        def run(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            change(lambda: kernel(grid, block, arguments))

        return run


class Graph:
    """What a capture wrote down."""

    def __init__(self, work: list[Callable[[], object]]):
        self.work = work
        self.launches = 0

    def launch(self, *_: Any) -> None:
        self.launches += 1
        for part in self.work:
            part()

    upload = lambda self, *_: None  # noqa: E731


class Stream:
    """A queue of work, which here is done at once."""

    ptr = 0
    _numbers = iter(range(1, 1 << 30))

    def __init__(self, null: bool = False, non_blocking: bool = False):
        self.ptr = 0 if null else next(Stream._numbers)

    def __enter__(self) -> Stream:
        global _stream
        self._before, _stream = _stream, self
        return self

    def __exit__(self, *_: Any) -> None:
        global _stream
        _stream = self._before

    def begin_capture(self, mode: Any = None) -> None:
        global _recorded
        if self.ptr == 0:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream")
        _recorded = []

    def end_capture(self) -> Graph:
        global _recorded
        work, _recorded = _recorded, None
        assert work is not None
        return Graph(work)

    def wait_event(self, event: Any) -> None: ...

    def record(self, event: Any = None) -> Any: ...

    def synchronize(self) -> None:
        wait("synchronize")


_stream = Stream(null=True)


class Library:
    """cuBLAS's functions on main memory, column by column as there."""

    def cublasCreate_v2(self, handle: Any) -> int:  # noqa: N802
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:  # noqa: N802
        return 0

    def cublasSetWorkspace_v2(self, *_: Any) -> int:  # noqa: N802
        return 0

    def cublasGemmStridedBatchedEx(  # noqa: N802
        self, handle, flip_a, flip_b, m, n, k, alpha, a, type_a, lda, step_a, b, type_b, ldb, step_b,
        beta, c, type_c, ldc, step_c, batch, compute, algorithm,
    ) -> int:  # fmt: skip
        m, n, k, batch = m.value, n.value, k.value, batch.value
        if type_a.value != type_b.value or (type_a.value == 14) != (
            compute.value == 68 and type_c.value == 0 != type_a.value
        ):
            return 15  # CUBLAS_STATUS_NOT_SUPPORTED
        if lda.value < (k if flip_a.value else m) or ldb.value < (n if flip_b.value else k) or ldc.value < m:
            return 7  # CUBLAS_STATUS_INVALID_VALUE
        COMPUTED.append((type_a.value, compute.value))
        real = ctypes.c_double if type_c.value == 1 else ctypes.c_float
        factor, kept = (ctypes.cast(x, ctypes.POINTER(real)).contents.value for x in (alpha, beta))

        def work() -> None:
            left = _columns(a, type_a, lda, step_a, batch, *((k, m) if flip_a.value else (m, k)))
            right = _columns(b, type_b, ldb, step_b, batch, *((n, k) if flip_b.value else (k, n)))
            out = _columns(c, type_c, ldc, step_c, batch, m, n)
            left = left.swapaxes(1, 2) if flip_a.value else left
            right = right.swapaxes(1, 2) if flip_b.value else right
            with np.errstate(all="ignore"):
                product = factor * (left @ right)
                out[...] = product + kept * out if kept else product

        change(work)
        return 0


def _columns(pointer: Any, kind: Any, step: Any, jump: Any, batch: int, rows: int, columns: int) -> np.ndarray:
    """Column-major matrices at an address: (batch, rows, columns); bfloat16 comes widened."""
    dtype = {0: np.dtype("f4"), 1: np.dtype("f8"), 14: np.dtype("u2")}[kind.value]
    size = dtype.itemsize
    extent = (batch - 1) * jump.value + (columns - 1) * step.value + rows
    memory = np.frombuffer((ctypes.c_char * (extent * size)).from_address(pointer.value), dtype=dtype)
    strides = (jump.value * size, size, step.value * size)
    matrices = np.lib.stride_tricks.as_strided(memory, (batch, rows, columns), strides, writeable=kind.value != 14)
    return (matrices.astype(np.uint32) << 16).view(np.float32) if kind.value == 14 else matrices


class MemoryPool:
    """A pool; memory comes from NumPy all the same."""

    def malloc(self, size: int) -> Any:
        raise NotImplementedError

    def total_bytes(self) -> int:
        return 0


def _alloc(size: int) -> Any:
    return types.SimpleNamespace(ptr=0, size=size)


@contextlib.contextmanager
def _using_allocator(allocator: Any) -> Iterator[None]:
    yield


def make() -> Cupy:
    """The module `cupy`, on a machine with one GPU of compute capability 9.0."""
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, runtimeGetVersion=lambda: 12090
    )
    cuda = types.SimpleNamespace(
        runtime=runtime,
        Device=lambda: types.SimpleNamespace(compute_capability="90"),
        Event=lambda **_: types.SimpleNamespace(record=lambda *_: None),
        Stream=Stream,
        MemoryPool=MemoryPool,
        alloc=_alloc,
        get_current_stream=lambda: _stream,
        using_allocator=_using_allocator,
    )
    made = Cupy("cupy")
    made.__dict__.update(cuda=cuda, RawModule=RawModule, pi=np.pi, inf=np.inf, newaxis=None)
    return made


module = make()
