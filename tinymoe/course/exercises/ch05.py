"""Exercises of chapter 05: ALiBi's slopes, and what stretches rotary positions to longer texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.nn.position import rope_frequencies

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise


def _random_theta(rng: np.random.Generator, size: int) -> Case:
    return case(float(rng.choice([100.0, 10_000.0, 500_000.0])), 2 * (size + 1), float(rng.integers(1, 9)))


def _slowest_clock(ntk_theta: Any) -> None:
    """The definition itself: the last clock runs `stretch` times slower, and no clock faster than before."""
    for dim, stretch in ((4, 2.0), (64, 8.0)):
        got = 10_000.0 ** (-(dim - 2) / dim) / ntk_theta(10_000.0, dim, stretch) ** (-(dim - 2) / dim)
        if not math.isclose(got, stretch, rel_tol=1e-6):
            wrong(
                "the slowest clock, theta ** (-(dim - 2) / dim), should run `stretch` times slower",
                given=f"theta = 10000.0\ndim = {dim}\nstretch = {stretch}",
                expected=f"{stretch:g} times slower",
                got=f"{got:.4g} times slower",
            )


def _random_ramp(rng: np.random.Generator, size: int) -> Case:
    trained = int(64 * 2 ** rng.integers(0, 10))
    fast = float(rng.choice([4, 16, 32]))
    return case(8 * size, float(rng.choice([1e4, 1e6])), trained, fast, float(rng.choice([1, 2])), bool(size % 2))


def my_stretch(frequencies: np.ndarray, trained: int, factor: float) -> np.ndarray:
    """A hard cut: clocks that make two turns in the text trained on stay, all others run `factor` times slower."""
    turns = trained * frequencies / (2 * np.pi)
    return np.where(turns >= 2, frequencies, frequencies / factor)


def _is_a_set_of_clocks(function: Any) -> None:
    for dim in (2, 16, 64):
        before = rope_frequencies(dim)
        given = before.copy()
        got = np.asarray(function(before, 64, 4.0))
        if not np.array_equal(before, given):
            wrong("it changes `frequencies` itself: return a new array", given=given, got=before)
        if got.shape != before.shape or got.dtype.kind != "f":
            wrong("one frequency a clock is needed", given=given, expected=f"{before.shape} of float", got=got)
        if not (np.isfinite(got).all() and (got > 0).all()):
            wrong("frequencies have to be positive", given=given, got=got)


def _is_a_stretch(function: Any) -> None:
    for trained, factor in ((64, 2.0), (64, 4.0), (4096, 8.0)):
        before = rope_frequencies(64)
        got = np.asarray(function(before.copy(), trained, factor))
        given = f"rope_frequencies(64)\ntrained = {trained}\nfactor = {factor}"
        if (got > before * 1.001).any():
            wrong("no clock should run faster than before", given=given, got=got)
        # Clocks that never made half a turn show angles at the end of a longer text that were not seen in training.
        slow = before * trained < np.pi
        reached, known = (got * factor * trained)[slow], (before * trained)[slow]
        if (reached > 1.5 * known).any():
            wrong(
                "the slow clocks go on to angles that were never trained on: at the end of the longer text, none "
                "should be more than half as far again as at the end of the shorter one",
                given=given,
                expected=f"angles up to {known.round(4)}",
                got=f"angles up to {reached.round(4)}",
            )
        if np.allclose(got, before / factor, rtol=0.02):
            wrong("that is linear interpolation: do better by the fast clocks", given=given, got=got)


EXERCISES = [
    Exercise(
        id="05.alibi_slopes",
        title="ALiBi's slopes",
        target="nn/position.py::alibi_slopes",
        checks=[
            *(matches(f"{n} head{'s' * (n > 1)}", [case(n)]) for n in (1, 2, 8, 16)),
            *(matches(f"{n} heads: no power of two", [case(n)]) for n in (3, 6, 12, 112)),
        ],
        hints=[
            "For a power of two, H heads: the first slope is r = 2 ** (-8 / H), and each next one is r times the one "
            "before. With i counted from 0, slope i is 2 ** (-8 * (i + 1) / H).",
            "For other numbers: `power` is the largest power of two below. Take its slopes first. Then those that "
            "2 * power heads would have, every second one, the first, third, fifth …, until there are enough.",
            "power = 2 ** int(math.log2(n));   row = lambda h: [2.0 ** (-8 * (i + 1) / h) for i in range(h)];   "
            "then row(power) + row(2 * power)[0::2][: n - power], as an array",
        ],
    ),
    Exercise(
        id="05.ntk_theta",
        title="Stretch the slowest clock, spare the fastest",
        target="nn/scaling.py::ntk_theta",
        checks=[
            matches("no stretch", [case(10_000.0, 64, 1.0)]),
            holds("the slowest clock", _slowest_clock),
            matches("four clocks, four times", [case(10_000.0, 8, 4.0)]),
            matches("any", _random_theta, count=12),
        ],
        hints=[
            "The slowest clock is the last: i = dim/2 - 1, so that its angle a token is theta ** (-(dim - 2) / dim).",
            "With the new theta that has to be 1/stretch of it: new ** (-(dim - 2) / dim) = theta ** (-(dim - 2) / "
            "dim) / stretch. Take both sides to the power -dim / (dim - 2).",
            "new = theta * stretch ** (dim / (dim - 2))",
        ],
    ),
    Exercise(
        id="05.yarn_ramp",
        title="YaRN's ramp",
        target="nn/scaling.py::yarn_ramp",
        checks=[
            matches("small, without rounding", [case(16, 10_000.0, 1024, 32, 1, False)]),
            matches("small, rounded to whole clocks", [case(16, 10_000.0, 1024)]),
            matches("Llama 2's heads", [case(128, 10_000.0, 4096)]),
            matches("other borders", [case(64, 10_000.0, 4096, 8, 2)]),
            matches("GPT-OSS: no rounding", [case(64, 150_000.0, 4096, 32, 1, False)]),
            matches("a short text: no clock makes 32 turns", [case(16, 10_000.0, 64)]),
            matches("any", _random_ramp, count=16),
        ],
        hints=[
            "Clock i turns theta ** (-2i / dim) radians a token, so in `trained` tokens it makes "
            "trained * theta ** (-2i / dim) / (2 pi) turns. Set that to a number of turns and solve for i.",
            "i = dim * ln(trained / (2 pi turns)) / (2 ln theta). `first` is that i for beta_fast, `last` for "
            "beta_slow. With truncate, first is rounded down and last up. Then first is at least 0 and last at most "
            "dim - 1.",
            "The ramp is (i - first) / (last - first) for i = 0, 1, … dim/2 - 1, cut to 0 … 1 by np.clip. Where first "
            "equals last, divide by 0.001 instead of 0.",
        ],
    ),
    Exercise(
        id="05.my_stretch",
        title="A stretch of your own",
        reference=my_stretch,
        checks=[
            holds("a frequency for each clock", _is_a_set_of_clocks),
            holds("it stretches, and not as linear interpolation does", _is_a_stretch),
        ],
        hints=[
            "How many turns does each clock make in the text trained on? trained * frequencies / (2 pi).",
            "Fast clocks have shown every angle in training; they can go on as they are. Slow ones have not: they need "
            "to run `factor` times slower. Where do you draw the line, and how sharply?",
            "Try np.where(turns >= 2, frequencies, frequencies / factor). Then move the 2, or make the change smooth, "
            "or let the factor differ from clock to clock.",
        ],
    ),
]
