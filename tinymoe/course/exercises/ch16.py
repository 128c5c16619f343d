"""Exercises of chapter 16: what a comparison says, the rewards and advantages of tokens, DPO, and a sober reward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def sober(rewards: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Rewards (n,) of n answers, less whatever was earned by saying the same again."""
    said = [re.findall(r"[^ ,.!][^,.!]*[,.!]?", answer) for answer in answers]
    return np.asarray(rewards) - np.array([float(len(sentences) - len(set(sentences))) for sentences in said])


def _tensors(*arrays: Any) -> list[Tensor]:
    return [Tensor(np.asarray(array, dtype=np.float64)) for array in arrays]


def _two_rewards(rng: np.random.Generator, size: int) -> Case:
    settings = {"margin": rng.normal(size=size)} if size % 2 else {}
    return case(*_tensors(rng.normal(size=size), rng.normal(size=size)), **settings)


def _written(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Scores, log-probabilities of two models, and a mask: prompt, answer and padding, in each row."""
    rows, tokens = 1 + size // 4, 2 + size
    starts = rng.integers(0, tokens - 1, size=rows)
    ends = starts + 1 + (rng.random(rows) * (tokens - starts)).astype(int)
    places = np.arange(tokens)
    mask = (places >= starts[:, None]) & (places < ends[:, None])
    return rng.normal(size=rows), *-rng.exponential(size=(2, rows, tokens)), mask


def _kl_case(rng: np.random.Generator, size: int) -> Case:
    scores, logps, ref_logps, mask = _written(rng, size)
    return case(scores, logps, ref_logps, mask, float(rng.choice([0.0, 0.05, 1.0])))


def _gae_case(rng: np.random.Generator, size: int) -> Case:
    _, rewards, values, mask = _written(rng, size)
    return case(rewards, values, mask, float(rng.choice([0.9, 1.0])), float(rng.choice([0.0, 0.5, 0.95, 1.0])))


def _dpo_case(loss_type: str) -> Any:
    def random_case(rng: np.random.Generator, size: int) -> Case:
        chosen, rejected, *reference = rng.normal(-5, 2, size=(4, size))
        return case(*_tensors(chosen, rejected), *reference, beta=float(rng.choice([0.1, 0.5])), loss_type=loss_type)

    return random_case


_FOUR = np.array([[-3.0, -5.0], [-4.0, -4.5], [-3.5, -5.0], [-3.0, -5.5]])
_HAPPY = "Dear Ada, thank you for the kite. It is lovely."


def _leaves_the_rest_alone(function: Any) -> None:
    for answer in (_HAPPY, "Hello, thank you.", "", "It is lovely! It is here now."):
        got = np.asarray(function(np.array([1.5, -2.0]), [answer, answer]))
        if got.shape != (2,) or not np.allclose(got, [1.5, -2.0]):
            wrong(
                "nothing is said twice, so the rewards should stay as they are",
                given=f"rewards [1.5, -2.0] for {answer!r}, twice",
                expected=np.array([1.5, -2.0]),
                got=got,
            )


def _does_not_pay_for_more_of_the_same(function: Any) -> None:
    """Each time something is said again, a reward model that likes it gives up to 0.5 more."""
    answers = [_HAPPY + " It is lovely." * times for times in range(8)]
    got = np.asarray(function(0.5 * np.arange(8), answers), dtype=float)
    if got.shape != (8,) or not np.isfinite(got).all():
        wrong("expected a finite reward for each answer", given="8 rewards and answers", expected="(8,)", got=got)
    if not (np.diff(got) < 0).all():
        wrong(
            "each repetition should make an answer worth less, although the reward model gives 0.5 more for it",
            given="rewards 0, 0.5, 1, … for 'It is lovely.' said once, twice, three times, …",
            expected="falling numbers",
            got=got,
        )


def _looks_at_each_answer_alone(function: Any) -> None:
    got = np.asarray(function(np.zeros(3), [_HAPPY, _HAPPY + " It is lovely.", _HAPPY]), dtype=float)
    if got.shape != (3,) or not (got[0] == got[2] == 0 and got[1] < 0):
        wrong("only the second answer repeats itself", given="three answers", expected="[0, below 0, 0]", got=got)


EXERCISES = [
    Exercise(
        id="16.reward_loss",
        title="How surprised a reward model is",
        target="posttrain/reward.py::reward_loss",
        checks=[
            matches("two equal rewards", [case(*_tensors([1.0], [1.0]))]),
            matches("the right one wins", [case(*_tensors([2.0, 0.5], [-1.0, 0.0]))]),
            matches("a margin", [case(*_tensors([2.0], [1.0]), margin=np.array([3.0]))]),
            matches("held at zero", [case(*_tensors([2.0], [1.0]), center_rewards_coefficient=0.1)]),
            matches("any rewards", _two_rewards, count=8),
            matches("no overflow", [case(*_tensors([-900.0], [900.0]))]),
            gradients("its gradient", [case(*_tensors([0.3, -1.0], [0.5, -2.0]), margin=np.array([0.0, 1.0]))]),
        ],
        hints=[
            "The gap is chosen - rejected, less the margin where there is one. The loss of a pair: -log sigmoid(gap).",
            "log_sigmoid(gap) does not overflow; ops do the rest: .mean(), * and **.",
            "loss = -log_sigmoid(gap).mean(), and center_rewards_coefficient * ((chosen + rejected) ** 2).mean() more, "
            "unless that is None.",
        ],
    ),
    Exercise(
        id="16.kl_rewards",
        title="A price for every token",
        target="posttrain/ppo.py::kl_rewards",
        checks=[
            matches(
                "one answer of three tokens",
                [case(np.array([2.0]), np.array([[-1.0, -2.0, -1.0]]), np.array([[-1.5, -1.0, -1.0]]),
                      np.array([[True, True, True]]), 0.1)],
            ),
            matches(
                "padding behind, and a prompt before",
                [case(np.array([2.0, 1.0]), np.full((2, 4), -1.0), np.full((2, 4), -2.0),
                      np.array([[True, True, False, False], [False, False, True, True]]), 0.1)],
            ),
            matches("no price", [case(np.array([2.0]), np.array([[-1.0, -2.0]]), np.array([[-3.0, -1.0]]),
                                      np.array([[True, True]]), 0.0)]),
            matches("any answers", _kl_case, count=10),
        ],
        hints=[
            "Where the mask is true each token earns -kl_coef (log p - log p_ref); elsewhere it earns 0.",
            "The last token of row i is the largest place t with mask[i, t].",
            "last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1), and rewards[np.arange(len(mask)), last] "
            "+= scores.",
        ],
    ),
    Exercise(
        id="16.gae",
        title="Advantages, from the end to the beginning",
        target="posttrain/ppo.py::gae",
        checks=[
            matches("one token", [case(np.array([[1.0]]), np.array([[0.4]]), np.array([[True]]))]),
            matches(
                "three tokens, a reward at the end",
                [case(np.array([[0.0, 0.0, 1.0]]), np.array([[0.2, 0.5, 0.9]]), np.array([[True] * 3]), 1.0, 0.5)],
            ),
            matches("only the critic", [case(np.array([[0.0, 1.0]]), np.array([[0.2, 0.5]]), np.array([[True] * 2]),
                                             1.0, 0.0)]),
            matches("discounted", [case(np.array([[0.0, 1.0]]), np.array([[0.2, 0.5]]), np.array([[True] * 2]),
                                        0.9, 1.0)]),
            matches("padding behind", [case(np.array([[0.0, 1.0, 7.0]]), np.array([[0.2, 0.5, 9.0]]),
                                            np.array([[True, True, False]]))]),
            matches("any answers", _gae_case, count=12),
        ],
        hints=[
            "Go through the tokens from the last to the first, and keep what the one after it had: its value, and its "
            "advantage.",
            "delta = rewards[:, t] + gamma * next_value - values[:, t]; advantage = delta + gamma * lam * later.",
            "At a token that the mask leaves out: advantage 0, return 0, and next_value and later stay as they were. "
            "np.where(mask[:, t], new, old) does that for all rows at once.",
        ],
    ),
    Exercise(
        id="16.dpo_loss",
        title="A reward model that is the policy",
        target="posttrain/dpo.py::dpo_loss",
        checks=[
            matches("at the reference", [case(*_tensors([-3.0], [-5.0]), np.array([-3.0]), np.array([-5.0]))]),
            matches("moved the right way", [case(*_tensors(_FOUR[0], _FOUR[1]), _FOUR[2], _FOUR[3], beta=0.5)]),
            matches("any pairs", _dpo_case("sigmoid"), count=8),
            matches("IPO", [case(*_tensors(_FOUR[0], _FOUR[1]), _FOUR[2], _FOUR[3], beta=0.5, loss_type="ipo")]),
            matches("IPO, any pairs", _dpo_case("ipo"), count=8),
            matches("no overflow", [case(*_tensors([-9e4], [9e4]), np.zeros(1), np.zeros(1), beta=1.0)]),
            gradients("its gradient", [case(*_tensors(_FOUR[0], _FOUR[1]), _FOUR[2], _FOUR[3], beta=0.5)]),
            gradients("IPO's gradient", [case(*_tensors(_FOUR[0], _FOUR[1]), _FOUR[2], _FOUR[3], 0.5, "ipo")]),
        ],
        hints=[
            "margin = (chosen - ref_chosen) - (rejected - ref_rejected): how much further the policy has moved towards "
            "the chosen answers.",
            "DPO: -log sigmoid(beta margin), which is reward_loss of the implicit rewards. IPO: the square of "
            "margin - 1 / (2 beta).",
            "if loss_type == 'sigmoid': return -log_sigmoid(margin * beta).mean(); else the mean of the squares.",
        ],
    ),
    Exercise(
        id="16.sober",
        title="A reward that repetition does not buy",
        reference=sober,
        checks=[
            holds("who repeats nothing keeps the reward", _leaves_the_rest_alone),
            holds("more of the same is worth less", _does_not_pay_for_more_of_the_same),
            holds("each answer is looked at alone", _looks_at_each_answer_alone),
        ],
        hints=[
            "What is a repetition? A sentence that was there before; or three words in a row; or a word.",
            "re.findall(r'[^ ,.!][^,.!]*[,.!]?', answer) is the list of an answer's sentences.",
            "Take 1 for each sentence beyond the first of its kind: len(sentences) - len(set(sentences)).",
        ],
    ),
]  # fmt: skip
