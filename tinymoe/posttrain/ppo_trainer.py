"""The loop of proximal policy optimization as RLHF uses it: a policy, its critic, and a reference that holds it.

    B answers, generation_batch_size   T tokens of the longest row, prompt and answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import current
from ..models.decoder import CausalLM
from ..models.pretrained import is_whole
from ..tensor import Tensor, no_grad
from ..train import optim
from ..train.trainer import _expect
from .answers import Answers, RewardFunction
from .functional import masked_mean
from .online_trainer import OnlineConfig, OnlineTrainer, reading
from .ppo import (
    AdaptiveKLController,
    gae,
    kl_rewards,
    masked_whiten,
    ppo_figures,
    ppo_policy_loss,
    ppo_value_figures,
    ppo_value_loss,
)
from .reward import ScalarModel
from .rollout import Rollouts


@dataclass(frozen=True)
class PPOConfig(OnlineConfig):
    """How to train; names and meanings are those of TRL's PPO, where it has them. ValueError names a bad setting.

    A step learns from its answers `num_ppo_epochs` times, in `num_mini_batches` parts, with an update of policy and
    critic each.
    """

    num_generations: int = 1
    critic_learning_rate: float | None = None  # the policy's, unless given
    critic_warmup: int = 0  # first steps, in which only the critic learns
    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1  # of the critic's loss: with Adam, it only weighs the critic's gradient when both are clipped
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    kl_coef: float = 0.05  # the price of straying from the reference, in reward per nat
    target: float | None = None  # the KL divergence of an answer, in nats, that `AdaptiveKLController` turns kl_coef to
    horizon: float = 10_000  # answers; how slowly it does so
    missing_eos_penalty: float | None = None  # taken from the reward of an answer that was cut off

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_counts("num_ppo_epochs", "num_mini_batches")
        self._expect_counts("generation_batch_size", least=2)
        self._expect_counts("critic_warmup", least=0)
        self._expect_numbers("vf_coef", "kl_coef")
        self._expect_numbers("cliprange", "cliprange_value", "horizon", above_zero=True)
        for name in ("gamma", "lam"):
            _expect(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("critic_learning_rate", "target"):
            value = getattr(self, name)
            _expect(name, value, value is None or 0 < value < float("inf"), "a number > 0, or None")
        penalty = self.missing_eos_penalty
        _expect("missing_eos_penalty", penalty, penalty is None or 0 <= penalty < float("inf"), "a number ≥ 0, or None")
        _expect("kl_coef", self.kl_coef, self.kl_coef > 0 or self.target is None, "a number > 0, with a target")
        parts, batch = self.num_mini_batches, self.generation_batch_size
        _expect("num_mini_batches", parts, parts <= batch, f"at most generation_batch_size, {batch}")


class Experience(NamedTuple):
    """What a step learns from: answers, and for each of their tokens, (B, T - 1), what PPO's losses need.

    Entry t is of ids[:, t + 1], as in `Rollouts.logps`. A value is what the critic expected before that token.
    """

    rollouts: Rollouts
    logps: np.ndarray
    values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray

    def take(self, rows: Any) -> Experience:
        """Some of the rows, in the order given, without the padding that none of them needs."""
        part = self.rollouts.take(rows)
        return Experience(part, *(array[rows, : part.logps.shape[1]] for array in self[1:]))


class PPOTrainer(OnlineTrainer):
    """Trains a model by what a critic had not expected of its answers, at a price for straying from the reference.

    The critic begins as a copy of the model under a new head; checkpoints hold it too. What the trainer does beside
    that, and what it raises, is said in `OnlineTrainer`. ValueError also for a model with adapters or quantized
    matrices, of which a critic cannot be made.
    """

    config: PPOConfig

    def __init__(
        self,
        model: CausalLM,
        problems: Sequence[Any],
        reward_functions: Sequence[RewardFunction],
        config: PPOConfig,
        out: str | Path | None = None,
        held_out: Sequence[Any] = (),
    ):
        if not is_whole(model):
            raise ValueError("model: got one with adapters or quantized matrices, expected one that is whole")
        super().__init__(model, problems, reward_functions, config, out, held_out)
        self.critic = self.companion = ScalarModel.from_causal_lm(model, config.seed)
        groups = [optim.decay_groups(part, config.weight_decay) for part in (model, self.critic)]
        share = (config.critic_learning_rate or config.learning_rate) / config.learning_rate
        self.rates = [1.0] * len(groups[0]) + [share] * len(groups[1])
        self.optimizer = optim.AdamW(groups[0] + groups[1], lr=config.learning_rate)
        self.controller = None
        if config.target is not None:
            self.controller = AdaptiveKLController(config.kl_coef, config.target, config.horizon)

    @property
    def kl_coef(self) -> float:
        """The price of straying from the reference at this step."""
        return self.config.kl_coef if self.controller is None else self.controller.value

    def draw(self, draw: int = 0) -> Answers:
        """As `OnlineTrainer.draw`; answers that were cut off may be punished."""
        answers = super().draw(draw)
        if self.config.missing_eos_penalty is not None:
            answers.add("missing_eos", np.where(answers.rollouts.finished, 0.0, -self.config.missing_eos_penalty))
        return answers

    def learn_from(self, draws: Sequence[Answers]) -> tuple[dict[str, float], np.ndarray]:
        """Learn from the answers. Returns what is to be watched, and the mean advantage of each answer's tokens."""
        experience, figures = self.make_experience(draws[0])
        learned = self.learn(experience)
        if self.controller is not None:
            self.controller.update(figures["objective/kl"], len(experience.rollouts))
        mask = experience.rollouts.mask[:, 1:]
        return {**figures, **learned}, np.where(mask, experience.advantages, 0).sum(axis=1) / mask.sum(axis=1)

    @np.errstate(all="ignore")
    def make_experience(self, answers: Answers) -> tuple[Experience, dict[str, float]]:
        """What each token brought, beyond what was expected; and figures of the answers, named as in TRL.

        Figures under `objective/` are sums over an answer's tokens, and means over answers: its KL divergence from the
        reference, its entropy (as -log p), and its reward, with and without what straying cost. `kl` is per token.
        """
        config, batch, to_numpy = self.config, answers.rollouts, current().to_numpy
        mask, ref_logps = batch.mask[:, 1:], self.reference_logps(batch)
        with no_grad():
            values = self.values(batch).numpy()
        rewards = to_numpy(kl_rewards(answers.rewards, batch.logps, ref_logps, mask, self.kl_coef))
        paid = rewards if not config.whiten_rewards else masked_whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(paid, values, mask, config.gamma, config.lam)
        advantages = masked_whiten(advantages, mask)
        kl = np.where(mask, batch.logps - ref_logps, 0).sum(axis=1)  # (B,)
        figures = {
            "objective/kl": float(kl.mean()),
            "objective/kl_coef": self.kl_coef,
            "objective/entropy": float(-batch.logps.sum(axis=1).mean()),
            "objective/scores": float(answers.rewards.mean()),
            "objective/non_score_reward": float(-self.kl_coef * kl.mean()),
            "objective/rlhf_reward": float(rewards.sum(axis=1).mean()),
            "kl": float(kl.sum() / mask.sum()),
        }
        return Experience(batch, batch.logps, values, *map(to_numpy, (advantages, returns))), figures

    def learn(self, experience: Experience) -> dict[str, float]:
        """Update policy and critic with all of the experience, `num_ppo_epochs` times; returns means of the reports."""
        config, rows = self.config, len(experience.rollouts)
        reports = []
        for epoch in range(config.num_ppo_epochs):
            order = np.random.default_rng([config.seed, self.steps_done, 1, epoch]).permutation(rows)
            for part in np.array_split(order, config.num_mini_batches):
                reports.append(self.update(experience.take(np.sort(part))))  # answers to a prompt beside each other
        return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}

    def update(self, part: Experience) -> dict[str, float]:
        """One step of the optimizer. Returns what `improve` and the figures of policy and critic have to say."""
        config, mask = self.config, part.rollouts.mask[:, 1:]
        with reading(part.rollouts) as own:
            scored = self.logps(self.model, part.rollouts)
        with reading(part.rollouts) as of_critic:
            values = self.values(part.rollouts)
        policy = ppo_policy_loss(scored.logps, part.logps, part.advantages, mask, config.cliprange)
        value = ppo_value_loss(values, part.values, part.returns, mask, config.cliprange_value)
        loss, losses = value * config.vf_coef, of_critic
        if self.steps_done >= config.critic_warmup:
            loss, losses = loss + policy, [*own, *of_critic]
        return {
            **self.improve(loss, losses),
            "loss/policy_avg": policy.item(),
            "loss/value_avg": value.item(),
            "entropy": masked_mean(scored.entropies.detach(), current().asarray(mask)).item(),
            **ppo_figures(scored.logps, part.logps, part.advantages, mask, config.cliprange),
            **ppo_value_figures(values, part.values, part.returns, mask, config.cliprange_value),
        }

    def values(self, batch: Rollouts) -> Tensor:
        """What the critic expects before each token: (B, T - 1)."""
        return self.critic(batch.ids[:, :-1])

    def resume(self) -> int:
        """As `Trainer.resume`; the price of straying follows from the KL divergences that were measured."""
        done = super().resume()
        if self.controller is not None:
            if len(self.history) < done:
                raise ValueError(f"out: {self.out}/metrics.jsonl has {len(self.history)} steps, expected {done}")
            for metrics in self.history:
                self.controller.update(metrics["objective/kl"], self.config.generation_batch_size)
        return done
