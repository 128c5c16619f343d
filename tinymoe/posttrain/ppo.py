"""Proximal policy optimization (Schulman et al. 2017), as RLHF uses it (Ziegler et al. 2019; Ouyang et al. 2022).

A model writes answers, a reward model judges them, a critic (`ScalarModel`) says what reward it had expected at each
token, and the policy moves towards tokens that turned out better than expected, a little at a time.

All arrays are (B, T): the tokens of B answers, with a mask that is 1 for those the policy wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .functional import (
    as_mask,
    check_between,
    check_positive,
    constant,
    keep,
    log_ratio,
    masked_mean,
    minimum,
    per_row,
)


def kl_rewards(scores: Any, logps: Any, ref_logps: Any, mask: Any, kl_coef: float = 0.05) -> Array:
    """The reward of each token: minus kl_coef (log p - log p_ref), and at the last one the answer's score, (B,).

    The mean of log p - log p_ref over what p itself wrote is the KL divergence from the reference (the estimator k1 of
    Schulman 2020): so straying from it costs. An answer without tokens gets no score.

    Raises ValueError for shapes that differ and kl_coef below 0.
    """
    check_between("kl_coef", kl_coef, 0, float("inf"))
    xp, logps = current().xp, Tensor(logps).data
    mask = as_mask(mask, logps.shape)
    rewards = -kl_coef * (constant("logps", logps, logps, mask) - constant("ref_logps", ref_logps, logps, mask))
    last = mask.shape[1] - 1 - xp.argmax(mask[:, ::-1], axis=1)
    ends = (xp.arange(mask.shape[1]) == last[:, None]) & mask
    return rewards + xp.where(ends, per_row("scores", scores, logps), 0)


def gae(rewards: Any, values: Any, mask: Any, gamma: float = 1.0, lam: float = 0.95) -> tuple[Array, Array]:
    """Generalized advantage estimation (Schulman et al. 2015, equation 16): advantages and returns, (B, T).

    With delta_t = reward_t + gamma value_{t+1} - value_t, an advantage is the sum of (gamma lam)^k delta_{t+k}, and a
    return, what the critic learns to foresee, is advantage + value. lam = 0 trusts the critic, lam = 1 only what
    happened. Tokens that the mask leaves out are stepped over, as if they were not there.

    Raises ValueError for shapes that differ, and gamma or lam outside [0, 1].
    """
    check_between("gamma", gamma, 0, 1)
    check_between("lam", lam, 0, 1)
    xp, rewards = current().xp, Tensor(rewards).data
    mask = as_mask(mask, rewards.shape)
    rewards, values = constant("rewards", rewards, rewards, mask), constant("values", values, rewards, mask)
    advantages = xp.zeros_like(rewards)
    later, next_value = xp.zeros_like(rewards[:, 0]), xp.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = xp.where(mask[:, t], delta + gamma * lam * later, 0)
        later = xp.where(mask[:, t], advantages[:, t], later)
        next_value = xp.where(mask[:, t], values[:, t], next_value)
    return advantages, advantages + values


def masked_whiten(values: Any, mask: Any, shift_mean: bool = True) -> Array:
    """Values (B, T) with mean 0 and variance 1 over the true entries of the mask; 0 elsewhere.

    shift_mean=False keeps their mean. Raises ValueError for shapes that differ, and fewer than two true entries.
    """
    values = Tensor(values).data
    mask = as_mask(mask, values.shape)
    if mask.sum() < 2:
        raise ValueError(f"mask: got {int(mask.sum())} tokens, expected two or more: one has no variance")
    kept = values[mask]
    mean = kept.mean()
    white = (kept - mean) / current().xp.sqrt(kept.var(ddof=1) + 1e-8)
    out = current().xp.zeros_like(values)
    out[mask] = white if shift_mean else white + mean
    return out


def ppo_policy_loss(logps: Tensor, old_logps: Any, advantages: Any, mask: Any, cliprange: float = 0.2) -> Tensor:
    """Mean of -min(ratio A, clip(ratio, 1 - cliprange, 1 + cliprange) A) over the tokens (Schulman et al. 2017, eq. 7).

    The ratio is p / p_old, how much likelier a token has become since it was written. Once it has moved by cliprange
    in the direction that its advantage A asks for, there is nothing more to gain, and its gradient is zero.

    Raises ValueError for shapes that differ and cliprange of 0 or less.
    """
    check_positive("cliprange", cliprange)
    mask = as_mask(mask, logps.shape)
    ratio = log_ratio(logps, old_logps, mask).exp()
    gain = constant("advantages", advantages, logps, mask)
    return -masked_mean(minimum(ratio * gain, ops.clip(ratio, low=1 - cliprange, high=1 + cliprange) * gain), mask)


def ppo_value_loss(values: Tensor, old_values: Any, returns: Any, mask: Any, cliprange_value: float = 0.2) -> Tensor:
    """Half the mean squared error of the critic's values, where a value counts as moved by cliprange_value at most.

    Of the errors with and without that limit the larger is taken, so that no step gains from leaving it (the code of
    Schulman et al. 2017, and of Ziegler et al. 2019).

    Raises ValueError for shapes that differ and cliprange_value of 0 or less.
    """
    check_positive("cliprange_value", cliprange_value)
    mask = as_mask(mask, values.shape)
    values, old = keep(values, mask=mask), constant("old_values", old_values, values, mask)
    goal = constant("returns", returns, values, mask)
    limited = ops.clip(values, low=old - cliprange_value, high=old + cliprange_value)
    return -masked_mean(minimum(-((values - goal) ** 2), -((limited - goal) ** 2)), mask) * 0.5


def ppo_figures(logps: Tensor, old_logps: Any, advantages: Any, mask: Any, cliprange: float = 0.2) -> dict[str, float]:
    """What to watch while training, named as in TRL: the share of tokens whose gradient is clipped away, half the mean
    squared change of their log-probability, which is about the KL divergence from the old policy, and the mean ratio.
    """
    mask = as_mask(mask, logps.shape)
    change = log_ratio(logps.detach(), old_logps, mask).data[mask]
    gain = constant("advantages", advantages, logps, mask)[mask]
    ratio = current().xp.exp(change)
    clipped = ((ratio > 1 + cliprange) & (gain > 0)) | ((ratio < 1 - cliprange) & (gain < 0))
    count = max(len(ratio), 1)
    return {
        "policy/clipfrac_avg": float(clipped.sum() / count),
        "policy/approxkl_avg": float(0.5 * (change**2).sum() / count),
        "val/ratio": float(ratio.sum() / count),
    }


def ppo_value_figures(
    values: Tensor, old_values: Any, returns: Any, mask: Any, cliprange_value: float = 0.2
) -> dict[str, float]:
    """What to watch of the critic, named as in TRL: the share of tokens whose gradient is clipped away, and the share
    of the returns' variance that it explains: 1 is perfect, 0 is no better than their mean, and below 0 is worse.
    """
    xp, mask = current().xp, as_mask(mask, values.shape)
    new, old, goal = (constant("values", x, values, mask)[mask] for x in (values.detach(), old_values, returns))
    limited = xp.clip(new, old - cliprange_value, old + cliprange_value)
    clipped, count = (limited - goal) ** 2 > (new - goal) ** 2, max(len(new), 1)
    error, variance = (float(((goal - guess) ** 2).sum() / count) for guess in (new, goal.sum() / count))
    return {
        "val/clipfrac_avg": float(clipped.sum() / count),
        "val/var_explained": 1 - error / variance if variance else 0.0,
    }


@dataclass
class AdaptiveKLController:
    """Turns the price of straying, kl_coef, up or down until the KL divergence is `target` (Ziegler et al. 2019).

    `value` is the price now. The error that it reacts to is cut to 20 %; after
    horizon answers with that much too high a divergence it has grown by as much: the larger, the slower.
    """

    value: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        for name in ("value", "target", "horizon"):
            check_positive(name, getattr(self, name))

    def update(self, kl: float, n_steps: int) -> float:
        """Take in the mean KL divergence of n_steps answers, and return the new price."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n_steps / self.horizon
        return self.value
