"""Exercises of chapter 10: shared experts, the clip, groups, balance within a text, and biases that balance."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.tensor import Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]


def one_wider_block(first: Matrices, second: Matrices) -> Matrices:
    """One SwiGLU block that answers what two add up to: (gate, up, down) of (I, C), (I, C), (C, I) each."""
    gate, up = (np.concatenate([first[i], second[i]]) for i in (0, 1))  # (I + I', C)
    return gate, up, np.concatenate([first[2], second[2]], axis=1)  # (C, I + I')


def sequence_loss(shares: Tensor, choices: np.ndarray) -> Tensor:
    """The mean over texts of the sum over experts of f P: shares (B, T, E), choices (B, T, k) -> a scalar, 1 if even.

    In each text f is E / (k T) times an expert's number of tokens, and P its mean share.
    """
    texts, tokens, experts = shares.shape
    counts = np.stack([np.bincount(text.reshape(-1), minlength=experts) for text in choices])  # (B, E)
    f = counts * (experts / (choices.shape[-1] * tokens))
    return (shares.mean(axis=1) * f).sum() / texts


def my_bias_rule(load: np.ndarray, progress: float) -> np.ndarray:
    """What is added to the biases after a step with this load, (E,) both: in proportion, and ever more gently."""
    return 0.03 * (1 - progress) * np.clip(1 - load / load.mean(), -1, 1)


def _block(rng: np.random.Generator, width: int, channels: int) -> Matrices:
    gate, up, down = (rng.normal(size=shape).round(1) for shape in ((width, channels),) * 2 + ((channels, width),))
    return gate, up, down


def _two_blocks(rng: np.random.Generator, size: int) -> Case:
    channels = int(rng.integers(1, 4))
    return case(*(_block(rng, int(rng.integers(1, 2 + size // 3)), channels) for _ in range(2)))


def _swiglu(x: np.ndarray, block: Matrices) -> np.ndarray:
    gate, up, down = block
    z = x @ gate.T
    return (z / (1 + np.exp(-z)) * (x @ up.T)) @ down.T


def _answers_add_up(function: Any) -> None:
    rng = np.random.default_rng(2)
    first, second, x = _block(rng, 3, 4), _block(rng, 5, 4), rng.normal(size=(6, 4))
    expected, got = _swiglu(x, first) + _swiglu(x, second), _swiglu(x, function(first, second))
    if not np.allclose(expected, got):
        wrong("your block does not answer what the two add up to", expected=expected, got=got)


def _grouped_scores(rng: np.random.Generator, size: int) -> Case:
    groups, each = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    scores = rng.permutation(size * groups * each).reshape(size, -1) / 10.0  # no two are equal
    return case(scores, groups, int(rng.integers(1, groups + 1)), int(rng.integers(1, each + 1)))


_FOUR = np.array([[0.9, 0.1, 0.6, 0.5]])  # the best expert is in the first group, the two best together in the second


def _loads(rng: np.random.Generator, size: int) -> Case:
    return case(rng.integers(0, 3 * size, size=int(rng.integers(2, 9))), float(rng.choice([0.001, 0.01, 0.5])))


def _routed_texts(rng: np.random.Generator, size: int) -> Case:
    texts, tokens, experts = int(rng.integers(1, 4)), 1 + size // 3, int(rng.integers(2, 6))
    order = np.argsort(rng.random((texts, tokens, experts)), axis=-1)
    shares = rng.dirichlet(np.ones(experts), size=(texts, tokens))
    return case(Tensor(shares), order[..., : int(rng.integers(1, experts + 1))])


_TWO_TEXTS = Tensor(np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.3, 0.7], [0.1, 0.9]]]))


def _moves_biases(rule: Any) -> str | None:
    for load in (np.array([8, 0, 3, 5]), np.array([64, 0, 0, 0, 0, 0, 0, 0]), np.array([1, 2])):
        for progress in (0.0, 0.5, 0.999):
            given = f"load {load.tolist()}, progress {progress}"
            step = np.asarray(rule(load, progress))
            if step.shape != load.shape or step.dtype.kind != "f":
                expected = f"floats of shape {load.shape}"
                wrong(
                    "expected a step for each expert", given=given, expected=expected, got=f"{step.dtype} {step.shape}"
                )
            if not np.isfinite(step).all() or np.abs(step).max() > 1:
                wrong("a sigmoid is at most 1, so a bias that moves by more ends all thought", given=given, got=step)
    return None


def _against_the_load(rule: Any) -> str | None:
    for load in (np.array([8, 0, 3, 5]), np.array([100, 100, 100, 1]), np.array([64, 0, 0, 0, 0, 0, 0, 0])):
        step = np.asarray(rule(load, 0.0))
        busiest, idlest = step[load.argmax()], step[load.argmin()]
        if not busiest < idlest:
            wrong(
                "the bias of the busiest expert should fall, relative to that of the idlest",
                given=f"load {load.tolist()}, progress 0.0",
                expected="a smaller step for the busiest",
                got=f"{busiest:.4g} for the busiest, {idlest:.4g} for the idlest",
            )
    return None


def _rests_when_even(rule: Any) -> str | None:
    step = np.asarray(rule(np.full(4, 6), 0.3))
    if np.ptp(step) > 1e-12:
        wrong("where all have as much to do, no bias should move against another", given="load [6, 6, 6, 6]", got=step)
    return None


def _balances(rule: Any) -> str | None:
    """A router that never learns, with lasting preferences: the rule alone has to even out its load."""
    rng, experts, steps = np.random.default_rng(0), 8, 1000
    liking, bias, violations = np.linspace(-0.8, 0.8, experts), np.zeros(experts), []
    for step in range(steps):
        scores = 1 / (1 + np.exp(-(liking + rng.normal(size=(128, experts)))))
        load = np.bincount(np.argsort(-(scores + bias), axis=1)[:, :2].reshape(-1), minlength=experts)
        bias = bias + rule(load, step / steps)
        violations.append(load.max() / load.mean() - 1)
    if not np.mean(violations[-200:]) < 0.6:
        wrong(
            "after 800 steps with a router of fixed preferences each load should be more even",
            given="8 experts, 2 a token, 128 tokens a step; without biases the max violation is 1.1",
            expected="less than 0.6 on average, over the last 200 of 1000 steps",
            got=f"{np.mean(violations[-200:]):.2f}",
        )
    return None


EXERCISES = [
    Exercise(
        id="10.one_wider_block",
        title="Two shared experts are one wider block",
        reference=one_wider_block,
        checks=[
            matches(
                "one hidden number each",
                [
                    case(
                        (np.array([[1.0]]), np.array([[2.0]]), np.array([[3.0]])),
                        (np.array([[4.0]]), np.array([[5.0]]), np.array([[6.0]])),
                    )
                ],
            ),
            matches("any blocks", _two_blocks, count=8),
            holds("it answers the sum of both answers", _answers_add_up),
        ],
        hints=[
            "A hidden number is made by one row of gate and one row of up, and used by one column of down.",
            "So lay the rows of both gates below each other, the same with up, and the columns of down side by side.",
            "np.concatenate([first[0], second[0]]) for gate; for down with axis=1.",
        ],
    ),
    Exercise(
        id="10.clip",
        title="A clip, and its gradient",
        target="ops.py::clip",
        checks=[
            matches("from above", [case(np.array([1.0, 9.0]), high=7.0)]),
            matches("from both sides", [case(np.array([-9.0, 1.0, 9.0]), low=-7.0, high=7.0)]),
            matches("no bounds", [case(np.array([-1e6, 1e6]))]),
            gradients("its vjp", [case(np.array([[-8.0, 0.5], [6.9, 7.5]]), low=-7.0, high=7.0)]),
            gradients("its vjp with one bound", [case(np.array([-8.0, 0.5, 9.0]), high=7.0)]),
        ],
        hints=[
            "np.clip(a, low, high) is the result. ctx.xp is NumPy, or what stands in for it.",
            "Beyond a bound the result does not change with a: there the slope is 0. Between them it is 1.",
            "return ctx.xp.clip(a, low, high), lambda g: (g * ((a >= low) & (a <= high)),)",
        ],
    ),
    Exercise(
        id="10.within_groups",
        title="Only the best groups are open",
        target="nn/routers.py::within_groups",
        checks=[
            matches("two groups, by their best expert", [case(_FOUR, 2, 1, 1)]),
            matches("two groups, by their two best together", [case(_FOUR, 2, 1, 2)]),
            matches("all groups are open", [case(_FOUR, 2, 2, 1)]),
            matches(
                "two of three",
                [case(np.array([[0.1, 0.2, 0.7, 0.0, 0.3, 0.4], [0.9, 0.0, 0.1, 0.3, 0.2, 0.5]]), 3, 2, 2)],
            ),
            matches("any scores", _grouped_scores, count=14),
        ],
        hints=[
            "scores.reshape(len(scores), n_group, -1) puts a group's experts side by side: (N, groups, E / groups).",
            "np.sort(groups, axis=-1)[..., -best:].sum(axis=-1) is what each group is worth: (N, groups).",
            "Open are the topk_group groups of most worth, np.argsort(-worth, axis=-1, kind='stable')[:, :topk_group]. "
            "Fill an array with -inf, copy the open groups' scores into it, and give it the shape of scores.",
        ],
    ),
    Exercise(
        id="10.sequence_loss",
        title="Balance within each text",
        reference=sequence_loss,
        checks=[
            matches(
                "one text, all to one expert",
                [case(Tensor(np.array([[[0.9, 0.1], [0.7, 0.3]]])), np.array([[[0], [0]]]))],
            ),
            matches(
                "two texts, each with an expert of its own", [case(_TWO_TEXTS, np.array([[[0], [0]], [[1], [1]]]))]
            ),
            matches("two experts a token", [case(_TWO_TEXTS, np.array([[[0, 1], [0, 1]], [[1, 0], [1, 0]]]))]),
            matches("any routing", _routed_texts, count=10),
            gradients("its gradient", [case(_TWO_TEXTS, np.array([[[0], [1]], [[1], [1]]]))]),
        ],
        hints=[
            "Count text by text: np.bincount(choices[b].reshape(-1), minlength=experts) for text b. Stacked: (B, E).",
            "f = counts * experts / (k * tokens), an array; P = shares.mean(axis=1), a Tensor (B, E).",
            "(P * f).sum() / texts.",
        ],
    ),
    Exercise(
        id="10.bias_step",
        title="One step of balancing without a loss",
        target="nn/balance.py::bias_step",
        checks=[
            matches("one busy, one idle", [case(np.array([3, 1]), 0.01)]),
            matches("who is at the mean stays", [case(np.array([5, 3, 1]), 0.01)]),
            matches("all even", [case(np.array([4, 4, 4]), 0.1)]),
            matches("one has it all", [case(np.array([0, 0, 0, 12]), 0.001)]),
            matches("any load", _loads, count=10),
        ],
        hints=[
            "The mean load is load.mean(). Who is above it goes down by speed, who is below goes up by speed.",
            "np.sign is 1, 0 or -1.",
            "speed * np.sign(load.mean() - load)",
        ],
    ),
    Exercise(
        id="10.my_bias_rule",
        title="A rule of your own for the biases",
        reference=my_bias_rule,
        checks=[
            holds("a step for each expert", _moves_biases),
            holds("down for the busiest, up for the idlest", _against_the_load),
            holds("it rests when all is even", _rests_when_even),
            holds("it balances a router of fixed preferences", _balances),
        ],
        hints=[
            "Begin with bias_step at a speed of your choice. What does the load do at the end, if the speed stays?",
            "Two ideas: steps that become smaller with progress, which goes from 0 to 1; steps in proportion to how "
            "far a load is from the mean.",
            "0.03 * (1 - progress) * np.sign(load.mean() - load)",
        ],
    ),
]
