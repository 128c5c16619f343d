"""PPO: its terms by naive loops and as TRL computed them, and their properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gradients import check_gradients

from tinymoe import Tensor
from tinymoe.backend import current
from tinymoe.posttrain import (
    AdaptiveKLController,
    gae,
    kl_rewards,
    masked_whiten,
    ppo_figures,
    ppo_policy_loss,
    ppo_value_loss,
)

rng = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0]])
LOGPS, OLD, REF, VALUES, OLD_VALUES, REWARDS, ADVANTAGES = rng.normal(-1, 0.5, (7, 4, 5))
SCORES = rng.normal(size=4)


def numpy(x: object) -> np.ndarray:
    return current().to_numpy(x.data if isinstance(x, Tensor) else x)


def spoiled(array: np.ndarray) -> np.ndarray:
    """The same where the mask is 1, and what must have no influence elsewhere."""
    return np.where(MASK, array, rng.choice([np.nan, np.inf, -np.inf], MASK.shape))


@pytest.fixture(scope="module")
def trl() -> dict[str, np.ndarray]:
    """What TRL 0.11.4 computes: see tools/ppo_golden.py."""
    with np.load(Path(__file__).parent / "goldens" / "ppo.npz", allow_pickle=False) as file:
        return dict(file)


def test_trl_agrees_on_rewards_advantages_and_returns(trl, backend):
    mask = trl["mask"]
    rewards = kl_rewards(trl["scores"], trl["old_logps"], trl["ref_logps"], mask, kl_coef=0.3)
    np.testing.assert_allclose(numpy(rewards)[mask], trl["rewards"][mask], rtol=1e-12)
    advantages, returns = gae(rewards, trl["old_values"], mask, gamma=0.9, lam=0.8)
    np.testing.assert_allclose(numpy(returns)[mask], trl["returns"][mask], rtol=1e-12)
    # TRL's variance is corrected by a quotient in float32.
    np.testing.assert_allclose(numpy(masked_whiten(advantages, mask))[mask], trl["advantages"][mask], rtol=1e-7)
    whitened = masked_whiten(trl["rewards"], mask, shift_mean=False)
    np.testing.assert_allclose(numpy(whitened)[mask], trl["whitened"][mask], rtol=1e-7, atol=1e-8)


def test_trl_agrees_on_losses_gradients_and_figures(trl, backend):
    mask, advantages = trl["mask"], trl["advantages"]
    logps, values = (Tensor(current().asarray(trl[name]), requires_grad=True) for name in ("logps", "values"))
    policy = ppo_policy_loss(logps, trl["old_logps"], advantages, mask, cliprange=0.2)
    value = ppo_value_loss(values, trl["old_values"], trl["returns"], mask, cliprange_value=0.15)
    (policy + value).backward()
    assert policy.item() == pytest.approx(float(trl["policy_loss"]), rel=1e-10)
    assert value.item() == pytest.approx(float(trl["value_loss"]), rel=1e-10)
    np.testing.assert_allclose(numpy(logps.grad), trl["dlogps"], atol=1e-12)
    np.testing.assert_allclose(numpy(values.grad), trl["dvalues"], atol=1e-12)
    figures = ppo_figures(logps, trl["old_logps"], advantages, mask, cliprange=0.2)
    assert figures["policy/clipfrac_avg"] == pytest.approx(float(trl["policy.clipfrac"]), rel=1e-6)
    assert figures["policy/approxkl_avg"] == pytest.approx(float(trl["policy.approxkl"]), rel=1e-10)


def test_trl_agrees_on_the_price_of_straying(trl):
    controller = AdaptiveKLController(0.2, target=6.0, horizon=100)
    np.testing.assert_allclose([controller.update(kl, 16) for kl in (1.0, 6.3, 20.0)], trl["prices"], rtol=1e-12)


def test_the_score_is_paid_at_the_last_token(backend):
    got = numpy(kl_rewards(SCORES, spoiled(LOGPS), spoiled(REF), MASK, kl_coef=0.2))
    for i, last in enumerate((4, 2, 0, 3)):
        for t in range(5):
            kl = LOGPS[i, t] - REF[i, t] if MASK[i, t] else 0
            assert got[i, t] == pytest.approx(-0.2 * kl + (SCORES[i] if t == last else 0))
    assert (numpy(kl_rewards(SCORES, LOGPS, REF, MASK * 0)) == 0).all()


def test_gae_is_the_double_sum(backend):
    """Equation 16 of the paper, over the tokens that count, whatever stands between them."""
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    rewards, values = (np.where(mask, array, np.nan) for array in (REWARDS, VALUES))
    advantages, returns = map(numpy, gae(rewards, values, mask, gamma=0.9, lam=0.7))
    for i in range(4):
        steps = np.flatnonzero(mask[i])
        v = [*values[i, steps], 0.0]
        deltas = [rewards[i, t] + 0.9 * v[k + 1] - v[k] for k, t in enumerate(steps)]
        for k, t in enumerate(steps):
            expected = sum((0.9 * 0.7) ** (j - k) * deltas[j] for j in range(k, len(steps)))
            assert advantages[i, t] == pytest.approx(expected)
            assert returns[i, t] == pytest.approx(expected + v[k])
    assert (advantages[mask == 0] == 0).all() and (returns[mask == 0] == 0).all()


def test_with_lambda_1_a_return_is_what_was_paid(backend):
    _, returns = gae(REWARDS, VALUES, np.ones((4, 5)), gamma=1.0, lam=1.0)
    np.testing.assert_allclose(numpy(returns), REWARDS[:, ::-1].cumsum(axis=1)[:, ::-1])


def test_whitened_values_have_mean_0_and_variance_1(backend):
    white, kept = numpy(masked_whiten(spoiled(REWARDS), MASK)), MASK > 0
    assert white[kept].mean() == pytest.approx(0, abs=1e-12)
    assert white[kept].var(ddof=1) == pytest.approx(1, rel=1e-6)
    assert (white[~kept] == 0).all()
    moved = numpy(masked_whiten(REWARDS, MASK, shift_mean=False))
    np.testing.assert_allclose(moved[kept], white[kept] + REWARDS[kept].mean())


def test_the_losses_are_their_formulas(backend):
    policy = value = 0.0
    for i, t in np.argwhere(MASK):
        ratio, gain = np.exp(LOGPS[i, t] - OLD[i, t]), ADVANTAGES[i, t]
        policy -= min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain) / MASK.sum()
        near = min(max(VALUES[i, t], OLD_VALUES[i, t] - 0.3), OLD_VALUES[i, t] + 0.3)
        value += 0.5 * max((VALUES[i, t] - REWARDS[i, t]) ** 2, (near - REWARDS[i, t]) ** 2) / MASK.sum()
    got = ppo_policy_loss(Tensor(spoiled(LOGPS)), spoiled(OLD), spoiled(ADVANTAGES), MASK)
    assert got.item() == pytest.approx(policy)
    got = ppo_value_loss(Tensor(spoiled(VALUES)), spoiled(OLD_VALUES), spoiled(REWARDS), MASK, cliprange_value=0.3)
    assert got.item() == pytest.approx(value)


def test_gradients(backend):
    check_gradients(lambda x: ppo_policy_loss(x, OLD, ADVANTAGES, MASK), LOGPS)
    check_gradients(lambda x: ppo_value_loss(x, OLD_VALUES, REWARDS, MASK), VALUES)


def test_beyond_the_clip_there_is_nothing_to_gain(backend):
    """Up and down, with a good and a bad token: the gradient is zero only where the step already went the right way."""
    logps = Tensor(current().asarray(np.log([[1.5, 1.5, 0.5, 0.5, 1.1]])), requires_grad=True)
    ppo_policy_loss(logps, np.zeros((1, 5)), [[1.0, -1.0, 1.0, -1.0, 1.0]], np.ones((1, 5))).backward()
    np.testing.assert_allclose(numpy(logps.grad), [[0, 0.3, -0.1, 0, -0.22]], atol=1e-12)


def test_masked_tokens_get_no_gradient(backend):
    logps, values = (Tensor(current().asarray(spoiled(a)), requires_grad=True) for a in (LOGPS, VALUES))
    ppo_policy_loss(logps, spoiled(OLD), spoiled(ADVANTAGES), MASK).backward()
    ppo_value_loss(values, spoiled(OLD_VALUES), spoiled(REWARDS), MASK).backward()
    for leaf in (logps, values):
        assert np.isfinite(numpy(leaf.grad)).all() and (numpy(leaf.grad)[MASK == 0] == 0).all()


def test_without_tokens_the_losses_are_zero(backend):
    nothing = np.zeros((4, 5))
    assert ppo_policy_loss(Tensor(LOGPS), OLD, ADVANTAGES, nothing).item() == 0
    assert ppo_value_loss(Tensor(VALUES), OLD_VALUES, REWARDS, nothing).item() == 0
    assert set(ppo_figures(Tensor(LOGPS), OLD, ADVANTAGES, nothing).values()) == {0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_rewards(SCORES, LOGPS, REF, MASK, kl_coef=-1), "kl_coef: got -1, expected 0 or more"),
        (lambda: kl_rewards(SCORES[:3], LOGPS, REF, MASK), r"scores: got shape \(3,\), expected \(4,\)"),
        (lambda: kl_rewards(SCORES, LOGPS, REF[:3], MASK), r"ref_logps: got shape \(3, 5\), expected \(4, 5\)"),
        (lambda: gae(REWARDS, VALUES, MASK, gamma=1.1), "gamma: got 1.1, expected 0 to 1"),
        (lambda: gae(REWARDS, VALUES, MASK, lam=-0.1), "lam: got -0.1, expected 0 to 1"),
        (lambda: gae(REWARDS, VALUES[:, 1:], MASK), r"values: got shape \(4, 4\), expected \(4, 5\)"),
        (lambda: masked_whiten(REWARDS, np.eye(4, 5) * [1, 0, 0, 0, 0]), "mask: got 1 tokens, expected two or more"),
        (lambda: ppo_policy_loss(Tensor(LOGPS), OLD, ADVANTAGES, MASK, 0.0), "cliprange: got 0.0, expected above 0"),
        (lambda: ppo_policy_loss(Tensor(LOGPS), OLD, SCORES, MASK), r"advantages: got shape \(4,\)"),
        (lambda: ppo_value_loss(Tensor(VALUES), VALUES, REWARDS, MASK, 0.0), "cliprange_value: got 0.0"),
        (lambda: ppo_value_loss(Tensor(VALUES), VALUES, SCORES, MASK), r"returns: got shape \(4,\)"),
        (lambda: AdaptiveKLController(0.1, 6.0, 0), "horizon: got 0, expected above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
