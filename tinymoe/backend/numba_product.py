"""Matrix products of our own, for training: faster than BLAS where a matrix comes from far away.

Goto and van de Geijn (2008) made products fast by three things: a tile of the result stays in registers while the two
matrices pass by; one matrix is laid out anew, in panels that are read from end to end; blocks are cut so that a panel
stays in the second cache. BLAS lays out *both* matrices before it multiplies, and waits for memory while it does. In a
training step one of the two is always a batch of activations, megabytes that come from the last cache or from memory,
and the other is small. Here only the second is laid out, and while a tile is computed, the rows of the next one are
fetched: memory and arithmetic take their time together, not one after the other.
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

# Registers hold 16 numbers and there are 32 of them, or 8 and 16: a tile takes most, the rest pass a panel by.
_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))
VECTOR = 16 if _WIDE else 8
ROWS = 14 if _WIDE else 6  # of a tile
PANEL = 2 * VECTOR  # its columns
# Products summed up in registers before they are written. Rows are fetched as they follow each other in memory, and so
# best whole; columns are brought together, which takes room in the first cache.
DEEPEST, DEPTH = 768, 256
FASTER = _WIDE  # than BLAS; with narrower registers, of which there are fewer, both take the same time
NOTHING = (0, 0)  # that is needed soon
NEAR = 96 * 1024  # numbers of a block of panels: what fits the second cache beside the rest

_kernel = numba.njit(cache=True, error_model="numpy", nogil=True)

_float, _byte, _short, _long = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_vector = ir.VectorType(_float, VECTOR)


def _order(picks: list[int]) -> Any:
    """Which numbers of two vectors a shuffle takes."""
    return ir.Constant(ir.VectorType(_short, VECTOR), picks)


def _at(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    """A pointer some bytes behind an address."""
    return builder.inttoptr(builder.add(address, _long(offset)), kind.as_pointer())


def _tile(rows: int, vectors: int) -> Any:
    """An intrinsic: rows of c = a b, or added to what is there, all sums in registers."""

    @intrinsic
    def tile(
        typing_context: Any,
        depth: Any,
        a: Any,
        a_row: Any,
        a_column: Any,
        panel: Any,
        c: Any,
        c_row: Any,
        columns: Any,
        keep: Any,
        ahead: Any,
        step: Any,
        rest: Any,
    ) -> tuple[Signature, Callable[..., Any]]:
        """a, panel, c and ahead are addresses, strides are bytes, c has so many columns. ahead is fetched, a step
        further every 2^rest times."""

        def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
            depth, a, a_row, a_column, panel, c, c_row, columns, keep, ahead, step, rest = arguments
            zero = ir.Constant(_vector, None)
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
            starts = [builder.add(a, builder.mul(a_row, _long(row))) for row in range(rows)]
            with cgutils.for_range(builder, depth, intp=_long) as loop:
                far = builder.mul(builder.lshr(loop.index, rest), step)
                fetch(builder, _at(builder, builder.add(ahead, far), 0, _byte))
                line = builder.add(panel, builder.mul(loop.index, _long(4 * PANEL)))
                factors = [builder.load(_at(builder, line, 4 * VECTOR * n, _vector), align=4) for n in range(vectors)]
                offset = builder.mul(loop.index, a_column)
                for start, sums in zip(starts, totals, strict=True):
                    number = builder.load(_at(builder, builder.add(start, offset), 0, _float))
                    for total, factor in zip(sums, factors, strict=True):
                        builder.store(fused(builder, spread(builder, number), factor, builder.load(total)), total)
            lines = [builder.add(c, builder.mul(c_row, _long(row))) for row in range(rows)]
            places = [[_at(builder, line, 4 * VECTOR * n, _vector) for n in range(vectors)] for line in lines]
            whole = builder.icmp_signed(">=", columns, _long(vectors * VECTOR))
            with builder.if_else(whole) as (plainly, in_part):
                with plainly:
                    _write(builder, totals, places, keep, [None] * vectors)
                with in_part:
                    left = (builder.sub(columns, _long(VECTOR * n)) for n in range(vectors))
                    _write(builder, totals, places, keep, [before(builder, count) for count in left])
            return context.get_dummy_value()

        number = types.int64
        return types.void(*[number] * 8, types.boolean, *[number] * 3), generate

    return tile


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c of vectors, rounded once where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])


def fetch(builder: Any, place: Any) -> None:
    """Begin to bring what lies at a pointer near, without waiting for it; it may lie outside of any array."""
    kind = ir.FunctionType(ir.VoidType(), [_byte.as_pointer(), _short, _short, _short])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    # To read, as near as the second cache (what is needed now stays undisturbed in the first), numbers and not code.
    builder.call(prefetch, [place, _short(0), _short(2), _short(1)])


def _write(builder: Any, totals: Any, places: Any, keep: Any, masks: Any) -> None:
    """Write the sums where they belong, or add them to what is there; with a mask only those inside."""
    for sums, its_places in zip(totals, places, strict=True):
        for total, place, mask in zip(sums, its_places, masks, strict=True):
            with builder.if_then(keep):
                old = builder.load(place, align=4) if mask is None else _masked(builder, "load", place, mask)
                builder.store(builder.fadd(old, builder.load(total)), total)
            if mask is None:
                builder.store(builder.load(total), place, align=4)
            else:
                _masked(builder, "store", place, mask, builder.load(total))


def _masked(builder: Any, what: str, place: Any, mask: Any, *value: Any) -> Any:
    """LLVM's masked load or store."""
    pointer, result = _vector.as_pointer(), ir.VoidType() if value else _vector
    others = [_vector, pointer] if value else [pointer]
    kind = ir.FunctionType(result, [*others, _short, mask.type, *([] if value else [_vector])])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.{what}.v{VECTOR}f32.p0v{VECTOR}f32"
    )
    return builder.call(function, [*value, place, _short(4), mask, *([] if value else [ir.Constant(_vector, None)])])


def before(builder: Any, count: Any) -> Any:
    """A mask of the first `count` numbers of a vector, in 32 bits: as many registers as the vector takes."""
    lanes = ir.Constant(ir.VectorType(_short, VECTOR), list(range(VECTOR)))
    return builder.icmp_signed("<", lanes, spread(builder, builder.trunc(count, _short)))


def spread(builder: Any, number: Any, width: int = VECTOR) -> Any:
    """A vector of one number, many times."""
    undefined = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    first = builder.insert_element(undefined, number, _short(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_short, width), None))


def folded(builder: Any, x: Any, join: Callable[[Any, Any], Any]) -> Any:
    """A vector's numbers joined to one: its halves, then theirs."""
    width = x.type.count
    while width > 1:
        width //= 2
        undefined, order = ir.Constant(x.type, ir.Undefined), ir.VectorType(_short, width)
        halves = [
            builder.shuffle_vector(x, undefined, ir.Constant(order, list(range(start, start + width))))
            for start in (0, width)
        ]
        x = join(*halves)
    return builder.extract_element(x, _short(0))


_tile_full, _tile_8, _tile_4, _tile_2, _tile_1 = (_tile(rows, 2) for rows in (ROWS, 8, 4, 2, 1))
_narrow_full = _tile(ROWS, 1)


@intrinsic
def turn_square(
    typing_context: Any, source: Any, source_row: Any, target: Any, target_row: Any
) -> tuple[Signature, Callable[..., Any]]:
    """A square of VECTOR x VECTOR numbers transposed in registers, from one address to another; strides in bytes."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        rows = [
            builder.load(_at(builder, builder.add(source, builder.mul(source_row, _long(row))), 0, _vector), align=4)
            for row in range(VECTOR)
        ]
        distance = VECTOR // 2
        while distance:  # halves of the square change places, then halves of these
            left = _order([lane + (lane & distance and VECTOR - distance) for lane in range(VECTOR)])
            right = _order([lane + (VECTOR if lane & distance else distance) for lane in range(VECTOR)])
            for row in range(VECTOR):
                if not row & distance:
                    pair = rows[row], rows[row + distance]
                    rows[row] = builder.shuffle_vector(*pair, left)
                    rows[row + distance] = builder.shuffle_vector(*pair, right)
            distance //= 2
        for number, row in enumerate(rows):
            place = builder.add(target, builder.mul(target_row, _long(number)))
            builder.store(row, _at(builder, place, 0, _vector), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _copy(typing_context: Any, source: Any, target: Any) -> tuple[Signature, Callable[..., Any]]:
    """VECTOR numbers from one address to another."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        source, target = (_at(builder, address, 0, _vector) for address in arguments)
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def lay_out(b, across, out):  # type: ignore[no-untyped-def]
    """b (depth, columns), or where it lies across (columns, depth), into panels (panels, depth, PANEL), with zeros
    behind the last column."""
    b = b.T if across else b
    out[:] = 0
    for panel in range(len(out)):
        columns = b[:, panel * PANEL : (panel + 1) * PANEL]
        out[panel, :, : columns.shape[1]] = columns


@overload(lay_out)
def _lay_out_overload(b, across, out):  # type: ignore[no-untyped-def]
    def laid_out(b, across, out):  # type: ignore[no-untyped-def]
        depth, columns = out.shape[1], b.shape[0] if across else b.shape[1]
        for panel in range(len(out)):
            first = panel * PANEL
            count = min(PANEL, columns - first)
            whole = count // VECTOR * VECTOR
            for j in range(0, whole if across else 0, VECTOR):
                deep = depth // VECTOR * VECTOR
                for i in range(0, deep, VECTOR):
                    place = b.ctypes.data + (first + j) * b.strides[0] + 4 * i
                    target = out.ctypes.data + panel * out.strides[0] + 4 * (i * PANEL + j)
                    turn_square(place, b.strides[0], target, 4 * PANEL)
                for i in range(deep, depth):
                    for n in range(j, j + VECTOR):
                        out[panel, i, n] = b[first + n, i]
            for i in range(depth if whole < PANEL else 0):
                for j in range(whole, PANEL):
                    out[panel, i, j] = np.float32(0)
                for j in range(whole, count):
                    out[panel, i, j] = b[first + j, i] if across else b[i, first + j]
        for i in range(0 if across else depth):  # memory is fastest where it is read in its order
            for j in range(0, columns // VECTOR * VECTOR, VECTOR):
                target = out.ctypes.data + j // PANEL * out.strides[0] + 4 * (i * PANEL + j % PANEL)
                _copy(b.ctypes.data + i * b.strides[0] + 4 * j, target)

    return laid_out


def multiply(a, a_across, b, b_across, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
    """c = op(a) op(b), added to what is there if `keep`: float32, rows of neighbouring numbers; op transposes what lies
    across. Meanwhile what is needed `soon`, its address and its bytes, is fetched, if a itself is near."""
    product = (a.T if a_across else a) @ (b.T if b_across else b)
    c[:] = c + product if keep else product


@overload(multiply)
def _multiply_overload(a, a_across, b, b_across, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
    def compiled(a, a_across, b, b_across, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
        (m, n), k = c.shape, len(a) if a_across else a.shape[1]
        if k == 0 and not keep:
            c[:] = 0
        if m * n * k == 0:
            return
        deepest = DEPTH if a_across else DEEPEST
        parts = (k + deepest - 1) // deepest
        depth = (k + parts - 1) // parts
        panels = min((n + PANEL - 1) // PANEL, max(NEAR // (depth * PANEL), 1))
        space = _lines(panels * depth * PANEL)
        for start in range(0, k, depth):
            stop = min(start + depth, k)
            left = a[start:stop] if a_across else a[:, start:stop]
            for first in range(0, n, panels * PANEL):
                last = min(first + panels * PANEL, n)
                right = b[first:last, start:stop] if b_across else b[start:stop, first:last]
                count = (last - first + PANEL - 1) // PANEL
                laid_out = space[: count * (stop - start) * PANEL].reshape(count, stop - start, PANEL)
                lay_out(right, b_across, laid_out)
                meanwhile = soon if start == first == 0 else NOTHING
                multiply_panels(left, a_across, laid_out, c[:, first:last], keep or start > 0, meanwhile)

    return compiled


def multiply_panels(a, across, panels, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
    """c = op(a) panels, or added to what is there, a tile at a time."""
    b = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, : c.shape[1]]
    multiply(a, across, b, False, c, keep)


@overload(multiply_panels)
def _multiply_panels_overload(a, across, panels, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
    def tiles(a, across, panels, c, keep, soon=NOTHING):  # type: ignore[no-untyped-def]
        (m, n), depth, i = c.shape, panels.shape[1], 0
        strip = _lines(depth * VECTOR if across else 0)
        while i < m:
            rows = tile_rows(m - i)
            if across:  # the next rows come bit by bit, as the panels pass: few lines can be on their way at once
                here, row, column = a.ctypes.data + 4 * i, 4, a.strides[0]
                ahead, step, rest = here + 4 * (ROWS + VECTOR - 1), column, _halvings(len(panels))
                if i + VECTOR <= a.shape[1]:  # bring together what lies apart
                    for d in range(depth):
                        _copy(here + d * column, strip.ctypes.data + 4 * VECTOR * d)
                    here, column = strip.ctypes.data, 4 * VECTOR
            else:
                here, row, column = a.ctypes.data + i * a.strides[0], a.strides[0], 4
                ahead, step, rest = here + rows * row, 4 * (ROWS // len(panels) + 1), 0
                if soon[1] > 0:  # the next rows are near: bring an equal part of something else with each tile
                    times = depth * len(panels)
                    step = 4 * (soon[1] // (4 * times * ((m + ROWS - 1) // ROWS)) + 1)
                    ahead = soon[0] + i // ROWS * times * step
            for p in range(len(panels)):
                panel, columns = panels.ctypes.data + p * panels.strides[0], n - p * PANEL
                place = c.ctypes.data + i * c.strides[0] + 4 * p * PANEL
                one_tile(rows, depth, here, row, column, (panel, place, c.strides[0], columns, keep, ahead, step, rest))
                ahead += (depth >> rest) * step
            i += rows

    return tiles


@_kernel
def _halvings(number):  # type: ignore[no-untyped-def]
    """How often a number can be halved until it is 1, rounded down."""
    times = 0
    while number > 1:
        number, times = number >> 1, times + 1
    return times


@_kernel
def tile_rows(left):  # type: ignore[no-untyped-def]
    """How many rows the next tile has. The last sixteen are two times eight, not fourteen and two."""
    if left >= ROWS and (left != 16 or ROWS < 8):
        return ROWS
    return 8 if left >= 8 else 4 if left >= 4 else 2 if left >= 2 else 1


@_kernel
def one_tile(rows, depth, here, row, column, others):  # type: ignore[no-untyped-def]
    """Rows of a product times a panel (see `_tile`): the others are panel, place, its stride, columns, keep, ahead,
    step and rest."""
    panel, place, line, columns, keep, ahead, step, rest = others
    if rows == ROWS and columns > VECTOR:
        _tile_full(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)
    elif rows == ROWS:
        _narrow_full(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)
    elif rows == 8:
        _tile_8(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)
    elif rows == 4:
        _tile_4(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)
    elif rows == 2:
        _tile_2(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)
    else:
        _tile_1(depth, here, row, column, panel, place, line, columns, keep, ahead, step, rest)


@_kernel
def _lines(numbers):  # type: ignore[no-untyped-def]
    """Space for so many numbers that begins where a line of memory does: no vector of it lies in two."""
    space = np.empty(numbers + 16, np.float32)
    first = -(space.ctypes.data // 4) % 16
    return space[first : first + numbers]
