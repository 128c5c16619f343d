"""A training step on a GPU: all of it is asked for at once, and the host waits only for what has come of it.

The norm of the gradient, the factor that clips it, and the decision that a step with a NaN must not happen are made on
the GPU. A step that is the same every time can be captured as a CUDA graph: asking for it then costs the host next to
nothing, where it otherwise makes thousands of small requests, one after the other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..backend import current
from ..backend.cupy_gpu import CupyBackend
from ..backend.reference import Array, adamw_settings
from ..tensor import Tensor
from .data import Batch
from .optim import AdamW, _fresh_state

CHUNK = 1 << 14  # numbers of a parameter that a block of threads takes
THREADS = 256


class DeviceStep:
    """Learns from a batch, on the CuPy backend: loss, gradients, clipping and AdamW, without a wait in between.

    With `graph`, the second step of a shape is captured and, like all that follow, replayed. Where that is impossible,
    because something in the model waits for a result, a warning says so, and steps go on uncaptured.
    """

    def __init__(self, model: Any, optimizer: AdamW, graph: bool = False):
        self.model, self.optimizer, self.graph = model, optimizer, graph
        self._backend: CupyBackend = current()  # pyright: ignore[reportAttributeAccessIssue]
        self._xp = self._backend.xp
        self._update = _Update(self._backend, optimizer)
        self._captured: _Captured | None = None
        self._stream = self._xp.cuda.Stream(non_blocking=True) if graph else None

    def __call__(self, parts: Sequence[Batch], rates: Sequence[float], max_norm: float) -> tuple[float, float]:
        """One update from the parts of a batch, with a rate for each group of the optimizer. Returns loss and norm.

        The loss is the mean over all targets. max_norm is the largest norm of the gradient; 0 is any. Where the loss or
        the norm is not finite, nothing has been updated.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        targets = [part.num_targets for part in parts]
        shares = np.array([number / max(sum(targets), 1) for number in targets], dtype=np.float32)
        arrays = [array for part in parts for array in (part.ids, part.targets, part.documents) if array is not None]
        with self._on_stream(), self._backend.without_waiting():
            inputs = [self._xp.asarray(array) for array in (*arrays, shares)]
            if self._stream is None:
                self._run(inputs, len(parts), max_norm)
            else:
                self._replay(inputs, len(parts), max_norm)
            loss, norm, factor = self._update.figures.get().tolist()  # here the host waits
        if math.isfinite(factor):
            self._update.count()
        return loss, norm

    def _run(self, inputs: Sequence[Array], parts: int, max_norm: float) -> None:
        loss = self._gradients(inputs, parts)
        self._update.point_at_gradients()
        self._update.take_settings()
        self._update.launch(loss, max_norm)

    def _gradients(self, inputs: Sequence[Array], parts: int) -> Array:
        """Leave the gradients in the parameters; returns the loss, an array with one number."""
        self.optimizer.zero_grad()
        *arrays, shares = inputs
        each, losses = len(arrays) // parts, []
        for number in range(parts):
            ids, targets, *documents = arrays[number * each : (number + 1) * each]
            loss = self.model.loss(ids, targets, documents=documents[0] if documents else None)
            loss = loss * shares[number].astype(loss.dtype)
            loss.backward()
            losses.append(loss.data)
        return sum(losses[1:], losses[0])

    def _replay(self, inputs: Sequence[Array], parts: int, max_norm: float) -> None:
        """Do by the graph what `_run` does; the first step of a shape is still run, and compiles what it needs."""
        shape = (*((array.shape, array.dtype) for array in inputs), parts, max_norm)
        captured, allocator = self._captured, self._xp.cuda.using_allocator
        if captured is None or captured.shape != shape:
            captured = self._captured = _Captured(shape, inputs, self._xp.cuda.MemoryPool())
            with allocator(captured.pool.malloc):
                self._run(captured.inputs, parts, max_norm)
            return
        for static, array in zip(captured.inputs, inputs, strict=True):
            static[...] = array
        if captured.graph is None:
            try:
                with allocator(captured.pool.malloc):
                    captured.graph = self._capture(captured, parts, max_norm)
            except (NotImplementedError, RuntimeError) as error:
                warnings.warn(f"cuda_graph: this step cannot be captured, and runs as it is ({error})", stacklevel=4)
                self._stream = self._captured = None
                _forget_loads(self.model)
                self._run(inputs, parts, max_norm)
                return
            self._update.point_at_gradients()
            captured.keep(self.model, self.optimizer)
        captured.restore(self.optimizer)
        self._update.take_settings()
        captured.graph.launch(self._stream)

    def _capture(self, captured: _Captured, parts: int, max_norm: float) -> Any:
        stream: Any = self._stream
        _forget_loads(self.model)
        stream.begin_capture()
        try:
            self._update.launch(self._gradients(captured.inputs, parts), max_norm)
        except BaseException:
            with suppress(Exception):
                stream.end_capture()  # so that the stream can be used again
            raise
        return stream.end_capture()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work goes to the graph's stream, after what other streams were asked for; a capture needs one of its own."""
        if self._stream is None:
            yield
            return
        before = self._xp.cuda.Event(disable_timing=True)
        before.record(self._xp.cuda.get_current_stream())
        with self._stream:
            self._xp.cuda.get_current_stream().wait_event(before)
            yield


class _Captured:
    """A graph, and the arrays that it reads and writes whenever it is launched.

    Its memory comes from a pool of its own, from which nothing else is taken: the graph goes on using what the capture
    has given back.
    """

    def __init__(self, shape: tuple[Any, ...], inputs: Sequence[Array], pool: Any):
        self.shape, self.pool = shape, pool
        self.inputs = [array.copy() for array in inputs]
        self.graph: Any = None

    def keep(self, model: Any, optimizer: AdamW) -> None:
        """Remember where everything was during the capture."""
        self.parameters = [(p, p.data, p.grad) for p in model.parameters()]
        self.moments = [(n, key, s[key]) for n, s in optimizer.state.items() for key in ("exp_avg", "exp_avg_sq")]
        self.loads = [(module, module.load) for module in model.modules() if hasattr(module, "load")]

    def restore(self, optimizer: AdamW) -> None:
        """Put everything back to where it was; what has changed meanwhile is copied there."""
        for p, data, grad in self.parameters:
            if p.data is not data:
                data[...] = p.data
                p.data = data
            p.grad = grad
        for number, key, static in self.moments:
            state = optimizer.state[number]
            if state[key] is not static:
                static[...] = state[key]
                state[key] = static
        for module, load in self.loads:
            module.load = load


class _Update:
    """Norm, clipping and AdamW of all parameters in three launches, which read where the arrays are from a table."""

    def __init__(self, backend: CupyBackend, optimizer: AdamW):
        self.backend, self.optimizer, self.xp = backend, optimizer, backend.xp
        self.figures: Array = self.xp.zeros(3, dtype=np.float64)  # loss, norm, factor: see cuda_kernels.cu
        self._members: list[tuple[int, Tensor, dict[str, Any]]] = []  # parameters with a gradient, as in the table

    def point_at_gradients(self) -> None:
        """Fill the table from the gradients there are."""
        members = [(number, p, group) for number, p, group in self.optimizer._numbered() if p.grad is not None]
        if [number for number, _, _ in members] != [number for number, _, _ in self._members]:
            self._lay_out(members)
        rows = []
        for number, p, _ in members:
            p.grad = grad = self.xp.ascontiguousarray(p.grad)
            state = self.optimizer.state[number]
            arrays: tuple[Array, ...] = (p.data, grad, state["exp_avg"], state["exp_avg_sq"])
            if any(array.dtype != self.real for array in arrays):
                raise TypeError(f"parameters: got types {[str(a.dtype) for a in arrays]}, expected {self.real} alone")
            rows.append([*(array.data.ptr for array in arrays), p.size])
        self.table[...] = self.xp.asarray(np.array(rows, dtype=np.int64))

    def take_settings(self) -> None:
        """Hand over the rates, and what depends on the number of the step."""
        rows = []
        for number, _, group in self._members:
            (beta1, beta2), step = group["betas"], self.optimizer.state[number]["step"] + 1
            rows.append(adamw_settings(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], step))
        self.settings[...] = self.xp.asarray(np.array(rows, dtype=np.float64))

    def launch(self, loss: Array, max_norm: float) -> None:
        """Ask for the update; `figures` will hold what has come of it."""
        launch, blocks = self.backend.launch, len(self.chunks)
        launch("sum_squares", blocks, THREADS, self.table, self.chunks, self.partial, CHUNK, real=self.real)
        launch("judge", 1, THREADS, self.partial, blocks, loss, max_norm, self.figures, real=self.real)
        launch("adamw", blocks, THREADS, self.table, self.chunks, self.settings, self.figures, CHUNK, real=self.real)

    def count(self) -> None:
        """The update has happened."""
        for number, _, _ in self._members:
            self.optimizer.state[number]["step"] += 1

    def _lay_out(self, members: list[tuple[int, Tensor, dict[str, Any]]]) -> None:
        xp, self._members, self.real = self.xp, members, members[0][1].dtype
        for number, p, _ in members:
            if number not in self.optimizer.state:
                self.optimizer.state[number] = _fresh_state(p)
        places = [(row, first) for row, (_, p, _) in enumerate(members) for first in range(0, p.size, CHUNK)]
        self.chunks = xp.asarray(np.array(places, dtype=np.int64))
        self.partial = xp.zeros(len(places), dtype=np.float64)
        self.table = xp.zeros((len(members), 5), dtype=np.int64)
        self.settings = xp.zeros((len(members), 6), dtype=np.float64)


def _forget_loads(model: Any) -> None:
    """Loads of experts that were counted in a capture were not counted."""
    for module in model.modules():
        if hasattr(module, "load"):
            module.load = None
