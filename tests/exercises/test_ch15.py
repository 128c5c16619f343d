"""Wrong answers to the exercises of chapter 15, each of a kind that people write."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe import ops
from tinymoe.course.registry import find
from tinymoe.posttrain.nf4 import NORMAL_FLOAT

from .runner import exercise_tests


def scaling_forgotten(x, weight, lora_A, lora_B, scaling):
    return ops.linear(x, weight) + ops.linear(ops.linear(x, lora_A), lora_B)


def everything_scaled(x, weight, lora_A, lora_B, scaling):
    return (ops.linear(x, weight) + ops.linear(ops.linear(x, lora_A), lora_B)) * scaling


def scaled_twice(x, weight, lora_A, lora_B, scaling):
    return ops.linear(x, weight) + ops.linear(ops.linear(x, lora_A) * scaling, lora_B) * scaling


def the_adapter_alone(x, weight, lora_A, lora_B, scaling):
    return ops.linear(ops.linear(x, lora_A) * scaling, lora_B)


def the_whole_matrix(x, weight, lora_A, lora_B, scaling):
    return ops.linear(x, weight + (lora_B @ lora_A) * scaling)


def the_whole_matrix_too(shapes, r, dora):
    return sum(out * into + r * (out + into) + dora * out for out, into in shapes)


def only_one_of_both(shapes, r, dora):
    return sum(r * into + dora * out for out, into in shapes)


def a_square_in_between(shapes, r, dora):
    return sum(r * (out + into) + r * r + dora * out for out, into in shapes)


def lengths_of_columns(shapes, r, dora):
    return sum(r * (out + into) + dora * into for out, into in shapes)


def matrices_added(first, second, weights):
    r = min(len(first[0]), len(second[0]))
    return first[0][:r] + second[0][:r], weights[0] * first[1][:, :r] + weights[1] * second[1][:, :r]


def weights_on_both(first, second, weights):
    pairs = list(zip((first, second), weights, strict=True))
    lora_A, lora_B = [w * pair[0] for pair, w in pairs], [w * pair[1] for pair, w in pairs]
    return np.concatenate(lora_A), np.concatenate(lora_B, axis=1)


def weights_forgotten(first, second, weights):
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]], axis=1)


def columns_in_another_order(first, second, weights):
    lora_B = np.concatenate([weights[1] * second[1], weights[0] * first[1]], axis=1)
    return np.concatenate([first[0], second[0]]), lora_B


def root_of_the_weight_on_each(first, second, weights):
    with np.errstate(invalid="ignore"):
        (a, b), roots = (first, second), np.sqrt(weights)
        return (
            np.concatenate([roots[0] * a[0], roots[1] * b[0]]),
            np.concatenate([roots[0] * a[1], roots[1] * b[1]], axis=1),
        )


def the_products_themselves(first, second, weights):
    return weights[0] * first[1] @ first[0] + weights[1] * second[1] @ second[0]


def b_before_a(first, second, weights):
    lora_B = np.concatenate([weights[0] * first[1], weights[1] * second[1]], axis=1)
    return lora_B, np.concatenate([first[0], second[0]])


def rounded_down(values, table):
    return np.clip(np.searchsorted(table, values, side="right") - 1, 0, len(table) - 1).astype(np.uint8)


def rounded_up(values, table):
    return np.clip(np.searchsorted(table, values), 0, len(table) - 1).astype(np.uint8)


def even_steps(values, table):
    share = (values - table[0]) / (table[-1] - table[0])
    return np.clip(np.round(share * (len(table) - 1)), 0, len(table) - 1).astype(np.uint8)


def the_values_themselves(values, table):
    return table[np.abs(values[..., None] - table).argmin(axis=-1)]


def nearest(values, table):
    return np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.uint8)


def largest_with_its_sign(block, table):
    largest = float(block.max())
    return nearest(block / (largest or 1.0), table), largest


def divided_by_zero(block, table):
    largest = float(np.abs(block).max())
    with np.errstate(invalid="ignore"):
        return nearest(block / largest, table), largest


def not_divided(block, table):
    return nearest(block, table), float(np.abs(block).max())


def scaled_by_the_spread(block, table):
    spread = float(block.std())
    return nearest(block / (spread or 1.0), table), spread


def scale_for_each_number(block, scale_block):
    return 4 + (32 if scale_block is None else 8 + 32 / scale_block)


def double_without_the_second_scale(block, scale_block):
    return 4 + (32 if scale_block is None else 8) / block


def both_scales_in_full(block, scale_block):
    return 4 + 32 / block + (0 if scale_block is None else 8 / block + 32 / (block * scale_block))


def second_scale_not_shared_by_blocks(block, scale_block):
    return 4 + (32 / block if scale_block is None else 8 / block + 32 / scale_block)


def nf4_itself():
    return NORMAL_FLOAT.copy()


def evenly_spaced():
    return np.concatenate([np.linspace(-1, 0, 8)[:-1], np.linspace(0, 1, 9)])


def in_halves():
    steps = np.sort(2.0 ** -np.arange(8))
    return np.concatenate([-steps[::-1][:-1], [0.0], steps])


def zero_left_out():
    table = NORMAL_FLOAT.astype(np.float64) * 0.97
    table[[0, 7, 15]] = -1, 0.01, 1
    return table


TestExercises = exercise_tests(
    "15",
    {
        "15.lora_linear": [
            scaling_forgotten,
            everything_scaled,
            scaled_twice,
            the_adapter_alone,
            the_whole_matrix,
        ],
        "15.trained_numbers": [the_whole_matrix_too, only_one_of_both, a_square_in_between, lengths_of_columns],
        "15.two_in_one": [
            matrices_added,
            weights_on_both,
            weights_forgotten,
            columns_in_another_order,
            root_of_the_weight_on_each,
            the_products_themselves,
            b_before_a,
        ],
        "15.nearest": [rounded_down, rounded_up, even_steps, the_values_themselves],
        "15.quantize_block": [largest_with_its_sign, divided_by_zero, not_divided, scaled_by_the_spread],
        "15.bits_a_number": [
            scale_for_each_number,
            double_without_the_second_scale,
            both_scales_in_full,
            second_scale_not_shared_by_blocks,
        ],
        "15.my_table": [nf4_itself, evenly_spaced, in_halves, zero_left_out],
    },
)


def weights_on_a(first, second, weights):
    lora_A = np.concatenate([weights[0] * first[0], weights[1] * second[0]])
    return lora_A, np.concatenate([first[1], second[1]], axis=1)


def second_pair_first(first, second, weights):
    lora_B = np.concatenate([weights[1] * second[1], weights[0] * first[1]], axis=1)
    return np.concatenate([second[0], first[0]]), lora_B


def factors_of_the_sum(first, second, weights):
    total = weights[0] * first[1] @ first[0] + weights[1] * second[1] @ second[0]
    left, sizes, right = np.linalg.svd(total, full_matrices=False)
    return [sizes[:, None] * right, left]


@pytest.mark.parametrize("answer", [weights_on_a, second_pair_first, factors_of_the_sum])
def test_every_pair_with_the_right_product_passes(answer):
    assert find("15.two_in_one").failure(answer) is None
