"""Exercises of chapter 15: a layer with LoRA, what is trained, two adapters in one, and numbers in four bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymoe import ops
from tinymoe.posttrain.nf4 import NORMAL_FLOAT
from tinymoe.posttrain.nf4 import nearest as nearest_entry
from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise
from ..values import show

BLOCK = 64


def lora_linear(x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """x (..., in) times (W + scaling B A)^T, with weight (out, in), lora_A (r, in), lora_B (out, r): (..., out)."""
    return ops.linear(x, weight) + ops.linear(ops.linear(x, lora_A) * scaling, lora_B)


def trained_numbers(shapes: Sequence[tuple[int, int]], r: int, dora: bool) -> int:
    """How many numbers LoRA of rank r trains beside matrices of these shapes (out, in); DoRA also one a row."""
    return sum(r * (out + into) + dora * out for out, into in shapes)


def two_in_one(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], weights: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """One pair (A, B) whose product B A is weights[0] B1 A1 + weights[1] B2 A2; a pair is A (r, in) and B (out, r)."""
    lora_A = np.concatenate([first[0], second[0]])  # (r1 + r2, in)
    return lora_A, np.concatenate([weights[0] * first[1], weights[1] * second[1]], axis=1)  # (out, r1 + r2)


def quantize_block(block: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, float]:
    """(codes, largest): for each number the entry of the ascending table nearest to number / largest magnitude."""
    largest = float(np.abs(block).max())
    return nearest_entry(block / (largest or 1.0), table), largest


def bits_a_number(block: int, scale_block: int | None) -> float:
    """Bits of a number in four-bit codes with a float32 scale a block, or an 8-bit one in double quantization."""
    return 4 + (32 / block if scale_block is None else 8 / block + 32 / (block * scale_block))


def my_table() -> np.ndarray:
    """Sixteen values for normally distributed weights: where the mean square is least, by Lloyd's rule."""
    blocks = np.random.default_rng(1).standard_normal((4000, BLOCK))
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    values, weights = (blocks / largest).reshape(-1), np.broadcast_to(largest**2, blocks.shape).reshape(-1)
    table = NORMAL_FLOAT.astype(np.float64)
    for _ in range(30):
        codes = nearest_entry(values, table)
        moved = np.bincount(codes, weights * values, 16) / np.bincount(codes, weights, 16)
        table[1:15] = moved[1:15]
        table[7] = 0.0
    return table


def _linear(rng: np.random.Generator, size: int) -> Case:
    out, into, r = 1 + size // 3, 1 + size // 2, int(rng.integers(1, 4))
    shapes = ((2, into), (out, into), (r, into), (out, r))
    return case(*(Tensor(rng.normal(size=shape).round(1)) for shape in shapes), float(rng.choice([0.5, 1.0, 2.0])))


def _no_large_product(function: Any) -> None:
    """An answer that goes through the r numbers never multiplies B by A."""
    made: list[tuple[int, ...]] = []

    class Watched(Tensor):
        def __matmul__(self, other: Any) -> Tensor:
            made.append((self.shape[0], other.shape[-1]))
            return super().__matmul__(other)

    x, weight = Tensor(np.ones((1, 40))), Tensor(np.zeros((50, 40)))
    function(x, weight, Watched(np.ones((2, 40))), Watched(np.ones((50, 2))), 1.0)
    if (50, 40) in made:
        wrong(
            "you make the whole matrix B A for every batch; let x go through the r numbers instead",
            given="lora_A (2, 40), lora_B (50, 2)",
            expected="(x A^T) B^T, two narrow products",
            got="B A, of shape (50, 40)",
        )


_SMALL = (
    Tensor(np.array([[1.0, 2.0]])),
    Tensor(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])),
    Tensor(np.array([[1.0, -1.0]])),
    Tensor(np.array([[2.0], [0.0], [1.0]])),
)


Pair = tuple[np.ndarray, np.ndarray]


def _adds_up(function: Any, first: Pair, second: Pair, weights: tuple[float, float]) -> None:
    """Any pair will do whose product is the weighted sum: the order of the r numbers, or where the weights go."""
    given = f"first = {show(first)}\nsecond = {show(second)}\nweights = {weights}"
    expected = weights[0] * first[1] @ first[0] + weights[1] * second[1] @ second[0]
    answer = function(first, second, weights)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        wrong("expected a pair (A, B)", given=given, got=show(answer))
    lora_A, lora_B = (np.asarray(part) for part in answer)
    out, into = expected.shape
    if lora_A.ndim != 2 or lora_A.shape[1] != into or lora_B.shape != (out, len(lora_A)):
        got = f"A of shape {lora_A.shape}, B of shape {lora_B.shape}"
        wrong("the shapes do not fit", given=given, expected=f"A (r, {into}) and B ({out}, r) with one r", got=got)
    if not np.allclose(lora_B @ lora_A, expected):
        wrong("B A is not the weighted sum of the two products", given=given, expected=expected, got=lora_B @ lora_A)


def _adds_up_for_rank_one(function: Any) -> None:
    first, second = (np.array([[1.0, 2.0]]), np.array([[3.0]])), (np.array([[5.0, 7.0]]), np.array([[1.0]]))
    for weights in ((1.0, 1.0), (0.5, 2.0)):
        _adds_up(function, first, second, weights)


def _adds_up_for_any_ranks(function: Any) -> None:
    rng = np.random.default_rng(3)
    for size in range(1, 9):
        out, into = 1 + size // 3, 1 + size // 2
        ranks = rng.integers(1, 4, size=2)
        first, second = ((rng.normal(size=(r, into)).round(1), rng.normal(size=(out, r)).round(1)) for r in ranks)
        _adds_up(function, first, second, (float(rng.choice([0.5, 1.0])), float(rng.choice([-1.0, 2.0]))))


def _numbers(rng: np.random.Generator, size: int) -> Case:
    table = np.sort(rng.choice(41, size=int(rng.integers(2, 9)), replace=False) / 20 - 1)
    return case(rng.uniform(-1.2, 1.2, size=size).round(3) + 0.0004, table)


def _blocks(rng: np.random.Generator, size: int) -> Case:
    table = np.array([-1.0, -0.4, 0.0, 0.25, 0.6, 1.0])
    return case((rng.normal(size=size) * float(rng.choice([0.01, 1.0, 30.0]))).round(4), table)


def _is_a_table(table: Any) -> str | None:
    values = np.asarray(table())
    if values.shape != (16,) or values.dtype.kind != "f" or not np.isfinite(values).all():
        wrong("expected 16 numbers", expected="floats of shape (16,)", got=f"{values.dtype} {values.shape}")
    if not (np.diff(values) > 0).all():
        wrong("the values have to ascend, so that the nearest is found by its neighbors", got=values)
    if values[0] != -1 or values[-1] != 1 or 0 not in values:
        wrong("-1, 0 and 1 have to be among them: a block's largest number, and zeros, stay exact", got=values)
    return None


def _error(table: np.ndarray) -> float:
    blocks = np.random.default_rng(7).standard_normal((2000, BLOCK))
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    return float(np.mean((table[nearest_entry(blocks / largest, table)] * largest - blocks) ** 2))


def _beats_nf4(table: Any) -> str | None:
    mine, theirs = _error(np.asarray(table(), dtype=np.float64)), _error(NORMAL_FLOAT.astype(np.float64))
    if mine > 0.97 * theirs:
        wrong(
            "the mean squared error should be smaller than NF4's, by 3 % at least",
            given="128,000 normal numbers in blocks of 64",
            expected=f"at most {0.97 * theirs:.6f}, where NF4 has {theirs:.6f}",
            got=f"{mine:.6f}",
        )
    return None


EXERCISES = [
    Exercise(
        id="15.lora_linear",
        title="A linear layer with LoRA",
        reference=lora_linear,
        checks=[
            matches("one row", [case(*_SMALL, 1.0)]),
            matches("scaled", [case(*_SMALL, 0.5)]),
            matches("any shapes", _linear, count=8),
            gradients("its gradient", [case(*_SMALL, 2.0)]),
            holds("no large matrix is made", _no_large_product),
        ],
        hints=[
            "ops.linear(x, weight) is x W^T. The base's answer, and beside it what the two small matrices say.",
            "First down to r numbers: ops.linear(x, lora_A). Then up: ops.linear(…, lora_B).",
            "ops.linear(x, weight) + ops.linear(ops.linear(x, lora_A) * scaling, lora_B)",
        ],
    ),
    Exercise(
        id="15.trained_numbers",
        title="How many numbers are trained?",
        reference=trained_numbers,
        checks=[
            matches("one square matrix", [case([(4, 4)], 1, False), case([(4, 4)], 2, False)]),
            matches("a wide and a tall one", [case([(2, 6), (9, 3)], 2, False)]),
            matches("with the lengths of DoRA", [case([(2, 6), (9, 3)], 2, True)]),
            matches("Llama 7B's queries and values", [case([(4096, 4096)] * 64, 8, False)]),
            matches("no matrix", [case([], 8, True)]),
        ],
        hints=[
            "A has r rows as long as the input, B has r columns as long as the output.",
            "r * in + out * r for each matrix; DoRA adds a length for each row, out.",
            "sum(r * (out + into) + dora * out for out, into in shapes)",
        ],
    ),
    Exercise(
        id="15.two_in_one",
        title="Two adapters in one",
        reference=two_in_one,
        checks=[
            holds("B A is the weighted sum, rank one each", _adds_up_for_rank_one),
            holds("B A is the weighted sum, any ranks and weights", _adds_up_for_any_ranks),
        ],
        hints=[
            "A product of matrices is a sum over the inner axis: one term for each of the r numbers.",
            "So let there be r1 + r2 of them: the rows of both A's below each other, both B's side by side.",
            "np.concatenate([first[0], second[0]]) for A; for B with axis=1, each times its weight.",
        ],
    ),
    Exercise(
        id="15.nearest",
        title="The nearest entry of a table",
        target="posttrain/nf4.py::nearest",
        checks=[
            matches("a table of three", [case(np.array([-0.9, -0.2, 0.1, 0.7]), np.array([-1.0, 0.0, 1.0]))]),
            matches("beyond both ends", [case(np.array([-3.0, 3.0]), np.array([-1.0, 0.0, 1.0]))]),
            matches("uneven steps", [case(np.array([0.3, 0.39, 0.41, 0.9]), np.array([0.0, 0.2, 0.6, 1.0]))]),
            matches("any table", _numbers, count=10),
            matches("rows and columns", [case(np.array([[0.1, 0.9], [0.6, -1.0]]), np.array([-1.0, 0.0, 1.0]))]),
        ],
        hints=[
            "Between two neighbors of the table, the border is half-way: (table[1:] + table[:-1]) / 2.",
            "The number of borders below a value is the number of its entry: np.searchsorted counts them.",
            "np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.uint8)",
        ],
    ),
    Exercise(
        id="15.quantize_block",
        title="A block in codes",
        reference=quantize_block,
        checks=[
            matches("three numbers", [case(np.array([2.0, -1.0, 0.1]), np.array([-1.0, -0.5, 0.0, 0.5, 1.0]))]),
            matches("the largest is negative", [case(np.array([0.5, -4.0]), np.array([-1.0, 0.0, 1.0]))]),
            matches("zeros", [case(np.zeros(4), np.array([-1.0, 0.0, 1.0]))]),
            matches("any block", _blocks, count=10),
        ],
        hints=[
            "The largest magnitude is np.abs(block).max(). Divide by it, and all numbers lie between -1 and 1.",
            "Then each gets the number of the nearest entry: your function nearest does that. What if all are 0?",
            "largest = float(np.abs(block).max()); return nearest(block / (largest or 1.0), table), largest",
        ],
    ),
    Exercise(
        id="15.bits_a_number",
        title="How many bits does a number take?",
        reference=bits_a_number,
        checks=[
            matches("scales in float32", [case(64, None), case(128, None), case(1, None)]),
            matches("scales in 8 bits", [case(64, 256), case(32, 64), case(4096, 1)]),
        ],
        hints=[
            "A scale is shared by `block` numbers, so each of them pays 1 / block of its bits.",
            "With double quantization a scale has 8 bits, and scale_block scales share a float32 of their own.",
            "4 + 8 / block + 32 / (block * scale_block), and without: 4 + 32 / block",
        ],
    ),
    Exercise(
        id="15.my_table",
        title="A better table than NF4",
        reference=my_table,
        checks=[
            holds("sixteen values from -1 to 1, with 0", _is_a_table),
            holds("a smaller error than NF4", _beats_nf4),
        ],
        hints=[
            "NF4 asks that each code be used about equally often. But an error counts by its size: where is it coarse?",
            "Lloyd's rule: give each of many normal numbers (in blocks, divided by their largest) its nearest entry; "
            "then move each entry to the mean of its numbers; and again. Keep -1, 0 and 1 where they are.",
            "Blocks with a large scale count more, by its square: weight the mean by largest**2.",
        ],
    ),
]
