"""What the loops of reinforcement learning share: a model answers problems, the answers are judged, and it learns.

    groups   size: answers to a problem, num_generations   B = groups x size, generation_batch_size
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.decoder import CausalLM
from ..nn.recorder import collecting
from ..tensor import Tensor, no_grad
from ..train import optim, schedule
from ..train.trainer import Trainer, _expect
from .answers import Answers, Problems, RewardFunction, answer_figures, judge, name_functions, sample_answers
from .logps import TokenLogps, token_logps
from .lora import adapters_off, lora_layers
from .rollout import Rollouts, rollouts


@dataclass(frozen=True)
class OnlineConfig:
    """How to train on a model's own answers, whatever it learns from them. ValueError names a bad setting.

    A step samples `generation_batch_size` answers, `num_generations` to a problem. Names are TRL's, where it has them.
    """

    steps: int = 100
    num_generations: int = 8
    generation_batch_size: int = 64
    max_completion_length: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    stop: int | tuple[int, ...] | None = None  # tokens that end an answer; the model's eos_token_id unless given
    reward_weights: tuple[float, ...] | None = None
    learning_rate: float = 2e-4
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 switches clipping off
    num_completions_to_print: int = 8  # of a step, kept among its metrics
    eval_every: int = 25
    checkpoint_every: int = 25
    keep: int = 2  # checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        self._expect_counts(
            "steps", "num_generations", "generation_batch_size", "max_completion_length", "eval_every",
            "checkpoint_every", "keep",
        )  # fmt: skip
        self._expect_counts("num_completions_to_print", "warmup", "seed", least=0)
        self._expect_numbers("weight_decay", "max_grad_norm")
        self._expect_numbers("temperature", "learning_rate", above_zero=True)
        size, batch = self.num_generations, self.generation_batch_size
        _expect("generation_batch_size", batch, batch % size == 0, f"a multiple of num_generations, {size}")
        _expect("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or None")

    @property
    def groups(self) -> int:
        """Problems that a step learns from."""
        return self.generation_batch_size // self.num_generations

    def _expect_counts(self, *names: str, least: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            fits = isinstance(value, int | np.integer) and bool(value >= least)
            _expect(name, value, fits, f"a whole number ≥ {least}")

    def _expect_numbers(self, *names: str, above_zero: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            fits = (value > 0 if above_zero else value >= 0) and value < math.inf
            _expect(name, value, fits, "a number > 0" if above_zero else "a number ≥ 0")


class OnlineTrainer(Trainer):
    """Lets a model answer problems, has the answers judged, and leaves it to a subclass to `learn_from` them.

    Problems and samples of a step depend only on the seed, the step's number and the weights, so that a resumed run
    continues exactly as if it had never been interrupted. Where there is a reference, it has to be given the model that
    the run began with: that is the reference, from a copy, or, where the model has adapters, from the model without
    them. Metrics, checkpoints and the final model are kept in the folder `out`.

    Raises ValueError for a model without a tokenizer, or too short for the prompts and their completions.
    """

    config: OnlineConfig

    def __init__(
        self,
        model: CausalLM,
        problems: Sequence[Any],
        reward_functions: Sequence[RewardFunction],
        config: OnlineConfig,
        out: str | Path | None = None,
        held_out: Sequence[Any] = (),
        reference: bool = True,
    ):
        if model.tokenizer is None:
            raise ValueError("model: got one without a tokenizer, expected one, to read its completions with")
        self.model, self.config, self.tokenizer = model, config, model.tokenizer
        self.reference = _reference(model) if reference else None
        self.data = Problems(problems, self.tokenizer, start=_fingerprint(self.reference))
        self.held_out = Problems(held_out, self.tokenizer) if len(held_out) else None
        for data in (self.data, self.held_out):
            _check_room(model, data, config.max_completion_length)
        self.reward_functions = name_functions(reward_functions)
        self.weights = _weights(config.reward_weights, self.reward_functions)
        self.stop = model.config.eos_token_id if config.stop is None else config.stop
        self.optimizer = optim.AdamW(optim.decay_groups(model, config.weight_decay), lr=config.learning_rate)
        self.rates = [1.0] * len(self.optimizer.param_groups)  # of its groups, as shares of the learning rate
        self.out = None if out is None else Path(out)
        self.steps_done = 0
        self.history: list[dict[str, Any]] = []
        self._owns_out = False

    @np.errstate(all="ignore")  # an overflow is not a warning here: it ends the run, with its name
    def step(self) -> dict[str, Any]:
        """Sample, judge and learn. Returns the step's metrics, named as in TRL, and a few of its answers.

        `reward` and its parts are means over all that was sampled. Raises as `call_reward`, and FloatingPointError,
        before anything is updated, for a loss or gradient that is not finite.
        """
        began = time.perf_counter()
        draws = self.sample()
        sampled = time.perf_counter()
        learned, advantages = self.learn_from(draws)
        self.steps_done += 1
        for module in (*self.model.modules(), *(self.companion.modules() if self.companion else ())):
            module.after_step()
        ended = time.perf_counter()
        return {
            "step": self.steps_done,
            **answer_figures(draws),
            **learned,
            "tokens_per_s": round(sum(int(draw.rollouts.lengths.sum()) for draw in draws) / (ended - began), 1),
            "seconds": {"sampling": round(sampled - began, 4), "learning": round(ended - sampled, 4)},
            "rollouts": sample_answers(draws[0], advantages, self.config.num_completions_to_print),
        }

    @property
    def keeps_states(self) -> bool:
        """Whether a step learns from what layers computed while its answers were sampled."""
        return False

    def sample(self) -> list[Answers]:
        """The judged answers of a step, in one draw or several."""
        return [self.draw()]

    def draw(self, draw: int = 0) -> Answers:
        """Draw problems, answer each `num_generations` times, and judge the answers."""
        config, seed = self.config, (self.config.seed, self.steps_done, draw)
        numbers = self.data.draw(config.groups, *seed)
        batch = rollouts(
            self.model,
            [self.data.ids[i] for i in numbers],
            config.num_generations,
            max_new_tokens=config.max_completion_length,
            temperature=config.temperature,
            top_p=config.top_p,
            stop=self.stop,
            seed=seed,
            keep_states=self.keeps_states,
        )
        return judge(batch, self.data, numbers, self.tokenizer, self.reward_functions, self.weights)

    def learn_from(self, draws: Sequence[Answers]) -> tuple[dict[str, float], np.ndarray]:
        """Update the weights. Returns figures, and how good each answer of the first draw turned out to be, (B,)."""
        raise NotImplementedError

    def improve(self, loss: Tensor, own: Sequence[Tensor] = ()) -> dict[str, float]:
        """One update by a loss and those of the model's own layers. Returns loss, lr, grad_norm, and aux_loss for them.

        As in TRL, routers go on being balanced while the model learns from its answers (see `reading`).
        """
        for extra in own:
            loss = loss + extra
        self.optimizer.zero_grad()
        loss.backward()
        lr = schedule.constant(self.steps_done, lr=self.config.learning_rate, warmup=self.config.warmup)
        norm = self.descend(loss.item(), [lr * share for share in self.rates], self.config.max_grad_norm)
        aux_loss = {"aux_loss": sum(extra.item() for extra in own)} if own else {}
        return {"loss": loss.item(), "lr": lr, "grad_norm": norm, **aux_loss}

    def logps(self, model: CausalLM, batch: Rollouts) -> TokenLogps:
        """What a model thinks of the sampled tokens, at the temperature they were sampled with: (B, T - 1) each.

        What was kept of them is what the model that is trained computed, before it was changed.
        """
        states = batch.states if model is self.model else None
        shortest, temperature = int(batch.prompt_lengths.min()), self.config.temperature
        return token_logps(model, batch.ids, batch.mask, temperature=temperature, prompt=shortest, states=states)

    def reference_logps(self, batch: Rollouts) -> np.ndarray:
        """The log-probabilities of the reference: (B, T - 1)."""
        with no_grad():
            if self.reference is not None:
                return self.logps(self.reference, batch).logps.numpy()
            with adapters_off(self.model) as base:
                return self.logps(base, batch).logps.numpy()

    @np.errstate(all="ignore")
    def evaluate(self, batches: int | None = None) -> float:
        """The mean reward of the likeliest answers to held-out problems: to all, or to `batches` steps' worth of them.

        Raises ValueError where there are none.
        """
        if self.held_out is None:
            raise ValueError("held_out: got no problems, expected some to evaluate on")
        numbers = list(range(len(self.held_out)))[: None if batches is None else batches * self.config.groups]
        options = {"max_new_tokens": self.config.max_completion_length, "temperature": 0.0, "stop": self.stop}
        batch = rollouts(self.model, [self.held_out.ids[i] for i in numbers], **options)
        answers = judge(batch, self.held_out, numbers, self.tokenizer, self.reward_functions, self.weights)
        return float(answers.rewards.mean())

    def look(self) -> dict[str, float]:
        """The reward of held-out problems, where there are any, every `eval_every` steps and after the last."""
        if self.held_out and (self.steps_done % self.config.eval_every == 0 or self.steps_done == self.config.steps):
            return {"eval_reward": self.evaluate()}
        return {}


def reading(batch: Rollouts) -> AbstractContextManager[list[Tensor]]:
    """Inside the block a model reads rollouts: collects the losses of its own layers, in which padding does not count.

    Those are the losses that balance the load of experts, with the coefficients of the model's config.
    """
    ends = batch.prompt_lengths + batch.lengths
    return collecting(np.arange(batch.ids.shape[1] - 1) < ends[:, None])  # (B, T - 1): no token follows the last


def _reference(model: CausalLM) -> CausalLM | None:
    """A copy of the model as it is now, unless it has adapters to switch off; the tokenizer is shared."""
    return None if lora_layers(model) else copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})


def _fingerprint(model: CausalLM | None) -> str:
    """SHA-256 of a model's weights; empty where there is none."""
    if model is None:
        return ""
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.numpy().tobytes())
    return digest.hexdigest()


def _weights(given: tuple[float, ...] | None, functions: dict[str, RewardFunction]) -> tuple[float, ...]:
    weights = (1.0,) * len(functions) if given is None else tuple(given)
    fits = len(weights) == len(functions) and all(map(math.isfinite, weights))
    _expect("reward_weights", weights, fits, f"{len(functions)} finite numbers, one for each reward function")
    return weights


def _check_room(model: CausalLM, data: Problems | None, completion: int) -> None:
    longest, room = max(map(len, data.ids)) if data else 0, model.config.max_position_embeddings
    if longest + completion > room:
        raise ValueError(
            f"max_completion_length: got {completion} after prompts of up to {longest} tokens, expected at most the "
            f"model's max_position_embeddings {room} together"
        )
