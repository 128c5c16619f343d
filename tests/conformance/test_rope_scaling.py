"""Every kind of RoPE scaling against Transformers: frequencies, and cosines and sines below and beyond the length."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tinymoe.models.families.base import with_rope_apart
from tinymoe.nn.config import Config
from tinymoe.nn.module import PARTS
from tinymoe.nn.position import rotary

TRAINED = 64
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
SHORT, LONG = [1.0 + i / 10 for i in range(8)], [1.0 + i * i for i in range(8)]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}

# name -> (rope parameters, other settings of the config)
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {}),
    "linear by a fraction": ({"rope_type": "linear", "factor": 2.5}, {}),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, {}),
    "dynamic by 1": ({"rope_type": "dynamic", "factor": 1.0}, {}),
    "yarn": (YARN, {}),
    "yarn of a longer config": (
        {**YARN, "original_max_position_embeddings": TRAINED},
        {"max_position_embeddings": 4 * TRAINED},
    ),
    "yarn's betas": ({**YARN, "beta_fast": 8.0, "beta_slow": 2.0}, {}),
    "yarn with its betas left open": ({**YARN, "beta_fast": None, "beta_slow": None}, {}),
    "yarn without rounding": ({**YARN, "truncate": False}, {}),
    "yarn by 1": ({**YARN, "factor": 1.0}, {}),
    "yarn's attention_factor": ({**YARN, "attention_factor": 1.3}, {}),
    "yarn without temperature": ({**YARN, "attention_factor": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0}, {}),
    "yarn's mscale": ({**YARN, "mscale": 0.707, "mscale_all_dim": 1.0}, {}),
    "yarn's mscale pair, equal": ({**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, {}),
    "yarn's mscale alone": ({**YARN, "mscale": 0.707}, {}),
    "yarn of a very short text": ({**YARN, "original_max_position_embeddings": 8}, {}),
    "yarn as in Qwen3": (
        {**YARN, "original_max_position_embeddings": 32768},
        {"max_position_embeddings": 40960, "head_dim": 128, "rope_theta": 1e6},
    ),
    "yarn as in GPT-OSS": (
        {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        {"max_position_embeddings": 131072, "head_dim": 64, "rope_theta": 150000.0},
    ),
    "yarn as in DeepSeek-V3": (
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
        },
        {"max_position_embeddings": 163840, "head_dim": 64},
    ),
    "llama3": (LLAMA3, {}),
    "llama3 of a longer config": (
        {**LLAMA3, "original_max_position_embeddings": TRAINED},
        {"max_position_embeddings": 8 * TRAINED},
    ),
    "llama3 as in Llama 3.1": (
        {**LLAMA3, "original_max_position_embeddings": 8192},
        {"max_position_embeddings": 131072, "head_dim": 128, "rope_theta": 500000.0},
    ),
    "longrope": (LONGROPE, {}),
    "longrope of a longer config": (
        {**LONGROPE, "original_max_position_embeddings": TRAINED},
        {"max_position_embeddings": 4 * TRAINED},
    ),
    "longrope's factor": ({**LONGROPE, "factor": 3.0, "original_max_position_embeddings": TRAINED}, {}),
    "longrope's attention_factor": ({**LONGROPE, "factor": 3.0, "attention_factor": 1.1}, {}),
}
# Half of the channels turned: longrope has its factors for the half, the others follow by themselves.
HALF = {name: KINDS[name] for name in ("linear", "dynamic", "yarn", "yarn without rounding", "llama3")}
HALF["longrope"] = ({**LONGROPE, "short_factor": SHORT[:4], "long_factor": LONG[:4]}, {})


class Case(NamedTuple):
    """One setting of one kind, and the share of each head's channels that is turned."""

    name: str
    rope: dict[str, Any]
    settings: dict[str, Any]
    share: float = 1.0


CASES = [
    *(Case(name, *kind) for name, kind in KINDS.items()),
    *(Case(f"{name}, half of the channels", *kind, 0.5) for name, kind in HALF.items()),
]


def test_every_kind_of_transformers_that_we_have_is_compared():
    ours = {name for kind, name in PARTS if kind == "rope_scaling"}
    assert ours == {rope["rope_type"] for rope, _ in KINDS.values()}
    # "proportional" belongs to a family that is not here: loading one says that the kind is unknown.
    assert set(ROPE_INIT_FUNCTIONS) - ours == {"proportional"}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def pair(request):
    """The two rotary embeddings, and the trained length."""
    rope, share = request.param.rope, request.param.share
    settings = {"max_position_embeddings": TRAINED, "head_dim": 16, "rope_theta": 10000.0, **request.param.settings}
    small = {"vocab_size": 8, "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1}
    shape = {**small, "num_attention_heads": 2, "max_position_embeddings": settings["max_position_embeddings"]}
    published = {**rope, "rope_theta": settings["rope_theta"], "partial_rotary_factor": share}
    theirs = LlamaConfig(**shape, head_dim=settings["head_dim"], rope_parameters=dict(published))
    apart = with_rope_apart({"rope_parameters": dict(published)})
    ours = rotary(Config(**shape, head_dim=settings["head_dim"], **apart), "full_attention")
    trained = rope.get("original_max_position_embeddings") or settings["max_position_embeddings"]
    return LlamaRotaryEmbedding(theirs), ours, trained


@pytest.mark.parametrize("share", [0.5, 1, 1.5, 4], ids="{:g} x the trained length".format)
def test_cosines_and_sines(pair, share):
    theirs, ours, trained = pair
    length = int(share * trained)
    positions = np.unique(np.linspace(0, length - 1, 3000).astype(np.int64))[None]
    cos, sin = ours(positions)
    expected = theirs(torch.zeros(1, dtype=torch.float32), torch.tensor(positions))
    half = cos.shape[-1]
    # An angle of 1e5 radians has a spacing of 0.008 in float32: the last digit of a frequency decides.
    tolerance = max(2e-6, 3e-7 * length)
    for got, wanted in zip((cos, sin), expected, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted.numpy()[..., :half], rtol=0, atol=tolerance)
        np.testing.assert_array_equal(wanted.numpy()[..., :half], wanted.numpy()[..., half:])


def test_frequencies_and_temperature(pair):
    theirs, ours, trained = pair
    for length in (trained // 2, trained, 3 * trained):
        wanted, temperature = ROPE_INIT_FUNCTIONS[theirs.rope_type](theirs.config, seq_len=length)
        ours(np.array([[0, length - 1]]))
        np.testing.assert_allclose(ours.frequencies, wanted.numpy(), rtol=2e-6)
        np.testing.assert_allclose(getattr(ours, "temperature", 1.0), temperature, rtol=1e-6)


def test_a_text_that_grows_and_another_that_is_short_again(pair):
    theirs, ours, trained = pair
    for length in (trained // 2, 2 * trained, 3 * trained, trained // 4):
        positions = np.array([[0, 1, length // 2, length - 1]])
        expected = theirs(torch.zeros(1, dtype=torch.float32), torch.tensor(positions))
        for got, wanted in zip(ours(positions), expected, strict=True):
            tolerance = max(2e-6, 3e-7 * length)
            np.testing.assert_allclose(got, wanted.numpy()[..., : got.shape[-1]], rtol=0, atol=tolerance)
