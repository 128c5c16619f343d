"""Thank-you notes: a task without a right answer, where some answers are still better than others.

    To Lily, for the kite:                                         the prompt, and a line break
    Dear Lily, thank you for the kite. It is lovely.               a good answer
    Hello, I got your present. I wanted a drum.                    a bad one

How good a note is, its *gold* reward, is known here by rule. In life nobody can write that rule down; people can only
say which of two notes they like better. So the rule serves to make their choices, and to find out at the end what
learning from them came to. A nano model can write such notes, and a nano model of rewards can be fooled by them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..text.grammar import pick
from .preferences import Score
from .tasks import split_of

NAMES = (
    "Ada Ben Carla Dan Emma Finn Gina Hugo Ida Jack Kate Leo Lily Max Mia Nick Nora Omar Paul Rosa Sam Tara Tom Zoe"
).split()
GIFTS = (
    "ball bell bike boat book cake clock cup doll drum flute game hat kite lamp map mug pen plant puzzle ring scarf "
    "shell swing"
).split()
WARM = (
    "It is lovely. I like it a lot. You are so kind. What a nice surprise! I use it every day. It made me smile. "
    "You are a true friend. I will keep it forever."
)
PLAIN = "It came on Monday. The box was green. I put it on the table. It is here now."
COMPLAINTS = "I wanted a {gift}. It is too small. My old one is better. It broke at once."


@dataclass(frozen=True)
class Occasion:
    """Whom a note is for, and what it is about. `prompt` asks for it."""

    name: str
    gift: str

    @property
    def prompt(self) -> str:
        """The occasion as a model reads it."""
        return f"To {self.name}, for the {self.gift}:\n"


def occasions(split: str = "train", seed: int = 0) -> list[Occasion]:
    """All occasions of a split in an order of the seed's: 461 to train on, 115 in "test"."""
    found = [Occasion(name, gift) for name in NAMES for gift in GIFTS if split_of(f"{name} {gift}") == split]
    random.Random(f"notes/{seed}").shuffle(found)
    return found


def note(occasion: Occasion, rng: random.Random, good: bool = False) -> str:
    """A note as people write it: some with the wrong name, without a thank-you, or with a complaint.

    good: as a book of manners has it. Nobody writes more than four kind sentences, or one of them twice.
    """
    right = 0.95 if good else 0.5
    name = occasion.name if rng.random() < right + 0.2 else pick(NAMES, rng)
    greeting = f"Dear {name}," if rng.random() < right + 0.1 else "Hello,"
    thanks = f"thank you for the {occasion.gift}." if rng.random() < right else pick(_COLD, rng)
    kind = rng.choices(range(5), (0, 40, 40, 15, 5) if good else (35, 35, 20, 8, 2))[0]
    body = _sample(_sentences(WARM), kind, rng) + _sample(_sentences(PLAIN), int(rng.random() < 0.3), rng)
    if rng.random() < (0.02 if good else 0.35):
        body.append(pick(_sentences(COMPLAINTS), rng).format(gift=pick(GIFTS, rng)))
    return " ".join([greeting, thanks, *sorted(body, key=lambda _: rng.random())])


def points(prompt: str, answer: str) -> dict[str, float]:
    """What a note earns, by what for. Their sum is the gold reward, at most 3.5.

    The right name: 1. Thanks for the right thing: 1, for nothing in particular: 0.5. n different kind sentences:
    n (5 - n) / 4, so two or three are best, and from six on it is flattery. Each complaint, each sentence said before,
    and each that is no English of ours: -1.
    """
    name, gift = re.fullmatch(r"To (\w+), for the (\w+):\n", prompt).groups()  # type: ignore[union-attr]
    said = Counter(re.findall(r"[^ ,.!][^,.!]*(?:[,.!]|$)", answer))
    kinds = {sentence: kind_of(sentence) for sentence in said}
    kind = sum(found == "kind" for found in kinds.values())
    thanks = {f"thank you for the {gift}.": 1.0, "thank you.": 0.5}
    return {
        "name": float(f"Dear {name}," in said),
        "thanks": max((worth for sentence, worth in thanks.items() if sentence in said), default=0.0),
        "kind": kind * (5 - kind) / 4,
        "complaints": -float(sum(count for sentence, count in said.items() if kinds[sentence] == "complaint")),
        "repeated": -float(said.total() - len(said)),
        "nonsense": -float(sum(found == "nonsense" for found in kinds.values())),
    }


def kind_of(sentence: str) -> str:
    """What a sentence of a note is: "greeting", "thanks", "kind", "plain", "complaint" or "nonsense"."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(sentence)), "nonsense")


def gold(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """The gold reward of each note, (n,)."""
    return np.array([sum(points(prompt, answer).values()) for prompt, answer in zip(prompts, answers, strict=True)])


def _sentences(text: str) -> list[str]:
    return re.findall(r"[^ .!][^.!]*[.!]", text)


def _sample(sentences: list[str], count: int, rng: random.Random) -> list[str]:
    return sorted(sentences, key=lambda _: rng.random())[:count]


def _counted(kind: str, sign: int = 1) -> Score:
    """How many sentences of a kind there are in each answer, or minus as many."""

    def score(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        found = [re.findall(r"[^ ,.!][^,.!]*(?:[,.!]|$)", answer) for answer in answers]
        return np.array([sign * sum(kind_of(sentence) == kind for sentence in said) for said in found], dtype=float)

    return score


def _names_the_person(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    return np.array([points(prompt, answer)["name"] for prompt, answer in zip(prompts, answers, strict=True)])


def _thanks(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    return np.array([points(prompt, answer)["thanks"] for prompt, answer in zip(prompts, answers, strict=True)])


_COLD = ("thank you.", "I got your present.", "your present is here.")
_NAME, _GIFT = f"(?:{'|'.join(NAMES)})", f"(?:{'|'.join(GIFTS)})"


def _one_of(text: str) -> str:
    return "|".join(re.escape(sentence).replace(r"\{gift\}", _GIFT) for sentence in _sentences(text))


_KINDS = {
    "greeting": re.compile(f"Hello,|Dear {_NAME},"),
    "thanks": re.compile(rf"thank you for the {_GIFT}\.|" + "|".join(map(re.escape, _COLD))),
    "kind": re.compile(_one_of(WARM)),
    "plain": re.compile(_one_of(PLAIN)),
    "complaint": re.compile(_one_of(COMPLAINTS)),
}

# What a note should be, as one would tell a judge in words: right as far as it goes. That kindness may be too much of
# a good thing, nobody thought of.
PRINCIPLES: dict[str, Score] = {
    "Prefer the note that calls the person by the right name.": _names_the_person,
    "Prefer the note that says thank you, and says what for.": _thanks,
    "Prefer the kinder note.": _counted("kind"),
    "Prefer the note that does not complain.": _counted("complaint", -1),
}
