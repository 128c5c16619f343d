"""The loop that teaches a reward model which of two answers people prefer (Christiano et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tensor import Tensor
from ..text.tokenizer import Tokenizer
from ..train.trainer import _expect
from .pair_trainer import PairConfig, PairTrainer, halves
from .preferences import AnswerRows, Pair
from .reward import ScalarModel, reward_figures, reward_loss


@dataclass(frozen=True)
class RewardConfig(PairConfig):
    """How to train a reward model; names are TRL's. ValueError names a bad setting."""

    center_rewards_coefficient: float | None = None  # times the mean squared sum of a pair's rewards, to hold them at 0

    def __post_init__(self) -> None:
        super().__post_init__()
        center = self.center_rewards_coefficient
        fits = center is None or 0 <= center < math.inf
        _expect("center_rewards_coefficient", center, fits, "a number ≥ 0, or None")


class RewardTrainer(PairTrainer):
    """Trains a model of rewards on pairs. A text's reward is the number at its last token, the one that ends it.

    With `out`, the model at the end is saved as `ScalarModel.save_pretrained` does, with the tokenizer beside it.
    Raises ValueError for pairs that are too long for the model.
    """

    config: RewardConfig

    def __init__(
        self,
        model: ScalarModel,
        pairs: Sequence[Pair],
        config: RewardConfig,
        out: str | Path | None = None,
        held_out: Sequence[Pair] = (),
        *,
        tokenizer: Tokenizer,
    ):
        super().__init__(model, tokenizer, pairs, config, out, held_out)

    def loss(self, batch: AnswerRows) -> tuple[Tensor, dict[str, float]]:
        """Bradley and Terry's loss of a batch, and `reward_figures`."""
        sides = halves(self.model.rewards(batch.ids, attention_mask=batch.attention_mask))
        loss = reward_loss(*sides, center_rewards_coefficient=self.config.center_rewards_coefficient)
        return loss, reward_figures(*sides)

    def run(
        self, on_step: Callable[[dict[str, Any]], None] | None = None, progress: bool = True
    ) -> list[dict[str, Any]]:
        """As `Trainer.run`, which knows how to save a language model only."""
        history = super().run(on_step, progress)
        if self.out is not None and self.steps_done == self.config.steps:
            self.model.save_pretrained(self.out)
            self.tokenizer.save(self.out)
        return history
