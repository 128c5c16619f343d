"""Test-time compute: estimators against counting, votes and scores by hand, budgets with a sampler that is a script."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinymoe.generate.reasoning import Forced, best_of_n, budget_forcing, by_budget, majority_vote, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_all_choices(n):
    for correct in range(n + 1):
        right = [i < correct for i in range(n)]
        for k in range(1, n + 1):
            share = np.mean([any(right[i] for i in chosen) for chosen in combinations(range(n), k)])
            assert pass_at_k(n, correct, k) == pytest.approx(share)


def test_pass_at_k_is_unbiased_where_the_naive_estimate_is_not():
    rng, p, n, k = np.random.default_rng(0), 0.2, 8, 4
    counts = rng.binomial(n, p, size=20_000)
    truth = 1 - (1 - p) ** k
    assert np.mean([pass_at_k(n, count, k) for count in counts]) == pytest.approx(truth, abs=0.005)
    assert np.mean(1 - (1 - counts / n) ** k) < truth - 0.03


def test_pass_at_k_of_many_answers_does_not_overflow():
    assert pass_at_k(100_000, 10, 10_000) == pytest.approx(1 - 0.9**10, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 1, 0), "k: got 0, expected 1 to n, which is 4"),
        ((4, 1, 5), "k: got 5, expected 1 to n, which is 4"),
        ((4, 5, 1), "correct: got 5, expected 0 to n, which is 4"),
        ((4, -1, 1), "correct: got -1, expected 0 to n, which is 4"),
    ],
)
def test_pass_at_k_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


@pytest.mark.parametrize(
    ("answers", "weights", "expected"),
    [
        (["7", "8", "8"], None, "8"),
        (["7", "8", "8", "7"], None, "7"),  # a tie
        ([None, None, "8"], None, "8"),
        ([None, None], None, None),
        ([], None, None),
        (["7", "8", "8"], [3.0, 1.0, 1.0], "7"),
        (["7", None, "8"], [1.0, 9.0, 2.0], "8"),
        (["7", "8"], [-2.0, -1.0], "8"),
    ],
)
def test_majority_vote(answers, weights, expected):
    assert majority_vote(answers, weights) == expected


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        (["7", "8", "9"], [0.1, 0.9, 0.5], "8"),
        (["7", "8"], [1.0, 1.0], "7"),
        (["7", None], [-5.0, 3.0], "7"),
        ([None], [1.0], None),
    ],
)
def test_best_of_n(answers, scores, expected):
    assert best_of_n(answers, scores) == expected


def test_a_weight_for_each_answer():
    with pytest.raises(ValueError):
        majority_vote(["7"], [1.0, 2.0])
    with pytest.raises(ValueError):
        best_of_n(["7"], [])


def test_by_budget_agrees_with_pass_at_k():
    right = np.array([True, False, False, False, True, False])
    curve = by_budget(lambda rows: bool(right[rows].any()), 6, (1, 2, 4, 6), rounds=4000)
    np.testing.assert_allclose(curve, [pass_at_k(6, 2, k) for k in (1, 2, 4, 6)], atol=0.02)
    assert np.array_equal(curve, by_budget(lambda rows: bool(right[rows].any()), 6, (1, 2, 4, 6), rounds=4000))
    assert (np.diff(curve) >= 0).all()  # each larger choice holds the smaller one


@pytest.mark.parametrize("size", [0, 7])
def test_by_budget_refuses(size):
    with pytest.raises(ValueError, match=f"sizes: got {size}, expected 1 to n, which is 6"):
        by_budget(lambda rows: True, 6, (size,))


END, STOP, LINE, WAIT = 90, 91, 92, 93
CLOSE = (LINE, END, LINE)
OPTIONS = {"end": END, "close": CLOSE, "stop": STOP, "max_answer_tokens": 2}


class Script:
    """A model that thinks 1, 2, … up to its prompt's number, a line break, END; after WAIT the same again.

    Its answer is how many thoughts it had, then STOP.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, prompts, max_new_tokens, stop):
        self.calls.append((len(prompts), max_new_tokens))
        return [self.one(list(prompt), max_new_tokens, stop) for prompt in prompts]

    def one(self, prompt, most, stop):
        own = prompt[1:]
        if tuple(own[-3:]) == CLOSE:
            words = [sum(token < 90 for token in own), STOP]
        else:
            start = len(own) - own[::-1].index(WAIT) if WAIT in own else 0
            words = [*range(1 + len(own) - start, prompt[0] + 1), LINE, END]
        ends = [i for i, token in enumerate(words) if token in stop]
        return words[: ends[0] + 1 if ends else None][:most]


def test_enough_budget_changes_nothing():
    forced = budget_forcing(Script(), [[3], [1]], 9, **OPTIONS)
    assert forced == [Forced([1, 2, 3], [3, STOP]), Forced([1], [1, STOP])]
    assert [one.tokens for one in forced] == [5, 3]


def test_thoughts_are_cut_off():
    assert budget_forcing(Script(), [[5], [1]], 2, **OPTIONS) == [Forced([1, 2], [2, STOP]), Forced([1], [1, STOP])]


def test_no_budget_is_no_thought():
    script = Script()
    assert budget_forcing(script, [[5], [2]], 0, **OPTIONS) == [Forced([], [0, STOP])] * 2
    assert script.calls == [(2, 2)]  # only answers are sampled


def test_waiting_makes_it_think_on():
    once, twice = (
        budget_forcing(Script(), [[2]], 20, wait=(WAIT,), waits=waits, **OPTIONS)[0].thoughts for waits in (1, 2)
    )
    assert once == [1, 2, LINE, WAIT, 1, 2]
    assert twice == [1, 2, LINE, WAIT, 1, 2, LINE, WAIT, 1, 2]


def test_waiting_ends_with_the_budget():
    script = Script()
    forced = budget_forcing(script, [[2], [4]], 6, wait=(WAIT,), waits=5, **OPTIONS)
    assert [one.thoughts for one in forced] == [[1, 2, LINE, WAIT, 1, 2], [1, 2, 3, 4]]
    assert script.calls == [(2, 6), (1, 2), (2, 2)]  # the second row has no room for another thought


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": -1}, "budget: got -1, expected 0 or more"),
        ({"waits": -1}, "waits: got -1, expected 0 or more"),
        ({"waits": 2}, "wait: got no tokens, expected some to append up to 2 times"),
    ],
)
def test_budget_forcing_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        budget_forcing(Script(), [[1]], **{"budget": 4, **OPTIONS, **changes})
