"""Wrong answers to the exercises of chapter 04, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from .runner import exercise_tests


def no_bias_correction(self, p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, scale=1.0):
    g = g * scale
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p *= 1 - lr * weight_decay
    p -= lr * m / (np.sqrt(v) + eps)


def decay_in_the_gradient(self, p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, scale=1.0):
    g = g * scale + weight_decay * p
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)


def forgets_the_moments(self, p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, scale=1.0):
    g = g * scale
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    p *= 1 - lr * weight_decay
    p -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)


def eps_under_the_root(self, p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, scale=1.0):
    g = g * scale
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p *= 1 - lr * weight_decay
    p -= lr * (m / (1 - beta1**step)) / np.sqrt(v / (1 - beta2**step) + eps)


def scales_in_place(self, p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, scale=1.0):
    g *= scale
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p *= 1 - lr * weight_decay
    p -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)


def always_to_the_limit(norm, max_norm):
    return max_norm / (norm + 1e-6)


def upside_down(norm, max_norm):
    return min(1.0, norm / max_norm)


def all_or_nothing(norm, max_norm):
    return 1.0 if norm <= max_norm else 0.0


def no_warmup(step, *, lr, steps, warmup=0, min_lr=0.0):
    progress = min(1.0, step / steps)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def starts_at_zero(step, *, lr, steps, warmup=0, min_lr=0.0):
    if step < warmup:
        return lr * step / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def rises_again(step, *, lr, steps, warmup=0, min_lr=0.0):
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def floor_as_maximum(step, *, lr, steps, warmup=0, min_lr=0.0):
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return max(min_lr, lr * (1 + math.cos(math.pi * progress)) / 2)


def across_documents(ids, documents):
    return ids[:, 1:]


def learns_padding(ids, documents):
    return np.where(documents[:, 1:] == documents[:, :-1], ids[:, 1:], -100)


def hides_the_wrong_side(ids, documents):
    return np.where(documents[:, :-1] == np.roll(documents, 1, axis=1)[:, :-1], ids[:, 1:], -100)


def predicts_itself(ids, documents):
    same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != -1)
    return np.where(same, ids[:, :-1], -100)


def never_cools(step, steps, lr):
    return lr * min(1.0, (step + 1) / (0.1 * steps + 1))


def never_warms(step, steps, lr):
    return lr * (1 - step / steps)


def overshoots(step, steps, lr):
    return 2 * lr * math.sin(math.pi * step / steps)


def too_timid(step, steps, lr):
    return 0.1 * lr * math.sin(math.pi * step / steps)


TestExercises = exercise_tests(
    "04",
    {
        "04.adamw": [
            no_bias_correction,
            decay_in_the_gradient,
            forgets_the_moments,
            eps_under_the_root,
            scales_in_place,
        ],
        "04.clip_factor": [always_to_the_limit, upside_down, all_or_nothing],
        "04.cosine": [no_warmup, starts_at_zero, rises_again, floor_as_maximum],
        "04.next_tokens": [across_documents, learns_padding, hides_the_wrong_side, predicts_itself],
        "04.my_schedule": [never_cools, never_warms, overshoots, too_timid],
    },
)
