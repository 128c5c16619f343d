"""What training on pairs of answers shares, whatever is learned from them: their tokens, their order, and the step.

n pairs   2n rows: the chosen answers, then the rejected ones   T tokens of the longest row
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tensor import Tensor, no_grad
from ..text.tokenizer import Tokenizer
from ..train import optim, schedule
from ..train.trainer import Trainer, _expect
from .preferences import AnswerRows, Pair, answer_rows, end_token


@dataclass(frozen=True)
class PairConfig:
    """How to train on pairs; names are TRL's, where it has them. ValueError names a bad setting."""

    steps: int = 100
    batch_size: int = 32  # pairs
    learning_rate: float = 1e-3
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 switches clipping off
    eval_every: int = 25
    checkpoint_every: int = 25
    keep: int = 2  # checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "checkpoint_every", "keep"):
            value = getattr(self, name)
            _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 1), "a whole number ≥ 1")
        for name in ("warmup", "seed"):
            value = getattr(self, name)
            _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 0), "a whole number ≥ 0")
        for name in ("weight_decay", "max_grad_norm"):
            _expect(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "a number ≥ 0")
        _expect("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number > 0")


class PairData:
    """Pairs, and how they are drawn and become tokens.

    `start` is what else has to be the same for a run to go on. Raises ValueError where there are no pairs, for one
    with an empty prompt, and for one that is longer than `room` tokens.
    """

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, end: int | None, room: int, start: str = ""):
        self.pairs, self.tokenizer, self.end, self.start = list(pairs), tokenizer, end, start
        if not self.pairs:
            raise ValueError("pairs: got none, expected at least one")
        for number, pair in enumerate(self.pairs):
            if not pair.prompt or (end is None and not (pair.chosen and pair.rejected)):
                raise ValueError(f"pairs: number {number}, {pair}, has an empty text")
            longest = self.batch([number]).ids.shape[1]
            if longest > room:
                raise ValueError(
                    f"pairs: number {number} has {longest} tokens, prompt and answer, expected at most the model's "
                    f"max_position_embeddings {room}"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pairs and the start: what a checkpoint is compared by."""
        texts = (text for pair in self.pairs for text in (pair.prompt, pair.chosen, pair.rejected))
        return hashlib.sha256("\0".join([self.start, *texts]).encode()).hexdigest()

    def draw(self, count: int, seed: int, step: int) -> list[int]:
        """The numbers of `count` pairs for a step: each pair comes once before any comes again."""
        epochs, places = np.divmod(np.arange(step * count, (step + 1) * count), len(self))
        orders = {epoch: np.random.default_rng([seed, epoch]).permutation(len(self)) for epoch in set(epochs.tolist())}
        return [int(orders[epoch][place]) for epoch, place in zip(epochs.tolist(), places, strict=True)]

    def batch(self, numbers: Sequence[int]) -> AnswerRows:
        """Some of the pairs as tokens, 2n rows: row i and row n + i answer the same prompt, and row i is preferred."""
        pairs = [self.pairs[i] for i in numbers]
        answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        return answer_rows(self.tokenizer, [pair.prompt for pair in pairs] * 2, answers, self.end)


class PairTrainer(Trainer):
    """Trains a model on pairs by the loss of a subclass; files, metrics and resuming are `Trainer`'s.

    The pairs of a step depend only on the seed and the step's number, so that a resumed run continues exactly as if it
    had never been interrupted.
    """

    config: PairConfig

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        pairs: Sequence[Pair],
        config: PairConfig,
        out: str | Path | None,
        held_out: Sequence[Pair],
        start: str = "",
    ):
        self.model, self.config, self.tokenizer = model, config, tokenizer
        end, room = end_token(model.config), model.config.max_position_embeddings
        self.data = PairData(pairs, tokenizer, end, room, start)
        self.held_out = PairData(held_out, tokenizer, end, room) if len(held_out) else None
        self.optimizer = optim.AdamW(optim.decay_groups(model, config.weight_decay), lr=config.learning_rate)
        self.out = None if out is None else Path(out)
        self.steps_done = 0
        self.history: list[dict[str, Any]] = []
        self._owns_out = False

    def loss(self, batch: AnswerRows) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of a batch, and figures to watch."""
        raise NotImplementedError

    @np.errstate(all="ignore")  # an overflow is not a warning here: it ends the run, with its name
    def step(self) -> dict[str, Any]:
        """Learn from the next pairs. Returns loss, lr, grad_norm, tokens_per_s and the figures of the loss.

        FloatingPointError, before anything is updated, where the loss or a gradient is not finite.
        """
        config, began = self.config, time.perf_counter()
        batch = self.data.batch(self.data.draw(config.batch_size, config.seed, self.steps_done))
        loss, figures = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        lr, value = schedule.constant(self.steps_done, lr=config.learning_rate, warmup=config.warmup), loss.item()
        norm = self.descend(value, lr, config.max_grad_norm)
        self.steps_done += 1
        for module in self.model.modules():
            module.after_step()
        rate = round(int(batch.attention_mask.sum()) / (time.perf_counter() - began), 1)
        return {"step": self.steps_done, "loss": value, "lr": lr, "grad_norm": norm, **figures, "tokens_per_s": rate}

    def evaluate(self, batches: int | None = None) -> float:
        """The mean loss of held-out pairs, all or the first `batches` batches. ValueError where there are none."""
        return self._held_out_figures(batches)["loss"]

    def look(self) -> dict[str, float]:
        """Loss and figures of held-out pairs, where there are any, every `eval_every` steps and after the last."""
        if self.held_out and (self.steps_done % self.config.eval_every == 0 or self.steps_done == self.config.steps):
            found = self._held_out_figures(None)
            return {"val_loss": found.pop("loss"), **{f"eval_{name}": value for name, value in found.items()}}
        return {}

    @np.errstate(all="ignore")
    def _held_out_figures(self, batches: int | None) -> dict[str, float]:
        if self.held_out is None:
            raise ValueError("held_out: got no pairs, expected some to evaluate on")
        size, reports, counts = self.config.batch_size, [], []
        for start in list(range(0, len(self.held_out), size))[:batches]:
            numbers = range(start, min(start + size, len(self.held_out)))
            with no_grad():
                loss, figures = self.loss(self.held_out.batch(numbers))
            reports.append({"loss": loss.item(), **figures})
            counts.append(len(numbers))
        return {name: float(np.average([report[name] for report in reports], weights=counts)) for name in reports[0]}


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values of the chosen and of the rejected answers, (n,) each, from those of all rows, (2n,)."""
    count = len(values.data) // 2
    return values[:count], values[count:]
