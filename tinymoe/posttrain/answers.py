"""Problems whose answers can be checked, and what a model's answers to them earn.

    groups   size: answers to a problem   B = groups x size
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import current
from ..text.tokenizer import Tokenizer
from .grpo import informative_groups
from .rollout import Rollouts

# Called with the texts of B prompts, those of their completions, and the B problems they belong to; returns B numbers,
# or None where it does not apply.
RewardFunction = Callable[[list[str], list[str], list[Any]], Sequence[float | None]]


class Problems:
    """Problems with the tokens of their prompts.

    Each problem has its prompt as a text under "prompt", as an attribute or in a mapping; what else it holds is for the
    reward functions. `start` is what else has to be the same for a run to go on. Raises ValueError where there are no
    problems, and for one whose prompt is missing or empty.
    """

    def __init__(self, problems: Sequence[Any], tokenizer: Tokenizer, start: str = ""):
        self.all, self.start = list(problems), start
        self.prompts = [_prompt(problem, number) for number, problem in enumerate(self.all)]
        if not self.prompts:
            raise ValueError("problems: got none, expected at least one")
        self.ids = tokenizer.encode_batch(self.prompts)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all prompts and the start: what a checkpoint is compared by."""
        return hashlib.sha256("\0".join([self.start, *self.prompts]).encode()).hexdigest()

    def draw(self, count: int, seed: int, step: int, draw: int = 0) -> list[int]:
        """The numbers of `count` problems, for a draw of a step: in a step none comes twice before all have come."""
        order = np.random.default_rng([seed, step]).permutation(len(self))
        return np.take(order, range(draw * count, (draw + 1) * count), mode="wrap").tolist()


@dataclass
class Answers:
    """Rollouts of B rows as texts, with what they earned: by each function, (B,), NaN for None, and in all, (B,)."""

    rollouts: Rollouts
    prompts: list[str]
    completions: list[str]
    earned: dict[str, np.ndarray]
    rewards: np.ndarray

    def add(self, name: str, rewards: np.ndarray) -> None:
        """Give the answers further rewards, (B,), under a name of their own."""
        self.earned[name] = rewards
        self.rewards = self.rewards + rewards

    @property
    def groups(self) -> np.ndarray:
        """The rewards, (groups, size)."""
        return self.rewards.reshape(-1, self.rollouts.group_size)


def judge(
    batch: Rollouts,
    data: Problems,
    numbers: Sequence[int],
    tokenizer: Tokenizer,
    functions: Mapping[str, RewardFunction],
    weights: Sequence[float],
) -> Answers:
    """Let reward functions judge rollouts: group i answers problem numbers[i]. A reward is the weighted sum of theirs.

    Completions are judged without the token that ends them. A function that does not apply adds nothing.
    """
    rows = np.repeat(numbers, batch.group_size).tolist()
    prompts, problems = [data.prompts[i] for i in rows], [data.all[i] for i in rows]
    texts = [
        tokenizer.decode(ids[:-1] if finished else ids)
        for ids, finished in zip(batch.completions(), batch.finished, strict=True)
    ]
    earned = {name: call_reward(name, function, prompts, texts, problems) for name, function in functions.items()}
    weighted = [weight * rewards for weight, rewards in zip(weights, earned.values(), strict=True)]
    return Answers(batch, prompts, texts, earned, np.nansum(weighted, axis=0))


def call_reward(
    name: str, function: RewardFunction, prompts: list[str], completions: list[str], problems: list[Any]
) -> np.ndarray:
    """What a reward function gives for B completions, (B,), NaN where it answers None.

    Raises RuntimeError, naming the function, where it raises, and ValueError where it returns another number of
    rewards, or one that is no finite number.
    """
    try:
        given = list(function(list(prompts), list(completions), list(problems)))
    except Exception as error:
        raise RuntimeError(f"reward function {name!r} raised {type(error).__name__}: {error}") from error
    if len(given) != len(completions):
        raise ValueError(f"reward function {name!r}: got {len(given)} rewards, expected {len(completions)}")
    for reward, completion in zip(given, completions, strict=True):
        if reward is not None and not _is_finite(reward):
            raise ValueError(f"reward function {name!r}: got {reward!r} for {completion!r}, expected a finite number")
    return np.array([np.nan if reward is None else float(reward) for reward in given])


def name_functions(functions: Sequence[RewardFunction]) -> dict[str, RewardFunction]:
    """Reward functions by their names. Raises ValueError where there are none, or two of one name."""
    named = {getattr(function, "__name__", type(function).__name__): function for function in functions}
    if not named or len(named) < len(functions):
        raise ValueError(
            f"reward_functions: got {len(functions)} with the names {list(named)}, expected one or more, each with a "
            "name of its own"
        )
    return named


def answer_figures(draws: Sequence[Answers]) -> dict[str, float]:
    """Means over all that was sampled in a step, named as in TRL: rewards, groups that taught nothing, lengths.

    The deviation `reward_std` is that within groups; of groups of one, that of all answers.
    """
    rewards = np.concatenate([draw.groups for draw in draws])
    rewards = rewards if rewards.shape[1] > 1 else rewards.T
    lengths, finished = (
        np.concatenate([getattr(draw.rollouts, name) for draw in draws]) for name in ("lengths", "finished")
    )
    figures = {"reward": float(rewards.mean()), "reward_std": float(rewards.std(axis=1, ddof=1).mean())}
    for name in draws[0].earned:
        earned = np.concatenate([draw.earned[name] for draw in draws])
        earned = earned[~np.isnan(earned)] if not np.isnan(earned).all() else np.zeros(1)
        figures |= {f"rewards/{name}/mean": float(earned.mean()), f"rewards/{name}/std": float(earned.std())}
    return figures | {
        "frac_reward_zero_std": float(1 - current().to_numpy(informative_groups(rewards)).mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(1 - finished.mean()),
    }


def sample_answers(answers: Answers, advantages: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The first answers, for people to read: group, prompt, completion, reward and, from (B,), advantage."""
    return [
        {
            "group": i // answers.rollouts.group_size,
            "prompt": answers.prompts[i],
            "completion": answers.completions[i],
            "reward": round(float(answers.rewards[i]), 4),
            "advantage": round(float(advantages[i]), 4),
        }
        for i in range(min(count, len(answers.prompts)))
    ]


def _prompt(problem: Any, number: int) -> str:
    prompt = problem.get("prompt") if isinstance(problem, Mapping) else getattr(problem, "prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"problems: number {number} has the prompt {prompt!r}, expected a text")
    return prompt


def _is_finite(reward: Any) -> bool:
    try:
        return math.isfinite(reward)
    except TypeError:
        return False
