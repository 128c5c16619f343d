"""Wrong answers to the exercises of chapter 00, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from .runner import exercise_tests


def over_the_whole_batch(logits):
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


def over_the_wrong_axis(logits):
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum(axis=0, keepdims=True)


def only_positive(logits):
    return np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))


def largest_is_one(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.max(axis=-1, keepdims=True)


def overflows(logits):
    e = np.exp(logits.astype(np.float64))
    return e / e.sum(axis=-1, keepdims=True)


def nats_per_character(loss, tokens, characters):
    return loss * tokens / characters


def bits_per_token(loss, tokens, characters):
    return loss / math.log(2)


def multiplies_by_log_2(loss, tokens, characters):
    return loss * tokens * math.log(2) / characters


def upside_down(loss, tokens, characters):
    return loss / math.log(2) * characters / tokens


def one_table(vocabulary, width, feed_forward, layers):
    return vocabulary * width + layers * (4 * width**2 + 3 * width * feed_forward + 2 * width) + width


def two_matrices(vocabulary, width, feed_forward, layers):
    return 2 * vocabulary * width + layers * (4 * width**2 + 2 * width * feed_forward + 2 * width) + width


def no_last_norm(vocabulary, width, feed_forward, layers):
    return 2 * vocabulary * width + layers * (4 * width**2 + 3 * width * feed_forward + 2 * width)


def tables_in_every_layer(vocabulary, width, feed_forward, layers):
    return layers * (2 * vocabulary * width + 4 * width**2 + 3 * width * feed_forward + 2 * width) + width


def length(text):
    return len(text.split())


def divides_by_zero(text):
    words = text.split()
    return len(set(words)) / len(words)


def likes_everything(text):
    return 1.0


def share_of_repeats(text):
    words = text.lower().split()
    return 1 - len(set(words)) / max(1, len(words))


def in_words(text):
    return "good" if len(set(text.split())) > 5 else "bad"


TestExercises = exercise_tests(
    "00",
    {
        "00.softmax": [over_the_whole_batch, over_the_wrong_axis, only_positive, largest_is_one, overflows],
        "00.bits_per_character": [nats_per_character, bits_per_token, multiplies_by_log_2, upside_down],
        "00.count_parameters": [one_table, two_matrices, no_last_norm, tables_in_every_layer],
        "00.critic": [length, divides_by_zero, likes_everything, share_of_repeats, in_words],
    },
)
