"""Wrong answers to the exercises of chapter 09, each of a kind that people write."""

from __future__ import annotations

import numpy as np

from tinymoe.tensor import Tensor

from .runner import exercise_tests


def _softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def not_renormalized(logits, k):
    p = _softmax(logits)
    choices = np.argsort(-p, axis=-1, kind="stable")[:, :k]
    return choices, np.take_along_axis(p, choices, axis=-1)


def the_worst_first(logits, k):
    choices = np.argsort(logits, axis=-1, kind="stable")[:, -k:]
    return choices, _softmax(np.take_along_axis(logits, choices, axis=-1))


def the_last_of_equals(logits, k):
    choices = np.argsort(logits, axis=-1, kind="stable")[:, ::-1][:, :k]
    return choices, _softmax(np.take_along_axis(logits, choices, axis=-1))


def overflows(logits, k):
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        choices = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
        e = np.exp(np.take_along_axis(logits, choices, axis=-1))
        return choices, e / e.sum(axis=-1, keepdims=True)


def weights_of_logits(logits, k):
    choices = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(logits, choices, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return choices, chosen / chosen.sum(axis=-1, keepdims=True)


def the_dropped_come_along(choices, num_experts):
    chosen = choices.reshape(-1)
    counts = np.bincount(chosen[chosen >= 0], minlength=num_experts)
    return np.argsort(chosen, kind="stable"), [0, *np.cumsum(counts).tolist()]


def no_end(choices, num_experts):
    chosen = choices.reshape(-1)
    pairs = np.argsort(chosen, kind="stable")[(chosen < 0).sum() :]
    counts = np.bincount(chosen[chosen >= 0], minlength=num_experts)
    return pairs, [0, *np.cumsum(counts).tolist()][:-1]


def counts_for_offsets(choices, num_experts):
    chosen = choices.reshape(-1)
    pairs = np.argsort(chosen, kind="stable")[(chosen < 0).sum() :]
    return pairs, np.bincount(chosen[chosen >= 0], minlength=num_experts).tolist()


def tokens_for_pairs(choices, num_experts):
    chosen = choices.reshape(-1)
    pairs = np.argsort(chosen, kind="stable")[(chosen < 0).sum() :]
    counts = np.bincount(chosen[chosen >= 0], minlength=num_experts)
    return pairs // choices.shape[1], [0, *np.cumsum(counts).tolist()]


def forgets_idle_experts(choices, num_experts):
    chosen = choices.reshape(-1)
    pairs = np.argsort(chosen, kind="stable")[(chosen < 0).sum() :]
    return pairs, [0, *np.cumsum(np.unique(chosen[chosen >= 0], return_counts=True)[1]).tolist()]


def first_choices_first(choices, capacity):
    line = choices.T.reshape(-1)
    kept = np.array([(line[:i] == expert).sum() < capacity for i, expert in enumerate(line)])
    return kept.reshape(choices.T.shape).T


def one_too_many(choices, capacity):
    line = choices.reshape(-1)
    kept = np.array([(line[:i] == expert).sum() <= capacity for i, expert in enumerate(line)])
    return kept.reshape(choices.shape)


def the_last_get_in(choices, capacity):
    line = choices.reshape(-1)
    kept = np.array([(line[i + 1 :] == expert).sum() < capacity for i, expert in enumerate(line)])
    return kept.reshape(choices.shape)


def a_line_for_each_choice(choices, capacity):
    return np.stack([
        [(column[:i] == expert).sum() < capacity for i, expert in enumerate(column)] for column in choices.T
    ], axis=1)  # fmt: skip


def not_times_the_experts(shares, choices):
    tokens, experts = shares.shape
    f = np.bincount(choices.reshape(-1), minlength=experts) / tokens
    return (shares.mean(axis=0) * f).sum()


def summed_over_tokens(shares, choices):
    experts = shares.shape[-1]
    return (shares.sum(axis=0) * np.bincount(choices.reshape(-1), minlength=experts)).sum() * experts


def shares_of_all_pairs(shares, choices):
    experts = shares.shape[-1]
    f = np.bincount(choices.reshape(-1), minlength=experts) / choices.size
    return (shares.mean(axis=0) * f).sum() * experts


def only_first_choices(shares, choices):
    tokens, experts = shares.shape
    f = np.bincount(choices[:, 0], minlength=experts) / tokens
    return (shares.mean(axis=0) * f).sum() * experts


def without_a_gradient(shares, choices):
    tokens, experts = shares.shape
    f = np.bincount(choices.reshape(-1), minlength=experts) / tokens
    return Tensor((shares.numpy().mean(axis=0) * f).sum() * experts, requires_grad=True)


def counts_alone(shares, choices):
    experts = shares.shape[-1]
    f = np.bincount(choices.reshape(-1), minlength=experts) / len(choices)
    return Tensor((f * f).sum() * experts)


def uphill(shares, choices):
    away = shares.mean(axis=0) - 1 / shares.shape[-1]
    return -(away * away).sum()


def sure_of_each_token(shares, choices):
    return -(shares * shares.log()).sum(axis=-1).mean()


def a_number(shares, choices):
    return float(((shares.numpy().mean(axis=0) - 1 / shares.shape[-1]) ** 2).sum())


def one_loss_an_expert(shares, choices):
    away = shares.mean(axis=0) - 1 / shares.shape[-1]
    return away * away


TestExercises = exercise_tests(
    "09",
    {
        "09.top_k_routing": [not_renormalized, the_worst_first, the_last_of_equals, overflows, weights_of_logits],
        "09.sort_by_expert": [
            the_dropped_come_along, no_end, counts_for_offsets, tokens_for_pairs, forgets_idle_experts
        ],
        "09.within_capacity": [first_choices_first, one_too_many, the_last_get_in, a_line_for_each_choice],
        "09.balance_loss": [
            not_times_the_experts, summed_over_tokens, shares_of_all_pairs, only_first_choices, without_a_gradient
        ],
        "09.my_balance": [counts_alone, uphill, sure_of_each_token, a_number, one_loss_an_expert],
    },
)  # fmt: skip
