"""GRPO: advantages, the loss in all its variants by naive loops, properties, and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gradients import check_gradients
from training import tiny_model

from tinymoe import AdamW, Tensor
from tinymoe.backend import current
from tinymoe.posttrain import (
    group_advantages,
    grpo_figures,
    grpo_loss,
    informative_groups,
    kl_estimate,
    soft_overlong_punishment,
    token_logps,
)

rng = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
LOGPS, OLD, REF = rng.normal(-1, 0.4, (3, 4, 5))
ADVANTAGES = np.array([1.3, -0.7, -0.2, 0.9])
VARIANTS = [
    {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta, "epsilon_high": high}
    for loss_type in ("grpo", "dapo", "dr_grpo")
    for level in ("token", "sequence")
    for beta, high in ((0.0, None), (0.2, 0.5))
]


def numpy(x: object) -> np.ndarray:
    return current().to_numpy(x.data if isinstance(x, Tensor) else x)


def spoiled(array: np.ndarray) -> np.ndarray:
    return np.where(MASK, array, rng.choice([np.nan, np.inf, -np.inf], MASK.shape))


def by_hand(loss_type: str, importance_sampling_level: str, beta: float, epsilon_high: float | None) -> float:
    low, high = 0.8, 1.2 if epsilon_high is None else 1 + epsilon_high
    answers = []
    for i in range(4):
        tokens = np.flatnonzero(MASK[i])
        ratios = {t: math.exp(LOGPS[i, t] - OLD[i, t]) for t in tokens}
        if importance_sampling_level == "sequence" and len(tokens):
            together = math.prod(ratios.values()) ** (1 / len(tokens))
            ratios = dict.fromkeys(tokens, together)
        losses = []
        for t in tokens:
            gain = ADVANTAGES[i]
            loss = -min(ratios[t] * gain, min(max(ratios[t], low), high) * gain)
            odds = math.exp(REF[i, t] - LOGPS[i, t])
            losses.append(loss + beta * (odds - math.log(odds) - 1))
        answers.append(losses)
    if loss_type == "grpo":
        return sum(sum(losses) / len(losses) for losses in answers if losses) / 4
    return sum(map(sum, answers)) / (20 if loss_type == "dr_grpo" else MASK.sum())


# -- advantages


def test_advantages_are_their_formula(backend):
    rewards = rng.normal(size=(6, 4))
    for scale in (True, False):
        got = numpy(group_advantages(rewards, scale))
        for i in range(6):
            mean = sum(rewards[i]) / 4
            std = math.sqrt(sum((r - mean) ** 2 for r in rewards[i]) / 3)
            expected = (rewards[i] - mean) / (std + 1e-4 if scale else 1)
            np.testing.assert_allclose(got[i], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(got.mean(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("reward", [0, 1, 0.1, 1e6 / 3])
def test_equal_rewards_teach_nothing(backend, reward):
    advantages = group_advantages([[reward] * 7])
    assert (numpy(advantages) == 0).all()
    logps = Tensor(current().asarray(rng.normal(-1, 0.4, (7, 5))), requires_grad=True)
    grpo_loss(logps, OLD[[0] * 7], advantages.reshape(-1), np.ones((7, 5))).backward()
    assert (numpy(logps.grad) == 0).all()


def test_advantages_of_lists_whole_numbers_and_single_answers(backend):
    np.testing.assert_allclose(numpy(group_advantages([[0, 1], [1, 0]], scale=False)), [[-0.5, 0.5], [0.5, -0.5]])
    assert numpy(group_advantages([[0.0, 1.0]])).dtype == np.float32
    np.testing.assert_array_equal(numpy(group_advantages([[3.0], [4.0]])), [[0], [0]])


def test_groups_that_teach_something(backend):
    got = informative_groups([[0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(numpy(got), [False, False, True, True])


def test_long_answers_are_punished_softly(backend):
    got = soft_overlong_punishment(np.array([0, 80, 81, 90, 100, 101, 500]), max_length=100, cache=20)
    np.testing.assert_allclose(numpy(got), [0, 0, -0.05, -0.5, -1, -1, -1], atol=1e-7)


# -- the loss


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_the_loss_is_its_formula(backend, options):
    loss = grpo_loss(Tensor(LOGPS), OLD, ADVANTAGES, MASK, REF, **options)
    assert loss.item() == pytest.approx(by_hand(**options), rel=1e-12)
    check_gradients(lambda x: grpo_loss(x, OLD, ADVANTAGES, MASK, REF, **options), LOGPS)


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_what_the_mask_hides_has_no_influence(backend, options):
    leaf = Tensor(current().asarray(spoiled(LOGPS)), requires_grad=True)
    loss = grpo_loss(leaf, spoiled(OLD), ADVANTAGES, MASK, spoiled(REF), **options)
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(**options), rel=1e-12)
    gradient = numpy(leaf.grad)
    assert np.isfinite(gradient).all() and (gradient[MASK == 0] == 0).all() and (gradient[MASK > 0] != 0).any()


def test_the_present_policy_is_its_own_old_one(backend):
    """The first step after a rollout: the gradient is that of the policy gradient, - A / length."""
    leaf = Tensor(current().asarray(LOGPS), requires_grad=True)
    loss = grpo_loss(leaf, None, ADVANTAGES, MASK)
    loss.backward()
    assert loss.item() == pytest.approx(-ADVANTAGES[:3].sum() / 4)
    lengths = np.maximum(MASK.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(numpy(leaf.grad), -ADVANTAGES[:, None] * MASK / lengths / 4, atol=1e-12)


def test_beyond_the_clip_there_is_no_gradient(backend):
    leaf = Tensor(current().asarray(np.log([[1.25, 1.5], [0.5, 1.5]])), requires_grad=True)
    grpo_loss(leaf, np.zeros((2, 2)), [1.0, -1.0], np.ones((2, 2)), epsilon=0.2, epsilon_high=0.3).backward()
    np.testing.assert_allclose(numpy(leaf.grad), [[-1.25 / 4, 0], [0, 1.5 / 4]], atol=1e-12)


def test_aggregations_weigh_long_answers_differently(backend):
    """One answer of 5 tokens and one of 1, equally good: what the long one's tokens get beside the short one's."""
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    shares = {}
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        leaf = Tensor(current().asarray(np.zeros((2, 5))), requires_grad=True)
        grpo_loss(leaf, None, [1.0, 1.0], mask, loss_type=loss_type, max_completion_length=10).backward()
        shares[loss_type] = -numpy(leaf.grad)[:, 0]
    np.testing.assert_allclose(shares["grpo"], [1 / 10, 1 / 2])
    np.testing.assert_allclose(shares["dapo"], [1 / 6, 1 / 6])
    np.testing.assert_allclose(shares["dr_grpo"], [1 / 20, 1 / 20])


def test_parts_of_a_batch_add_up(backend):
    whole = grpo_loss(Tensor(LOGPS), OLD, ADVANTAGES, MASK, loss_type="dapo").item()
    parts = [
        grpo_loss(Tensor(LOGPS[i]), OLD[i], ADVANTAGES[i], MASK[i], loss_type="dapo", num_items_in_batch=10).item()
        for i in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_without_tokens_the_loss_is_zero(backend, loss_type):
    leaf = Tensor(current().asarray(LOGPS), requires_grad=True)
    loss = grpo_loss(leaf, OLD, ADVANTAGES, MASK * 0, REF, beta=0.1, loss_type=loss_type)
    loss.backward()
    assert loss.item() == 0 and (numpy(leaf.grad) == 0).all()


def test_the_kl_estimate_is_never_negative_and_right_on_average(backend):
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.1, 0.4])
    estimate = numpy(kl_estimate(Tensor(np.log(p)), np.log(q)))
    assert (estimate > 0).all()
    assert (p * estimate).sum() == pytest.approx((p * np.log(p / q)).sum())
    assert (numpy(kl_estimate(Tensor(LOGPS), LOGPS)) == 0).all()


def test_figures(backend):
    leaf = Tensor(current().asarray(spoiled(LOGPS)))
    figures = grpo_figures(leaf, spoiled(OLD), ADVANTAGES, MASK, spoiled(REF), spoiled(np.abs(REF)), 0.1, 0.3)
    counted = MASK > 0
    ratio, gain = np.exp(LOGPS - OLD), np.broadcast_to(ADVANTAGES[:, None], (4, 5))
    low, high = (ratio < 0.9) & (gain < 0), (ratio > 1.3) & (gain > 0)
    assert low[counted].any() and high[counted].any()
    assert figures == pytest.approx({
        "clip_ratio/low_mean": low[counted].mean(), "clip_ratio/high_mean": high[counted].mean(),
        "clip_ratio/region_mean": (low | high)[counted].mean(),
        "kl": (np.exp(REF - LOGPS) - (REF - LOGPS) - 1)[counted].mean(), "entropy": np.abs(REF)[counted].mean(),
    })  # fmt: skip
    answers = grpo_figures(leaf, spoiled(OLD), ADVANTAGES, MASK, epsilon=0.01, importance_sampling_level="sequence")
    mean = np.where(MASK, LOGPS - OLD, 0).sum(axis=1) / np.maximum(MASK.sum(axis=1), 1)
    below, above = (np.exp(mean) < 0.99) & (ADVANTAGES < 0), (np.exp(mean) > 1.01) & (ADVANTAGES > 0)
    assert answers == {
        "clip_ratio/low_mean": below.mean(), "clip_ratio/high_mean": above.mean(),
        "clip_ratio/region_mean": (below | above).mean(),
    }  # fmt: skip
    assert 0 < answers["clip_ratio/region_mean"] < 1


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_a_model_learns_to_earn_its_reward(loss_type):
    """The share of a token in what it writes goes from a tenth to nearly all in fifteen steps of its own rollouts."""
    model = tiny_model()
    optimizer = AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    earned = []
    for step in range(15):
        ids = model.generate(np.repeat([[1, 2], [3, 4]], 16, axis=0), max_new_tokens=3, seed=step)
        mask = np.broadcast_to(np.arange(5) >= 2, ids.shape)
        rewards = (ids[:, 2:] == 7).mean(axis=1).reshape(2, 16)
        earned.append(rewards.mean())
        optimizer.zero_grad()
        logps = token_logps(model, ids, mask).logps
        advantages = group_advantages(rewards).reshape(-1)
        grpo_loss(logps, None, advantages, mask[:, 1:], loss_type=loss_type).backward()
        optimizer.step()
    assert earned[0] < 0.2 and earned[-1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type: got 'ppo', expected one of 'grpo', 'dapo', 'dr_grpo'"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level: got 'word', expected one of 'token'"),
        ({"beta": -0.1}, "beta: got -0.1, expected 0 or more"),
        ({"beta": 0.1, "ref_logps": None}, "ref_logps: got None, expected log-probabilities of the reference"),
        ({"epsilon": 0.0}, "epsilon: got 0.0, expected above 0"),
        ({"epsilon_high": -0.2}, "epsilon_high: got -0.2, expected above 0"),
        ({"old_logps": OLD[:, 1:]}, r"old_logps: got shape \(4, 4\), expected \(4, 5\)"),
        ({"ref_logps": REF[1:], "beta": 0.1}, r"ref_logps: got shape \(3, 5\), expected \(4, 5\)"),
        ({"advantages": np.ones((2, 2))}, r"advantages: got shape \(2, 2\), expected \(4,\)"),
        ({"mask": MASK[0]}, r"mask: got shape \(5,\), expected \(4, 5\)"),
    ],
)
def test_bad_input(options, message):
    given = {"logps": Tensor(LOGPS), "old_logps": OLD, "advantages": ADVANTAGES, "mask": MASK, "ref_logps": REF}
    with pytest.raises(ValueError, match=message):
        grpo_loss(**{**given, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_advantages([1.0, 2.0]), r"rewards: got shape \(2,\), expected \(groups, size\)"),
        (lambda: group_advantages(np.zeros((2, 0))), r"rewards: got shape \(2, 0\)"),
        (lambda: group_advantages([[1.0, float("nan")]]), "rewards: got NaN or infinity, expected finite numbers"),
        (lambda: soft_overlong_punishment([3], 10, 0), "cache: got 0, expected 1 to 10"),
        (lambda: soft_overlong_punishment([3], 10, 11), "cache: got 11, expected 1 to 10"),
    ],
)
def test_bad_input_around_the_loss(call, message):
    with pytest.raises(ValueError, match=message):
        call()
