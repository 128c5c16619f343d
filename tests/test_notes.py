"""Thank-you notes: what they are worth, and principles that see a part of it."""

import random

import numpy as np
import pytest

from tinymoe.posttrain.notes import GIFTS, NAMES, PRINCIPLES, gold, kind_of, note, occasions, points

PROMPT = "To Lily, for the kite:\n"
BEST = "Dear Lily, thank you for the kite. It is lovely. You are so kind."


def worth(answer):
    return {name: value for name, value in points(PROMPT, answer).items() if value}


def test_occasions_are_split_without_overlap_and_do_not_change():
    train, test = occasions(), occasions("test")
    assert not set(train) & set(test) and len(train) + len(test) == len(NAMES) * len(GIFTS)
    assert 90 < len(test) < 140 and occasions() == train != occasions(seed=1)
    assert sorted(occasions(seed=1), key=str) == sorted(train, key=str)
    assert {occasion.prompt for occasion in train} >= {train[0].prompt} and train[0].prompt.startswith("To ")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (BEST, {"name": 1, "thanks": 1, "kind": 1.5}),
        ("Dear Tom, thank you. It is too small. I wanted a drum.", {"thanks": 0.5, "complaints": -2}),
        ("Hello, thank you for the drum.", {}),
        ("Dear Lily, thank you for the kite. It is lovely. It is lovely. It is lovely.",
         {"name": 1, "thanks": 1, "kind": 1, "repeated": -2}),
        ("Dear Lily, thank you for the kite. What a nice kite you", {"name": 1, "thanks": 1, "nonsense": -1}),
        ("Dear Lily, Dear Lily, thank you for the kite thank you", {"name": 1, "repeated": -1, "nonsense": -1}),
        ("", {}),
    ],
)  # fmt: skip
def test_points_are_counted_by_what_is_said(answer, expected):
    assert worth(answer) == expected
    assert gold([PROMPT], [answer]).tolist() == [sum(expected.values())]


def test_kindness_may_be_too_much_of_a_good_thing():
    warm = [sentence + "." for sentence in "It is lovely/I like it a lot/You are so kind/It made me smile".split("/")]
    warm += ["What a nice surprise!", "I use it every day.", "You are a true friend.", "I will keep it forever."]
    assert all(kind_of(sentence) == "kind" for sentence in warm)
    rewards = [gold([PROMPT], [" ".join(warm[:count])])[0] for count in range(9)]
    assert rewards == [0, 1, 1.5, 1.5, 1, 0, -1.5, -3.5, -6]


def test_notes_are_of_known_sentences_and_good_ones_are_better():
    rng, means = random.Random(0), []
    for good in (False, True):
        written = [(occasion.prompt, note(occasion, rng, good)) for occasion in occasions()]
        assert all(points(*pair)["nonsense"] == points(*pair)["repeated"] == 0 for pair in written)
        means.append(gold(*zip(*written, strict=True)).mean())
    assert means[0] < 1.7 and means[1] > 3


def test_principles_see_a_part_of_it():
    flattery = BEST + " It is lovely." * 5
    answers = [BEST, flattery, "Dear Tom, thank you for the kite. It is too small."]
    scores = np.array([principle([PROMPT] * 3, answers) for principle in PRINCIPLES.values()])
    assert scores[:, 0].tolist() == [1, 1, 2, 0]
    assert scores[:, 2].tolist() == [0, 1, 0, -1]
    assert scores[:, 1].sum() > scores[:, 0].sum() and gold([PROMPT] * 3, answers).argmax() == 0
