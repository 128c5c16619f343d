"""Group relative policy optimization: PPO whose critic is the mean of a group (Shao et al. 2024; DeepSeek-R1, 2025).

The model answers each question several times. What matters of a reward is by how much it is above the others' to the
same question, so no critic is needed. Variants differ in how clipping and averages are taken: DAPO (Yu et al. 2025),
Dr. GRPO (Liu et al. 2025) and GSPO (Zheng et al. 2025).

    groups   size: answers to a question   B = groups x size   T tokens of an answer
"""

from __future__ import annotations

from typing import Any

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..tensor import Tensor
from .functional import (
    as_mask,
    check_between,
    check_choice,
    check_positive,
    constant,
    keep,
    log_ratio,
    minimum,
    per_row,
)

LOSS_TYPES = ("grpo", "dapo", "dr_grpo")


def group_advantages(rewards: Any, scale: bool = True) -> Array:
    """By how much each answer is better than the others to its question: (groups, size) -> the same shape.

    The advantage is (reward - mean) / (std + 1e-4) over the group, with the sample's standard deviation. Without
    scale it is reward - mean: dividing by the deviation makes questions that are nearly always, or nearly never,
    answered right weigh more (Dr. GRPO). Where all rewards are equal, all advantages are 0.

    Raises ValueError for another number of axes, and rewards that are not finite.
    """
    rewards, xp = _groups(rewards), current().xp
    apart = rewards - rewards[:, :1]  # equal rewards differ by 0, with no rounding for the deviation to blow up
    advantages = apart - apart.mean(axis=1, keepdims=True)
    if not scale or rewards.shape[1] == 1:
        return advantages
    return advantages / (xp.std(apart, axis=1, ddof=1, keepdims=True) + 1e-4)


def informative_groups(rewards: Any) -> Array:
    """Which groups teach something: True where rewards (groups, size) differ, (groups,).

    Dynamic sampling (DAPO, section 3.2) draws questions until it has a batch of those. Raises as `group_advantages`.
    """
    rewards = _groups(rewards)
    return (rewards != rewards[:, :1]).any(axis=1)


def soft_overlong_punishment(lengths: Any, max_length: int, cache: int) -> Array:
    """What is added to the rewards of long answers: lengths (B,) in tokens -> (B,) between -1 and 0.

    It falls from 0 to -1 over the last `cache` tokens before max_length, and is -1 beyond (DAPO, equation 13).
    """
    check_between("cache", cache, 1, max_length)
    return current().xp.clip((max_length - cache - Tensor(lengths).data) / cache, -1.0, 0.0)


def kl_estimate(logps: Tensor, ref_logps: Any) -> Tensor:
    """An estimate of KL(policy || reference) from each token, r - log r - 1 with r = p_ref / p (Schulman 2020: "k3").

    Unlike -log r, it is never negative; its mean over what the policy wrote is the same.
    """
    log_ratio = constant("ref_logps", ref_logps, logps) - logps
    return log_ratio.exp() - log_ratio - 1


def grpo_loss(
    logps: Tensor,
    old_logps: Any,
    advantages: Any,
    mask: Any,
    ref_logps: Any = None,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    *,
    max_completion_length: int | None = None,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """The loss of answers: logps (B, T), advantages (B,), and a mask (B, T) of the tokens that the policy wrote.

    Each token gets minus its `clipped_objective`, with ratio = p / p_old; old_logps None takes the present p for p_old.
    At the level "sequence" the ratio is that of the whole answer, to the power of 1 / its length (GSPO). With beta,
    beta times `kl_estimate` is added. `aggregate` makes one number of the tokens; the last two arguments are for it.

    Raises ValueError for shapes that differ, words that are not known, epsilon of 0 or less, and beta below 0, or
    above it without ref_logps.
    """
    _check_options(beta, ref_logps, epsilon, epsilon_high, loss_type)
    mask = as_mask(mask, logps.shape)
    gain = per_row("advantages", advantages, logps)  # (B, 1)
    ratio = importance_ratio(logps, old_logps, mask, importance_sampling_level)
    losses = -clipped_objective(ratio, gain, epsilon, epsilon_high)
    if beta > 0:
        losses = losses + kl_estimate(keep(logps, mask=mask), constant("ref_logps", ref_logps, logps, mask)) * beta
    return aggregate(losses, mask, loss_type, max_completion_length, num_items_in_batch)


def importance_ratio(logps: Tensor, old_logps: Any, mask: Array, level: str = "token") -> Tensor:
    """p / p_old, of each token, (B, T), or of each answer to the power of 1 / its length, (B, 1) (GSPO, equation 7)."""
    check_choice("importance_sampling_level", level, ("token", "sequence"))
    change = log_ratio(logps, old_logps, mask)
    if level == "sequence":
        change = change.sum(axis=1, keepdims=True) / _lengths(mask, logps)[:, None]
    return change.exp()


def clipped_objective(ratio: Tensor, gain: Array, epsilon: float = 0.2, epsilon_high: float | None = None) -> Tensor:
    """min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A), for advantages A and ratios (B, T) or (B, 1).

    Once a token has moved that far in the direction that its advantage asks for, it has no gradient. epsilon_high,
    like epsilon unless given, lets rare tokens grow further where it is larger (DAPO: 0.28 over 0.2).
    """
    low, high = _clip_range(epsilon, epsilon_high)
    return minimum(ratio * gain, ops.clip(ratio, low=low, high=high) * gain)


def aggregate(
    losses: Tensor,
    mask: Array,
    loss_type: str,
    max_completion_length: int | None = None,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """One number from the losses of tokens, (B, T) or (B, 1), where the mask (B, T) is true.

    "grpo": the mean of each answer, then the mean of those, as in R1: a token of a long answer weighs less than one of
    a short answer. "dapo": the mean over all tokens; where a batch is taken in parts, the sum over num_items_in_batch,
    the tokens of all of it. "dr_grpo": the sum over B max_completion_length, a constant, for which T is taken where it
    is not given: so no length is rewarded or punished.
    """
    rows, length = mask.shape
    sums = keep(losses, mask=mask).sum(axis=1)  # (B,)
    if loss_type == "grpo":
        return (sums / _lengths(mask, losses)).mean()
    if loss_type == "dapo":
        return sums.sum() / (num_items_in_batch or max(int(mask.sum()), 1))
    return sums.sum() / (rows * (max_completion_length or length))


def grpo_figures(
    logps: Tensor,
    old_logps: Any,
    advantages: Any,
    mask: Any,
    ref_logps: Any = None,
    entropies: Any = None,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    importance_sampling_level: str = "token",
) -> dict[str, float]:
    """What to watch while training, named as in TRL: the share of tokens (or, at that level, of answers) whose gradient
    is clipped away, below and above, and the means over tokens of the KL estimate and the entropy, where given."""
    mask, logps = as_mask(mask, logps.shape), logps.detach()
    gain = per_row("advantages", advantages, logps)
    ratio = importance_ratio(logps, old_logps, mask, importance_sampling_level).data
    low, high = _clip_range(epsilon, epsilon_high)
    counted = mask if ratio.shape == mask.shape else current().xp.ones_like(mask[:, :1])

    def share(values: Array, where: Array) -> float:
        return float(current().xp.where(where, values, 0).sum() / max(int(where.sum()), 1))

    below, above = (ratio < low) & (gain < 0), (ratio > high) & (gain > 0)
    figures = {f"clip_ratio/{name}_mean": share(hit, counted) for name, hit in (("low", below), ("high", above))}
    figures["clip_ratio/region_mean"] = share(below | above, counted)
    if ref_logps is not None:
        kl = kl_estimate(keep(logps, mask=mask), constant("ref_logps", ref_logps, logps, mask))
        figures["kl"] = share(kl.data, mask)
    if entropies is not None:
        figures["entropy"] = share(constant("entropies", entropies, logps), mask)
    return figures


def _groups(rewards: Any) -> Array:
    rewards = Tensor(rewards).data
    if rewards.ndim != 2 or rewards.size == 0:
        raise ValueError(f"rewards: got shape {rewards.shape}, expected (groups, size)")
    rewards = rewards if rewards.dtype.kind == "f" else rewards.astype("float32")
    if not current().xp.isfinite(rewards).all():
        raise ValueError("rewards: got NaN or infinity, expected finite numbers")
    return rewards


def _lengths(mask: Array, like: Tensor) -> Array:
    """The number of tokens of each answer, (B,), and 1 for an empty one, whose sum is 0 anyway."""
    return current().xp.maximum(mask.sum(axis=1), 1).astype(like.dtype)


def _clip_range(epsilon: float, epsilon_high: float | None) -> tuple[float, float]:
    return 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)


def _check_options(beta: float, ref_logps: Any, epsilon: float, epsilon_high: float | None, loss_type: str) -> None:
    check_choice("loss_type", loss_type, LOSS_TYPES)
    check_between("beta", beta, 0, float("inf"))
    check_positive("epsilon", epsilon)
    if epsilon_high is not None:
        check_positive("epsilon_high", epsilon_high)
    if beta > 0 and ref_logps is None:
        raise ValueError(f"ref_logps: got None, expected log-probabilities of the reference, since beta is {beta}")
