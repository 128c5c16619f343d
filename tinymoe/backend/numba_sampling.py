"""From scores to a token, compiled: what `generate/sampling.py` does to a matrix, here row by row and without sorting.

The likeliest tokens are those above a limit, and a limit is found by halving the range that it lies in: each time one
look at the row tells on which side, and the processor looks at many numbers at once.

    V vocabulary
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .decoding import Answers
from .numba_cpu import _exp, _from_key, _kernel, _to_key
from .reference import Array

_LOWEST = np.finfo(np.float32).min  # what is lower is -inf


class Choice(NamedTuple):
    """How tokens are chosen, with numbers that keep all where nothing is to be filtered: top_k V, top_p 1, and for
    min_p, as a logarithm, -inf. And memory for a row: weights (V,), and the tokens that are kept (V,)."""

    temperature: np.float32
    softcap: np.float32
    top_k: int
    top_p: float
    min_p: float
    weights: Array
    kept: Array


def make_choice(answers: Answers, vocab: int) -> Choice:
    """The settings of answers, and memory to choose among so many tokens."""
    top_k = vocab if answers.top_k is None else min(answers.top_k, vocab)
    top_p = 1.0 if answers.top_p is None else float(answers.top_p)
    min_p = -math.inf if answers.min_p is None else math.log(answers.min_p)
    memory = np.empty(vocab, dtype=np.float32), np.empty(vocab, dtype=np.int64)
    return Choice(np.float32(answers.temperature), np.float32(answers.softcap), top_k, top_p, min_p, *memory)


@_kernel
def choose(scores, draw, choice):  # type: ignore[no-untyped-def]
    """A token and its log-probability, which knows of no filter; what stood in the scores (V,) is lost.

    It is the token at which the probabilities of those that are kept, summed up one after the other, pass the uniform
    number `draw`; at temperature 0 the likeliest.
    """
    weights, kept = choice.weights, choice.kept
    _scale(scores, choice.softcap, choice.temperature)
    lowest, highest = _range(scores)
    total = _weigh(scores, highest, weights)
    if choice.temperature == 0:
        token = 0
        while scores[token] < highest:
            token += 1
        return token, -math.log(total)
    least = np.float64(max(lowest, np.float32(_LOWEST)))
    if choice.top_k < len(scores):
        least = _kth(scores, choice.top_k, np.float32(least), highest)
    for j in range(len(scores)):
        kept[j] = j
    count = _keep(scores, weights, kept, len(scores), least, len(scores))
    if choice.top_p < 1 and count > 0:
        least, room = _nucleus(scores[:count], weights[:count], choice.top_p, highest)
        count = _keep(scores, weights, kept, count, least, room)
    count = _keep(scores, weights, kept, count, np.float64(highest) + choice.min_p, count)
    place = _fall(weights, count, draw)
    return kept[place], math.log(weights[place] / total)


@_kernel
def _scale(scores, softcap, temperature):  # type: ignore[no-untyped-def]
    """Soft-capped, and divided by the temperature, in place; 0 for neither."""
    if softcap > 0:
        for j in range(len(scores)):
            scores[j] = softcap * math.tanh(scores[j] / softcap)
    if temperature > 0:
        for j in range(len(scores)):
            scores[j] = scores[j] / temperature


@_kernel
def _range(scores):  # type: ignore[no-untyped-def]
    """The lowest and the highest score."""
    lowest, highest = _to_key(np.float32(np.inf)), _to_key(np.float32(-np.inf))
    for j in range(len(scores)):
        key = _to_key(scores[j])
        lowest = key if key < lowest else lowest
        highest = key if key > highest else highest
    return _from_key(lowest), _from_key(highest)


@_kernel
def _weigh(scores, highest, weights):  # type: ignore[no-untyped-def]
    """Probabilities but for a common factor, into weights; returns their sum."""
    total = 0.0
    for j in range(len(scores)):
        weights[j] = _exp(scores[j] - highest)
        total += weights[j]
    return total


@_kernel
def _kth(scores, k, lowest, highest):  # type: ignore[no-untyped-def]
    """A limit that the k highest scores reach, with all that tie with the last of them, and no others."""
    if _reaching(scores, highest) >= k:
        return np.float64(highest)
    low, high, middle = lowest, highest, _between(lowest, highest)
    while low < middle and middle < high:
        count = _reaching(scores, middle)
        if count == k:
            return np.float64(middle)
        low, high = (middle, high) if count > k else (low, middle)
        middle = _between(low, high)
    return np.float64(low)


@_kernel
def _reaching(scores, limit):  # type: ignore[no-untyped-def]
    """How many scores reach a limit."""
    count = 0
    for j in range(len(scores)):
        count += scores[j] >= limit
    return count


@_kernel
def _nucleus(scores, weights, p, highest):  # type: ignore[no-untyped-def]
    """The least score that stays when the likeliest are kept until they make up p, and how many of those with that
    score stay: of several, the first."""
    total, lowest = 0.0, _range(scores)[0]
    for j in range(len(scores)):
        total += weights[j]
    goal, low, high = p * total, lowest, highest
    if _mass_above(scores, weights, lowest) < goal:
        high = lowest
    middle = _between(low, high)
    while low < middle and middle < high:
        enough = _mass_above(scores, weights, middle) >= goal
        low, high = (middle, high) if enough else (low, middle)
        middle = _between(low, high)
    missing, room = goal - _mass_above(scores, weights, high), 0
    for j in range(len(scores)):
        if scores[j] == high and missing > 0:
            missing -= weights[j]
            room += 1
    return np.float64(high), room


@_kernel
def _mass_above(scores, weights, limit):  # type: ignore[no-untyped-def]
    """The weights of all scores above a limit."""
    mass = 0.0
    for j in range(len(scores)):
        mass += weights[j] if scores[j] > limit else np.float32(0)
    return mass


@_kernel
def _between(low, high):  # type: ignore[no-untyped-def]
    """A float32 number halfway between two; one of them where there is none."""
    return np.float32(0.5 * low + 0.5 * high)


@_kernel
def _keep(scores, weights, kept, count, least, room):  # type: ignore[no-untyped-def]
    """Of the first `count` tokens those above the least score, and the first `room` with just that score, move to the
    front, with their scores and weights; returns how many."""
    stay = 0
    for j in range(count):
        equal = scores[j] == least
        if scores[j] > least or (equal and room > 0):
            room -= equal
            scores[stay], weights[stay], kept[stay] = scores[j], weights[j], kept[j]
            stay += 1
    return stay


@_kernel
def _fall(weights, count, draw):  # type: ignore[no-untyped-def]
    """The place at which the sum of the weights passes this share of all."""
    total, reached, place = 0.0, 0.0, 0
    for j in range(count):
        total += weights[j]
    for j in range(count):
        place = j
        reached += weights[j]
        if reached > draw * total:
            break
    return place
