"""Exercises of chapter 04: the update, the clip, the schedule, the targets, and a schedule of one's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.backend import current

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise

_SETTINGS = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.5, "step": 1, "scale": 1.0}


def _adamw_in_float64(p: Any, g: Any, m: Any, v: Any, s: dict[str, Any]) -> list[np.ndarray]:
    g = g * s["scale"]
    m = s["beta1"] * m + (1 - s["beta1"]) * g
    v = s["beta2"] * v + (1 - s["beta2"]) * g * g
    m_hat, v_hat = m / (1 - s["beta1"] ** s["step"]), v / (1 - s["beta2"] ** s["step"])
    return [p - s["lr"] * s["weight_decay"] * p - s["lr"] * m_hat / (np.sqrt(v_hat) + s["eps"]), m, v]


def _updates(*numbers: float, **changes: Any) -> Any:
    """A test that AdamW changes p, m and v as the paper says, from p, g, m, v of these values."""

    def test(adamw: Any) -> None:
        settings = {**_SETTINGS, **changes}
        before = [np.array([value, -2 * value]) for value in numbers]
        before[3] = np.abs(before[3])
        expected = _adamw_in_float64(before[0], before[1], before[2], before[3], settings)
        p, g, m, v = (array.copy() for array in before)
        adamw(current(), p, g, m, v, **settings)
        given = "\n".join(f"{name} = {array.tolist()}" for name, array in zip("pgmv", before, strict=True))
        given += "\n" + ", ".join(f"{name} = {value}" for name, value in settings.items())
        if not np.array_equal(g, before[1]):
            wrong("the gradient itself was changed", given=given, expected=before[1], got=g)
        for name, got, want in (("m", m, expected[1]), ("v", v, expected[2]), ("p", p, expected[0])):
            if not np.allclose(got, want, rtol=1e-6, atol=1e-9):
                wrong(f"{name} is not what it should be after the step", given=given, expected=want, got=got)

    return test


def _random_rows(rng: np.random.Generator, size: int) -> Case:
    tokens = int(rng.integers(2, 8))
    documents = np.sort(rng.integers(0, 3, size=(size, tokens)), axis=1)
    documents[-1, tokens - int(rng.integers(0, 2)) :] = -1
    return case(rng.integers(0, 50, size=(size, tokens)), documents)


def my_schedule(step: int, steps: int, lr: float) -> float:
    """A trapezoid: up for a tenth of the run, flat, and down to nothing over the last third."""
    return lr * min((step + 1) / (0.1 * steps + 1), 1.0, (steps - step) / (steps / 3))


def _a_sane_schedule(schedule: Any) -> str | None:
    for steps, lr in ((100, 1.0), (37, 2e-3), (1, 0.1)):
        for step in range(steps):
            rate = schedule(step, steps, lr)
            if not isinstance(rate, (int, float, np.floating)) or not math.isfinite(rate):
                return f"my_schedule({step}, {steps}, {lr}) should be a finite number, got {rate!r}"
            if not 0 <= rate <= lr * (1 + 1e-9):
                return f"my_schedule({step}, {steps}, {lr}) should lie between 0 and {lr}, got {rate}"
    return None


def _warms_up_and_cools_down(schedule: Any) -> str | None:
    rates = [schedule(step, 100, 1.0) for step in range(100)]
    if max(rates) < 0.9:
        return f"its highest rate should come near the peak lr = 1.0, got {max(rates):.3g}"
    if rates[0] > 0.5 * max(rates):
        return f"it should begin well below its peak, got {rates[0]:.3g} at step 0"
    if rates[-1] > 0.2 * max(rates):
        return f"it should end at a fifth of its peak or less, got {rates[-1]:.3g} at the last step"
    return None


EXERCISES = [
    Exercise(
        id="04.adamw",
        title="The update that trains every model in this course",
        target="backend/reference.py::ReferenceBackend.adamw",
        checks=[
            holds("the first step", _updates(1.0, 0.5, 0.0, 0.0, weight_decay=0.0)),
            holds("a later step", _updates(1.0, 0.5, 0.2, 0.3, weight_decay=0.0, step=5)),
            holds("with weight decay", _updates(1.0, 0.5, 0.2, 0.3, step=5)),
            holds("decay alone, without a gradient", _updates(1.0, 0.0, 0.0, 0.0)),
            holds("with a scaled gradient", _updates(1.0, 0.5, 0.2, 0.3, step=3, scale=0.25)),
            holds("a large eps", _updates(3.0, 1e-3, 0.0, 1e-6, eps=0.1, step=7)),
        ],
        hints=[
            "Everything happens in place: `m += …`, `v += …`, `p *= …`, `p -= …`. A plain `m = …` would only give a "
            "new name to a new array, and the optimizer would forget it.",
            "m moves toward g by a share of 1 - beta1: m += (1 - beta1) * (g - m). v does the same toward g * g. "
            "Make `g = g * scale` first: that is a new array, and the caller's gradient stays as it was.",
            "Divide m by 1 - beta1**step and v by 1 - beta2**step (into new arrays), multiply p by "
            "1 - lr * weight_decay, then subtract lr * m_hat / (sqrt(v_hat) + eps).",
        ],
    ),
    Exercise(
        id="04.clip_factor",
        title="How much to shrink a gradient that is too long",
        target="train/optim.py::clip_factor",
        checks=[
            matches("too long", [case(4.0, 1.0), case(10.0, 2.5)], rtol=1e-5),
            matches("short enough", [case(0.5, 1.0), case(0.0, 1.0)]),
            matches("no gradient at all, and a tiny limit", [case(0.0, 1e-3)]),
        ],
        hints=[
            "A gradient of norm 4 with a limit of 1 has to be multiplied by 1/4.",
            "A gradient that is short enough is left alone: the factor is never above 1.",
            "min(1.0, max_norm / (norm + 1e-6)); the 1e-6 keeps a norm of 0 from dividing by zero.",
        ],
    ),
    Exercise(
        id="04.cosine",
        title="The learning rate of GPT-3 and Llama",
        target="train/schedule.py::cosine",
        checks=[
            matches("the middle of the cosine", [case(50, lr=1.0, steps=100)]),
            matches("its beginning and end", [case(0, lr=1.0, steps=100), case(100, lr=1.0, steps=100)], atol=1e-12),
            matches("warm-up", [case(step, lr=1.0, steps=100, warmup=4) for step in range(6)]),
            matches("a floor", [case(step, lr=1.0, steps=10, warmup=2, min_lr=0.1) for step in range(11)]),
            matches("after the end", [case(150, lr=1.0, steps=100, min_lr=0.1)]),
            matches("a run that is all warm-up", [case(step, lr=1.0, steps=3, warmup=3) for step in range(4)]),
        ],
        hints=[
            "Two parts: while step < warmup the rate grows in a straight line, lr * (step + 1) / (warmup + 1).",
            "After that, progress runs from 0 to 1 between warmup and steps, and stays at 1 afterwards. "
            "(1 + cos(pi * progress)) / 2 then falls from 1 to 0.",
            "min_lr + (lr - min_lr) * that. When warmup equals steps, divide by max(1, steps - warmup).",
        ],
    ),
    Exercise(
        id="04.next_tokens",
        title="What a packed token should predict",
        target="text/packing.py::next_tokens",
        checks=[
            matches("one document", [case(np.array([[5, 6, 7]]), np.array([[0, 0, 0]]))]),
            matches("two documents", [case(np.array([[5, 6, 7, 8]]), np.array([[0, 0, 1, 1]]))]),
            matches("padding", [case(np.array([[5, 6, 0, 0]]), np.array([[3, 3, -1, -1]]))]),
            matches("documents of one token", [case(np.array([[5, 6, 7]]), np.array([[0, 1, 2]]))]),
            matches("rows do not mix", [case(np.array([[5, 6], [7, 8]]), np.array([[0, 0], [0, 1]]))]),
            matches("any rows", _random_rows, count=20),
        ],
        hints=[
            "The target of ids[:, t] is ids[:, t + 1]: that is `ids[:, 1:]`, one column shorter than ids.",
            "It counts only where documents[:, 1:] equals documents[:, :-1].",
            "Two padding tokens have the same number, -1, but nothing should learn to predict padding. "
            "np.where(same, ids[:, 1:], -100).",
        ],
    ),
    Exercise(
        id="04.my_schedule",
        title="A schedule of your own",
        reference=my_schedule,
        checks=[
            holds("rates between 0 and the peak", _a_sane_schedule),
            holds("warm-up and cool-down", _warms_up_and_cools_down),
        ],
        hints=[
            "Any shape is allowed that begins low, comes near lr, and ends low: a triangle, steps, half a sine wave, "
            "the square root of what is left.",
            "Think in shares of the run: t = step / steps goes from 0 to nearly 1.",
            "lr * min(1, t / 0.1 + 0.01) * (1 - t) ** 0.5 is one that nobody has published, as far as we know.",
        ],
    ),
]
