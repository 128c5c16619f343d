"""Wrong answers to the exercises of chapter 08, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from tinymoe.backend import current

from .runner import exercise_tests


def the_first_of_equals(scores, k):
    keys = np.sort(np.argsort(-scores, axis=-1, kind="stable")[..., :k], axis=-1)
    return np.where(np.take_along_axis(scores, keys, axis=-1) > -math.inf, keys, -1)


def shows_what_is_hidden(scores, k):
    S = scores.shape[-1]
    return np.sort(S - 1 - np.argsort(-scores[..., ::-1], axis=-1, kind="stable")[..., :k], axis=-1)


def the_worst(scores, k):
    keys = np.sort(np.argsort(scores, axis=-1, kind="stable")[..., :k], axis=-1)
    return np.where(np.take_along_axis(scores, keys, axis=-1) > -math.inf, keys, -1)


def the_best_first(scores, k):
    S = scores.shape[-1]
    keys = S - 1 - np.argsort(-scores[..., ::-1], axis=-1, kind="stable")[..., :k]
    return np.where(np.take_along_axis(scores, keys, axis=-1) > -math.inf, keys, -1)


def all_above_the_kth(scores, k):
    least = np.sort(scores, axis=-1)[..., -k, None]
    chosen = scores > least
    return np.sort(np.where(chosen, np.arange(scores.shape[-1]), -1), axis=-1)[..., -k:]


def the_other_way_round(ctx, scores, *, target):
    foreseen = current().log_softmax(scores)
    q = np.exp(foreseen)
    nats = foreseen - np.log(np.where(target > 0, target, 1))
    return (q * nats).sum(), lambda g: (g * (q - target),)


def cross_entropy(ctx, scores, *, target):
    foreseen = current().log_softmax(scores)
    loss = -(target * np.where(target > 0, foreseen, 0)).sum()
    return loss, lambda g: (g * (np.exp(foreseen) - target),)


def nan_where_nothing_is(ctx, scores, *, target):
    foreseen = current().log_softmax(scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = (target * (np.log(target) - foreseen)).sum()
    return loss, lambda g: (g * (np.exp(foreseen) - target),)


def uphill(ctx, scores, *, target):
    foreseen = current().log_softmax(scores)
    nats = np.log(np.where(target > 0, target, 1)) - np.where(target > 0, foreseen, 0)
    return (target * nats).sum(), lambda g: (g * (target - np.exp(foreseen)),)


def the_mean(ctx, scores, *, target):
    foreseen = current().log_softmax(scores)
    nats = np.log(np.where(target > 0, target, 1)) - np.where(target > 0, foreseen, 0)
    queries = target[..., 0].size
    return (target * nats).sum() / queries, lambda g: (g * (np.exp(foreseen) - target) / queries,)


def as_if_it_were_free(attention, indexer, topk):
    return topk + 1


def not_a_whole_number(attention, indexer, topk):
    return attention * topk / (attention - indexer) if attention > indexer else math.inf


def never_checks_that_it_pays(attention, indexer, topk):
    return attention * topk // (attention - indexer or 1) + 1


def rounds_down(attention, indexer, topk):
    return attention * topk // (attention - indexer) if attention > indexer else math.inf


def a_window(t, k):
    return list(range(max(0, t - k + 1), t + 1))


def sees_the_future(t, k):
    return [t, *range(0, k - 1)]


def one_too_many(t, k):
    return sorted({0, *range(max(0, t - k + 1), t + 1)})


def forgets_itself(t, k):
    return list(range(0, min(k, t)))


def twice(t, k):
    return [0, *range(max(0, t - k + 2), t + 1)]


TestExercises = exercise_tests(
    "08",
    {
        "08.top_keys": [the_first_of_equals, shows_what_is_hidden, the_worst, the_best_first, all_above_the_kth],
        "08.index_kl": [the_other_way_round, cross_entropy, nan_where_nothing_is, uphill, the_mean],
        "08.break_even": [as_if_it_were_free, not_a_whole_number, never_checks_that_it_pays, rounds_down],
        "08.my_keys": [a_window, sees_the_future, one_too_many, forgets_itself, twice],
    },
)
