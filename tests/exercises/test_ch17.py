"""Wrong answers to the exercises of chapter 17, each of a kind that people write."""

from __future__ import annotations

import re

import numpy as np

from tinymoe import ops
from tinymoe.posttrain.functional import keep, minimum
from tinymoe.posttrain.rewards import answer_reward

from .runner import exercise_tests


def over_the_whole_batch(rewards, scale=True):
    apart = rewards - rewards.mean()
    return apart / (rewards.std(ddof=1) + 1e-4) if scale else apart


def population_deviation(rewards, scale=True):
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    return apart / (rewards.std(axis=1, keepdims=True) + 1e-4) if scale else apart


def always_scaled(rewards, scale=True):
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


def nothing_against_zero(rewards, scale=True):
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return apart / rewards.std(axis=1, ddof=1, keepdims=True) if scale else apart


def down_the_columns(rewards, scale=True):
    apart = rewards - rewards.mean(axis=0)
    return apart / (rewards.std(axis=0, ddof=min(1, len(rewards) - 1)) + 1e-4) if scale else apart


def only_clipped(ratio, gain, epsilon=0.2, epsilon_high=None):
    return ops.clip(ratio, low=1 - epsilon, high=1 + (epsilon if epsilon_high is None else epsilon_high)) * gain


def never_clipped(ratio, gain, epsilon=0.2, epsilon_high=None):
    return ratio * gain


def smaller_ratio_first(ratio, gain, epsilon=0.2, epsilon_high=None):
    high = 1 + (epsilon if epsilon_high is None else epsilon_high)
    return minimum(ratio, ops.clip(ratio, low=1 - epsilon, high=high)) * gain


def one_epsilon(ratio, gain, epsilon=0.2, epsilon_high=None):
    return minimum(ratio * gain, ops.clip(ratio, low=1 - epsilon, high=1 + epsilon) * gain)


def wider_below_too(ratio, gain, epsilon=0.2, epsilon_high=None):
    width = epsilon if epsilon_high is None else epsilon_high
    return minimum(ratio * gain, ops.clip(ratio, low=1 - width, high=1 + width) * gain)


def the_larger_one(ratio, gain, epsilon=0.2, epsilon_high=None):
    high = 1 + (epsilon if epsilon_high is None else epsilon_high)
    return -minimum(-(ratio * gain), -(ops.clip(ratio, low=1 - epsilon, high=high) * gain))


def k1(logps, ref_logps):
    return logps - ref_logps


def k2(logps, ref_logps):
    return (logps - ref_logps) ** 2 * 0.5


def ratio_upside_down(logps, ref_logps):
    log_ratio = logps - ref_logps
    return log_ratio.exp() - log_ratio - 1


def forgets_the_one(logps, ref_logps):
    log_ratio = ref_logps - logps
    return log_ratio.exp() - log_ratio


def log_of_the_wrong_sign(logps, ref_logps):
    log_ratio = ref_logps - logps
    return log_ratio.exp() + log_ratio - 1


def _sums(losses, mask):
    return keep(losses, mask=mask).sum(axis=1)


def _lengths(mask):
    return np.maximum(mask.sum(axis=1), 1)


def the_mask_is_forgotten(losses, mask, loss_type, max_completion_length=None, num_items_in_batch=None):
    return losses.mean()


def tokens_alike_for_all(losses, mask, loss_type, max_completion_length=None, num_items_in_batch=None):
    return _sums(losses, mask).sum() / max(int(mask.sum()), 1)


def grpo_for_dr_grpo(losses, mask, loss_type, max_completion_length=None, num_items_in_batch=None):
    if loss_type == "dapo":
        return _sums(losses, mask).sum() / (num_items_in_batch or max(int(mask.sum()), 1))
    return (_sums(losses, mask) / _lengths(mask)).mean()


def longest_answer_for_the_limit(losses, mask, loss_type, max_completion_length=None, num_items_in_batch=None):
    if loss_type == "grpo":
        return (_sums(losses, mask) / _lengths(mask)).mean()
    if loss_type == "dapo":
        return _sums(losses, mask).sum() / (num_items_in_batch or max(int(mask.sum()), 1))
    return _sums(losses, mask).sum() / (len(mask) * int(_lengths(mask).max()))


def parts_are_forgotten(losses, mask, loss_type, max_completion_length=None, num_items_in_batch=None):
    rows, length = mask.shape
    if loss_type == "grpo":
        return (_sums(losses, mask) / _lengths(mask)).mean()
    if loss_type == "dapo":
        return _sums(losses, mask).sum() / max(int(mask.sum()), 1)
    return _sums(losses, mask).sum() / (rows * (max_completion_length or length))


def somewhere_in_the_text(text, problem):
    return float(problem.answer in text)


def last_number_of_the_text(text, problem):
    numbers = re.findall(r"\d+", text)
    return float(bool(numbers) and numbers[-1] == problem.answer)


def any_of_the_answers(text, problem):
    return float(problem.answer in re.findall(r"<answer>(.*?)</answer>", text))


def first_of_the_answers(text, problem):
    match = re.search(r"<answer>(.*?)</answer>", text)
    return float(bool(match) and match[1].strip() == problem.answer)


def python_says(text, problem):
    parts = text.split("<answer>")
    inner = parts[-1].split("</answer>")[0]
    if len(parts) != 2 or "</answer>" not in text or "**" in inner:
        return 0.0
    try:
        return float(eval(inner) == int(problem.answer))
    except Exception:
        return 0.0


def trips_over_words(text, problem):
    return float(int(text.split("<answer>")[1].split("</answer>")[0]) == int(problem.answer))


def pays_for_the_form(text, problem):
    return 0.5 * ("</answer>" in text) + 0.5 * answer_reward(text, problem.answer)


def says_true(text, problem):
    return answer_reward(text, problem.answer) > 0


def never_satisfied(text, problem):
    return 0.0


TestExercises = exercise_tests(
    "17",
    {
        "17.group_advantages": [
            over_the_whole_batch, population_deviation, always_scaled, nothing_against_zero, down_the_columns
        ],
        "17.clipped_objective": [
            only_clipped, never_clipped, smaller_ratio_first, one_epsilon, wider_below_too, the_larger_one
        ],
        "17.kl_estimate": [k1, k2, ratio_upside_down, forgets_the_one, log_of_the_wrong_sign],
        "17.aggregate": [
            the_mask_is_forgotten, tokens_alike_for_all, grpo_for_dr_grpo, longest_answer_for_the_limit,
            parts_are_forgotten,
        ],
        "17.my_reward": [
            somewhere_in_the_text, last_number_of_the_text, any_of_the_answers, first_of_the_answers, python_says,
            trips_over_words, pays_for_the_form, says_true, never_satisfied,
        ],
    },
)  # fmt: skip
