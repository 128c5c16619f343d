"""Exercises of chapter 12: what a machine can do at best, a kernel written by hand, attention in tiles, two lanes."""

from __future__ import annotations

import importlib.util
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.backend.reference import ReferenceBackend

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise

Function = Callable[..., Any]


def product_seconds(n: int, k: int, m: int, product_rate: float, memory_rate: float) -> float:
    """The least time that a float32 product (n, k) @ (k, m) can take: the roofline.

    product_rate is in operations a second, memory_rate in bytes a second; computing and moving go on at the same time.
    """
    operations = 2 * n * k * m
    moved = 4 * (n * k + k * m + n * m)  # bytes: each matrix once
    return max(operations / product_rate, moved / memory_rate)


def _random_product(rng: np.random.Generator, size: int) -> Case:
    n, k, m = (int(x) for x in rng.integers(1, 50 * size, size=3))
    return case(n, k, m, float(rng.integers(1, 200)) * 1e9, float(rng.integers(1, 20)) * 1e9)


def rms_norm_rows(x: np.ndarray, weight: np.ndarray, eps: float, y: np.ndarray, inverse_rms: np.ndarray) -> None:
    """Row by row: inverse_rms = 1 / sqrt(mean(x²) + eps) (N, 1), and y = x * inverse_rms * weight (N, C)."""
    rows, width = x.shape
    for i in range(rows):
        total = x.dtype.type(0)
        for j in range(width):
            total += x[i, j] * x[i, j]
        r = x.dtype.type(1 / math.sqrt(total / width + eps))
        inverse_rms[i, 0] = r
        for j in range(width):
            y[i, j] = x[i, j] * r * weight[j]


def rms_norm_backward_rows(
    g: np.ndarray, x: np.ndarray, weight: np.ndarray, inverse_rms: np.ndarray, dx: np.ndarray, dweight: np.ndarray
) -> None:
    """Row by row from g, the gradient of y (N, C): write dx (N, C), and add to dweight (C,), which begins as zeros."""
    rows, width = x.shape
    for i in range(rows):
        r = inverse_rms[i, 0]
        dot = x.dtype.type(0)
        for j in range(width):
            dot += g[i, j] * weight[j] * x[i, j]
        dot *= r * r / x.dtype.type(width)
        for j in range(width):
            dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot)
            dweight[j] += g[i, j] * x[i, j] * r


def _norm_arguments(rows: int, width: int, eps: float = 1e-5, seed: int = 0, dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(seed)
    x, weight = (rng.normal(size=shape).round(1).astype(dtype) for shape in ((rows, width), (width,)))
    return [x, weight, eps, np.full_like(x, np.nan), np.full((rows, 1), np.nan, dtype)]


def _norm_backward_arguments(rows: int, width: int, seed: int = 0, dtype: Any = np.float64) -> list[Any]:
    x, weight, eps, *_ = _norm_arguments(rows, width, seed=seed, dtype=dtype)
    inverse_rms = ReferenceBackend().rms_norm(x, weight, eps)[1]
    g = np.random.default_rng(seed + 1).normal(size=x.shape).round(1).astype(dtype)
    return [g, x, weight, inverse_rms, np.full_like(x, np.nan), np.zeros_like(weight)]


def _random_norm(rng: np.random.Generator, size: int) -> Case:
    return case(*_norm_arguments(size, int(rng.integers(1, 9)), seed=size))


def _random_norm_backward(rng: np.random.Generator, size: int) -> Case:
    return case(*_norm_backward_arguments(size, int(rng.integers(1, 9)), seed=size))


def compiled(function: Function) -> Function | None:
    """The function as Numba compiles the package's kernels, or None where there is no Numba, or it is switched off."""
    if importlib.util.find_spec("numba") is None:
        return None
    import numba
    from numba.core import config

    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    fastmath = {"reassoc", "contract", "arcp", "nsz"}
    return numba.njit(fastmath=fastmath, error_model="numpy", nogil=True)(function)


def best_seconds(works: Sequence[Callable[[], object]], rounds: int = 15) -> list[float]:
    """The shortest time of each; they take turns, so that a busy moment of the computer hits all."""
    best = [math.inf] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            began = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - began)
    return best


def _complaint(error: Exception) -> str:
    """The line of the loop that Numba marks, and what it says of it, out of the page that it writes."""
    lines = [re.sub(" at 0x[0-9a-f]+", "", line).strip() for line in str(error).splitlines()]
    marked = next((line for line, below in pairwise(lines) if below == "^"), "")
    said = [line for line in lines if line and not line.startswith(("Failed in", "- Resolution failure"))]
    shown = said[:2] if said and said[0].endswith(":") else said[:1]  # a call that Numba does not know follows a colon
    return "\n".join(part[:200] for part in (marked, *shown) if part)


def _is_quick(arguments: Sequence[Any], in_numpy: Callable[[ReferenceBackend], object]) -> Callable[[Function], None]:
    """A test that compiles a loop, and fails it where it takes longer than NumPy's passes over the same arrays."""

    def test(function: Function) -> None:
        loop = compiled(function)
        if loop is None:
            return
        given = f"{', '.join(str(a.shape) for a in arguments if isinstance(a, np.ndarray))}, float32, compiled by Numba"
        try:
            loop(*arguments)  # compiles
        except Exception as error:
            got = _complaint(error)
            wrong("Numba cannot compile it: only numbers, arrays and plain loops", given=given, got=got)
        mine, numpy = best_seconds([lambda: loop(*arguments), lambda: in_numpy(ReferenceBackend())])
        if mine > numpy:
            wrong(
                "the values are right, but slower than NumPy's passes; does an inner loop work twice, or make arrays?",
                given=given,
                expected=f"at most {1e3 * numpy:.2f} ms",
                got=f"{1e3 * mine:.2f} ms",
            )

    return test


def _quick_forward(function: Function) -> None:
    arguments = _norm_arguments(1024, 512, dtype=np.float32)
    arguments[2] = np.float32(1e-5)
    _is_quick(arguments, lambda numpy: numpy.rms_norm(*arguments[:3]))(function)


def _quick_backward(function: Function) -> None:
    arguments = _norm_backward_arguments(1024, 512, dtype=np.float32)
    _is_quick(arguments, lambda numpy: numpy.rms_norm_backward(*arguments[:4]))(function)


Partial = tuple[np.ndarray, np.ndarray, np.ndarray]


def merge(a: Partial, b: Partial) -> Partial:
    """Attention to the keys of two tiles, from what is known of each: (top, total, out), of T queries.

    top (T, 1) is the largest score, -inf where a query sees no key; total (T, 1) the sum of exp(score - top), and out
    (T, E) the values with these weights; 0 where no key is seen.
    """
    top = np.maximum(a[0], b[0])
    safe = np.where(np.isneginf(top), 0, top)  # -inf - -inf is not a number
    shrink_a, shrink_b = np.exp(a[0] - safe), np.exp(b[0] - safe)
    return top, a[1] * shrink_a + b[1] * shrink_b, a[2] * shrink_a + b[2] * shrink_b


def _part(scores: Sequence[Sequence[float]], values: Sequence[Sequence[float]]) -> Partial:
    """(top, total, out) of some queries that see these keys."""
    s, v = np.array(scores, dtype=float).reshape(len(scores), -1), np.array(values, dtype=float)
    if not s.size:
        return np.full((len(s), 1), -np.inf), np.zeros((len(s), 1)), np.zeros((len(s), 2))
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isneginf(top), 0, top))
    return top, e.sum(axis=-1, keepdims=True), e @ v


_VALUES = [[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]
_EMPTY = _part([[]], [])


def _random_parts(rng: np.random.Generator, size: int) -> Case:
    def part(keys: int) -> Partial:
        scores = rng.normal(scale=2, size=(size, keys)).round(1)
        scores[rng.random(scores.shape) < 0.3] = -np.inf
        return _part(scores.tolist(), rng.normal(size=(keys, 2)).round(1).tolist())

    return case(part(int(rng.integers(1, 5))), part(int(rng.integers(1, 5))))


def causal_tiles(tokens: int, rows: int, columns: int) -> Iterator[tuple[int, int, bool]]:
    """The tiles of `rows` queries and `columns` keys that have anything to compute: (row of tiles, column, cut).

    In order, row by row; the last ones of the text may be smaller. `cut` says whether some query of the tile may not
    see some key of it, so that a mask is needed.
    """
    for i, first in enumerate(range(0, tokens, rows)):
        last = min(first + rows, tokens) - 1  # the last query of the tile
        for j, start in enumerate(range(0, last + 1, columns)):
            yield i, j, min(start + columns, tokens) - 1 > first


def _random_tiles(rng: np.random.Generator, size: int) -> Case:
    rows, columns = (int(n) for n in rng.integers(1, 6, size=2))
    return case(size, rows, columns)


Work = Callable[[np.ndarray, np.ndarray], tuple[float, list[np.ndarray]]]
AtOnce = Callable[[Sequence[Callable[[], Any]]], list[Any]]


def two_lanes(work: Work, ids: np.ndarray, targets: np.ndarray, at_once: AtOnce) -> tuple[float, list[np.ndarray]]:
    """What work(ids, targets) gives, from its two halves: the mean loss of all targets, and the gradients.

    work gives the mean over the targets that count, those not below 0, and a list of gradients; at_once(tasks) calls
    functions without arguments in a thread each, and returns their results.
    """
    middle = len(ids) // 2
    halves = [(ids[:middle], targets[:middle]), (ids[middle:], targets[middle:])]
    counts = [int((wanted >= 0).sum()) for _, wanted in halves]
    results = at_once([partial(work, *half) for half in halves])
    shares = [count / max(sum(counts), 1) for count in counts]
    loss = sum(share * loss for share, (loss, _) in zip(shares, results, strict=True))
    lists = (gradients for _, gradients in results)
    return loss, [shares[0] * a + shares[1] * b for a, b in zip(*lists, strict=True)]


_TABLE = np.array([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.5]])


def _mean_loss(ids: np.ndarray, targets: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """A model of one table: the loss of a token is its distance from the target, squared; and a bias."""
    counted = targets >= 0
    number = max(int(counted.sum()), 1)
    away = np.where(counted, _TABLE[ids, 0] + _TABLE[ids, 1] - targets, 0.0)
    table = np.zeros_like(_TABLE)
    np.add.at(table, ids.reshape(-1), (2 * away / number).reshape(-1)[:, None])
    return float((away**2).sum() / number), [table, np.array([2 * away.sum() / number])]


def _in_turn(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    return [task() for task in tasks]


def _lanes(ids: list[list[int]], targets: list[list[int]]) -> Case:
    return case(_mean_loss, np.array(ids), np.array(targets), _in_turn)


def _random_lanes(rng: np.random.Generator, size: int) -> Case:
    shape = (size + 1, 3)
    targets = np.where(rng.random(shape) < 0.4, -100, rng.integers(0, 3, size=shape))
    return case(_mean_loss, rng.integers(0, 3, size=shape), targets, _in_turn)


def _asks_once(function: Function) -> None:
    """Both halves are computed at once, and neither is the whole batch."""
    asked: list[int] = []
    seen: list[int] = []

    def at_once(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        asked.append(len(tasks))
        return _in_turn(tasks)

    def work(ids: np.ndarray, targets: np.ndarray) -> tuple[float, list[np.ndarray]]:
        seen.append(len(ids))
        return _mean_loss(ids, targets)

    function(work, np.zeros((6, 2), dtype=int), np.ones((6, 2), dtype=int), at_once)
    if asked != [2]:
        got = f"{len(asked)} calls, with {asked} tasks"
        wrong("both halves should go into one call of at_once, as two tasks", given="6 texts", got=got)
    if seen != [3, 3]:
        wrong("each lane should take half of the texts", given="6 texts", expected="3 and 3", got=f"{seen}")


CACHED_TILES = 32


def loads(order: Sequence[tuple[int, int, int]], cached: int = CACHED_TILES) -> int:
    """How many tiles are fetched from memory by products C[i, j] += A[i, k] B[k, j] in this order.

    `cached` tiles are at hand; a new one takes the place of the one that was not used for the longest time.
    """
    cache: OrderedDict[tuple[str, int, int], None] = OrderedDict()
    fetched = 0
    for i, j, k in order:
        for tile in (("A", i, k), ("B", k, j), ("C", i, j)):
            fetched += tile not in cache
            cache[tile] = None
            cache.move_to_end(tile)
            if len(cache) > cached:
                cache.popitem(last=False)
    return fetched


def plain_order(n: int) -> list[tuple[int, int, int]]:
    """The three loops as one writes them down: each tile of C is finished before the next."""
    return [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]


def my_order(n: int) -> list[tuple[int, int, int]]:
    """Four by four tiles of C at a time: they stay, while a column of A and a row of B pass by."""
    side = 4
    return [
        (i, j, k)
        for top in range(0, n, side)
        for left in range(0, n, side)
        for k in range(n)
        for i in range(top, min(top + side, n))
        for j in range(left, min(left + side, n))
    ]


def _does_all_products(function: Function) -> None:
    for n in (1, 2, 3, 8, 12):
        order = function(n)
        if not isinstance(order, (list, tuple)) or any(len(step) != 3 for step in order):
            wrong("a list of triples (i, j, k) is needed", given=f"n = {n}", got=order)
        if sorted(map(tuple, order)) != plain_order(n):
            wrong(
                "each product of two tiles has to be done, and only once",
                given=f"n = {n}",
                expected=f"{n**3} triples, of numbers from 0 to {n - 1}",
                got=f"{len(order)} triples, {len(set(map(tuple, order)))} of them different",
            )


def _fetches_less(function: Function) -> None:
    for n in (8, 12):
        got, plain = loads(function(n)), loads(plain_order(n))
        if got > 0.75 * plain:
            wrong(
                "too much is fetched again and again",
                given=f"n = {n}, {CACHED_TILES} tiles at hand",
                expected=f"at most {0.75 * plain:.0f} fetched, 75 % of what the plain order needs",
                got=f"{got}",
            )


EXERCISES = [
    Exercise(
        id="12.product_seconds",
        title="The roofline of a matrix product",
        reference=product_seconds,
        checks=[
            matches("large: the products decide", [case(1000, 1000, 1000, 1e9, 1e9)], rtol=1e-9, atol=0),
            matches("one row: memory decides", [case(1, 1000, 1000, 1e11, 1e10)], rtol=1e-9, atol=0),
            matches("a thin output", [case(1000, 1000, 1, 1e11, 1e10), case(1, 2, 4000, 1e9, 1e9)], rtol=1e-9, atol=0),
            matches("any", _random_product, count=12, rtol=1e-9, atol=0),
        ],
        hints=[
            "Operations: each of the n m results is a sum of k products, and takes k multiplications and k additions.",
            "Moved at the least: both factors are read once, and the result is written once. A float32 has 4 bytes.",
            "Computing and moving overlap, so the slower of the two decides: max(operations / product_rate, bytes / "
            "memory_rate).",
        ],
    ),
    Exercise(
        id="12.rms_norm_rows",
        title="RMSNorm in one pass over the rows",
        reference=rms_norm_rows,
        seconds=60,
        checks=[
            matches("one row", [case(*_norm_arguments(1, 2))], in_place=True),
            matches("three rows", [case(*_norm_arguments(3, 4))], in_place=True),
            matches("eps stands inside the root", [case(*_norm_arguments(2, 2, eps=0.5))], in_place=True),
            matches("any shapes", _random_norm, count=8, in_place=True),
            holds("compiled, not slower than NumPy", _quick_forward),
        ],
        hints=[
            "Two loops over j, one after the other, inside a loop over i: the first adds up the squares of the row, "
            "the second writes it.",
            "Between the two, once a row: r = 1 / math.sqrt(total / width + eps), and inverse_rms[i, 0] = r.",
            "Begin the sum with x.dtype.type(0): a float32 zero. With a plain 0.0 the sum would be made in float64, "
            "half as many numbers at a time.",
            "y[i, j] = x[i, j] * r * weight[j], with r of x's type: r = x.dtype.type(1 / math.sqrt(…)).",
        ],
    ),
    Exercise(
        id="12.rms_norm_backward_rows",
        title="And its way back, in one pass",
        reference=rms_norm_backward_rows,
        seconds=60,
        checks=[
            matches("one row", [case(*_norm_backward_arguments(1, 2))], in_place=True),
            matches("three rows", [case(*_norm_backward_arguments(3, 4))], in_place=True),
            matches("any shapes", _random_norm_backward, count=8, in_place=True),
            holds("compiled, not slower than NumPy", _quick_backward),
        ],
        hints=[
            "The formula is chapter 03's: dx = r (s - n mean(s n)) with s = g * weight and n = x * r, for each row.",
            "So a row needs one sum first, over j, of g * weight * x. Call it dot.",
            "n mean(s n) is x * r * (dot * r / width): so dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot * r * r "
            "/ width). Take dot * r * r / width out of the loop.",
            "dweight is shared by all rows, and has to be added to: dweight[j] += g[i, j] * x[i, j] * r.",
        ],
    ),
    Exercise(
        id="12.causal_tiles",
        title="Which tiles are worth computing",
        reference=causal_tiles,
        checks=[
            matches("one tile", [case(1, 1, 1), case(4, 4, 4)], read=list),
            matches("two by two", [case(4, 2, 2)], read=list),
            matches("the last ones are smaller", [case(5, 2, 2)], read=list),
            matches("wide tiles", [case(6, 2, 3), case(4, 1, 4)], read=list),
            matches("high tiles", [case(6, 3, 2), case(4, 4, 1)], read=list),
            matches("any", _random_tiles, count=24, read=list),
        ],
        hints=[
            "Tile (i, j) holds the queries from i * rows and the keys from j * columns on; both end at the text's end.",
            "Nothing is to be done where even the last query of the tile stands before its first key.",
            "A mask is needed where the first query stands before the last key.",
            "for i, first in enumerate(range(0, tokens, rows)):   last = min(first + rows, tokens) - 1;   for j, start "
            "in enumerate(range(0, last + 1, columns)):   yield i, j, min(start + columns, tokens) - 1 > first",
        ],
    ),
    Exercise(
        id="12.merge",
        title="Attention from two parts",
        reference=merge,
        checks=[
            matches("equal scores", [case(_part([[0.0]], _VALUES[:1]), _part([[0.0]], _VALUES[1:2]))]),
            matches(
                "the larger score in the second", [case(_part([[1.0]], _VALUES[:1]), _part([[3.0]], _VALUES[1:2]))]
            ),
            matches(
                "the larger score in the first",
                [case(_part([[2.0, 1.0]], _VALUES[:2]), _part([[-1.0]], _VALUES[2:]))],
            ),
            matches("scores of a thousand", [case(_part([[1000.0]], _VALUES[:1]), _part([[999.0]], _VALUES[1:2]))]),
            matches(
                "nothing seen in one",
                [case(_part([[1.0]], _VALUES[:1]), _EMPTY), case(_EMPTY, _part([[1.0]], _VALUES[:1]))],
            ),
            matches("nothing seen in either", [case(_EMPTY, _EMPTY)]),
            matches("any", _random_parts, count=12),
        ],
        hints=[
            "The new top is the larger of the two. Sums made against another top have to be multiplied by exp(their "
            "top - the new top).",
            "shrink_a = np.exp(a[0] - top), shrink_b = np.exp(b[0] - top): then both totals and both outs are in the "
            "same measure, and can be added.",
            "Where both tops are -inf, -inf - -inf is not a number. Subtract np.where(np.isneginf(top), 0, top) "
            "instead: exp(-inf - 0) is 0.",
        ],
    ),
    Exercise(
        id="12.two_lanes",
        title="Half of the batch each",
        reference=two_lanes,
        checks=[
            matches("two texts", [_lanes([[0], [1]], [[1], [2]])]),
            matches("four texts", [_lanes([[0, 1], [1, 2], [2, 2], [0, 0]], [[1, 1], [0, 2], [1, 0], [2, 2]])]),
            matches("an odd number of texts", [_lanes([[0], [1], [2]], [[1], [2], [0]])]),
            matches("targets that do not count", [_lanes([[0, 1], [1, 2]], [[1, 2], [-100, 0]])]),
            matches("a half in which none counts", [_lanes([[0, 1], [1, 2]], [[-100, -100], [2, 0]])]),
            matches("any", _random_lanes, count=12),
            holds("in one call of at_once", _asks_once),
        ],
        hints=[
            "Each half gives the mean over its own targets. A mean of means is not the mean, unless both halves have "
            "equally many.",
            "Weight each half by its share of the targets that count: (targets >= 0).sum() of the half, divided by "
            "that of the batch. Gradients of a mean are weighted in the same way.",
            "A task is a function without arguments: functools.partial(work, ids[:middle], targets[:middle]). A lambda "
            "in a loop would see the loop's last value.",
        ],
    ),
    Exercise(
        id="12.my_order",
        title="An order for the products of tiles",
        reference=my_order,
        checks=[
            holds("every product once", _does_all_products),
            holds("little is fetched twice", _fetches_less),
        ],
        hints=[
            "The plain order fetches B anew for every row of C. Whatever is at hand should be used as often as "
            "possible before it has to go.",
            "A block of b × b tiles of C can be finished while b tiles of A and b of B pass by at a time: b * b + 2 b "
            "tiles at hand, and each one fetched is used b times.",
            "With 32 tiles at hand b = 4 fits, with some to spare for those on their way out: two outer loops over "
            "blocks of C, then k, then i and j in the block.",
        ],
    ),
]
