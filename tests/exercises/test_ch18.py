"""Wrong answers to the exercises of chapter 18, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from tinymoe.generate.reasoning import best_of_n, majority_vote

from .runner import exercise_tests


def naive(n, correct, k):
    _check(n, correct, k)
    return 1 - (1 - correct / n) ** k


def overflows(n, correct, k):
    _check(n, correct, k)
    return 1 - float(math.comb(n - correct, k)) / float(math.comb(n, k))


def blind_to_certainty(n, correct, k):
    _check(n, correct, k)
    return 1 - float(np.prod(1 - k / np.arange(n - correct, n + 1)))


def k_times_as_good(n, correct, k):
    _check(n, correct, k)
    return min(1.0, k * correct / n)


def checks_nothing(n, correct, k):
    return 1 - float(np.prod(1 - k / np.arange(n - correct + 1, n + 1))) if n - correct >= k else 1.0


def _check(n, correct, k):
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"k: got {k}, correct: got {correct}, n: got {n}")


def nobody_votes_too(answers, weights=None):
    weights = [1.0] * len(answers) if weights is None else weights
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        votes[answer] = votes.get(answer, 0.0) + weight
    return max(votes, key=votes.get, default=None)


def the_last_wins_ties(answers, weights=None):
    return majority_vote(answers[::-1], None if weights is None else weights[::-1])


def weights_ignored(answers, weights=None):
    return majority_vote(answers)


def the_heaviest_alone(answers, weights=None):
    return majority_vote(answers) if weights is None else best_of_n(answers, weights)


def alphabetical(answers, weights=None):
    weights = [1.0] * len(answers) if weights is None else weights
    readable = sorted((a, w) for a, w in zip(answers, weights, strict=True) if a is not None)
    return majority_vote([a for a, _ in readable], [w for _, w in readable])


def the_end_is_kept(thoughts, budget, end, close):
    kept = list(thoughts[:budget])
    if kept[-1:] == [close[0]]:
        kept.pop()
    return [*kept, *close]


def two_line_breaks(thoughts, budget, end, close):
    return [*(token for token in thoughts[:budget] if token != end), *close]


def all_line_breaks_gone(thoughts, budget, end, close):
    return [*(token for token in thoughts[:budget] if token not in (end, close[0])), *close]


def always_cuts_two(thoughts, budget, end, close):
    return [*thoughts[:budget][:-2], *close]


def cuts_after_the_end_is_off(thoughts, budget, end, close):
    kept = list(thoughts)
    while kept and kept[-1] in (end, close[0]):
        kept.pop()
    return [*kept[:budget], *close]


def forward(student, teacher):
    return (teacher.exp() * (teacher - student)).sum(axis=-1)


def of_the_wrong_sign(student, teacher):
    return (student.exp() * (teacher - student)).sum(axis=-1)


def averaged(student, teacher):
    return (student.exp() * (student - teacher)).mean(axis=-1)


def no_gradient_of_the_weights(student, teacher):
    return (student.exp().detach() * (student - teacher)).sum(axis=-1)


def just_votes(answers, logps, scores):
    return majority_vote(answers)


def just_the_verifier(answers, logps, scores):
    return best_of_n(answers, scores)


def just_the_likeliest(answers, logps, scores):
    return best_of_n(answers, logps)


def the_first(answers, logps, scores):
    return answers[0]


def against_the_verifier(answers, logps, scores):
    return majority_vote(answers, [1.5 - score for score in scores])


TestExercises = exercise_tests(
    "18",
    {
        "18.pass_at_k": [naive, overflows, blind_to_certainty, k_times_as_good, checks_nothing],
        "18.majority_vote": [
            nobody_votes_too, the_last_wins_ties, weights_ignored, the_heaviest_alone, alphabetical
        ],
        "18.within_budget": [
            the_end_is_kept, two_line_breaks, all_line_breaks_gone, always_cuts_two, cuts_after_the_end_is_off
        ],
        "18.reverse_kl": [forward, of_the_wrong_sign, averaged, no_gradient_of_the_weights],
        "18.my_rule": [just_votes, just_the_verifier, just_the_likeliest, the_first, against_the_verifier],
    },
)  # fmt: skip
