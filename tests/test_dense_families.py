"""What the config files of single families may and may not say; what holds for all stands in `test_families.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinymoe.models import CausalLM, from_pretrained
from tinymoe.models.families import family
from tinymoe.nn.module import shapes_only

SIZES = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
LONGROPE = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def read(kind: str, **fields):
    return family(kind).config_from_hf({**SIZES, **fields})


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("mistral", {"sliding_window": 7}, [LOCAL] * 4),
        ("mistral", {"sliding_window": None}, [GLOBAL] * 4),
        ("phi3", {}, [GLOBAL] * 4),
        ("phi3", {"sliding_window": 7}, [LOCAL] * 4),
        ("qwen2", {"sliding_window": 7, "max_window_layers": 0}, [GLOBAL] * 4),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}, [GLOBAL] * 3 + [LOCAL]),
        ("qwen3", {"use_sliding_window": True, "layer_types": [LOCAL, GLOBAL] * 2}, [LOCAL, GLOBAL] * 2),
        ("gemma2", {}, [LOCAL, GLOBAL] * 2),
        ("gemma3_text", {}, [LOCAL] * 4),
        ("gemma3_text", {"sliding_window_pattern": 3}, [LOCAL, LOCAL, GLOBAL, LOCAL]),
    ],
)
def test_how_far_each_layer_reaches(kind, fields, expected):
    assert read(kind, **fields).layer_types == tuple(expected)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("gemma", {}, "gelu_pytorch_tanh"),
        ("gemma", {"hidden_act": "gelu"}, "gelu_pytorch_tanh"),
        ("gemma", {"hidden_act": "gelu", "hidden_activation": None}, "gelu_pytorch_tanh"),
        ("gemma", {"hidden_act": "relu"}, "relu"),
        ("gemma2", {"hidden_act": "gelu", "hidden_activation": "silu"}, "silu"),
    ],
)
def test_both_names_of_gemmas_activation(kind, fields, expected):
    assert read(kind, **fields).hidden_act == expected


def test_gemma_3s_two_thetas_as_older_and_newer_files_give_them():
    older = {"rope_theta": 500.0, "rope_local_base_freq": 50.0, "rope_scaling": {"type": "linear", "factor": 8.0}}
    newer = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    }
    config = read("gemma3_text", rope_parameters=newer)
    assert config == read("gemma3_text", **older)
    assert (config.rope_theta, config.rope_local_base_freq) == (500.0, 50.0)
    assert config.rope_scaling == {"rope_type": "linear", "factor": 8.0}


def test_the_config_of_a_multimodal_gemma_3():
    text = {**SIZES, "model_type": "gemma3_text", "sliding_window": 7}
    published = {"model_type": "gemma3", "text_config": text, "vision_config": {"patch_size": 14}}
    assert family("gemma3").config_from_hf(published) == read("gemma3_text", sliding_window=7)


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_phi_3s_scaling_by_its_three_names(kind):
    """The trained length beside the scaling goes before the one inside it, as in Transformers."""
    scaling = {**LONGROPE, "type": kind, "original_max_position_embeddings": 5}
    config = read("phi3", rope_scaling=scaling, original_max_position_embeddings=9)
    assert config.rope_scaling == {**LONGROPE, "rope_type": "longrope", "original_max_position_embeddings": 9}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "factor": 2.0}}, r"rope_parameters.factor = 2.0 \(not"),
        ("llama", {"sliding_window": 7}, r"sliding_window = 7 \(not known for llama"),
        ("mistral", {"layer_types": [GLOBAL] * 4}, r"layer_types = .* \(not known for mistral"),
        ("gemma", {"use_bidirectional_attention": True}, r"use_bidirectional_attention = True \(only None is"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping = 50.0 \(only None is"),
        (
            "gemma3_text",
            {"rope_parameters": {LOCAL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}},
            r"sliding_attention.rope_scaling = .*linear.* \(not known",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling of the kind 'linear', expected 'lo",
        ),
        ("phi3", {"full_attn_mod": 2}, r"full_attn_mod = 2 \(only 1 is supported"),
        ("qwen2", {"use_mrope": True}, r"use_mrope = True \(only False is supported"),
    ],
)
def test_what_a_config_may_not_say(kind, fields, message):
    with pytest.raises(ValueError, match=f"config of {kind}: .*{message}"):
        read(kind, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_types": [LOCAL] * 4}, "sliding_window: got None, expected at least 1 for 'sliding_attention'"),
        ({"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 2}, "sliding_window: got 0, expected"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types: got 'chunked_attention', expected 'full_attention'"),
        ({"layer_types": [GLOBAL] * 3}, "layer_types: got 3 names, expected one a layer, 4"),
    ],
)
def test_layers_that_cannot_be_built(fields, message):
    with pytest.raises(ValueError, match=message), shapes_only():
        CausalLM(read("qwen2", **fields))


def test_a_multimodal_file_gives_its_text_model(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = CausalLM(read("gemma3_text"), seed=1)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    inside = {f"language_model.{name}": array for name, array in tensors.items()}
    vision = {"vision_tower.patch.weight": tensors["model.norm.weight"]}
    save_file({**inside, **vision}, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    for (name, p), (other, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(p.numpy(), q.numpy())
