"""Exercises of chapter 17: advantages in a group, the clipped objective, the KL estimate, averages, and a reward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.posttrain.rewards import answer_reward
from tinymoe.posttrain.tasks import Problem
from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def my_reward(text: str, problem: Problem) -> float:
    """1 for the right answer between <answer> and </answer>, 0 for anything else."""
    return answer_reward(text, problem.answer)


def _rewards(rng: np.random.Generator, size: int) -> Case:
    shape = int(rng.integers(1, 4)), 1 + size
    return case(rng.integers(0, 3, size=shape) / 2.0, bool(rng.integers(2)))


def _ratios(rng: np.random.Generator, size: int) -> Case:
    shape = int(rng.integers(1, 4)), size
    ratio, gain = np.exp(rng.normal(size=shape) / 3), rng.normal(size=(shape[0], 1))
    return case(Tensor(ratio), gain, float(rng.choice([0.1, 0.2])), (None, 0.28, 0.5)[size % 3])


_RATIO = Tensor(np.array([[0.5, 0.9, 1.0, 1.25, 1.5]]))
_UP, _DOWN = np.array([[2.0]]), np.array([[-2.0]])


def _two_policies(rng: np.random.Generator, size: int) -> Case:
    return case(Tensor(-rng.random((2, size)) * 4), -rng.random((2, size)) * 4)


def _token_losses(rng: np.random.Generator, size: int) -> Case:
    rows = int(rng.integers(1, 4))
    mask = np.arange(size) < rng.integers(0, size + 1, size=rows)[:, None]
    kind = str(rng.choice(["grpo", "dapo", "dr_grpo"]))
    limit, items = (size + 3, None)[size % 2], (4 * size, None)[size // 2 % 2]
    return case(Tensor(rng.normal(size=(rows, size))), mask, kind, limit, items)


_LOSSES = Tensor(np.array([[1.0, 3.0, 9.0, 9.0], [1.0, 1.0, 2.0, 4.0]]))
_MASK = np.array([[True, True, False, False], [True] * 4])
_SEQUENCE = Tensor(np.array([[2.0], [5.0]]))

_PROBLEM = Problem("arithmetic", 2, "", "3*5-3=?", "12", ("3*5=15", "15-3=12"))
_RIGHT = (
    "<think>3*5=15\n15-3=12</think><answer>12</answer>",
    "<think></think><answer>12</answer>",
    "<think>3*5=15\n15-3=12</think><answer> 12 </answer>",
)
_WRONG = (
    "<think>3*5=15\n15-3=13</think><answer>13</answer>",
    "<think>3*5=15</think><answer>112</answer>",
    "<think>3*5=15</think><answer>120</answer>",
    "<think>3*5=15\n15-3=12</think><answer>1</answer>",
    "<think>3*5=15\n15-3=12</think><answer></answer>",
    "",
)
_CHEATS = {
    "it answers several times": "<answer>11</answer><answer>12</answer><answer>13</answer>",
    "it answers several times, the right answer first": "<answer>12</answer><answer>13</answer>",
    "it answers with a list": "<think></think><answer>10 11 12 13 14</answer>",
    "it gives the problem back": "<think></think><answer>3*5-3</answer>",
    "it answers in Python": "<think></think><answer>len('a' * 12)</answer>",
    "it never ends its answer": "<think>3*5=15\n15-3=12</think><answer>12",
    "it thinks of the right number, and answers another": "<think>12</think><answer>5</answer>",
    "it writes no answer at all": "12",
    "it answers with a number that takes for ever": "<think></think><answer>9**9**9**9</answer>",
    "it answers with words": "<think></think><answer>twelve?</answer>",
}


def _earned(reward: Any, text: str) -> float:
    given = f"problem.prompt = {_PROBLEM.prompt!r}, problem.answer = {_PROBLEM.answer!r}\ntext = {text!r}"
    try:
        earned = reward(text, _PROBLEM)
    except Exception as error:
        wrong("no text may stop a run", given=given, expected="a number", got=f"{type(error).__name__}: {error}")
    if isinstance(earned, bool | np.bool_) or not isinstance(earned, float | int | np.floating | np.integer):
        wrong("a reward is a number", given=given, expected="a float", got=repr(earned))
    if not math.isfinite(earned):
        wrong("a reward is finite", given=given, got=repr(earned))
    return float(earned)


def _pays_for_right(reward: Any) -> None:
    for text in _RIGHT:
        if not 0.8 <= (earned := _earned(reward, text)) <= 1.2:
            wrong("a right answer earns 1 (give or take 0.2, for its form)", given=repr(text), expected=1.0, got=earned)


def _pays_nothing_for_wrong(reward: Any) -> None:
    for text in _WRONG:
        if not -0.2 <= (earned := _earned(reward, text)) <= 0.2:
            wrong("a wrong answer earns 0 (give or take 0.2, for its form)", given=repr(text), expected=0.0, got=earned)


def _cannot_be_cheated(reward: Any) -> None:
    for how, text in _CHEATS.items():
        if (earned := _earned(reward, text)) > 0.2:
            wrong(f"it can be cheated: {how}", given=repr(text), expected="0.2 at most", got=earned)


EXERCISES = [
    Exercise(
        id="17.group_advantages",
        title="By how much an answer is better than the others",
        target="posttrain/grpo.py::group_advantages",
        checks=[
            matches("one right answer of four", [case(np.array([[1.0, 0.0, 0.0, 0.0]]))]),
            matches("not divided by the deviation", [case(np.array([[1.0, 0.0, 0.0, 0.0]]), False)]),
            matches("two groups, each by itself", [case(np.array([[1.0, 0.0], [9.0, 5.0]]))]),
            matches("all answers are equal", [case(np.full((2, 3), 0.5)), case(np.full((2, 3), 0.5), False)]),
            matches("any rewards", _rewards, count=10),
        ],
        hints=[
            "A group is a row: its mean is rewards.mean(axis=1, keepdims=True), (groups, 1).",
            "The sample's standard deviation divides by size - 1: rewards.std(axis=1, ddof=1, keepdims=True).",
            "advantages = rewards - mean; with scale: advantages / (deviation + 1e-4).",
        ],
    ),
    Exercise(
        id="17.clipped_objective",
        title="Enough is enough: the clipped objective",
        target="posttrain/grpo.py::clipped_objective",
        checks=[
            matches("a token to be made likelier", [case(_RATIO, _UP)]),
            matches("a token to be made less likely", [case(_RATIO, _DOWN)]),
            matches("more room above", [case(_RATIO, _UP, 0.2, 0.28), case(_RATIO, _DOWN, 0.2, 0.28)]),
            matches("any ratios", _ratios, count=10),
            gradients(
                "no gradient once it has moved enough",
                [case(_RATIO, _UP), case(_RATIO, _DOWN), case(_RATIO, _UP, 0.2, 0.6), case(_RATIO, _DOWN, 0.3, 0.6)],
            ),
        ],
        hints=[
            "ops.clip(ratio, low=…, high=…) holds a Tensor between two numbers; epsilon_high None means epsilon.",
            "minimum(a, b) of two Tensors takes the smaller one of each pair.",
            "minimum(ratio * gain, ops.clip(ratio, low=1 - epsilon, high=1 + epsilon_high) * gain)",
        ],
    ),
    Exercise(
        id="17.kl_estimate",
        title="How far from the reference: the estimator k3",
        target="posttrain/grpo.py::kl_estimate",
        checks=[
            matches("equal policies", [case(Tensor(np.array([[-1.0, -2.0]])), np.array([[-1.0, -2.0]]))]),
            matches("half as likely, and twice", [case(Tensor(np.log([[0.5, 0.2]])), np.log([[0.25, 0.4]]))]),
            matches("any two policies", _two_policies, count=10),
            gradients("its gradient", [case(Tensor(np.log([[0.5, 0.2, 0.9]])), np.log([[0.25, 0.4, 0.9]]))]),
        ],
        hints=[
            "log r = log p_ref - log p: the difference of the two arguments.",
            "r itself is (log r).exp(). A Tensor knows .exp(), and minus a number.",
            "log_ratio = ref_logps - logps, then log_ratio.exp() - log_ratio - 1",
        ],
    ),
    Exercise(
        id="17.aggregate",
        title="One number from the losses of all tokens",
        target="posttrain/grpo.py::aggregate",
        checks=[
            matches("grpo: first each answer, then all answers", [case(_LOSSES, _MASK, "grpo")]),
            matches("dapo: all tokens alike", [case(_LOSSES, _MASK, "dapo")]),
            matches("dr_grpo: the same divisor, whatever the lengths", [case(_LOSSES, _MASK, "dr_grpo")]),
            matches("dr_grpo with its own limit", [case(_LOSSES, _MASK, "dr_grpo", 10)]),
            matches("dapo in parts", [case(_LOSSES, _MASK, "dapo", None, 20)]),
            matches("one loss an answer", [case(_SEQUENCE, _MASK, kind) for kind in ("grpo", "dapo", "dr_grpo")]),
            matches("any losses", _token_losses, count=16),
            gradients("its gradient", [case(_LOSSES, _MASK, kind) for kind in ("grpo", "dapo", "dr_grpo")]),
        ],
        hints=[
            "keep(losses, mask=mask) is 0 outside of the mask, so keep(losses, mask=mask).sum(axis=1) are the sums of "
            "answers. mask.sum(axis=1) are their lengths; take 1 where one is 0, with np.maximum.",
            "grpo: (sums / lengths).mean(). dapo: sums.sum() / (num_items_in_batch or the tokens of the mask, at least "
            "1).",
            "dr_grpo: sums.sum() / (rows * (max_completion_length or length)), with rows, length = mask.shape.",
        ],
    ),
    Exercise(
        id="17.my_reward",
        title="A reward that cannot be cheated",
        reference=my_reward,
        seconds=3.0,
        checks=[
            holds("right answers earn 1", _pays_for_right),
            holds("wrong answers earn nothing", _pays_nothing_for_wrong),
            holds("neither do tricks", _cannot_be_cheated),
        ],
        hints=[
            "Never ask whether the right number is somewhere in the text: a text may hold all numbers. And never "
            "evaluate what a model wrote.",
            "text.split('<answer>') has exactly two parts where there is one answer; the second must have an end tag.",
            "inner, end, _ = parts[1].partition('</answer>'); right is inner.strip() == problem.answer, if there is an "
            "end. Or let final_answer(text) do it.",
        ],
    ),
]
