"""Positions: rotary and its stretched forms, ALiBi, learned vectors, and layers without any."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tinymoe import ops
from tinymoe.backend import current
from tinymoe.models import CausalLM, Config
from tinymoe.nn.position import LearnedPositions, RotaryEmbedding, alibi_slopes, rope_frequencies, rotary
from tinymoe.nn.scaling import DynamicRotary, LongRotary, YarnRotary, ntk_theta, yarn_ramp, yarn_temperature
from tinymoe.tensor import Tensor

SMALL = {
    "vocab_size": 13, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}
KINDS = [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "dynamic", "factor": 2.0}, YARN, LLAMA3, LONGROPE]
each_kind = pytest.mark.parametrize("scaling", KINDS, ids=lambda scaling: scaling["rope_type"])


def config(**changes: Any) -> Config:
    return Config(**{**SMALL, **changes})


def ids_of(batch: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(tokens).integers(0, 13, (batch, tokens))


def loud(model: CausalLM) -> CausalLM:
    """Larger weights, so that attention prefers some tokens clearly and positions matter."""
    rng = np.random.default_rng(1)
    for p in model.parameters():
        if p.ndim == 2:
            p.data = current().asarray(rng.normal(0, 0.3, p.shape).astype(np.float32))
    return model


def frequencies(scaling: dict[str, Any] | None, length: int = 1, **changes: Any) -> np.ndarray:
    embedding = rotary(config(rope_scaling=scaling, **changes), "full_attention")
    embedding(current().asarray(np.array([[0, length - 1]])))
    return current().to_numpy(embedding.frequencies)


def scores(embedding: RotaryEmbedding, q: np.ndarray, k: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Dot products of q at position t with k at position s, for pairs (t, s)."""
    asarray = current().asarray

    def at(x: np.ndarray, places: list[int]) -> np.ndarray:
        cos, sin = embedding(asarray(np.array([places])))
        rows = asarray(np.broadcast_to(x, (1, len(places), 1, len(x))).copy())
        return ops.rope(Tensor(rows), cos=cos, sin=sin).numpy()[0, :, 0]

    return (at(q, [t for t, _ in pairs]) * at(k, [s for _, s in pairs])).sum(axis=-1)


# Rotary


@pytest.mark.parametrize("scaling", [None, *KINDS], ids=lambda scaling: scaling["rope_type"] if scaling else "default")
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_rope_scores_depend_only_on_the_distance(backend, scaling, share):
    if scaling is LONGROPE and share == 0.5:
        scaling = {**LONGROPE, "short_factor": [1.0] * 2, "long_factor": [1.0, 3.0]}
    embedding = rotary(config(rope_scaling=scaling, partial_rotary_factor=share), "full_attention")
    q, k = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    # The furthest position is the same in both: some kinds choose their frequencies by it.
    got = scores(embedding, q, k, [(7, 3), (4, 0), (99, 95), (7, 5), (103, 103)])
    np.testing.assert_allclose(got[1:3], got[0], atol=2e-4)
    assert abs(got[3] - got[0]) > 0.05


def test_partial_rotary_leaves_the_other_channels_alone(backend):
    cos, sin = rotary(config(partial_rotary_factor=0.5), "full_attention")(current().asarray(np.array([[0, 1, 5]])))
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 8)).astype(np.float32)
    turned = ops.rope(Tensor(current().asarray(x)), cos=cos, sin=sin).numpy()
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_allclose(current().to_numpy(cos)[0, 2], np.cos([5, 0.05]), rtol=1e-5)  # theta^(-2/4): of 4
    assert (turned[0, 1:, 0, :4] != x[0, 1:, 0, :4]).all()


def test_a_theta_of_its_own_for_sliding_layers_is_never_stretched(backend):
    c = config(rope_scaling=KINDS[0], rope_local_base_freq=100.0)
    local, whole = rotary(c, "sliding_attention"), rotary(c, "full_attention")
    np.testing.assert_allclose(current().to_numpy(local.frequencies), rope_frequencies(8, 100.0))
    np.testing.assert_allclose(current().to_numpy(whole.frequencies), rope_frequencies(8, 10000.0) / 4)


def test_an_odd_number_of_channels_cannot_be_turned():
    with pytest.raises(ValueError, match="head_dim: got 3, expected an even number"):
        rotary(config(partial_rotary_factor=0.375), "full_attention")


# Stretched


def test_linear_slows_every_clock(backend):
    np.testing.assert_allclose(frequencies({"rope_type": "linear", "factor": 4.0}), rope_frequencies(8) / 4)


def test_ntk_theta_leaves_the_fastest_clock_and_slows_the_slowest():
    before, after = rope_frequencies(16, 10000.0), rope_frequencies(16, ntk_theta(10000.0, 16, 4.0))
    slower = before / after
    assert slower[0] == 1 and slower[-1] == pytest.approx(4, rel=1e-5)
    np.testing.assert_allclose(slower, 4 ** (2 * np.arange(8) / 14), rtol=1e-5)


def test_dynamic_stretches_only_texts_longer_than_trained_on(backend):
    scaling = {"rope_type": "dynamic", "factor": 1.0}
    for length in (1, 16):
        np.testing.assert_allclose(frequencies(scaling, length), rope_frequencies(8))
    np.testing.assert_allclose(frequencies(scaling, 64), rope_frequencies(8, ntk_theta(10000.0, 8, 4.0)), rtol=1e-6)


def test_dynamic_returns_after_a_long_text(backend):
    embedding = DynamicRotary(8, 10000.0, {"rope_type": "dynamic", "factor": 1.0}, 16)
    for length in (64, 8):
        embedding(current().asarray(np.array([[length - 1]])))
    np.testing.assert_allclose(current().to_numpy(embedding.frequencies), rope_frequencies(8))


def test_yarn_ramp():
    """Llama 2's heads: 4096 tokens, 64 clocks; number i makes 4096 * 10000^(-i/64) / 2 pi turns."""
    turns = 4096 * rope_frequencies(128).astype(np.float64) / (2 * np.pi)
    ramp = yarn_ramp(128, 10000.0, 4096)
    assert ramp.shape == (64,) and (np.diff(ramp) >= 0).all()
    assert (ramp[turns > 35] == 0).all() and (ramp[turns < 0.9] == 1).all()
    assert (ramp[20] == 0 and ramp[21] > 0) and (ramp[45] < 1 and ramp[46] == 1)
    middle = ramp[(ramp > 0) & (ramp < 1)]
    np.testing.assert_allclose(np.diff(middle), 1 / (46 - 20), rtol=1e-5)
    unrounded = yarn_ramp(128, 10000.0, 4096, truncate=False)
    first = 64 * math.log(4096 / (32 * 2 * math.pi)) / math.log(10000)
    last = 64 * math.log(4096 / (2 * math.pi)) / math.log(10000)
    assert unrounded[30] == pytest.approx((30 - first) / (last - first), rel=1e-5)


def test_yarn_mixes_by_its_ramp(backend):
    scaling = {**YARN, "original_max_position_embeddings": 64, "beta_fast": 4.0}
    ramp, base = yarn_ramp(8, 10000.0, 64, beta_fast=4.0), rope_frequencies(8)
    assert 0 < ramp[1] < 1
    np.testing.assert_allclose(frequencies(scaling), base * (1 - ramp) + base / 4 * ramp, rtol=1e-6)


def test_yarn_takes_the_trained_length_from_the_config_where_it_has_none_itself(backend):
    explicit = frequencies({**YARN, "original_max_position_embeddings": 256}, max_position_embeddings=16)
    np.testing.assert_array_equal(frequencies(YARN, max_position_embeddings=256), explicit)
    assert (frequencies(YARN, max_position_embeddings=16) != explicit).any()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"factor": 1.0}, 1.0),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 0.5}, 0.1 * math.log(4) + 1),
        ({"mscale": 0.5, "mscale_all_dim": 1.0}, (0.05 * math.log(4) + 1) / (0.1 * math.log(4) + 1)),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
    ],
    ids=str,
)
def test_yarn_temperature(backend, changes, expected):
    cos, sin = YarnRotary(8, 10000.0, {**YARN, **changes}, 16)(current().asarray(np.array([[0, 3, 40]])))
    np.testing.assert_allclose(current().to_numpy(cos**2 + sin**2), expected**2, rtol=1e-5)
    assert yarn_temperature(4.0) == 0.1 * math.log(4) + 1


def test_llama3_keeps_fast_clocks_and_slows_slow_ones(backend):
    scaling = {**LLAMA3, "original_max_position_embeddings": 1024}
    slower = rope_frequencies(64) / frequencies(scaling, head_dim=64)
    turns = 1024 * rope_frequencies(64) / (2 * np.pi)
    np.testing.assert_allclose(slower[turns > 4], 1, rtol=1e-6)
    np.testing.assert_allclose(slower[turns < 1], 4, rtol=1e-6)
    between = slower[(turns > 1) & (turns < 4)]
    assert len(between) and (between > 1).all() and (between < 4).all()


def test_longrope_chooses_its_factors_by_the_furthest_position(backend):
    for length, factors in ((16, LONGROPE["short_factor"]), (17, LONGROPE["long_factor"])):
        np.testing.assert_allclose(frequencies(LONGROPE, length), rope_frequencies(8) / np.float32(factors), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"original_max_position_embeddings": 16}, math.sqrt(1 + math.log(4) / math.log(16))),
        ({}, 1.0),
        ({"factor": 2.0}, math.sqrt(1 + math.log(2) / math.log(64))),
        ({"factor": 2.0, "attention_factor": 1.25}, 1.25),
    ],
    ids=str,
)
def test_longrope_temperature(changes, expected):
    assert LongRotary(8, 1e4, {**LONGROPE, **changes}, 64).temperature == pytest.approx(expected, rel=1e-6)


@each_kind
def test_a_stretched_model_reads_beyond_its_length_and_trains(backend, scaling):
    model = loud(CausalLM(config(rope_scaling=scaling)))
    ids = ids_of(1, 40)
    assert np.isfinite(model(ids).numpy()).all()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert all(np.abs(current().to_numpy(p.grad)).max() > 0 for p in model.parameters())
    plain = loud(CausalLM(config()))
    assert np.abs(plain(ids).numpy() - model(ids).numpy()).max() > 1e-3


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear"}, "'linear': factor is missing"),
        ({"rope_type": "dynamic"}, "'dynamic': factor is missing"),
        ({"rope_type": "yarn", "factor": None}, "'yarn': factor is missing"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor is missing; high_freq_factor is missing"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4}, "'longrope': long_factor is missing"),
        ({**KINDS[0], "beta_fast": 32}, "'linear': beta_fast = 32 is not known"),
        ({**KINDS[1], "original_max_position_embeddings": 8}, "original_max_position_embeddings = 8 is not known"),
        ({**YARN, "betafast": 1, "finetuned": True}, "betafast = 1 is not known; finetuned = True is not known"),
        ({**LLAMA3, "attention_factor": 1.0}, "attention_factor = 1.0 is not known"),
        ({**LONGROPE, "long_mscale": 1.2}, "long_mscale = 1.2 is not known"),
        ({**YARN, "factor": 0.5}, "factor = 0.5 is not a number from 1 on"),
        ({**YARN, "factor": "4"}, "factor = '4' is not a number from 1 on"),
        ({**LLAMA3, "high_freq_factor": 1.0}, r"high_freq_factor 1.0, expected more than low_freq_factor \(1.0\)"),
        ({**LONGROPE, "long_factor": [1.0] * 3}, "long_factor has 3 numbers, expected 4, one a clock"),
        ({"rope_type": "stretchy", "factor": 2.0}, "'stretchy', expected one of dynamic, linear, llama3"),
        ({"factor": 2.0}, "rope_scaling: got '', expected one of dynamic"),
    ],
    ids=str,
)
def test_a_bad_scaling_says_what_is_wrong(scaling, message):
    with pytest.raises(ValueError, match=message):
        CausalLM(config(rope_scaling=scaling))


# ALiBi


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),  # section 3 of the paper
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),  # those of two heads, then the first, third, … of four
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_alibi_slopes(heads, expected):
    assert alibi_slopes(heads).tolist() == expected


def test_alibi_slopes_of_16_heads_start_at_the_root_of_a_half():
    slopes = alibi_slopes(16).astype(np.float64)
    assert slopes[0] == pytest.approx(2**-0.5) and slopes[-1] == 2.0**-8
    np.testing.assert_allclose(slopes[1:] / slopes[:-1], 2**-0.5, rtol=1e-6)


ALIBI = {"position": "alibi", "attention": "variant"}


def test_alibi_prefers_near_tokens_by_its_slopes(backend):
    """With queries of zero all scores are 0 but for the slopes: weights fall by exp(-slope) with each token."""
    model = CausalLM(config(**ALIBI))
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data[...] = 0
    weights = model.trace(ids_of(1, 6)).attention[0][0]  # (heads, query, key)
    ratio = weights[:, 5, :5] / weights[:, 5, 1:]
    np.testing.assert_allclose(ratio, np.exp(-alibi_slopes(4))[:, None] * np.ones(5), rtol=1e-5)


def test_alibi_knows_order_at_any_length(backend):
    model = loud(CausalLM(config(**ALIBI)))
    ids = ids_of(1, 40)  # beyond max_position_embeddings
    logits = model(ids).numpy()
    swapped = ids.copy()
    swapped[0, [20, 36]] = ids[0, [36, 20]]
    assert ids[0, 20] != ids[0, 36]
    assert np.abs(model(swapped).numpy()[0, -1] - logits[0, -1]).max() > 1e-3
    shifted = model(np.concatenate([ids_of(1, 7), ids], axis=1), documents=np.repeat([[0, 1]], [7, 40], axis=1))
    np.testing.assert_allclose(shifted.numpy()[:, 7:], logits, atol=1e-4)


# Learned vectors


LEARNED = {"position": "learned", "inputs": ("learned_positions",), "attention": "variant"}


def test_learned_positions_add_a_row_for_each_place(backend):
    layer = LearnedPositions(config(), np.random.default_rng(0))
    assert layer.weight.shape == (16, 32)
    x = current().asarray(np.random.default_rng(1).normal(size=(2, 3, 32)).astype(np.float32))
    out = layer(Tensor(x), current().asarray(np.array([[4, 5, 15]])))
    np.testing.assert_allclose(out.numpy(), current().to_numpy(x) + layer.weight.numpy()[[4, 5, 15]], rtol=1e-6)
    out.sum().backward()
    wanted = np.zeros((16, 32))
    wanted[[4, 5, 15]] = 2  # two texts
    np.testing.assert_array_equal(current().to_numpy(layer.weight.grad), wanted)


def test_learned_positions_end(backend):
    model = CausalLM(config(**LEARNED))
    model(ids_of(1, 16))
    with pytest.raises(ValueError, match="positions: got 17 tokens, but the model knows only 16 places"):
        model(ids_of(1, 17))


def test_learned_positions_end_in_generation_too():
    with pytest.raises(ValueError, match="knows only 16 places"):
        CausalLM(config(**LEARNED)).generate([1, 2, 3], max_new_tokens=20, temperature=0)


# None


def last_logits(model: CausalLM, ids: np.ndarray) -> np.ndarray:
    return model(ids).numpy()[0, -1]


def test_one_layer_without_positions_does_not_know_the_order(backend):
    """Two layers do: in the second, a token's vector tells how many came before it (Kazemnejad et al. 2023)."""
    ids = ids_of(1, 12)
    shuffled = np.concatenate([ids[:, :-1][:, ::-1], ids[:, -1:]], axis=1)
    for layers, knows in ((1, False), (2, True)):
        model = loud(CausalLM(config(position="none", attention="variant", num_hidden_layers=layers)))
        difference = np.abs(last_logits(model, ids) - last_logits(model, shuffled)).max()
        assert (difference > 1e-2) == knows


def test_single_layers_may_go_without_positions(backend):
    """A 0 in `no_rope_layers` turns rope off: with 0 everywhere that is a model without positions."""
    ids = ids_of(1, 12)
    with_rope = config(attention="variant")
    models = {
        name: loud(CausalLM(dataclasses.replace(with_rope, **changes)))
        for name, changes in {
            "rope": {}, "ones": {"no_rope_layers": (1, 1)}, "mixed": {"no_rope_layers": (1, 0)},
            "zeros": {"no_rope_layers": (0, 0)}, "none": {"position": "none"},
        }.items()
    }  # fmt: skip
    logits = {name: model(ids).numpy() for name, model in models.items()}
    np.testing.assert_array_equal(logits["ones"], logits["rope"])
    np.testing.assert_array_equal(logits["zeros"], logits["none"])
    for one, other in (("mixed", "rope"), ("mixed", "none"), ("rope", "none")):
        assert np.abs(logits[one] - logits[other]).max() > 1e-3


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": YARN}, ALIBI, {"position": "none", "attention": "variant"}])
def test_read_in_pieces_as_in_one_go(backend, changes):
    model, ids = loud(CausalLM(config(**changes))), ids_of(1, 40)
    cache = model.new_cache()
    pieces = [model(ids[:, a:b], cache=cache).numpy() for a, b in ((0, 11), (11, 12), (12, 40))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model(ids).numpy(), atol=1e-4)
