"""Every family's tables, without any other library: configs and checkpoints there and back, and what is wrong named.

What the families compute is compared with Transformers in `conformance/test_families.py`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinymoe.models import CausalLM, Config, from_pretrained
from tinymoe.models.families import FAMILIES, Family, family
from tinymoe.models.families.base import rows_by_group, rows_in_turn
from tinymoe.nn.module import shapes_only

SIZES = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LATENT = {"kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4}
INDEX = {"q_lora_rank": 6, "index_n_heads": 2, "index_head_dim": 4, "index_topk": 3}
# What a family cannot do without, beside these and its own parts.
NEEDS = {
    "deepseek_v2": {**LATENT, **EXPERTS, "shared_expert_intermediate_size": 16},
    "deepseek_v3": {**LATENT, **EXPERTS, "router": "sigmoid", "norm_topk_prob": True},
    "deepseek_v32": {**LATENT, **INDEX, **EXPERTS, "router": "sigmoid", "norm_topk_prob": True},
    "glm_moe_dsa": {**LATENT, **INDEX, **EXPERTS, "router": "sigmoid", "norm_topk_prob": True},
    "gpt_oss": {"num_experts": 4, "num_experts_per_tok": 2},
    "grok-1": {"num_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {**EXPERTS, "shared_expert_intermediate_size": 8, "head_dim": 6},
    "mixtral": {"num_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 12},
    "qwen3_moe": EXPERTS,
}


def tiny(kind: Family, **changes) -> Config:
    settings = {**SIZES, **kind.parts, **NEEDS.get(kind.model_type, {}), **changes}
    return Config(model_type=kind.model_type, **settings)


def published_config(kind: Family, **changes) -> dict:
    """A config file's content, as it is read from JSON."""
    return json.loads(json.dumps(kind.config_to_hf(tiny(kind, **changes))))


@pytest.fixture(params=sorted(FAMILIES))
def kind(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def folder(kind, tmp_path):
    """A saved model; `reread` is its tensors, `rewrite` replaces them."""
    CausalLM(tiny(kind), seed=1).save_pretrained(tmp_path)
    return tmp_path


def reread(folder) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def rewrite(folder, tensors) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")


def test_families_are_found_by_their_model_type(kind):
    assert family(kind.model_type) is kind
    with pytest.raises(ValueError, match=r"model_type: got 'gpt5', expected one of .*llama"):
        family("gpt5")


def test_configs_survive_the_way_there_and_back(kind):
    for changes in ({}, {"bos_token_id": 3, "rms_norm_eps": 0.25}, {"eos_token_id": (1, 2), "num_hidden_layers": 3}):
        config = tiny(kind, **changes)
        assert kind.config_from_hf(published_config(kind, **changes)) == config


def test_a_config_that_the_published_format_cannot_say_is_refused(kind, tmp_path):
    """And refused before anything is written."""
    model = CausalLM(tiny(kind))
    model.config = tiny(kind, layer="upside_down")
    with pytest.raises(ValueError, match=r"cannot say (.*, )?layer = 'upside_down'"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_fields_are_named(kind):
    published = published_config(kind)
    with pytest.raises(ValueError, match=r"frobnicate = 3 \(not known for .*\); hidden_acts = 'silu'"):
        kind.config_from_hf({**published, "frobnicate": 3, "hidden_acts": "silu"})
    # What is a field of ours is none of theirs for that.
    with pytest.raises(ValueError, match=r"scale_alibi = True .*attention_sinks = True"):
        kind.config_from_hf({**published, "scale_alibi": True, "attention_sinks": True})


def test_fields_of_one_supported_value_are_named_when_they_have_another(kind):
    for name, value in kind.fixed.items():
        with pytest.raises(ValueError, match=rf"{name} = 'odd' \(only {value!r} is supported\)"):
            kind.config_from_hf({**published_config(kind), name: "odd"})


@pytest.mark.parametrize("size", ["vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size"])
def test_sizes_that_are_missing_or_no_numbers_are_named(kind, size):
    (name,) = (theirs for theirs, ours in kind.fields.items() if ours == size)
    published = published_config(kind)
    with pytest.raises(ValueError, match=rf"{name} = '64' \(expected int\)"):
        kind.config_from_hf({**published, name: "64"})
    with pytest.raises(ValueError, match=rf"{name} = True \(expected int\)"):
        kind.config_from_hf({**published, name: True})
    if name not in kind.absent:
        del published[name]
        with pytest.raises(ValueError, match=f"{name} is missing"):
            kind.config_from_hf(published)


def test_weights_survive_the_way_there_and_back(kind, folder):
    model = CausalLM(tiny(kind), seed=1)
    again = from_pretrained(folder)
    assert again.config == model.config
    for (name, p), (other, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    ids = np.arange(14).reshape(2, 7)
    np.testing.assert_array_equal(again(ids).numpy(), model(ids).numpy())


def test_no_weight_is_lost_or_written_twice(kind):
    """The published tensors hold the same numbers as ours, each once, whatever their order."""
    model = CausalLM(tiny(kind), seed=1)
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    published = kind.weights_to_hf(weights, model.config)
    ours, theirs = (np.sort(np.concatenate([a.ravel() for a in side.values()])) for side in (weights, published))
    np.testing.assert_array_equal(ours, theirs)


def test_missing_extra_and_misshapen_tensors_are_named_as_in_the_file(kind, folder):
    tensors = reread(folder)
    lost, cut = sorted(tensors)[0], sorted(tensors)[-1]
    shape = tensors[cut].shape
    shorter = tuple(n - 1 for n in shape)
    rewrite(folder, {
        **{name: array for name, array in tensors.items() if name != lost},
        cut: np.ascontiguousarray(tensors[cut][tuple(map(slice, shorter))]),
        f"{kind.prefix}.surplus.weight": np.zeros(2, np.float32),
    })
    with pytest.raises(ValueError) as caught:
        from_pretrained(folder)
    for problem in (f"missing {lost}", f"unexpected {kind.prefix}.surplus.weight"):
        assert problem in str(caught.value)
    assert f"{cut} has shape {shorter}, expected {shape}" in str(caught.value)


def test_fused_matrices_of_another_height_are_named(kind, folder):
    """Also where a third of the rows would do for each of the three."""
    tensors = reread(folder)
    for entry in kind.stacked:
        for name in (name for name in tensors if name.endswith(f".{entry.theirs}.weight")):
            rows, *width = tensors[name].shape
            other = width[0] if width and width[0] != rows else 2 * rows
            rewrite(folder, {**tensors, name: np.zeros((other, *width), np.float32)})
            with pytest.raises(ValueError, match=f"{name} has shape"):
                from_pretrained(folder)


def test_files_of_a_model_without_its_output_layer_leave_out_the_prefix(kind, tmp_path):
    model = CausalLM(tiny(kind), seed=1)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, {name.removeprefix(f"{kind.prefix}."): array for name, array in reread(tmp_path).items()})
    ids = np.arange(6)[None]
    np.testing.assert_array_equal(from_pretrained(tmp_path)(ids).numpy(), model(ids).numpy())


def test_rows_of_fused_matrices():
    queries, keys, values = rows_in_turn(4, 2, 3)
    assert [*queries] == [0, 1, 2, 3] and [*keys] == [4, 5] and [*values] == [6, 7, 8]
    # Two groups of two query heads, with two channels each: q q k v, q q k v.
    config = Config(**{**SIZES, "hidden_size": 8, "num_key_value_heads": 2})
    queries, keys, values = rows_by_group(config)
    assert [*queries] == [0, 1, 2, 3, 8, 9, 10, 11] and [*keys] == [4, 5, 12, 13] and [*values] == [6, 7, 14, 15]


# The fields of published files (bigscience/bloom-560m, bigcode/starcoder, …) as they spell them, without those that say
# nothing; and how many parameters the model has.
PUBLISHED = {
    "gpt2": (
        {
            "model_type": "gpt2", "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256,
            "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
            "n_positions": 1024, "resid_pdrop": 0.1, "summary_type": "cls_index", "vocab_size": 50257,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        124_439_808,
    ),
    "bloom-560m": (
        {
            "model_type": "bloom", "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
            "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "masked_softmax_fusion": True,
            "n_embed": 1024, "n_inner": None, "n_layer": 24, "num_attention_heads": 16, "offset_alibi": 100,
            "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": True,
            "skip_bias_add_qkv": False, "unk_token_id": 0, "vocab_size": 250880,
        },
        559_214_592,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon", "alibi": False, "bias": False, "hidden_size": 4544, "multi_query": True,
            "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32,
            "parallel_attn": True, "vocab_size": 65024,
        },
        6_921_720_704,
    ),
    "falcon-rw-1b": (
        {
            "model_type": "falcon", "alibi": True, "bias": True, "hidden_size": 2048, "multi_query": False,
            "new_decoder_architecture": False, "num_attention_heads": 32, "num_hidden_layers": 24,
            "parallel_attn": False, "vocab_size": 50304,
        },
        1_311_625_216,
    ),
    "starcoder": (
        {
            "model_type": "gpt_bigcode", "activation_function": "gelu", "attention_softmax_in_fp32": True,
            "inference_runner": 0, "max_batch_size": None, "multi_query": True, "n_embd": 6144, "n_head": 48,
            "n_inner": 24576, "n_layer": 40, "n_positions": 8192, "pad_key_length": True,
            "validate_runner_input": True, "vocab_size": 49152,
        },
        15_517_456_384,
    ),
    "starcoder2-3b": (
        {
            "model_type": "starcoder2", "embedding_dropout": 0.1, "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 3072, "intermediate_size": 12288, "max_position_embeddings": 16384,
            "mlp_type": "default", "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24,
            "num_hidden_layers": 30, "num_key_value_heads": 2, "rope_theta": 999999.4420358813,
            "sliding_window": 4096, "use_bias": True, "vocab_size": 49152,
        },
        3_030_371_328,
    ),
    "phi-2": (
        {
            "model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240,
            "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
            "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None, "rope_theta": 10000.0,
            "tie_word_embeddings": False, "vocab_size": 51200,
        },
        2_779_683_840,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_as_they_are(name):
    published, parameters = PUBLISHED[name]
    with shapes_only():
        model = CausalLM(family(published["model_type"]).config_from_hf(published))
    assert model.num_parameters() == parameters


FALCON = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("flags", "layer", "norms", "kv_heads"),
    [
        ({}, "parallel", 1, 1),
        ({"multi_query": False}, "parallel", 1, 4),
        ({"parallel_attn": False}, "pre_norm", 1, 1),
        ({"parallel_attn": False, "multi_query": False}, "pre_norm", 1, 4),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, "parallel", 2, 2),
        ({"new_decoder_architecture": True, "parallel_attn": False}, "parallel", 2, 4),
        ({"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 2}, "parallel", 1, 2),
    ],
)
def test_falcons_flags(flags, layer, norms, kv_heads):
    config = family("falcon").config_from_hf({**FALCON, **flags})
    assert (config.layer, config.parallel_norms, config.num_key_value_heads) == (layer, norms, kv_heads)
    assert config.intermediate_size == 32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn: got 2, expected 1, or 2 with new_decoder"),
        ({"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn: got 3"),
        ({"multi_query": False, "num_kv_heads": 2}, "num_kv_heads: got 2, expected 4 without new_decoder"),
    ],
)
def test_flags_that_make_no_falcon(flags, message):
    with pytest.raises(ValueError, match=message):
        family("falcon").config_from_hf({**FALCON, **flags})


def test_gpt2s_masks_are_no_parameters(tmp_path):
    model = CausalLM(tiny(family("gpt2")), seed=1)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, {**reread(tmp_path), "transformer.h.0.attn.bias": np.zeros((1, 1, 4, 4), np.float32)})
    assert from_pretrained(tmp_path).config == model.config
