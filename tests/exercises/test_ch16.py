"""Wrong answers to the exercises of chapter 16, each of a kind that people write."""

from __future__ import annotations

import numpy as np

from tinymoe.posttrain.functional import log_sigmoid

from .runner import exercise_tests


def _gap(chosen, rejected, margin):
    return chosen - rejected if margin is None else chosen - rejected - margin


def the_loser_wins(chosen, rejected, margin=None, center_rewards_coefficient=None):
    return -log_sigmoid(rejected - chosen).mean()


def no_log(chosen, rejected, margin=None, center_rewards_coefficient=None):
    return -_gap(chosen, rejected, margin).mean()


def the_margin_helps(chosen, rejected, margin=None, center_rewards_coefficient=None):
    gap = chosen - rejected if margin is None else chosen - rejected + margin
    loss = -log_sigmoid(gap).mean()
    if center_rewards_coefficient is not None:
        loss = loss + ((chosen + rejected) ** 2).mean() * center_rewards_coefficient
    return loss


def centers_the_gap(chosen, rejected, margin=None, center_rewards_coefficient=None):
    loss = -log_sigmoid(_gap(chosen, rejected, margin)).mean()
    if center_rewards_coefficient is not None:
        loss = loss + ((chosen - rejected) ** 2).mean() * center_rewards_coefficient
    return loss


def a_sum(chosen, rejected, margin=None, center_rewards_coefficient=None):
    loss = -log_sigmoid(_gap(chosen, rejected, margin)).sum()
    if center_rewards_coefficient is not None:
        loss = loss + ((chosen + rejected) ** 2).mean() * center_rewards_coefficient
    return loss


def overflows(chosen, rejected, margin=None, center_rewards_coefficient=None):
    with np.errstate(over="ignore"):
        loss = ((-_gap(chosen, rejected, margin)).exp() + 1).log().mean()
    if center_rewards_coefficient is not None:
        loss = loss + ((chosen + rejected) ** 2).mean() * center_rewards_coefficient
    return loss


def _prices(logps, ref_logps, mask, kl_coef):
    return np.where(mask, -kl_coef * (logps - ref_logps), 0.0)


def straying_pays(scores, logps, ref_logps, mask, kl_coef=0.05):
    rewards = _prices(ref_logps, logps, mask, kl_coef)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    rewards[np.arange(len(mask)), last] += scores
    return rewards


def the_score_for_every_token(scores, logps, ref_logps, mask, kl_coef=0.05):
    return _prices(logps, ref_logps, mask, kl_coef) + np.where(mask, scores[:, None], 0.0)


def the_score_at_the_end_of_the_row(scores, logps, ref_logps, mask, kl_coef=0.05):
    rewards = _prices(logps, ref_logps, mask, kl_coef)
    rewards[:, -1] += scores
    return rewards


def the_score_at_the_first_token(scores, logps, ref_logps, mask, kl_coef=0.05):
    rewards = _prices(logps, ref_logps, mask, kl_coef)
    rewards[np.arange(len(mask)), mask.argmax(axis=1)] += scores
    return rewards


def prompts_cost_too(scores, logps, ref_logps, mask, kl_coef=0.05):
    rewards = -kl_coef * (logps - ref_logps)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    rewards[np.arange(len(mask)), last] += scores
    return rewards


def _backwards(rewards, values, mask, gamma, lam, delta_of):
    advantages = np.zeros_like(rewards)
    later, next_value = np.zeros(len(rewards)), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = delta_of(rewards[:, t], values[:, t], next_value)
        advantages[:, t] = np.where(mask[:, t], delta + gamma * lam * later, 0)
        later = np.where(mask[:, t], advantages[:, t], later)
        next_value = np.where(mask[:, t], values[:, t], next_value)
    return advantages, np.where(mask, advantages + values, 0)


def no_next_value(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards(rewards, values, mask, gamma, lam, lambda r, v, after: r - v)


def not_discounted(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards(rewards, values, mask, 1.0, lam, lambda r, v, after: r + after - v)


def returns_are_advantages(rewards, values, mask, gamma=1.0, lam=0.95):
    advantages, _ = _backwards(rewards, values, mask, gamma, lam, lambda r, v, after: r + gamma * after - v)
    return advantages, advantages


def padding_counts(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards(rewards, values, np.ones_like(mask), gamma, lam, lambda r, v, after: r + gamma * after - v)


def one_step_only(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards(rewards, values, mask, gamma, 0.0, lambda r, v, after: r + gamma * after - v)


def without_a_reference(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, loss_type="sigmoid"):
    return -log_sigmoid((chosen - rejected) * beta).mean()


def _margin(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def upside_down(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, loss_type="sigmoid"):
    return -log_sigmoid(_margin(chosen, rejected, ref_chosen, ref_rejected) * -beta).mean()


def beta_outside(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, loss_type="sigmoid"):
    return -log_sigmoid(_margin(chosen, rejected, ref_chosen, ref_rejected)).mean() * beta


def dpo_only(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, loss_type="sigmoid"):
    return -log_sigmoid(_margin(chosen, rejected, ref_chosen, ref_rejected) * beta).mean()


def ipo_without_two(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, loss_type="sigmoid"):
    margin = _margin(chosen, rejected, ref_chosen, ref_rejected)
    return -log_sigmoid(margin * beta).mean() if loss_type == "sigmoid" else ((margin - 1 / beta) ** 2).mean()


def nothing_changed(rewards, answers):
    return np.asarray(rewards)


def shorter_is_better(rewards, answers):
    return rewards - np.array([len(answer) / 10 for answer in answers])


def too_cheap(rewards, answers):
    said = [answer.split(". ") for answer in answers]
    return rewards - 0.1 * np.array([len(sentences) - len(set(sentences)) for sentences in said])


def no_word_twice(rewards, answers):
    return rewards - np.array([float(len(answer.split()) - len(set(answer.split()))) for answer in answers])


def all_answers_together(rewards, answers):
    sentences = [sentence for answer in answers for sentence in answer.split(". ")]
    return rewards - float(len(sentences) - len(set(sentences)))


TestExercises = exercise_tests(
    "16",
    {
        "16.reward_loss": [the_loser_wins, no_log, the_margin_helps, centers_the_gap, a_sum, overflows],
        "16.kl_rewards": [
            straying_pays, the_score_for_every_token, the_score_at_the_end_of_the_row, the_score_at_the_first_token,
            prompts_cost_too,
        ],
        "16.gae": [no_next_value, not_discounted, returns_are_advantages, padding_counts, one_step_only],
        "16.dpo_loss": [without_a_reference, upside_down, beta_outside, dpo_only, ipo_without_two],
        "16.sober": [nothing_changed, shorter_is_better, too_cheap, no_word_twice, all_answers_together],
    },
)  # fmt: skip
