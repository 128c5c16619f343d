"""Exercises of chapter 00: softmax, bits per character, a model's size, and a critic. They need no other chapter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import Case, case, holds, matches
from ..registry import Exercise


def _random_scores(rng: np.random.Generator, size: int) -> Case:
    return case(rng.normal(scale=4, size=(size, int(rng.integers(2, 9)))))


def bits_per_character(loss: float, tokens: int, characters: int) -> float:
    """What a text costs in bits a character, when each of its tokens costs `loss` nats on average."""
    return loss * tokens / math.log(2) / characters


def count_parameters(vocabulary: int, width: int, feed_forward: int, layers: int) -> int:
    """The numbers in a Llama: two tables of the vocabulary, the layers, and a last norm."""
    attention = 4 * width * width
    mlp = 3 * width * feed_forward
    norms = 2 * width
    return 2 * vocabulary * width + layers * (attention + mlp + norms) + width


def critic(text: str) -> float:
    """How varied a text is: its different words over the square root of all of them, so that a long one is no loss."""
    words = text.lower().split()
    return len(set(words)) / max(1, len(words)) ** 0.5


_STORY = "The lamp was old. Nobody knew who had made it, but every night it lit itself, and the children sang."
_STUTTER = "She she said said said that that she said. " * 4


def _gives_numbers(critic: Any) -> str | None:
    for text in (_STORY, "rain", "the the the", ""):
        score = critic(text)
        if isinstance(score, bool) or not isinstance(score, (int, float, np.number)) or not math.isfinite(score):
            return f"critic({text!r}) should be a finite number, got {score!r}"
    return None


def _prefers(better: str, worse: str) -> Any:
    def test(critic: Any) -> str | None:
        good, bad = critic(better), critic(worse)
        if good > bad:
            return None
        return f"critic({better!r}) = {good:.3g} should be above critic({worse!r}) = {bad:.3g}"

    return test


EXERCISES = [
    Exercise(
        id="00.softmax",
        title="From scores to probabilities",
        target="generate/sampling.py::softmax",
        checks=[
            matches("equal scores", [case(np.zeros((1, 4)))]),
            matches("one score above the other", [case(np.array([[0.0, math.log(3)]]))]),
            matches("two texts at once", [case(np.array([[0.0, 1.0, 2.0], [5.0, 5.0, -1.0]]))]),
            matches("very large scores, and a forbidden token", [case(np.array([[1000.0, 999.0, -np.inf]]))]),
            matches("scores in float32, as models give them", [case(np.array([[0.5, -2.0, 3.0]], dtype=np.float32))]),
            matches("any scores", _random_scores, count=20),
        ],
        hints=[
            "What is missing is the sum of each row of e, not of all of it: the rows are different texts.",
            "e.sum(axis=-1) has one sum a row, but its shape does not fit for dividing; keepdims=True keeps the axis.",
            "total = e.sum(axis=-1, keepdims=True)",
        ],
    ),
    Exercise(
        id="00.bits_per_character",
        title="The loss in bits per character",
        reference=bits_per_character,
        checks=[
            matches("one token a character, one bit each", [case(math.log(2), 10, 10)]),
            matches("tokens of four characters", [case(math.log(2), 10, 40)]),
            matches("guessing among 2048 tokens", [case(math.log(2048), 100, 300)]),
            matches("other numbers", [case(2.5, 1000, 3500), case(0.0, 5, 20)]),
        ],
        hints=[
            "The whole text costs loss * tokens. That is in nats: natural logarithms.",
            "A coin flip is log(2) nats = 0.693, and it is one bit. So divide nats by math.log(2) to get bits.",
            "Spread them over the characters: loss * tokens / math.log(2) / characters.",
        ],
    ),
    Exercise(
        id="00.count_parameters",
        title="How large is a Llama?",
        reference=count_parameters,
        checks=[
            matches("no layers: two tables and a norm", [case(10, 2, 5, 0)]),
            matches("one layer", [case(10, 2, 5, 1)]),
            matches("the shape of this chapter's model", [case(2048, 64, 512, 2), case(2048, 64, 128, 2)]),
            matches("Llama 2 7B and 13B", [case(32000, 4096, 11008, 32), case(32000, 5120, 13824, 40)]),
        ],
        hints=[
            "Outside of the layers: vocabulary * width twice (the table at the start, the scores at the end), and the "
            "last norm with width numbers.",
            "One layer: 4 * width * width for attention, 3 * width * feed_forward for the feed-forward part, and two "
            "norms of width numbers each.",
            "2 * vocabulary * width + layers * (4 * width**2 + 3 * width * feed_forward + 2 * width) + width",
        ],
    ),
    Exercise(
        id="00.critic",
        title="A critic of your own",
        reference=critic,
        checks=[
            holds("a number for every text", _gives_numbers),
            holds("a story is better than one word again and again", _prefers(_STORY, "the " * 40)),
            holds("a story is better than nothing", _prefers(_STORY, "")),
            holds("a story is better than a stutter", _prefers(_STORY, _STUTTER)),
        ],
        hints=[
            "What bores you in these texts? Repetition is the easiest to see: len(set(words)) tells how many different "
            "words there are.",
            "Mind the empty text: a share of its words divides by zero. max(1, len(words)) helps.",
            "Then add whatever you like: finished sentences, closed quotation marks, words that are in a story of the "
            "corpus, a length near fifty words.",
        ],
    ),
]
