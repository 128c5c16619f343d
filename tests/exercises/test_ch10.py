"""Wrong answers to the exercises of chapter 10, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from tinymoe.tensor import Tensor

from .runner import exercise_tests


def rows_of_down(first, second):
    if first[0].shape != second[0].shape:
        return first
    return tuple(np.concatenate([a, b]) for a, b in zip(first, second, strict=True))


def matrices_added(first, second):
    width = min(len(first[0]), len(second[0]))
    return tuple(a[:width, :width] + b[:width, :width] for a, b in zip(first, second, strict=True))


def halves(first, second):
    gate, up = (np.concatenate([first[i], second[i]]) for i in (0, 1))
    return gate, up, np.concatenate([first[2], second[2]], axis=1) / 2


def down_in_another_order(first, second):
    gate, up = (np.concatenate([first[i], second[i]]) for i in (0, 1))
    return gate, up, np.concatenate([second[2], first[2]], axis=1)


def gradient_everywhere(ctx, a, *, low=-math.inf, high=math.inf):
    return ctx.xp.clip(a, low, high), lambda g: (g,)


def gradient_of_the_upper_bound_only(ctx, a, *, low=-math.inf, high=math.inf):
    return ctx.xp.clip(a, low, high), lambda g: (g * (a <= high),)


def gradient_clipped_too(ctx, a, *, low=-math.inf, high=math.inf):
    return ctx.xp.clip(a, low, high), lambda g: (ctx.xp.clip(g, low, high),)


def zero_beyond_the_bound(ctx, a, *, low=-math.inf, high=math.inf):
    inside = (a >= low) & (a <= high)
    return a * inside, lambda g: (g * inside,)


def _within(scores, n_group, topk_group, worth, closed=-np.inf, groups=None):
    if groups is None:
        groups = scores.reshape(len(scores), n_group, -1)
    is_open = np.zeros(worth.shape, dtype=bool)
    is_open[np.arange(len(scores))[:, None], np.argsort(-worth, axis=-1, kind="stable")[:, :topk_group]] = True
    return np.where(is_open[..., None], groups, closed).reshape(scores.shape)


def best_of_a_group_alone(scores, n_group, topk_group, best):
    return _within(scores, n_group, topk_group, scores.reshape(len(scores), n_group, -1).max(axis=-1))


def whole_groups_summed(scores, n_group, topk_group, best):
    return _within(scores, n_group, topk_group, scores.reshape(len(scores), n_group, -1).sum(axis=-1))


def closed_are_zero(scores, n_group, topk_group, best):
    worth = np.sort(scores.reshape(len(scores), n_group, -1), axis=-1)[..., -best:].sum(axis=-1)
    return _within(scores, n_group, topk_group, worth, closed=0.0)


def neighbors_in_different_groups(scores, n_group, topk_group, best):
    groups = scores.reshape(len(scores), -1, n_group).transpose(0, 2, 1)
    worth = np.sort(groups, axis=-1)[..., -best:].sum(axis=-1)
    return _within(scores, n_group, topk_group, worth, groups=groups)


def one_choice_for_the_whole_batch(scores, n_group, topk_group, best):
    worth = np.sort(scores.reshape(len(scores), n_group, -1), axis=-1)[..., -best:].sum(axis=-1)
    return _within(scores, n_group, topk_group, np.broadcast_to(worth.mean(axis=0), worth.shape))


def _counts(choices, experts):
    return np.stack([np.bincount(text.reshape(-1), minlength=experts) for text in choices])


def over_the_whole_batch(shares, choices):
    experts = shares.shape[-1]
    f = np.bincount(choices.reshape(-1), minlength=experts) * (experts / choices.size)
    return (shares.mean(axis=1).mean(axis=0) * f).sum()


def summed_over_texts(shares, choices):
    _, tokens, experts = shares.shape
    f = _counts(choices, experts) * (experts / (choices.shape[-1] * tokens))
    return (shares.mean(axis=1) * f).sum()


def not_by_k(shares, choices):
    texts, tokens, experts = shares.shape
    return (shares.mean(axis=1) * (_counts(choices, experts) * experts / tokens)).sum() / texts


def only_first_choices(shares, choices):
    texts, tokens, experts = shares.shape
    f = _counts(choices[..., :1], experts) * (experts / tokens)
    return (shares.mean(axis=1) * f).sum() / texts


def no_gradient(shares, choices):
    texts, tokens, experts = shares.shape
    f = _counts(choices, experts) * (experts / (choices.shape[-1] * tokens))
    return Tensor((shares.numpy().mean(axis=1) * f).sum() / texts, requires_grad=True)


def the_wrong_way(load, speed):
    return speed * np.sign(load - load.mean())


def in_proportion(load, speed):
    return speed * (load.mean() - load)


def the_mean_goes_up(load, speed):
    return np.where(load > load.mean(), -speed, speed)


def against_the_median(load, speed):
    return speed * np.sign(np.median(load) - load)


def only_the_busiest(load, speed):
    return np.where(load == load.max(), -speed, 0.0) * (load.max() > load.mean())


def uphill(load, progress):
    return 0.01 * np.sign(load - load.mean())


def nothing(load, progress):
    return np.zeros(len(load))


def far_too_far(load, progress):
    return load.mean() - load


def too_slow(load, progress):
    return 1e-5 * np.sign(load.mean() - load)


def swings_for_ever(load, progress):
    return 0.9 * np.sign(load.mean() - load)


def always_in_motion(load, progress):
    return 0.01 * np.where(load >= load.mean(), -np.arange(1, len(load) + 1) / len(load), 1.0)


def one_number(load, progress):
    return 0.01 * float(load.max() / load.mean() - 1)


TestExercises = exercise_tests(
    "10",
    {
        "10.one_wider_block": [rows_of_down, matrices_added, halves, down_in_another_order],
        "10.clip": [
            gradient_everywhere, gradient_of_the_upper_bound_only, gradient_clipped_too, zero_beyond_the_bound
        ],
        "10.within_groups": [
            best_of_a_group_alone, whole_groups_summed, closed_are_zero, neighbors_in_different_groups,
            one_choice_for_the_whole_batch,
        ],
        "10.sequence_loss": [over_the_whole_batch, summed_over_texts, not_by_k, only_first_choices, no_gradient],
        "10.bias_step": [the_wrong_way, in_proportion, the_mean_goes_up, against_the_median, only_the_busiest],
        "10.my_bias_rule": [
            uphill, nothing, far_too_far, too_slow, swings_for_ever, always_in_motion, one_number
        ],
    },
)  # fmt: skip
