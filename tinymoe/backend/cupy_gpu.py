"""The GPU backend: CuPy for arrays, kernels of our own (`cuda_kernels.cu`) between them, cuBLAS for matrix products.

Attention is products of whole blocks of queries and keys with one fused kernel between them, causal halves skipped.
A kernel that kept the scores on the chip (FlashAttention) would move less memory, but would have to do by hand, for
every precision and every rule, what cuBLAS does on the tensor cores; the scores held are those of one block of queries.

bfloat16 is a way to multiply, not a type of tensors: the factors of matrix products are rounded to it, sums are made in
float32, and everything between the products, the weights and the optimizer's state stay float32 (autocast, in
PyTorch's words). A weight is rounded once a step. So every operation works under every precision, CuPy needs no
bfloat16 of its own, and the optimizer's weights are the master weights.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import reference
from .cuda_blas import TYPES, Blas
from .reference import Array, AttentionRules, ReferenceBackend, _query_blocks, adamw_settings

SOURCE = Path(__file__).with_name("cuda_kernels.cu")
PRECISIONS = ("float32", "tf32", "bfloat16")

THREADS = 256  # of a block, where nothing else asks for less
BLOCKS = 2048  # of a kernel that takes as many numbers as there are
SCORES = 1 << 26  # of attention, held at a time: 256 MB
QUERIES = (64, 256)  # handled at a time, by how many of them fit in so many scores; more would skip fewer hidden keys
NULL: Any = np.uint64(0)


class CupyBackend(ReferenceBackend):
    """The reference on the GPU, with kernels of its own for whatever a training step spends time on.

    `precision` says how float32 matrices are multiplied: "float32" exactly, "tf32" with factors rounded to 10 bits,
    "bfloat16" with factors rounded to 7; sums are float32 in all three. It begins as the environment variable
    TINYMOE_PRECISION says, else as "float32", and may be changed at any time.

    Raises ImportError when CuPy is missing or finds no CUDA device.
    """

    name = "cupy"
    on_device = True

    def __init__(self) -> None:
        import cupy  # pyright: ignore[reportMissingImports] - there is a wheel for each CUDA version

        try:
            devices = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise ImportError(f"CuPy finds no CUDA device: {error}") from error
        if devices == 0:
            raise ImportError("CuPy finds no CUDA device")
        self.xp: Any = cupy
        self.blas = Blas(cupy)
        self.precision = os.environ.get("TINYMOE_PRECISION", "float32")
        self._waits = True

    @property
    def precision(self) -> str:
        """How float32 matrices are multiplied. ValueError for what is not one of `PRECISIONS`."""
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        if value not in PRECISIONS:
            raise ValueError(f"precision: got {value!r}, expected one of {', '.join(PRECISIONS)}")
        if value != "float32" and int(self.xp.cuda.Device().compute_capability) < 80:
            raise ValueError(f"precision: got {value!r}, expected float32: the GPU is older than NVIDIA's Ampere")
        self._precision = value
        self.blas.tf32 = value == "tf32"

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Inside the block the host waits for no result: checks of values are left out, and counts stay on the GPU."""
        before, self._waits = self._waits, False
        try:
            yield
        finally:
            self._waits = before

    def to_numpy(self, array: Array) -> np.ndarray:
        """A copy in the computer's main memory."""
        return self.xp.asnumpy(array)

    @property
    def keeps_counts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether we are in `without_waiting`."""
        return not self._waits

    def any(self, condition: Any) -> bool:
        """Whether a condition holds anywhere; not looked at, and taken as no, where the host must not wait."""
        return self._waits and bool(condition if isinstance(condition, bool) else condition.any())

    def count(self, condition: Array) -> Any:
        """How often a condition holds: a number, or an array with one where the host must not wait for it."""
        return int(condition.sum()) if self._waits else condition.sum(dtype=np.float32)

    def operand(self, x: Array) -> Array:
        """What a matrix product reads: the array, or under "bfloat16" its rounded copy, in 16-bit whole numbers."""
        if self._precision != "bfloat16" or x.dtype != np.float32:
            return x
        x = self.xp.ascontiguousarray(x)
        narrow = self.xp.empty(x.shape, dtype=np.uint16)
        self._each("narrow", x.size, x, narrow)
        return narrow

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b for arrays or `operand`s: (..., m, k) and (..., k, n), the leading axes broadcast."""
        if a.dtype != b.dtype or a.dtype.name not in TYPES:
            return a @ b
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        real = np.float32 if a.dtype == np.uint16 else a.dtype
        out = self.xp.empty((*batch, a.shape[-2], b.shape[-1]), dtype=real)
        if batch:
            a, b = (self.xp.broadcast_to(x, (*batch, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (a, b))
        self.blas.multiply(a, b, out.reshape(-1, *out.shape[-2:]) if batch else out)
        return out

    def erf(self, x: Array) -> Array:
        """CUDA's own."""
        x = self.xp.ascontiguousarray(x)
        y = self.xp.empty_like(x)
        self._each("erf_all", x.size, x, y)
        return y

    def rms_norm(self, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
        """One block a row: it reads the row twice, the second time from the cache."""
        x, weight = map(self.xp.ascontiguousarray, (x, weight))
        y, inverse_rms = self.xp.empty_like(x), self.xp.empty((len(x), 1), dtype=x.dtype)
        self.launch("rms_norm", len(x), _threads(x.shape[1]), x, weight, y, inverse_rms, x.shape[1], eps)
        return y, inverse_rms

    def rms_norm_backward(self, g: Array, x: Array, weight: Array, inverse_rms: Array) -> tuple[Array, Array]:
        """Each block takes some rows and sums its share of the weight's gradient; the shares are added at the end."""
        g, x, weight = map(self.xp.ascontiguousarray, (g, x, weight))
        dx, blocks = self.xp.empty_like(x), min(len(x), 512)
        partial = self.xp.zeros((blocks, x.shape[1]), dtype=x.dtype)
        arguments = (g, x, weight, inverse_rms, dx, partial, len(x), x.shape[1])
        self.launch("rms_norm_backward", blocks, _threads(x.shape[1]), *arguments)
        return dx, partial.sum(axis=0)

    def rope(self, x: Array, cos: Array, sin: Array) -> Array:
        """Both halves of each pair are read and written once; x may be a view into a larger array."""
        x, cos, sin = self._rows_without_gaps(x), *map(self.xp.ascontiguousarray, (cos, sin))
        (B, T, H, D), half = x.shape, cos.shape[-1]
        y = self.xp.empty(x.shape, dtype=x.dtype)
        strides = (stride // x.itemsize for stride in x.strides[:3])
        self._each("rope", B * T * H * (D - half), x, *strides, cos, sin, y, after=(T, H, D, half, len(cos)))
        return y

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate) * up in one pass."""
        gate, up = map(self.xp.ascontiguousarray, (gate, up))
        y = self.xp.empty_like(gate)
        self._each("swiglu", y.size, gate, up, y)
        return y

    def swiglu_backward(self, g: Array, gate: Array, up: Array) -> tuple[Array, Array]:
        """Both gradients in one pass, with the sigmoid computed again instead of stored."""
        g, gate, up = map(self.xp.ascontiguousarray, (g, gate, up))
        dgate, dup = self.xp.empty_like(gate), self.xp.empty_like(up)
        self._each("swiglu_backward", g.size, g, gate, up, dgate, dup)
        return dgate, dup

    def embedding_backward(self, g: Array, ids: Array, rows: int) -> Array:
        """Rows are sorted by id, and each id's are then added in their order: the same bits on every run."""
        g, table = self.xp.ascontiguousarray(g), self.xp.zeros((rows, g.shape[-1]), dtype=g.dtype)
        keys, order = self._sort(ids, rows)
        arguments = (g, keys, order, table, len(ids), rows, g.shape[-1])
        self.launch("embedding_backward", len(ids), _threads(g.shape[-1]), *arguments)
        return table

    def attention(
        self, q: Array, k: Array, v: Array, sinks: Array | None, rules: AttentionRules
    ) -> tuple[Array, Array]:
        """A block of queries at a time: two products, and one kernel that turns scores into probabilities in place."""
        (B, T, H, _), S, K = q.shape, k.shape[1], k.shape[2]
        G = H // K
        queries, keys, values = (self._pack(x, K) for x in (q, k, v))  # (B*K, T*G, D), (B*K, S, D), (B*K, S, E)
        out = self.xp.empty((B * K, T * G, v.shape[-1]), dtype=q.dtype)
        lse = self.xp.empty((B, K, T, G), dtype=q.dtype)
        for rows, seen in _query_blocks(T, S, rules.window, _queries_held(B * H, S)):
            block = slice(rows.start * G, rows.stop * G)
            scores = self._products(queries[:, block], keys[:, seen].swapaxes(1, 2), q.dtype)
            small = self.xp.empty(scores.shape, dtype=np.uint16) if queries.dtype == np.uint16 else NULL
            bent = self._rules(rules, sinks, rows, seen, (B, T, S, K, G), q.dtype)
            self.launch("attention_softmax", math.prod(scores.shape[:2]), 128, scores, small, lse, *bent)
            self.blas.multiply(scores if small is NULL else small, values[:, seen], out[:, block])
        return self._unpack(out, (B, T, H, v.shape[-1]), K), lse

    def attention_backward(
        self,
        g: Array,
        q: Array,
        k: Array,
        v: Array,
        sinks: Array | None,
        rules: AttentionRules,
        out: Array,
        lse: Array,
    ) -> tuple[Array, Array, Array, Array | None]:
        """The same blocks again: the probabilities from the log-sum-exp, then five products."""
        (B, T, H, D), S, K, E = q.shape, k.shape[1], k.shape[2], v.shape[-1]
        G = H // K
        queries, keys, values, dout = (self._pack(x, K) for x in (q, k, v, g))
        delta = self._delta(g, out, K)
        dq, dk, dv = (self.xp.zeros((B * K, rows, n), dtype=q.dtype) for rows, n in ((T * G, D), (S, D), (S, E)))
        for rows, seen in _query_blocks(T, S, rules.window, _queries_held(B * H, S)):
            block = slice(rows.start * G, rows.stop * G)
            scores = self._products(queries[:, block], keys[:, seen].swapaxes(1, 2), q.dtype)
            dweights = self._products(dout[:, block], values[:, seen].swapaxes(1, 2), q.dtype)
            small = dsmall = NULL
            if queries.dtype == np.uint16:
                small, dsmall = (self.xp.empty(scores.shape, dtype=np.uint16) for _ in range(2))
            bent = self._rules(rules, sinks, rows, seen, (B, T, S, K, G), q.dtype)
            arguments = (scores, dweights, small, dsmall, lse, delta)
            self.launch("attention_softmax_backward", math.prod(scores.shape[:2]), 128, *arguments, *bent)
            weights, dscores = (scores, dweights) if small is NULL else (small, dsmall)
            self.blas.multiply(dscores, keys[:, seen], dq[:, block])
            self.blas.multiply(dscores.swapaxes(1, 2), queries[:, block], dk[:, seen], add=True)
            self.blas.multiply(weights.swapaxes(1, 2), dout[:, block], dv[:, seen], add=True)
        grads = (self._unpack(d, like.shape, K) for d, like in ((dq, q), (dk, k), (dv, v)))
        if sinks is None:
            return *grads, None
        sinks, dsinks = self.xp.ascontiguousarray(sinks), self.xp.empty(H, dtype=sinks.dtype)
        self.launch("sinks_backward", H, THREADS, sinks, lse, delta, dsinks, B, K, T, G)
        return *grads, dsinks

    def top_k(self, scores: Array, k: int) -> Array:
        """A warp a row, which looks for the best that is left, k times."""
        chosen = self.xp.empty((len(scores), k), dtype=np.int64)
        scores, threads = self.xp.ascontiguousarray(scores), 128
        self.launch("top_k", -(-len(scores) * 32 // threads), threads, scores, chosen, *scores.shape, k)
        return chosen

    def bincount(self, ids: Array, size: int) -> Array:
        """How often each id below `size` occurs; ids below 0 do not count."""
        counts, boundaries = (
            self.xp.empty(size, dtype=np.int64),
            self._boundaries(self._sort(ids + 1, size + 1)[0], size),
        )
        self.launch("count_ids", _blocks(size), THREADS, boundaries, counts, size)
        return counts

    def sort_by_expert(self, choices: Array, num_experts: int) -> tuple[Array, Array]:
        """A counting sort, of the experts' numbers 8 bits at a time."""
        experts, order = self._sort(choices.reshape(-1) + 1, num_experts + 1)
        pairs = self.xp.empty(len(order), dtype=np.int64)
        self.launch("mark_dropped", _blocks(len(order)), THREADS, experts, order, pairs, len(order))
        return pairs, self._boundaries(experts, num_experts)

    def grouped_linear(self, x: Array, weight: Array, offsets: Sequence[int] | Array) -> Array:
        """All groups in one launch, whose blocks find out themselves which rows are theirs; rows of none are zero."""
        x, weight = map(self.xp.ascontiguousarray, (x, weight))
        return self._grouped_rows(x, weight, self._offsets(offsets), across=True)

    def grouped_linear_backward(
        self, g: Array, x: Array, weight: Array, offsets: Sequence[int] | Array
    ) -> tuple[Array, Array]:
        """As `grouped_linear`, and one launch for the gradients of all matrices."""
        g, x, weight = map(self.xp.ascontiguousarray, (g, x, weight))
        dweight, where = self.xp.empty_like(weight), self._offsets(offsets)
        E, height, width = weight.shape
        grid = (-(-width // _EDGE), -(-height // _EDGE), E)
        self.launch("grouped_weights", grid, THREADS, g, x, dweight, where, height, width, self._rounding(x))
        return self._grouped_rows(g, weight, where, across=False), dweight

    def combine(self, rows: Array, weights: Array, pairs: Array) -> Array:
        """Each token sums up its own rows."""
        rows, weights = map(self.xp.ascontiguousarray, (rows, weights))
        (tokens, k), width = weights.shape, rows.shape[-1]
        y = self.xp.empty((tokens, width), dtype=rows.dtype)
        places = self._places(pairs, weights.size)
        self.launch("combine", tokens, _threads(width), rows, weights, places, y, k, width)
        return y

    def combine_backward(self, g: Array, rows: Array, weights: Array, pairs: Array) -> tuple[Array, Array]:
        """Both gradients in one pass over the tokens."""
        g, rows, weights = map(self.xp.ascontiguousarray, (g, rows, weights))
        (tokens, k), width = weights.shape, rows.shape[-1]
        drows, dweights = self.xp.zeros_like(rows), self.xp.empty_like(weights)
        arguments = (g, rows, weights, self._places(pairs, weights.size), drows, dweights)
        self.launch("combine_backward", tokens, _threads(width), *arguments, k, width)
        return drows, dweights

    def cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """In place: the logits' memory becomes the gradient's."""
        logits = self.xp.ascontiguousarray(logits)
        losses = self.xp.empty(len(logits), dtype=logits.dtype)
        wanted = self._whole_numbers(targets)
        arguments = (logits, NULL, NULL, wanted, losses, logits.shape[1], 0.0, True)
        self.launch("cross_entropy", len(logits), THREADS, *arguments)
        return losses, logits

    def linear_cross_entropy(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        targets: Array,
        softcap: float | None,
        needs_grad: bool,
    ) -> tuple[Array, Array | None, Array | None, Array | None]:
        """Chunks of rows, as in the reference: a product, one kernel from logits to their gradient, two products."""
        N, V = len(x), len(weight)
        wanted, rows, matrix = self._whole_numbers(targets), self.operand(x), self.operand(weight)
        losses, chunk = self.xp.empty(N, dtype=x.dtype), reference.LOSS_CHUNK
        dx, dweight = (self.xp.zeros(a.shape, dtype=a.dtype) if needs_grad else None for a in (x, weight))
        dbias = None if bias is None or not needs_grad else self.xp.zeros_like(bias)
        logits = self.xp.empty((min(chunk, N), V), dtype=x.dtype)
        small = self.xp.empty(logits.shape, dtype=np.uint16) if matrix.dtype == np.uint16 and needs_grad else None
        for start in range(0, N, chunk):
            part = slice(start, min(start + chunk, N))
            count = part.stop - start
            line, rounded = logits[:count], NULL if small is None else small[:count]
            self.blas.multiply(rows[part], matrix.T, line)
            arguments = (line, rounded, NULL if bias is None else bias, wanted[part], losses[part], V, softcap or 0.0)
            self.launch("cross_entropy", count, THREADS, *arguments, needs_grad)
            if dx is None:
                continue
            dlogits = line if small is None else rounded
            self.blas.multiply(dlogits, matrix, dx[part])
            self.blas.multiply(dlogits.T, rows[part], dweight, add=True)
            if dbias is not None:
                dbias += line.sum(axis=0)
        return losses, dx, dweight, dbias

    def adamw(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        step: int,
        scale: float = 1.0,
    ) -> None:
        """All four arrays are read once and written once."""
        settings = adamw_settings(lr, beta1, beta2, eps, weight_decay, step)
        self._each("adamw_one", p.size, p, self.xp.ascontiguousarray(g), m, v, after=(scale, *settings))

    def sum_of_squares(self, g: Array) -> Any:
        """The squared Euclidean norm, still on the GPU: whoever adds several up waits for them once."""
        flat = g.reshape(-1)
        return (flat * flat).sum(dtype=np.float64)

    def _each(self, name: str, count: int, *arguments: Any, after: tuple[Any, ...] = ()) -> None:
        """Run a kernel that takes `count` numbers: its parameter between `arguments` and those `after` it."""
        self.launch(name, _blocks(count), THREADS, *arguments, count, *after)

    def launch(self, name: str, blocks: int | tuple[int, ...], threads: int, *arguments: Any, real: Any = None) -> None:
        """Run a kernel of `cuda_kernels.cu`; numbers become what it declares. `real` is the type of its floats, by
        default that of the arrays."""
        grid = blocks if isinstance(blocks, tuple) else (blocks,)
        if 0 in grid:
            return
        found = {a.dtype for a in arguments if getattr(a, "dtype", None) in (np.float32, np.float64)}
        if real is None and len(found) > 1:
            raise TypeError(f"{name}: got arrays of {' and '.join(sorted(map(str, found)))}, expected one type")
        kinds, function = self._kernel(name, np.dtype(real or next(iter(found), np.float32)))
        function(
            grid, (threads,), tuple(a if kind is None else kind(a) for a, kind in zip(arguments, kinds, strict=True))
        )

    @functools.cache  # noqa: B019 - there is one backend in a process
    def _kernel(self, name: str, real: np.dtype[Any]) -> tuple[tuple[Any, ...], Any]:
        """The type that a number takes for each of a kernel's parameters, None for an array; and the kernel."""
        types = {"i64": np.int64, "int": np.int32, "double": np.float64, "real": real.type}
        kinds = tuple(None if "*" in p else types[p.split()[-2]] for p in _parameters()[name])
        return kinds, self._module(real).get_function(name)

    @functools.cache  # noqa: B019
    def _module(self, real: np.dtype[Any]) -> Any:
        option = f"-DREAL={'double' if real == np.float64 else 'float'}"
        return self.xp.RawModule(code=SOURCE.read_text("utf-8"), options=(option,))

    def _rows_without_gaps(self, x: Array) -> Array:
        return x if x.strides[-1] == x.itemsize else self.xp.ascontiguousarray(x)

    def _whole_numbers(self, targets: Array) -> Array:
        return self.xp.ascontiguousarray(targets.astype(np.int64, copy=False))

    def _products(self, a: Array, b: Array, dtype: Any) -> Array:
        """a @ b in a new array, for matrices in one batch."""
        out = self.xp.empty((len(a), a.shape[1], b.shape[2]), dtype=dtype)
        self.blas.multiply(a, b, out)
        return out

    def _pack(self, x: Array, K: int, rounded: bool = True) -> Array:
        """(B, T, H, D) -> (B*K, T*G, D), without gaps and in the type of the products: a matrix for each key head."""
        x = self._rows_without_gaps(x)
        B, T, H, D = x.shape
        narrow = rounded and self._precision == "bfloat16" and x.dtype == np.float32
        out = self.xp.empty((B * K, T * (H // K), D), dtype=np.uint16 if narrow else x.dtype)
        strides = (stride // x.itemsize for stride in x.strides[:3])
        wide, small = (NULL, out) if narrow else (out, NULL)
        self._each("pack_heads", x.size, x, *strides, wide, small, after=(T, K, H // K, D))
        return out

    def _unpack(self, x: Array, shape: tuple[int, ...], K: int) -> Array:
        """(B*K, T*G, D) -> (B, T, H, D)."""
        _, T, H, D = shape
        y = self.xp.empty(shape, dtype=x.dtype)
        self._each("unpack_heads", y.size, x, y, after=(T, K, H // K * D))
        return y

    def _delta(self, g: Array, out: Array, K: int) -> Array:
        """sum_e g_e out_e of each query, (B*K, T*G): what the softmax's vjp takes away."""
        a, b = (self._pack(x, K, rounded=False) for x in (g, out))
        delta = self.xp.empty(a.shape[:2], dtype=a.dtype)
        self.launch("row_dots", -(-delta.size * 32 // THREADS), THREADS, a, b, delta, delta.size, a.shape[2])
        return delta

    def _rules(
        self,
        rules: AttentionRules,
        sinks: Array | None,
        rows: slice,
        seen: slice,
        sizes: tuple[int, ...],
        dtype: Any,
    ) -> tuple[Any, ...]:
        """The kernels' arguments for a block of queries and the keys it may see."""
        _, T, S, K, G = sizes
        xp, keys = self.xp, seen.stop - seen.start
        documents, chosen = (NULL, NULL), NULL
        if rules.q_documents is not None and rules.k_documents is not None:
            documents = tuple(map(self._whole_numbers, (rules.q_documents, rules.k_documents)))
        if rules.selected is not None:
            chosen = xp.zeros((len(rules.selected), rows.stop - rows.start, S), dtype=np.uint8)
            text, line, _ = xp.ogrid[: len(chosen), : chosen.shape[1], :1]
            chosen[text, line, rules.selected[:, rows]] = 1
            chosen = xp.ascontiguousarray(chosen[..., seen])
        bends = (NULL if a is None else xp.ascontiguousarray(a.astype(dtype)) for a in (rules.slopes, sinks))
        numbers = (rules.scale, rules.softcap or 0.0, rules.window or 0, S - T)
        return *bends, *documents, chosen, *numbers, rows.start, seen.start, rows.stop - rows.start, keys, K, G, T, S

    def _sort(self, keys: Array, limit: int) -> tuple[Array, Array]:
        """Whole numbers below `limit` in order, and where they stood; equal ones keep their order. int32, both."""
        xp, n, values = self.xp, keys.size, NULL
        keys = xp.ascontiguousarray(keys.reshape(-1).astype(np.int32))
        blocks = -(-n // _TILE)
        for shift in range(0, max(limit - 1, 1).bit_length(), 8):
            counts, new_keys, new_values = (xp.empty(size, dtype=np.int32) for size in (256 * blocks, n, n))
            self.launch("sort_count", blocks, _TILE, keys, counts, n, shift)
            self.launch("exclusive_scan", 1, 1024 if blocks > 1 else 256, counts, len(counts))
            self.launch("sort_scatter", blocks, _TILE, keys, values, counts, new_keys, new_values, n, shift)
            keys, values = new_keys, new_values
        return keys, values

    def _boundaries(self, sorted_keys: Array, size: int) -> Array:
        """How many of the sorted keys are below 1, 2, … size + 1: (size + 1,)."""
        boundaries = self.xp.empty(size + 1, dtype=np.int32)
        self.launch("lower_bounds", _blocks(size + 1), THREADS, sorted_keys, len(sorted_keys), 1, boundaries, size + 1)
        return boundaries

    def _offsets(self, offsets: Sequence[int] | Array) -> Array:
        return offsets if hasattr(offsets, "dtype") else self.xp.asarray(np.array(offsets, dtype=np.int32))

    def _rounding(self, x: Array) -> int:
        """As the kernels number it: EXACT, TF32, BFLOAT16."""
        return PRECISIONS.index(self._precision) if x.dtype == np.float32 else 0

    def _grouped_rows(self, x: Array, weight: Array, offsets: Array, across: bool) -> Array:
        E, height, width = weight.shape
        out, depth = (height, width) if across else (width, height)
        y = self.xp.zeros((len(x), out), dtype=x.dtype)
        grid = (-(-out // _EDGE), -(-len(x) // _EDGE) + E)
        self.launch("grouped_rows", grid, THREADS, x, weight, y, offsets, E, out, depth, across, self._rounding(x))
        return y

    def _places(self, pairs: Array, size: int) -> Array:
        """Where the row of each pair stands: `pairs` the other way round, with -1 for a pair that has no row."""
        places = self.xp.full(size, -1, dtype=np.int32)
        self._each("invert_pairs", len(pairs), self._whole_numbers(pairs), places)
        return places


_TILE, _EDGE = 256, 64  # as in cuda_kernels.cu


@functools.cache
def _parameters() -> dict[str, list[str]]:
    """The parameters of each kernel, as the source declares them."""
    found = re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', SOURCE.read_text("utf-8"))
    return {name: parameters.split(",") for name, parameters in found}


def _queries_held(heads: int, S: int) -> int:
    """How many queries' scores with all S keys are held at a time."""
    fewest, most = QUERIES
    return max(fewest, min(most, SCORES // (heads * S)))


def _threads(width: int) -> int:
    """Threads for a row of this width: whole warps, with some numbers for each thread."""
    return min(THREADS, max(32, width // 4 // 32 * 32))


def _blocks(count: int) -> int:
    return min(-(-count // THREADS), BLOCKS)
