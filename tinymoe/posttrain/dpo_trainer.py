"""The loop of direct preference optimization: no sampling, no reward model, only pairs (Rafailov et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.decoder import CausalLM
from ..tensor import Tensor, no_grad
from ..train.trainer import _expect
from .dpo import dpo_figures, dpo_loss, sequence_logps
from .logps import token_logps
from .lora import adapters_off
from .online_trainer import _fingerprint, _reference
from .pair_trainer import PairConfig, PairTrainer, halves
from .preferences import AnswerRows, Pair


@dataclass(frozen=True)
class DPOConfig(PairConfig):
    """How to train by DPO or IPO; names are TRL's. rpo_alpha adds the loss of learning the chosen answers by heart.

    ValueError names a bad setting.
    """

    beta: float = 0.1  # the price of straying from the reference
    loss_type: str = "sigmoid"  # or "ipo"
    rpo_alpha: float | None = None  # times the mean -log p of the chosen answers' tokens (Llama 3 has 0.2)
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect("beta", self.beta, 0 < self.beta < math.inf, "a number > 0")
        _expect("loss_type", self.loss_type, self.loss_type in ("sigmoid", "ipo"), "sigmoid or ipo")
        alpha = self.rpo_alpha
        _expect("rpo_alpha", alpha, alpha is None or 0 <= alpha < math.inf, "a number ≥ 0, or None")


class DPOTrainer(PairTrainer):
    """Trains a model to prefer the chosen answers, held by what it was at the start.

    To resume, it has to be given the model that the run began with: that is the reference, from a copy, or, where the
    model has adapters, from the model without them. Raises ValueError for a model without a tokenizer, and for pairs
    that are too long for it.
    """

    config: DPOConfig

    def __init__(
        self,
        model: CausalLM,
        pairs: Sequence[Pair],
        config: DPOConfig,
        out: str | Path | None = None,
        held_out: Sequence[Pair] = (),
    ):
        if model.tokenizer is None:
            raise ValueError("model: got one without a tokenizer, expected one, to read the pairs with")
        self.reference = _reference(model)
        super().__init__(model, model.tokenizer, pairs, config, out, held_out, start=_fingerprint(self.reference))

    def loss(self, batch: AnswerRows) -> tuple[Tensor, dict[str, float]]:
        """DPO's or IPO's loss of a batch, with rpo_alpha times the -log p of a chosen token; TRL's figures."""
        config, mask = self.config, batch.mask[:, 1:]
        logps = token_logps(self.model, batch.ids, batch.mask).logps
        sides = halves(sequence_logps(logps, mask))
        with no_grad():
            ref_logps = self._reference_logps(batch)
            references = halves(sequence_logps(ref_logps, mask))
        figures = dpo_figures(*sides, *references, beta=config.beta)
        figures |= {"logps/chosen": float(sides[0].data.mean()), "logps/rejected": float(sides[1].data.mean())}
        chosen_nll = -sides[0].sum() / int(mask[: len(mask) // 2].sum())
        if config.loss_type == "ipo":  # which is defined on means over the tokens of each answer
            sides, references = (halves(sequence_logps(x, mask, average=True)) for x in (logps, ref_logps))
        loss = dpo_loss(*sides, *references, beta=config.beta, loss_type=config.loss_type)
        figures["nll"] = chosen_nll.item()
        return loss if config.rpo_alpha is None else loss + chosen_nll * config.rpo_alpha, figures

    def _reference_logps(self, batch: AnswerRows) -> Tensor:
        if self.reference is not None:
            return token_logps(self.reference, batch.ids, batch.mask).logps
        with adapters_off(self.model) as base:
            return token_logps(base, batch.ids, batch.mask).logps
