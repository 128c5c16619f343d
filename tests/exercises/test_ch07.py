"""Wrong answers to the exercises of chapter 07, each of a kind that people write."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.course.exercises.ch07 import numbers_cached
from tinymoe.course.registry import find

from .runner import exercise_tests


def keys_only(layers, kv_heads, head_dim, bytes_per_number=2):
    return layers * kv_heads * head_dim * bytes_per_number


def one_layer(layers, kv_heads, head_dim, bytes_per_number=2):
    return 2 * kv_heads * head_dim * bytes_per_number


def always_two_bytes(layers, kv_heads, head_dim, bytes_per_number=2):
    return 4 * layers * kv_heads * head_dim


def in_kibibytes(layers, kv_heads, head_dim, bytes_per_number=2):
    return 2 * layers * kv_heads * head_dim * bytes_per_number / 1024


def oldest_first(length, window):
    first = max(0, length - window)
    return np.array([t if t < length else -1 for t in range(first, first + window)])


def never_overwritten(length, window):
    return np.array([t if t < length else -1 for t in range(window)])


def one_behind(length, window):
    slots = np.full(window, -1)
    for t in range(length - 1):
        slots[t % window] = t
    return slots


def zero_for_empty(length, window):
    slots = np.zeros(window, dtype=int)
    for t in range(length):
        slots[t % window] = t
    return slots


def below_zero_where_empty(length, window):
    return length - 1 - (length - 1 - np.arange(window)) % window


def starts_over(length, window):
    slots = np.full(window, -1)
    for t in range(length):
        if t % window == 0:
            slots[:] = -1
        slots[t % window] = t
    return slots


def not_turned_over(q, to_keys):
    return np.einsum("thr,hnr->thn", q[..., : to_keys.shape[2]], to_keys[:, :, : q.shape[2]])


def heads_added_up(q, to_keys):
    return np.einsum("thn,hnr->tr", q, to_keys)


def one_matrix_for_all_heads(q, to_keys):
    return q @ to_keys[0]


def scaled(q, to_keys):
    return np.einsum("thn,hnr->thr", q, to_keys) / np.sqrt(q.shape[-1])


def heads_first(q, to_keys):
    return np.einsum("thn,hnr->htr", q, to_keys)


def all_heads(budget):
    return {"num_key_value_heads": 8}


def hardly_anything(budget):
    return {"num_key_value_heads": 1, "head_dim": 2}


def forgets_the_rope_key(budget):
    return {
        "attention": "latent",
        "kv_lora_rank": budget,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }


def odd_channels(budget):
    return {"num_key_value_heads": 1, "head_dim": budget // 2 - 1}


def wider_model(budget):
    return {"num_key_value_heads": 1, "hidden_size": 128}


def an_unknown_field(budget):
    return {"num_kv_heads": 1}


def a_number(budget):
    return budget


def made_for_sixteen_only(budget):
    return {"num_key_value_heads": 1} if budget == 16 else {"num_key_value_heads": 4}


TestExercises = exercise_tests(
    "07",
    {
        "07.bytes_per_token": [keys_only, one_layer, always_two_bytes, in_kibibytes],
        "07.ring_places": [
            oldest_first,
            never_overwritten,
            one_behind,
            zero_for_empty,
            below_zero_where_empty,
            starts_over,
        ],
        "07.absorb": [not_turned_over, heads_added_up, one_matrix_for_all_heads, scaled, heads_first],
        "07.my_attention": [
            all_heads,
            hardly_anything,
            forgets_the_rope_key,
            odd_channels,
            wider_model,
            an_unknown_field,
            a_number,
            made_for_sixteen_only,
        ],
    },
)


WINDOWED = {"attention": "variant", "layer_types": ("sliding_attention",) * 2, "sliding_window": 32}


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({}, 128),
        ({"num_key_value_heads": 1}, 16),
        ({"num_key_value_heads": 2, "head_dim": 4}, 16),
        ({"num_key_value_heads": 4, **WINDOWED}, 16),
        (find("07.my_attention").answer(16), 16),
    ],
    ids=["all heads", "one head", "two half heads", "windows", "reference"],
)
def test_numbers_cached(fields, numbers):
    """A token's numbers, as the hints count them."""
    assert numbers_cached(fields) == numbers


@pytest.mark.parametrize("fields", [{"num_key_value_heads": 2, "head_dim": 4}, {"num_key_value_heads": 4, **WINDOWED}])
def test_other_ideas_pass(fields):
    """The hints' suggestions are right answers where they fit the budget."""
    failure = find("07.my_attention").failure(lambda budget: fields)
    assert failure is None, failure
