"""Wrong answers to the exercises of chapter 05, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from .runner import exercise_tests


def starts_at_one(num_attention_heads):
    return np.array([2.0 ** (-8 * i / num_attention_heads) for i in range(num_attention_heads)], dtype=np.float32)


def always_halves(num_attention_heads):
    return np.array([2.0 ** -(i + 1) for i in range(num_attention_heads)], dtype=np.float32)


def no_care_for_other_numbers(num_attention_heads):
    H = num_attention_heads
    return np.array([2.0 ** (-8 * (i + 1) / H) for i in range(H)], dtype=np.float32)


def next_of_twice_as_many(num_attention_heads):
    power = 2 ** math.floor(math.log2(num_attention_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4 * (i + 1) / power) for i in range(num_attention_heads - power)]
    return np.array(slopes, dtype=np.float32)


def sorted_slopes(num_attention_heads):
    power = 2 ** math.floor(math.log2(num_attention_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / power) for i in range(num_attention_heads - power)]
    return np.array(sorted(slopes, reverse=True), dtype=np.float32)


def times_the_stretch(theta, dim, stretch):
    return theta * stretch


def power_upside_down(theta, dim, stretch):
    return theta * stretch ** ((dim - 2) / dim)


def as_if_there_were_one_more_clock(theta, dim, stretch):
    return theta * stretch ** (dim / 2 / (dim / 2 - 0.5))


def shrinks(theta, dim, stretch):
    return theta * stretch ** (-dim / (dim - 2))


def _ends(dim, theta, trained, beta_fast, beta_slow):
    return [dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (beta_fast, beta_slow)]


def _line(dim, first, last):
    return np.clip((np.arange(dim // 2, dtype=np.float32) - first) / ((last - first) or 0.001), 0, 1)


def slows_the_fast_ones(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    first, last = _ends(dim, theta, trained, beta_fast, beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    return 1 - _line(dim, max(first, 0), min(last, dim - 1))


def never_rounds(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    first, last = _ends(dim, theta, trained, beta_fast, beta_slow)
    return _line(dim, max(first, 0), min(last, dim - 1))


def always_rounds(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    first, last = _ends(dim, theta, trained, beta_fast, beta_slow)
    return _line(dim, max(math.floor(first), 0), min(math.ceil(last), dim - 1))


def lets_the_ramp_begin_before_the_first_clock(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    first, last = _ends(dim, theta, trained, beta_fast, beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    return _line(dim, first, min(last, dim - 1))


def forgets_two_pi(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    first, last = _ends(dim, theta, 2 * math.pi * trained, beta_fast, beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    return _line(dim, max(first, 0), min(last, dim - 1))


def a_ramp_over_turns(dim, theta, trained, beta_fast=32, beta_slow=1, truncate=True):
    """Llama 3's smoothing."""
    turns = trained * theta ** (-np.arange(0, dim, 2) / dim) / (2 * np.pi)
    return (1 - np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0, 1)).astype(np.float32)


def nothing_at_all(frequencies, trained, factor):
    return frequencies


def all_alike(frequencies, trained, factor):
    return frequencies / factor


def faster(frequencies, trained, factor):
    return frequencies * factor


def in_place(frequencies, trained, factor):
    frequencies[trained * frequencies < 4 * np.pi] /= factor
    return frequencies


def one_number(frequencies, trained, factor):
    return float(frequencies[-1] / factor)


def stops_the_clocks(frequencies, trained, factor):
    return np.where(trained * frequencies < 2 * np.pi, 0.0, frequencies)


def only_the_very_slowest(frequencies, trained, factor):
    return np.where(frequencies == frequencies[-1], frequencies / factor, frequencies)


TestExercises = exercise_tests(
    "05",
    {
        "05.alibi_slopes": [
            starts_at_one,
            always_halves,
            no_care_for_other_numbers,
            next_of_twice_as_many,
            sorted_slopes,
        ],
        "05.ntk_theta": [times_the_stretch, power_upside_down, as_if_there_were_one_more_clock, shrinks],
        "05.yarn_ramp": [
            slows_the_fast_ones,
            never_rounds,
            always_rounds,
            lets_the_ramp_begin_before_the_first_clock,
            forgets_two_pi,
            a_ramp_over_turns,
        ],
        "05.my_stretch": [
            nothing_at_all,
            all_alike,
            faster,
            in_place,
            one_number,
            stops_the_clocks,
            only_the_very_slowest,
        ],
    },
)
