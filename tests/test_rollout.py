"""Rollouts: the answers that `generate` gives row by row, sampled together, with their log-probabilities."""

import numpy as np
import pytest
from training import VOCABULARY, tiny_model

from tinymoe import zoo
from tinymoe.backend import using
from tinymoe.posttrain import token_logps
from tinymoe.posttrain.rollout import join, left_padded, rollout_seeds, rollouts, take_rows

PROMPTS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10], [3]]
STOP = 0


def lively(**settings):
    """A model whose distributions are far from uniform, and which stops now and then."""
    return tiny_model(initializer_range=0.4, max_position_embeddings=64, **settings)


def row_by_row(model, prompts, group_size, *, seed=0, **options):
    seeds = rollout_seeds(prompts, group_size, seed)
    texts = []
    for i, row_seed in enumerate(seeds):
        prompt = np.array(prompts[i // group_size])
        out = model.generate(prompt, seed=row_seed, **options)[len(prompt) :].tolist()
        end = options.get("eos_token_id")
        texts.append(out[: out.index(end) + 1] if end in out else out)
    return texts


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
@pytest.mark.parametrize("top_p", [None, 0.7])
def test_rows_are_what_generate_gives_one_by_one(backend, temperature, top_p):
    model = lively()
    options = {"max_new_tokens": 20, "temperature": temperature, "top_p": top_p}
    batch = rollouts(model, PROMPTS, 3, stop=STOP, seed=7, **options)
    expected = row_by_row(model, PROMPTS, 3, seed=7, eos_token_id=STOP, **options)
    assert batch.completions() == expected
    assert batch.lengths.tolist() == [len(text) for text in expected]
    assert batch.finished.tolist() == [text[-1] == STOP for text in expected]
    if temperature:
        assert batch.finished.any() and len(set(batch.lengths)) > 3  # rows were taken out on the way


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("top_p", [None, 0.5])
def test_logps_are_those_of_the_policy_that_is_trained(backend, temperature, top_p):
    model = lively()
    batch = rollouts(model, PROMPTS, 4, max_new_tokens=12, temperature=temperature, top_p=top_p, stop=STOP)
    scored = token_logps(model, batch.ids, batch.mask, temperature=temperature or 1.0).logps.numpy()
    np.testing.assert_allclose(batch.logps, scored, atol=1e-5)
    assert (batch.logps[batch.mask[:, 1:]] < 0).all() and not batch.logps[~batch.mask[:, 1:]].any()


def test_rows_are_laid_out_as_prompt_completion_padding():
    batch = rollouts(lively(), PROMPTS, 2, max_new_tokens=9, stop=STOP)
    assert len(batch) == 8 and batch.ids.shape == batch.mask.shape
    for i, row in enumerate(batch.ids):
        prompt, length = PROMPTS[i // 2], batch.lengths[i]
        assert batch.prompt_lengths[i] == len(prompt) and row[: len(prompt)].tolist() == prompt
        places = np.flatnonzero(batch.mask[i])
        assert places.tolist() == list(range(len(prompt), len(prompt) + length))
        assert not row[len(prompt) + length :].any()
    part = batch.take([7, 1])
    assert part.completions() == [batch.completions()[7], batch.completions()[1]]
    assert part.ids.shape[1] == max(part.prompt_lengths + part.lengths)
    np.testing.assert_array_equal(part.logps[1, : part.ids.shape[1] - 1], batch.logps[1, : part.ids.shape[1] - 1])


def test_answers_depend_on_seed_and_prompt_alone(backend):
    model, options = lively(), {"max_new_tokens": 10, "stop": STOP, "seed": (3, 1)}
    together = rollouts(model, PROMPTS, 4, **options).completions()
    assert rollouts(model, PROMPTS, 4, **options).completions() == together
    alone = [rollouts(model, [prompt], 4, **options).completions() for prompt in reversed(PROMPTS)]
    assert [text for group in reversed(alone) for text in group] == together
    assert rollouts(model, PROMPTS, 2, **options).completions()[:2] == together[:2]
    assert rollouts(model, PROMPTS, 4, **{**options, "seed": (3, 2)}).completions() != together


def test_equal_prompts_get_different_answers():
    model = lively()
    group = rollouts(model, [PROMPTS[0]], 6, max_new_tokens=10).completions()
    assert rollouts(model, [PROMPTS[0]] * 6, 1, max_new_tokens=10).completions() == group
    assert len(set(map(tuple, group))) == 6


def test_several_tokens_may_stop_and_none_need():
    model = lively()
    endless = rollouts(model, PROMPTS, 3, max_new_tokens=8)
    assert (endless.lengths == 8).all() and not endless.finished.any()
    batch = rollouts(model, PROMPTS, 3, max_new_tokens=8, stop=[0, 4])
    for cut, whole, finished in zip(batch.completions(), endless.completions(), batch.finished, strict=True):
        ends = [n for n, token in enumerate(whole) if token in (0, 4)]
        assert cut == whole[: ends[0] + 1] if ends else cut == whole
        assert finished == bool(ends)


def test_prompts_are_read_once_and_finished_rows_cost_nothing():
    model = lively()
    read, call = [], type(model).__call__

    class Counting(type(model)):
        def __call__(self, ids, **options):
            read.append(np.shape(ids))
            return call(self, ids, **options)

    model.__class__ = Counting
    batch = rollouts(model, PROMPTS, 16, max_new_tokens=20, stop=STOP)
    assert read[0] == (4, 5)  # each prompt once, all as wide as the longest
    rows = [shape[0] for shape in read[1:]]
    assert rows == sorted(rows, reverse=True)
    for n, held in enumerate(rows, start=1):
        going = int((batch.lengths > n).sum())
        assert going <= held < max(going / (1 - 1 / 8), going + 1)


@pytest.mark.parametrize(
    "name", ["gpt2", "bloom", "mistral", "gemma3", "gpt-oss", "mixtral", "deepseek-v3", "deepseek-v32", "llama4"]
)
def test_every_kind_of_cache_and_position(name):
    with using("numpy"):
        reach = {"mistral": {"sliding_window": 6}, "llama4": {"attention_chunk_size": 6}}
        model = zoo.build(f"{name}-nano", vocab_size=VOCABULARY, seed=1, **reach.get(name, {}))
        for p in model.parameters():
            p.data *= 3 if p.ndim > 1 else 1
        batch = rollouts(model, PROMPTS, 3, max_new_tokens=24, stop=STOP)
        assert batch.completions() == row_by_row(model, PROMPTS, 3, max_new_tokens=24, eos_token_id=STOP)
        np.testing.assert_allclose(batch.logps, token_logps(model, batch.ids, batch.mask).logps.numpy(), atol=1e-4)


def test_take_rows_drops_and_repeats():
    with using("numpy"):
        model = lively()
        ids, mask = left_padded([np.array(prompt) for prompt in PROMPTS])
        cache, few = model.new_cache(), model.new_cache()
        model(ids, cache=cache, attention_mask=mask)
        take_rows(cache, [2, 2, 0])
        model(ids[[2, 2, 0]], cache=few, attention_mask=mask[[2, 2, 0]])
        new = np.array([[1], [2], [3]])
        np.testing.assert_allclose(model(new, cache=cache).numpy(), model(new, cache=few).numpy(), atol=1e-6)
    assert left_padded([np.array([1, 2]), np.array([3, 4])])[1] is None


def test_rollouts_are_joined_and_keep_what_they_hold():
    model = lively()
    short, long = (rollouts(model, [p], 2, max_new_tokens=n) for p, n in ((PROMPTS[3], 3), (PROMPTS[0], 9)))
    both = join([short, long])
    assert both.completions() == short.completions() + long.completions() and both.ids.shape == (4, 14)
    np.testing.assert_array_equal(both.take([0, 1]).logps, short.logps)
    np.testing.assert_array_equal(both.take([2, 3]).ids, long.ids)
    with pytest.raises(ValueError, match=r"parts: got groups of \[1, 2\] rows, expected one size"):
        join([short, rollouts(model, PROMPTS, 1, max_new_tokens=2)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts: got none, expected at least one"),
        ({"prompts": [[1], []]}, r"ids: got shape \(1, 0\)"),
        ({"prompts": [[VOCABULARY]]}, f"ids: got token id {VOCABULARY}, expected 0 to {VOCABULARY - 1}"),
        ({"group_size": 0}, "group_size: got 0, expected 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, expected 1 or more"),
        ({"temperature": -1.0}, "temperature: got -1.0, expected 0 or more"),
        ({"top_p": 0.0}, "top_p: got 0.0, expected above 0 and at most 1"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        rollouts(tiny_model(), **{"prompts": PROMPTS, "max_new_tokens": 2, **change})
