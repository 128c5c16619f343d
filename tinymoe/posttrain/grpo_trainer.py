"""The loop of reinforcement learning from verifiable rewards: sample, judge, compare within groups, learn.

    groups   size: answers to a problem, num_generations   B = groups x size, generation_batch_size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..models.decoder import CausalLM
from ..tensor import no_grad
from ..train.trainer import _expect
from .answers import Answers, RewardFunction
from .grpo import LOSS_TYPES, group_advantages, grpo_figures, grpo_loss, informative_groups, soft_overlong_punishment
from .logps import TokenLogps
from .online_trainer import OnlineConfig, OnlineTrainer, reading
from .rollout import Rollouts, join
from .texts import laid_together, reads_apart

# Answers that teach nothing are read apart when they are as many: what is left has to be copied.
_SILENT_SHARE = 1 / 8


@dataclass(frozen=True)
class GRPOConfig(OnlineConfig):
    """How to train; names and meanings are TRL's, where it has them. ValueError names a bad setting.

    A step learns from its answers `num_iterations` times, in `steps_per_generation` parts, with an update of the
    weights each.
    """

    beta: float = 0.0  # above 0, the price of the KL divergence from the model as it was at the start
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    scale_rewards: bool = True
    num_iterations: int = 1
    steps_per_generation: int = 1
    mask_truncated_completions: bool = False
    dynamic_sampling: int = 0  # how many more draws a step may take to find groups whose rewards differ (DAPO)
    overlong_cache: int | None = None  # the last tokens before the limit, over which `soft_overlong_punishment` grows

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_counts("num_iterations", "steps_per_generation")
        self._expect_counts("num_generations", least=2)
        self._expect_counts("dynamic_sampling", least=0)
        self._expect_numbers("beta")
        self._expect_numbers("epsilon", above_zero=True)
        level, cache, longest = self.importance_sampling_level, self.overlong_cache, self.max_completion_length
        _expect("epsilon_high", self.epsilon_high, self.epsilon_high is None or self.epsilon_high > 0, "above 0")
        _expect("loss_type", self.loss_type, self.loss_type in LOSS_TYPES, f"one of {', '.join(LOSS_TYPES)}")
        _expect("importance_sampling_level", level, level in ("token", "sequence"), "token or sequence")
        fits = cache is None or 1 <= cache <= longest
        _expect("overlong_cache", cache, fits, f"1 to max_completion_length, {longest}, or None")


class GRPOTrainer(OnlineTrainer):
    """Trains a model by comparing its answers to the same problem; with beta above 0 it keeps a reference.

    What it does beside that, and what it raises, is said in `OnlineTrainer`.
    """

    config: GRPOConfig

    def __init__(
        self,
        model: CausalLM,
        problems: Sequence[Any],
        reward_functions: Sequence[RewardFunction],
        config: GRPOConfig,
        out: str | Path | None = None,
        held_out: Sequence[Any] = (),
    ):
        super().__init__(model, problems, reward_functions, config, out, held_out, reference=config.beta > 0)

    @property
    def keeps_states(self) -> bool:
        """Where the first update is by all answers, and these are of one draw."""
        return self.config.steps_per_generation == 1 and not self.config.dynamic_sampling

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
        """As `OnlineTrainer.draw`; answers are also judged by their length."""
        answers, config = super().draw(draw), self.config
        if config.overlong_cache is not None:
            lengths = answers.rollouts.lengths.astype(np.float64)
            punished = soft_overlong_punishment(lengths, config.max_completion_length, config.overlong_cache)
            answers.add("overlong", current().to_numpy(punished))
        return answers

    def learn_from(self, draws: Sequence[Answers]) -> tuple[dict[str, float], np.ndarray]:
        """Compare and learn. Returns the means of what updates report, and the advantages in the first draw, (B,)."""
        advantages = current().to_numpy(group_advantages(draws[0].groups, self.config.scale_rewards))
        return self.learn(*self.compare(draws)), advantages.ravel()

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
                if reports:  # by now the weights are others than those that sampled
                    part.states = None
                old_logps = None if sampled_by_itself else part.logps
                reference = None if ref_logps is None else ref_logps[rows, : part.logps.shape[1]]
                reports.append(self.update(part, advantages[rows], old_logps, reference))
        return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}

    def update(
        self, part: Rollouts, advantages: np.ndarray, old_logps: np.ndarray | None, ref_logps: np.ndarray | None
    ) -> dict[str, float]:
        """One step of the optimizer. Returns what `improve` and `grpo_figures` have to say."""
        config = self.config
        mask = part.mask[:, 1:] & (part.finished[:, None] | (not config.mask_truncated_completions))
        with reading(part) as own:
            scored = self.scores(part, advantages)
        terms = scored.logps, old_logps, advantages, mask, ref_logps
        clipping = {name: getattr(config, name) for name in ("epsilon", "epsilon_high", "importance_sampling_level")}
        sizes = {"loss_type": config.loss_type, "max_completion_length": config.max_completion_length}
        loss = grpo_loss(*terms, beta=config.beta, **clipping, **sizes)
        figures = grpo_figures(*terms, scored.entropies.detach(), **clipping)
        return {**self.improve(loss, own), **figures}

    def scores(self, part: Rollouts, advantages: np.ndarray) -> TokenLogps:
        """What the model thinks of the answers. Of those that nothing is learned from, no more than that is computed.

        An answer whose advantage is 0 has no gradient, unless there is a price on its KL divergence: the model reads it
        for the figures alone, unless such answers are so few that sorting them out costs more. (Of all such answers,
        the first is read as if it taught something: gradients are then 0, and not missing.)
        """
        taught = advantages != 0
        taught[0] |= not taught.any()
        if taught.mean() > 1 - _SILENT_SHARE or self.config.beta or not reads_apart(self.model):
            return self.logps(self.model, part)
        rows, others = np.flatnonzero(taught), np.flatnonzero(~taught)
        found = self.logps(self.model, part.take(rows))
        # Few answers are no work for two threads, and one that waits for more takes time from what comes next.
        with no_grad(), current().one_thread_each():
            figures = self.logps(self.model, part.take(others))
        shape = part.logps.shape
        pairs = (((rows, ours[None]), (others, theirs[None])) for ours, theirs in zip(found, figures, strict=True))
        logps, entropies = (laid_together(pair, shape)[0] for pair in pairs)
        return TokenLogps(logps, entropies)

    def _parts(self, rows: int) -> list[np.ndarray]:
        """Which rows each update learns from."""
        if self.config.steps_per_generation == 1:
            return [np.arange(rows)]
        shuffled = np.random.default_rng([self.config.seed, self.steps_done, 1]).permutation(rows)
        # In order again, so that answers to one prompt stand together: it is read once for them.
        return [np.sort(part) for part in np.array_split(shuffled, min(self.config.steps_per_generation, rows))]
