"""Wrong answers to the exercises of chapter 12, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinymoe.course.exercises import ch12
from tinymoe.course.exercises.ch12 import (
    causal_tiles,
    compiled,
    loads,
    merge,
    my_order,
    plain_order,
    rms_norm_backward_rows,
    rms_norm_rows,
)
from tinymoe.course.registry import find

from .runner import exercise_tests


def one_operation_a_product(n, k, m, product_rate, memory_rate):
    return max(n * k * m / product_rate, 4 * (n * k + k * m + n * m) / memory_rate)


def numbers_for_bytes(n, k, m, product_rate, memory_rate):
    return max(2 * n * k * m / product_rate, (n * k + k * m + n * m) / memory_rate)


def forgets_the_output(n, k, m, product_rate, memory_rate):
    return max(2 * n * k * m / product_rate, 4 * (n * k + k * m) / memory_rate)


def one_after_the_other(n, k, m, product_rate, memory_rate):
    return 2 * n * k * m / product_rate + 4 * (n * k + k * m + n * m) / memory_rate


def the_faster_decides(n, k, m, product_rate, memory_rate):
    return min(2 * n * k * m / product_rate, 4 * (n * k + k * m + n * m) / memory_rate)


def sum_for_mean(x, weight, eps, y, inverse_rms):
    for i in range(len(x)):
        total = 0.0
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        inverse_rms[i, 0] = 1 / math.sqrt(total + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * inverse_rms[i, 0] * weight[j]


def eps_outside(x, weight, eps, y, inverse_rms):
    for i in range(len(x)):
        total = 0.0
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        inverse_rms[i, 0] = 1 / (math.sqrt(total / x.shape[1]) + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * inverse_rms[i, 0] * weight[j]


def new_arrays(x, weight, eps, y, inverse_rms):
    inverse_rms = 1 / np.sqrt((x * x).mean(axis=1).reshape(-1, 1) + eps)
    return x * inverse_rms * weight


def keeps_no_rms(x, weight, eps, y, inverse_rms):
    for i in range(len(x)):
        total = 0.0
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        r = 1 / math.sqrt(total / x.shape[1] + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * r * weight[j]


def total_of_all_rows(x, weight, eps, y, inverse_rms):
    total = 0.0
    for i in range(len(x)):
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        inverse_rms[i, 0] = 1 / math.sqrt(total / x.shape[1] + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * inverse_rms[i, 0] * weight[j]


def sum_in_the_inner_loop(x, weight, eps, y, inverse_rms):
    rows, width = x.shape
    for i in range(rows):
        for j in range(width):
            total = x.dtype.type(0)
            for c in range(width):
                total += x[i, c] * x[i, c]
            inverse_rms[i, 0] = 1 / math.sqrt(total / width + eps)
            y[i, j] = x[i, j] * inverse_rms[i, 0] * weight[j]


def cannot_be_compiled(x, weight, eps, y, inverse_rms):
    for row in zip(x, y, inverse_rms, strict=True):
        kept = {"r": 1 / math.sqrt(sum(c * c for c in row[0].tolist()) / len(weight) + eps)}
        row[2][0] = kept["r"]
        row[1][:] = row[0] * kept["r"] * weight


def root_is_a_constant(g, x, weight, inverse_rms, dx, dweight):
    for i in range(len(x)):
        for j in range(x.shape[1]):
            dx[i, j] = g[i, j] * weight[j] * inverse_rms[i, 0]
            dweight[j] += g[i, j] * x[i, j] * inverse_rms[i, 0]


def last_row_alone(g, x, weight, inverse_rms, dx, dweight):
    rms_norm_backward_rows(g, x, weight, inverse_rms, dx, dweight.copy())
    for j in range(x.shape[1]):
        dweight[j] = g[-1, j] * x[-1, j] * inverse_rms[-1, 0]


def dot_without_weight(g, x, weight, inverse_rms, dx, dweight):
    for i in range(len(x)):
        r, dot = inverse_rms[i, 0], 0.0
        for j in range(x.shape[1]):
            dot += g[i, j] * x[i, j]
        for j in range(x.shape[1]):
            dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot * r * r / x.shape[1])
            dweight[j] += g[i, j] * x[i, j] * r


def not_divided_by_the_width(g, x, weight, inverse_rms, dx, dweight):
    for i in range(len(x)):
        r, dot = inverse_rms[i, 0], 0.0
        for j in range(x.shape[1]):
            dot += g[i, j] * weight[j] * x[i, j]
        for j in range(x.shape[1]):
            dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot * r * r)
            dweight[j] += g[i, j] * x[i, j] * r


def dot_in_the_inner_loop(g, x, weight, inverse_rms, dx, dweight):
    rows, width = x.shape
    for i in range(rows):
        r = inverse_rms[i, 0]
        for j in range(width):
            dot = x.dtype.type(0)
            for c in range(width):
                dot += g[i, c] * weight[c] * x[i, c]
            dx[i, j] = r * (g[i, j] * weight[j] - x[i, j] * dot * r * r / width)
            dweight[j] += g[i, j] * x[i, j] * r


def all_tiles(tokens, rows, columns):
    for i in range(-(-tokens // rows)):
        for j in range(-(-tokens // columns)):
            yield i, j, True


def as_if_square(tokens, rows, columns):
    for i in range(-(-tokens // rows)):
        for j in range(min(i + 1, -(-tokens // columns))):
            yield i, j, i == j


def first_query_decides(tokens, rows, columns):
    for i, first in enumerate(range(0, tokens, rows)):
        for j, start in enumerate(range(0, first + 1, columns)):
            yield i, j, min(start + columns, tokens) - 1 > first


def all_cut(tokens, rows, columns):
    for i, j, _ in causal_tiles(tokens, rows, columns):
        yield i, j, True


def beyond_the_text(tokens, rows, columns):
    for i, first in enumerate(range(0, tokens, rows)):
        for j, start in enumerate(range(0, first + rows, columns)):
            yield i, j, start + columns - 1 > first


def added(a, b):
    return np.maximum(a[0], b[0]), a[1] + b[1], a[2] + b[2]


def only_the_second_shrinks(a, b):
    shrink = np.exp(b[0] - a[0])
    return a[0], a[1] + b[1] * shrink, a[2] + b[2] * shrink


def measured_against_zero(a, b):
    top = np.maximum(a[0], b[0])
    total = a[1] * np.exp(a[0]) + b[1] * np.exp(b[0])
    out = a[2] * np.exp(a[0]) + b[2] * np.exp(b[0])
    return top, total / np.exp(top), out / np.exp(top)


def already_divided(a, b):
    top, total, out = merge(a, b)
    return top, total, out / total


def nothing_is_not_a_number(a, b):
    top = np.maximum(a[0], b[0])
    shrink_a, shrink_b = np.exp(a[0] - top), np.exp(b[0] - top)
    return top, a[1] * shrink_a + b[1] * shrink_b, a[2] * shrink_a + b[2] * shrink_b


def mean_of_means(work, ids, targets, at_once):
    half = len(ids) // 2
    halves = [slice(half), slice(half, None)]
    (a, first), (b, second) = at_once([lambda rows=rows: work(ids[rows], targets[rows]) for rows in halves])
    return (a + b) / 2, [(x + y) / 2 for x, y in zip(first, second, strict=True)]


def by_texts(work, ids, targets, at_once):
    half = len(ids) // 2
    halves = [slice(half), slice(half, None)]
    (a, first), (b, second) = at_once([lambda rows=rows: work(ids[rows], targets[rows]) for rows in halves])
    p, q = half / len(ids), 1 - half / len(ids)
    return p * a + q * b, [p * x + q * y for x, y in zip(first, second, strict=True)]


def last_half_twice(work, ids, targets, at_once):
    half = len(ids) // 2
    shares = [
        float((targets[rows] >= 0).sum() / max((targets >= 0).sum(), 1)) for rows in (slice(half), slice(half, None))
    ]
    tasks = []
    for rows in (slice(half), slice(half, None)):
        tasks.append(lambda: work(ids[rows], targets[rows]))  # noqa: B023 - that is the mistake
    (a, first), (b, second) = at_once(tasks)
    gradients = [shares[0] * x + shares[1] * y for x, y in zip(first, second, strict=True)]
    return shares[0] * a + shares[1] * b, gradients


def gradients_added_up(work, ids, targets, at_once):
    half = len(ids) // 2
    halves = [slice(half), slice(half, None)]
    counts = [float((targets[rows] >= 0).sum()) for rows in halves]
    (a, first), (b, second) = at_once([lambda rows=rows: work(ids[rows], targets[rows]) for rows in halves])
    loss = (counts[0] * a + counts[1] * b) / max(sum(counts), 1)
    return loss, [x + y for x, y in zip(first, second, strict=True)]


def one_lane(work, ids, targets, at_once):
    return at_once([lambda: work(ids, targets)])[0]


def one_after_the_other_lane(work, ids, targets, at_once):
    half = len(ids) // 2
    halves = [slice(half), slice(half, None)]
    shares = [float((targets[rows] >= 0).sum() / max((targets >= 0).sum(), 1)) for rows in halves]
    results = [at_once([lambda rows=rows: work(ids[rows], targets[rows])])[0] for rows in halves]
    loss = sum(share * loss for share, (loss, _) in zip(shares, results, strict=True))
    lists = [gradients for _, gradients in results]
    return loss, [shares[0] * x + shares[1] * y for x, y in zip(*lists, strict=True)]


def the_plain_one(n):
    return plain_order(n)


def rows_of_b_inside(n):
    return [(i, j, k) for i in range(n) for k in range(n) for j in range(n)]


def forgets_the_rest(n):
    return [step for step in my_order(n) if max(step) < n // 4 * 4]


def diagonal_alone(n):
    return [(i, i, k) for i in range(n) for k in range(n)]


def twice(n):
    return my_order(n) * 2


@pytest.fixture(autouse=True)
def wrappers_are_compiled(monkeypatch):
    """The runner's `mine` hands everything to the reference, which Numba cannot look through."""

    def see_through(function):
        inner = function.__closure__[0].cell_contents.answer if function.__name__ == "mine" else function
        return compiled(inner)

    monkeypatch.setattr(ch12, "compiled", see_through)


TestExercises = exercise_tests(
    "12",
    {
        "12.product_seconds": [
            one_operation_a_product,
            numbers_for_bytes,
            forgets_the_output,
            one_after_the_other,
            the_faster_decides,
        ],
        "12.rms_norm_rows": [
            sum_for_mean,
            eps_outside,
            new_arrays,
            keeps_no_rms,
            total_of_all_rows,
            sum_in_the_inner_loop,
            cannot_be_compiled,
        ],
        "12.rms_norm_backward_rows": [
            root_is_a_constant,
            last_row_alone,
            dot_without_weight,
            not_divided_by_the_width,
            dot_in_the_inner_loop,
        ],
        "12.causal_tiles": [all_tiles, as_if_square, first_query_decides, all_cut, beyond_the_text],
        "12.merge": [
            added,
            only_the_second_shrinks,
            measured_against_zero,
            already_divided,
            nothing_is_not_a_number,
        ],
        "12.two_lanes": [
            mean_of_means,
            by_texts,
            last_half_twice,
            gradients_added_up,
            one_lane,
            one_after_the_other_lane,
        ],
        "12.my_order": [the_plain_one, rows_of_b_inside, forgets_the_rest, diagonal_alone, twice],
    },
)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 3), (3, 5)])
def test_other_blocks_pass(height, width):
    """Blocks of another size, and not square, are right answers too."""

    def blocks(n):
        return [
            (i, j, k)
            for top in range(0, n, height)
            for left in range(0, n, width)
            for k in range(n)
            for i in range(top, min(top + height, n))
            for j in range(left, min(left + width, n))
        ]

    assert find("12.my_order").failure(blocks) is None, loads(blocks(8))


def test_the_fastest_order_fetches_each_tile_as_often_as_its_block_is_reused():
    """2 n³ / b for the factors, and each tile of the result once."""
    assert loads(my_order(8)) == 2 * 8**3 // 4 + 8**2


def test_merging_all_tiles_is_attention():
    """In any order: what is merged is neither first nor last."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 11, 4))
    scores = np.where(np.tril(np.ones((11, 11), dtype=bool)), q @ k.T / 2, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    state = {}
    tiles = list(causal_tiles(11, 3, 4))
    for number in rng.permutation(len(tiles)):
        i, j, cut = tiles[number]
        tile = scores[3 * i : 3 * i + 3, 4 * j : 4 * j + 4]
        assert cut == bool(np.isneginf(tile).any())
        top = tile.max(axis=-1, keepdims=True)
        weights = np.exp(tile - np.where(np.isneginf(top), 0, top))
        part = top, weights.sum(axis=-1, keepdims=True), weights @ v[4 * j : 4 * j + 4]
        state[i] = merge(state[i], part) if i in state else part
    out = np.concatenate([state[i][2] / state[i][1] for i in sorted(state)])
    np.testing.assert_allclose(out, e / e.sum(axis=-1, keepdims=True) @ v, rtol=1e-12)


def test_without_numba_values_alone_are_checked(monkeypatch):
    """In a browser there is no compiler: the loops are checked as plain Python."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiled(rms_norm_rows) is None
    assert find("12.rms_norm_rows").failure(sum_in_the_inner_loop) is None
    assert find("12.rms_norm_backward_rows").failure(rms_norm_backward_rows) is None


def test_what_numba_complains_about_is_shown():
    """Not the first line of its page, which is the same for all mistakes."""

    def means_of_rows(x, weight, eps, y, inverse_rms):
        inverse_rms[:] = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
        y[:] = x * inverse_rms * weight

    if compiled(means_of_rows) is None:
        pytest.skip("Numba is not installed, or its compiler is switched off")
    failure = find("12.rms_norm_rows").failure(means_of_rows)
    assert failure is not None and "cannot compile" in failure.problem
    assert failure.got.splitlines()[0] == "inverse_rms[:] = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)"
    assert "array_mean" in failure.got and " at 0x" not in failure.got
