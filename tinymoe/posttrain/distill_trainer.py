"""The loop of distillation: somebody writes texts, the teacher says what it would have written, the student learns it.

B batch_size   T tokens of the longest text
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..models.decoder import CausalLM
from ..tensor import is_grad_enabled, no_grad
from ..text.tokenizer import Tokenizer
from ..train import optim, schedule
from ..train.trainer import Trainer, _describe_overflow, _expect
from .answers import Problems
from .distill import distill_texts
from .online_trainer import _fingerprint
from .rollout import _stop_ids, rollouts
from .sft import sft_loss


@dataclass(frozen=True)
class DistillConfig:
    """How to distill; names and meanings are those of TRL's GKDConfig, where it has them. ValueError names a bad one.

    A step takes `batch_size` problems. With probability `lmbda` the student writes their solutions itself (on-policy);
    else they are those that the problems come with or, with `seq_kd`, the teacher's. From each token the student learns
    the teacher's whole distribution, but with `seq_kd` from the teacher's texts only what they say, as R1-Distill.
    """

    steps: int = 100
    batch_size: int = 32
    lmbda: float = 0.5
    beta: float = 0.5  # of the divergence: 0 the forward KL, 1 the reverse KL, between them generalized Jensen-Shannon
    temperature: float = 1.0  # of what is sampled, and of the distributions that are compared
    max_new_tokens: int = 64
    seq_kd: bool = False
    solution_field: str = "tagged"  # where a problem has its solution
    stop: int | tuple[int, ...] | None = None  # tokens that end a text; the student's eos_token_id unless given
    learning_rate: float = 1e-3
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 switches clipping off
    eval_every: int = 25
    checkpoint_every: int = 25
    keep: int = 2  # checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        _check_config(self)

    @property
    def samples(self) -> bool:
        """Whether any texts are sampled."""
        return self.lmbda > 0 or self.seq_kd

    @property
    def reads_solutions(self) -> bool:
        """Whether problems have to come with solutions."""
        return self.lmbda < 1 and not self.seq_kd


class Texts(NamedTuple):
    """Prompts with solutions, and padding behind them: ids (B, T), and mask (B, T), True for the solutions' tokens.

    finished (B,) is False for a solution that was cut off. on_policy: whether the student wrote them.
    """

    ids: np.ndarray
    mask: np.ndarray
    finished: np.ndarray
    on_policy: bool


class Examples(Problems):
    """Problems with the tokens of their solutions, each closed by `end`, where any are read. Raises as `Problems` does,
    and ValueError for a solution that is missing or empty."""

    def __init__(
        self, problems: Sequence[Any], tokenizer: Tokenizer, config: DistillConfig, end: list[int], start: str = ""
    ):
        texts = _solutions(problems, config) if config.reads_solutions else []
        super().__init__(problems, tokenizer, "\0".join([start, *texts]))
        self.solutions = [ids + end for ids in tokenizer.encode_batch(texts)]


class DistillTrainer(Trainer):
    """Trains a student to write as a teacher does, with metrics, checkpoints and the final model in the folder `out`.

    Problems and samples of a step depend only on the seed, the step's number and the weights, so that a resumed run
    continues exactly as if it had never been interrupted. The teacher stays as it is: another one is another run.

    Raises ValueError for a student without a tokenizer, a teacher of another vocabulary, problems without solutions
    where they are needed, and models that are too short for them.
    """

    def __init__(
        self,
        student: CausalLM,
        teacher: CausalLM,
        problems: Sequence[Any],
        config: DistillConfig,
        out: str | Path | None = None,
        held_out: Sequence[Any] = (),
    ):
        if student.tokenizer is None:
            raise ValueError("student: got one without a tokenizer, expected one, to read the problems with")
        _check_vocabularies(student, teacher)
        self.model, self.teacher, self.config, self.tokenizer = student, teacher, config, student.tokenizer
        self.stop = student.config.eos_token_id if config.stop is None else config.stop
        end = _stop_ids(self.stop)[:1].tolist()
        self.data = Examples(problems, self.tokenizer, config, end, start=_fingerprint(teacher))
        self.held_out = Examples(held_out, self.tokenizer, config, end) if len(held_out) else None
        for data in (self.data, self.held_out):
            _check_room([student, teacher], data, config)
        self.optimizer = optim.AdamW(optim.decay_groups(student, config.weight_decay), lr=config.learning_rate)
        self.out = None if out is None else Path(out)
        self.steps_done = 0
        self.history: list[dict[str, Any]] = []
        self._owns_out = False

    @np.errstate(all="ignore")  # an overflow is not a warning here: it ends the run, with its name
    def step(self) -> dict[str, Any]:
        """Get texts, compare and learn. Returns the step's metrics; `loss` is a divergence, or with seq_kd the loss of
        a text, in nats a token.

        FloatingPointError, before anything is updated, for a loss or gradient that is not finite.
        """
        config, began = self.config, time.perf_counter()
        on_policy = bool(np.random.default_rng([config.seed, self.steps_done, 1]).random() < config.lmbda)
        numbers = self.data.draw(config.batch_size, config.seed, self.steps_done)
        texts = self.texts(self.data, numbers, on_policy, (config.seed, self.steps_done))
        written = time.perf_counter()
        learned = self.update(texts)
        self.steps_done += 1
        for module in self.model.modules():
            module.after_step()
        ended, lengths = time.perf_counter(), texts.mask.sum(axis=1)
        return {
            "step": self.steps_done,
            **learned,
            "on_policy": on_policy,
            "completions/mean_length": float(lengths.mean()),
            "completions/clipped_ratio": float(1 - texts.finished.mean()),
            "tokens_per_s": round(int(lengths.sum()) / (ended - began), 1),
            "seconds": {"sampling": round(written - began, 4), "learning": round(ended - written, 4)},
        }

    def texts(self, data: Examples, numbers: Sequence[int], on_policy: bool, seed: Sequence[int]) -> Texts:
        """Problems with solutions: those that the student samples, or else the teacher's, or else their own."""
        prompts = [data.ids[i] for i in numbers]
        if not on_policy and not self.config.seq_kd:
            return _laid_out(prompts, [data.solutions[i] for i in numbers])
        batch = rollouts(
            self.model if on_policy else self.teacher,
            prompts,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            stop=self.stop,
            seed=seed,
        )
        return Texts(batch.ids, batch.mask, batch.finished, on_policy)

    def update(self, texts: Texts) -> dict[str, float]:
        """One step of the optimizer: loss, lr and grad_norm."""
        config = self.config
        self.optimizer.zero_grad()
        value = self.loss(texts)
        lr = schedule.constant(self.steps_done, lr=config.learning_rate, warmup=config.warmup)
        norm = self.descend(value, lr, config.max_grad_norm)
        return {"loss": value, "lr": lr, "grad_norm": norm}

    def loss(self, texts: Texts) -> float:
        """The mean loss of the solutions' tokens. Gradients go to the student, outside `no_grad`."""
        if texts.on_policy or not self.config.seq_kd:
            settings = {"beta": self.config.beta, "temperature": self.config.temperature}
            return distill_texts(self.model, self.teacher, texts.ids, texts.mask, **settings)
        loss = sft_loss(self.model, texts.ids, texts.mask)
        if is_grad_enabled():
            loss.backward()
        return loss.item()

    @np.errstate(all="ignore")
    def evaluate(self, batches: int | None = None) -> float:
        """The mean loss of held-out problems: of all, or of `batches` steps' worth of them. Every time of the same
        texts, or, where the student writes all of them itself, of samples with the same seeds.

        Raises ValueError where there are none.
        """
        if self.held_out is None:
            raise ValueError("held_out: got no problems, expected some to evaluate on")
        config, total, count = self.config, 0.0, 0
        numbers = range(len(self.held_out))[: None if batches is None else batches * config.batch_size]
        for start in range(0, len(numbers), config.batch_size):
            some = numbers[start : start + config.batch_size]
            texts = self.texts(self.held_out, some, config.lmbda == 1, (config.seed,))
            with no_grad():
                total += self.loss(texts) * int(texts.mask.sum())
            count += int(texts.mask.sum())
        if not math.isfinite(total):
            raise FloatingPointError(_describe_overflow(self.model, self.steps_done, "validation loss", total))
        return total / count

    def look(self) -> dict[str, float]:
        """The loss of held-out problems, where there are any, every `eval_every` steps and after the last."""
        if self.held_out and (self.steps_done % self.config.eval_every == 0 or self.steps_done == self.config.steps):
            return {"val_loss": self.evaluate()}
        return {}


def _solutions(problems: Sequence[Any], config: DistillConfig) -> list[str]:
    name, texts = config.solution_field, []
    for number, problem in enumerate(problems):
        text = problem.get(name) if isinstance(problem, Mapping) else getattr(problem, name, None)
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"problems: number {number} has {text!r} as its {name!r}, expected a text, since lmbda is below 1 and "
                "seq_kd is off"
            )
        texts.append(text)
    return texts


def _laid_out(prompts: Sequence[Sequence[int]], solutions: Sequence[Sequence[int]]) -> Texts:
    rows, width = len(prompts), max(len(p) + len(s) for p, s in zip(prompts, solutions, strict=True))
    ids, mask = np.zeros((rows, width), dtype=np.int64), np.zeros((rows, width), dtype=bool)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        end = len(prompt) + len(solution)
        ids[row, :end], mask[row, len(prompt) : end] = [*prompt, *solution], True
    return Texts(ids, mask, np.ones(rows, dtype=bool), False)


def _check_vocabularies(student: CausalLM, teacher: CausalLM) -> None:
    if teacher is student:
        raise ValueError("teacher: got the student itself, expected another model, which stays as it is")
    sizes = [model.config.vocab_size for model in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"teacher: got a vocabulary of {sizes[1]} tokens, expected the student's {sizes[0]}")
    mine, theirs = student.tokenizer, teacher.tokenizer
    if mine is None or theirs is None:
        return
    for token in range(sizes[0]):
        if (got := theirs.id_to_token(token)) != (expected := mine.id_to_token(token)):
            raise ValueError(f"teacher: got {got!r} as token {token}, expected the student's {expected!r}")


def _check_room(models: Sequence[CausalLM], data: Examples | None, config: DistillConfig) -> None:
    if data is None:
        return
    room = min(model.config.max_position_embeddings for model in models)
    sampled = max(map(len, data.ids)) + config.max_new_tokens if config.samples else 0
    if sampled > room:
        raise ValueError(
            f"max_new_tokens: got {config.max_new_tokens} after prompts of up to {sampled - config.max_new_tokens} "
            f"tokens, expected at most the models' max_position_embeddings {room} together"
        )
    longest = max((len(p) + len(s) for p, s in zip(data.ids, data.solutions, strict=False)), default=0)
    if longest > room:
        raise ValueError(
            f"problems: got one of {longest} tokens with its solution, expected at most the models' "
            f"max_position_embeddings {room}"
        )


def _check_config(config: DistillConfig) -> None:
    for name in ("steps", "batch_size", "max_new_tokens", "eval_every", "checkpoint_every", "keep"):
        value = getattr(config, name)
        _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 1), "a whole number ≥ 1")
    for name in ("warmup", "seed"):
        value = getattr(config, name)
        _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 0), "a whole number ≥ 0")
    for name in ("lmbda", "beta"):
        _expect(name, getattr(config, name), 0 <= getattr(config, name) <= 1, "a number from 0 to 1")
    for name in ("weight_decay", "max_grad_norm"):
        _expect(name, getattr(config, name), 0 <= getattr(config, name) < math.inf, "a number ≥ 0")
    for name in ("temperature", "learning_rate"):
        _expect(name, getattr(config, name), 0 < getattr(config, name) < math.inf, "a number > 0")
