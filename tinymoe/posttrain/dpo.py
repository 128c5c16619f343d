"""Direct preference optimization: learn from pairs of answers, without a reward model (Rafailov et al. 2023).

The policy itself is the reward model: how much likelier it finds an answer than the model it started from did.
"""

from __future__ import annotations

from typing import Any

from ..backend import current
from ..tensor import Tensor
from .functional import as_mask, check_choice, check_positive, constant, keep, log_sigmoid


def sequence_logps(logps: Tensor, mask: Any, *, average: bool = False) -> Tensor:
    """The log-probability of each text, (B, T) -> (B,): the sum over its tokens where mask (B, T) is 1.

    average: the mean instead; 0 for a text without tokens.
    """
    mask = as_mask(mask, logps.shape)
    total = keep(logps, mask=mask).sum(axis=1)
    return total / current().xp.maximum(mask.sum(axis=1), 1).astype(logps.dtype) if average else total


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Any,
    ref_rejected: Any,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
) -> Tensor:
    """Mean loss of pairs of answers to the same prompt: all arguments are (B,), of the policy and of the reference.

    "sigmoid" is DPO (Rafailov et al. 2023, equation 7): the log-odds that the chosen one wins are beta times the
    margin. The arguments are log-probabilities of whole answers, summed over their tokens.
    "ipo" pulls the margin to 1 / (2 beta) and no further (Azar et al. 2023, equation 17). Its arguments are means over
    the tokens of each answer (`sequence_logps` with average), as TRL has it after asking the authors.

    Raises ValueError for shapes that differ, beta of 0 or less, and any other loss type.
    """
    check_choice("loss_type", loss_type, ("sigmoid", "ipo"))
    check_positive("beta", beta)
    margin = _margin(chosen, rejected, ref_chosen, ref_rejected)
    if loss_type == "sigmoid":
        return -log_sigmoid(margin * beta).mean()
    return ((margin - 1 / (2 * beta)) ** 2).mean()


def dpo_figures(
    chosen: Tensor, rejected: Tensor, ref_chosen: Any, ref_rejected: Any, beta: float = 0.1
) -> dict[str, float]:
    """What to watch while training, named as in TRL: the implicit rewards beta (log p - log p_ref) of both sides,
    how often the chosen one has the higher, and by how much. The arguments are those of `dpo_loss`, sums."""
    wins = beta * (chosen.data - constant("ref_chosen", ref_chosen, chosen))
    losses = beta * (rejected.data - constant("ref_rejected", ref_rejected, rejected))
    return {
        "rewards/chosen": float(wins.mean()),
        "rewards/rejected": float(losses.mean()),
        "rewards/accuracies": float((wins > losses).mean()),
        "rewards/margins": float((wins - losses).mean()),
    }


def _margin(chosen: Tensor, rejected: Tensor, ref_chosen: Any, ref_rejected: Any) -> Tensor:
    """How much further the policy has moved towards the chosen answers than towards the rejected ones, (B,)."""
    if chosen.ndim != 1 or chosen.shape != rejected.shape or chosen.size == 0:
        raise ValueError(
            f"chosen, rejected: got shapes {chosen.shape} and {rejected.shape}, expected (pairs,) and the same"
        )
    chosen = chosen - constant("ref_chosen", ref_chosen, chosen)
    return chosen - (rejected - constant("ref_rejected", ref_rejected, rejected))
