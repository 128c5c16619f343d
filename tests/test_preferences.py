"""Pairs: their files, who says which answer is better, and how often two judges agree."""

import json
import math

import numpy as np
import pytest
from pairs import DIGITS, PAIRS, nano

from tinymoe.backend import current
from tinymoe.posttrain import Pair, read_pairs, token_logps, write_pairs
from tinymoe.posttrain.pair_trainer import PairData
from tinymoe.posttrain.preferences import agreement, answer_rows, bradley_terry, constitution, label, likelihood


def length(prompts, answers):
    return np.array([len(answer) for answer in answers], dtype=float)


def digits(prompts, answers):
    return np.array([sum(c.isdigit() for c in answer) for answer in answers], dtype=float)


# -- files


def test_pairs_are_read_as_they_were_written(tmp_path):
    pairs = [Pair("a\n", 'say "é"', "\u2028"), Pair("b", "", "c")]
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    first = (tmp_path / "pairs.jsonl").read_text("utf-8").split("\n")[0]
    assert json.loads(first) == {"prompt": "a\n", "chosen": 'say "é"', "rejected": "\u2028"}


def test_other_fields_and_empty_lines_are_left_out(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}\n\n', "utf-8")
    assert read_pairs(file) == [Pair("a", "b", "c")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ('{"prompt": "a", "chosen": "b"}', "line 2 has rejected None, expected a text"),
        ('{"prompt": "a", "chosen": 3, "rejected": "c"}', "line 2 has chosen 3, expected a text"),
        ('["a", "b", "c"]', "line 2 has prompt None"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=message):
        read_pairs(file)


# -- judges


def test_bradley_terry_is_its_formula():
    judge = bradley_terry(length, temperature=2.0)
    probabilities = judge(["p"] * 3, ["abc", "a", ""], ["a", "abc", ""])
    assert probabilities.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.5])
    with pytest.raises(ValueError, match="temperature: got 0, expected above 0"):
        bradley_terry(length, temperature=0)


def test_a_constitution_is_the_mean_over_the_principle_that_is_drawn():
    judge = constitution([length, digits])
    firsts, seconds = ["ab", "ab", "12"], ["c", "3", "34"]
    assert judge(["p"] * 3, firsts, seconds).tolist() == [0.75, 0.5, 0.5]
    with pytest.raises(ValueError, match="principles: got none"):
        constitution([])


def test_labels_follow_the_judge():
    sure = label(bradley_terry(length), ["p", "q", "r"], ["a", "ab", "x"], ["ab", "a", "y"])
    assert sure == [Pair("p", "ab", "a"), Pair("q", "ab", "a"), Pair("r", "x", "y")]
    count, rng = 4000, np.random.default_rng(0)
    drawn = label(bradley_terry(length), ["p"] * count, ["ab"] * count, ["a"] * count, rng)
    share = np.mean([pair.chosen == "ab" for pair in drawn])
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    with pytest.raises(ValueError, match="got 1, 2 and 1, expected as many of each"):
        label(bradley_terry(length), ["p"], ["a", "b"], ["c"])


def test_agreement_counts_equal_verdicts_and_half_of_the_open_ones():
    assert agreement(np.array([0.9, 0.1, 0.6, 0.5]), np.array([0.7, 0.6, 0.5, 0.5])) == (1 + 0 + 0.5 + 0.5) / 4
    assert agreement(np.array([0.9, 0.2]), np.array([0.51, 0.49])) == 1.0


def test_likelihood_is_the_mean_log_probability_of_an_answers_tokens(backend):
    model = nano()
    prompts, answers = ["1=", "12=", "3="], ["7", "", "123"]
    scores = likelihood(model, batch_size=2)(prompts, answers)
    for prompt, answer, score in zip(prompts, answers, scores, strict=True):
        start, row = model.tokenizer.encode(prompt), [*model.tokenizer.encode(prompt + answer), 0]
        logps = current().to_numpy(token_logps(model, np.array([row])).logps.data)[0]
        assert score == pytest.approx(logps[len(start) - 1 :].mean(), abs=1e-5)
    assert likelihood(model)([], []).shape == (0,)
    model.tokenizer = None
    with pytest.raises(ValueError, match="model: got one without a tokenizer"):
        likelihood(model)


# -- tokens


def test_rows_hold_prompt_answer_end_and_padding():
    tokenizer = nano().tokenizer
    ids, mask, real = answer_rows(tokenizer, ["1=", "12="], ["34", ""], 0)
    one, two, equals, three, four = (tokenizer.encode(c)[0] for c in "12=34")
    assert ids.tolist() == [[one, equals, three, four, 0], [one, two, equals, 0, 0]]
    assert mask.tolist() == [[False, False, True, True, True], [False, False, False, True, False]]
    assert real.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert answer_rows(tokenizer, ["1="], ["3"], None)[1].tolist() == [[False, False, True]]


def test_each_pair_comes_once_before_any_comes_again():
    data = PairData(PAIRS, nano().tokenizer, 0, 32)
    numbers = [i for step in range(5) for i in data.draw(4, 1, step)]
    assert sorted(numbers[: len(PAIRS)]) == list(range(len(PAIRS)))
    assert sorted(numbers[len(PAIRS) :]) == list(range(len(PAIRS))) and numbers[:10] != numbers[10:]
    assert data.draw(4, 1, 3) == data.draw(4, 1, 3) != data.draw(4, 2, 3)
    assert len(data.draw(25, 0, 0)) == 25


def test_a_batch_is_the_chosen_then_the_rejected():
    data = PairData([Pair("1=", "7", "77"), Pair("2=", "777", "")], nano().tokenizer, 0, 32)
    batch, tokenizer = data.batch([1, 0]), data.tokenizer
    texts = [
        tokenizer.decode(row[seen]) for row, seen in zip(batch.ids, batch.attention_mask & (batch.ids > 0), strict=True)
    ]
    assert texts == ["2=777", "1=7", "2=", "1=77"]
    assert batch.attention_mask.sum(axis=1).tolist() == [6, 4, 3, 5]
    assert (batch.mask <= batch.attention_mask).all() and batch.mask.sum(axis=1).tolist() == [4, 2, 1, 3]


def test_bad_pairs_are_named():
    tokenizer = nano().tokenizer
    with pytest.raises(ValueError, match="pairs: got none"):
        PairData([], tokenizer, 0, 32)
    with pytest.raises(ValueError, match=r"pairs: number 1, .*, has an empty text"):
        PairData([PAIRS[0], Pair("", "1", "2")], tokenizer, 0, 32)
    with pytest.raises(ValueError, match=r"pairs: number 0, .*, has an empty text"):
        PairData([Pair("1=", "", "2")], tokenizer, None, 32)
    with pytest.raises(ValueError, match=r"number 0 has 9 tokens, prompt and answer, expected at most .* 8"):
        PairData([Pair("1=", "1", DIGITS[:6])], tokenizer, 0, 8)
