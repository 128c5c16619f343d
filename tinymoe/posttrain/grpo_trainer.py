"""The loop of reinforcement learning from verifiable rewards: sample, judge, compare within groups, learn.

    groups   size: answers to a problem, num_generations   B = groups x size, generation_batch_size
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..models.decoder import CausalLM
from ..tensor import no_grad
from ..train import optim, schedule
from ..train.trainer import Trainer, _describe_overflow, _expect
from .answers import Answers, Problems, RewardFunction, answer_figures, judge, name_functions, sample_answers
from .grpo import LOSS_TYPES, group_advantages, grpo_figures, grpo_loss, informative_groups, soft_overlong_punishment
from .logps import TokenLogps, token_logps
from .lora import adapters_off, lora_layers
from .rollout import Rollouts, join, rollouts


@dataclass(frozen=True)
class GRPOConfig:
    """How to train; names and meanings are TRL's, where it has them. ValueError names a bad setting.

    A step samples `generation_batch_size` answers, `num_generations` to a problem, and learns from them
    `num_iterations` times, in `steps_per_generation` parts, with an update of the weights each.
    """

    steps: int = 100
    num_generations: int = 8
    generation_batch_size: int = 64
    max_completion_length: int = 64
    temperature: float = 1.0
    top_p: float | None = None
    stop: int | tuple[int, ...] | None = None  # tokens that end an answer; the model's eos_token_id unless given
    learning_rate: float = 1e-3
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0 switches clipping off
    beta: float = 0.0  # above 0, the price of the KL divergence from the model as it was at the start
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    scale_rewards: bool = True
    reward_weights: tuple[float, ...] | None = None
    num_iterations: int = 1
    steps_per_generation: int = 1
    mask_truncated_completions: bool = False
    dynamic_sampling: int = 0  # how many more draws a step may take to find groups whose rewards differ (DAPO)
    overlong_cache: int | None = None  # the last tokens before the limit, over which `soft_overlong_punishment` grows
    num_completions_to_print: int = 8  # of a step, kept among its metrics
    eval_every: int = 25
    checkpoint_every: int = 25
    keep: int = 2  # checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        _check_config(self)

    @property
    def groups(self) -> int:
        """Problems that a step learns from."""
        return self.generation_batch_size // self.num_generations


class GRPOTrainer(Trainer):
    """Trains a model to earn rewards, and keeps metrics, checkpoints and the final model in the folder `out`.

    Problems and samples of a step depend only on the seed, the step's number and the weights, so that a resumed run
    continues exactly as if it had never been interrupted. With beta above 0 it has to be given the model that the run
    began with: that is the reference, from a copy, or, where the model has adapters, from the model without them.

    Raises ValueError for a model without a tokenizer, or too short for the prompts and their completions.
    """

    def __init__(
        self,
        model: CausalLM,
        problems: Sequence[Any],
        reward_functions: Sequence[RewardFunction],
        config: GRPOConfig,
        out: str | Path | None = None,
        held_out: Sequence[Any] = (),
    ):
        if model.tokenizer is None:
            raise ValueError("model: got one without a tokenizer, expected one, to read its completions with")
        self.model, self.config, self.tokenizer = model, config, model.tokenizer
        self.reference = _reference(model, config.beta)
        self.data = Problems(problems, self.tokenizer, start=_fingerprint(self.reference))
        self.held_out = Problems(held_out, self.tokenizer) if len(held_out) else None
        for data in (self.data, self.held_out):
            _check_room(model, data, config.max_completion_length)
        self.reward_functions = name_functions(reward_functions)
        self.weights = _weights(config.reward_weights, self.reward_functions)
        self.stop = model.config.eos_token_id if config.stop is None else config.stop
        self.optimizer = optim.AdamW(optim.decay_groups(model, config.weight_decay), lr=config.learning_rate)
        self.out = None if out is None else Path(out)
        self.steps_done = 0
        self.history: list[dict[str, Any]] = []
        self._owns_out = False

    @np.errstate(all="ignore")  # an overflow is not a warning here: it ends the run, with its name
    def step(self) -> dict[str, Any]:
        """Sample, judge, compare and learn. Returns the step's metrics, named as in TRL, and a few of its answers.

        `reward` and its parts are means over all that was sampled, groups that taught nothing included. Raises as
        `call_reward`, and FloatingPointError, before anything is updated, for a loss or gradient that is not finite.
        """
        began = time.perf_counter()
        draws = self.sample()
        sampled = time.perf_counter()
        batch, advantages = self.compare(draws)
        learned = self.learn(batch, advantages)
        self.steps_done += 1
        for module in self.model.modules():
            module.after_step()
        ended = time.perf_counter()
        shown = sample_answers(draws[0], self.config.num_completions_to_print, self.config.scale_rewards)
        return {
            "step": self.steps_done,
            **answer_figures(draws),
            **learned,
            "tokens_per_s": round(sum(int(draw.rollouts.lengths.sum()) for draw in draws) / (ended - began), 1),
            "seconds": {"sampling": round(sampled - began, 4), "learning": round(ended - sampled, 4)},
            "rollouts": shown,
        }

    def sample(self) -> list[Answers]:
        """The judged answers of a step: one draw, or as many as `dynamic_sampling` allows and it takes."""
        draws, found = [], 0
        for draw in range(1 + self.config.dynamic_sampling):
            draws.append(self.draw(draw))
            found += int(informative_groups(draws[-1].groups).sum())
            if found >= self.config.groups:
                break
        return draws

    def draw(self, draw: int = 0) -> Answers:
        """Draw problems, answer each `num_generations` times, and judge the answers, also by their length."""
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
        )
        answers = judge(batch, self.data, numbers, self.tokenizer, self.reward_functions, self.weights)
        if config.overlong_cache is not None:
            lengths = batch.lengths.astype(np.float64)
            punished = soft_overlong_punishment(lengths, config.max_completion_length, config.overlong_cache)
            answers.earned["overlong"] = current().to_numpy(punished)
            answers.rewards = answers.rewards + answers.earned["overlong"]
        return answers

    def compare(self, draws: Sequence[Answers]) -> tuple[Rollouts, np.ndarray]:
        """What to learn from, with advantages (B,): a step's only draw, or the first groups whose rewards differ."""
        size, rewards = self.config.num_generations, np.concatenate([draw.groups for draw in draws])
        advantages = current().to_numpy(group_advantages(rewards, self.config.scale_rewards))  # (groups, size)
        kept = np.arange(len(rewards))
        if self.config.dynamic_sampling:
            differ = current().to_numpy(informative_groups(rewards))
            kept = np.flatnonzero(differ) if differ.any() else kept
        kept = kept[: self.config.groups]
        rows = (kept[:, None] * size + np.arange(size)).ravel()
        return join([draw.rollouts for draw in draws]).take(rows), advantages[kept].ravel()

    def learn(self, batch: Rollouts, advantages: np.ndarray) -> dict[str, float]:
        """Update the weights with answers, B rows, and advantages (B,); returns the means of what updates report."""
        config, parts = self.config, self._parts(len(batch))
        ref_logps = self.reference_logps(batch) if config.beta else None
        sampled_by_itself = config.num_iterations == len(parts) == 1  # the ratio is then 1, with no rounding
        reports = []
        for _ in range(config.num_iterations):
            for rows in parts:
                part = batch.take(rows)
                old_logps = None if sampled_by_itself else part.logps
                reference = None if ref_logps is None else ref_logps[rows, : part.logps.shape[1]]
                reports.append(self.update(part, advantages[rows], old_logps, reference))
        return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}

    def update(
        self, part: Rollouts, advantages: np.ndarray, old_logps: np.ndarray | None, ref_logps: np.ndarray | None
    ) -> dict[str, float]:
        """One step of the optimizer. Returns loss, lr, grad_norm, and what `grpo_figures` has to say."""
        config = self.config
        mask = part.mask[:, 1:] & (part.finished[:, None] | (not config.mask_truncated_completions))
        scored = self.logps(self.model, part)
        terms = scored.logps, old_logps, advantages, mask, ref_logps
        clipping = {name: getattr(config, name) for name in ("epsilon", "epsilon_high", "importance_sampling_level")}
        sizes = {"loss_type": config.loss_type, "max_completion_length": config.max_completion_length}
        loss = grpo_loss(*terms, beta=config.beta, **clipping, **sizes)
        figures = grpo_figures(*terms, scored.entropies.detach(), **clipping)
        self.optimizer.zero_grad()
        loss.backward()
        norm, value = optim.grad_norm(self.model.parameters()), loss.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise FloatingPointError(_describe_overflow(self.model, self.steps_done + 1, "loss", value))
        lr = schedule.constant(self.steps_done, lr=config.learning_rate, warmup=config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step(grad_scale=optim.clip_factor(norm, config.max_grad_norm) if config.max_grad_norm else 1.0)
        return {"loss": value, "lr": lr, "grad_norm": norm, **figures}

    def logps(self, model: CausalLM, batch: Rollouts) -> TokenLogps:
        """What a model thinks of the sampled tokens, at the temperature they were sampled with: (B, T - 1) each."""
        return token_logps(model, batch.ids, batch.mask, temperature=self.config.temperature)

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

    def _parts(self, rows: int) -> list[np.ndarray]:
        """Which rows each update learns from."""
        if self.config.steps_per_generation == 1:
            return [np.arange(rows)]
        shuffled = np.random.default_rng([self.config.seed, self.steps_done, 1]).permutation(rows)
        return np.array_split(shuffled, min(self.config.steps_per_generation, rows))


def _reference(model: CausalLM, beta: float) -> CausalLM | None:
    """A copy of the model as it is now, where one is needed; the tokenizer is shared."""
    if beta == 0 or lora_layers(model):
        return None
    return copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})


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


def _check_config(config: GRPOConfig) -> None:
    counts = ("steps", "generation_batch_size", "max_completion_length", "num_iterations", "steps_per_generation")
    for name in (*counts, "eval_every", "checkpoint_every", "keep"):
        value = getattr(config, name)
        _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 1), "a whole number ≥ 1")
    for name in ("dynamic_sampling", "num_completions_to_print", "warmup", "seed"):
        value = getattr(config, name)
        _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 0), "a whole number ≥ 0")
    for name in ("weight_decay", "max_grad_norm", "beta"):
        _expect(name, getattr(config, name), 0 <= getattr(config, name) < math.inf, "a number ≥ 0")
    for name in ("temperature", "learning_rate", "epsilon"):
        _expect(name, getattr(config, name), 0 < getattr(config, name) < math.inf, "a number > 0")
    size, batch = config.num_generations, config.generation_batch_size
    _expect("num_generations", size, isinstance(size, int | np.integer) and bool(size >= 2), "a whole number ≥ 2")
    _expect("generation_batch_size", batch, batch % size == 0, f"a multiple of num_generations, {size}")
    _expect("epsilon_high", config.epsilon_high, config.epsilon_high is None or config.epsilon_high > 0, "above 0")
    _expect("top_p", config.top_p, config.top_p is None or 0 < config.top_p <= 1, "above 0 and at most 1, or None")
    _expect("loss_type", config.loss_type, config.loss_type in LOSS_TYPES, f"one of {', '.join(LOSS_TYPES)}")
    level, cache = config.importance_sampling_level, config.overlong_cache
    _expect("importance_sampling_level", level, level in ("token", "sequence"), "token or sequence")
    fits = cache is None or 1 <= cache <= config.max_completion_length
    _expect("overlong_cache", cache, fits, f"1 to max_completion_length, {config.max_completion_length}, or None")
