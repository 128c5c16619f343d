"""Config files as their publishers wrote them: read here, and written again, they mean the same to Transformers.

Older files leave out what was a default when they were written, and carry fields that nobody reads any more.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from test_families import CASES, logits_error, tokens
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
)

import tinymoe as tm
from tinymoe.models import zoo
from tinymoe.models.families import family
from tinymoe.models.families.base import NEUTRAL
from tinymoe.models.size import measure

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
GEMMA = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 256000,
}
QWEN = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
}
PHI = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "model_type": "phi3",
    "num_hidden_layers": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
DEEPSEEK = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "index_head_dim": 128,
    "index_topk": 2048,
    "initializer_range": 0.02,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "qk_rope_head_dim": 64,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int | None = None) -> dict[str, Any]:
    kv = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **kv,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama 7B": {
        **LLAMA,
        **shape(4096, 11008, 32, 32),
        "max_position_embeddings": 2048,
        "max_sequence_length": 2048,
        "pad_token_id": 0,
    },
    "Llama 2 70B": {**LLAMA, **shape(8192, 28672, 80, 64, 8), "max_position_embeddings": 4096},
    "CodeLlama 7B": {
        **LLAMA,
        **shape(4096, 11008, 32, 32, 32),
        "max_position_embeddings": 16384,
        "rope_theta": 1000000,
        "vocab_size": 32016,
    },
    "TinyLlama": {**LLAMA, **shape(2048, 5632, 22, 32, 4), "max_position_embeddings": 2048},
    "Yi 34B": {
        **LLAMA,
        **shape(7168, 20480, 60, 56, 8),
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "rope_theta": 5000000.0,
        "vocab_size": 64000,
    },
    "Llama 3.1 8B": {
        **LLAMA,
        **shape(4096, 14336, 32, 32, 8),
        "attention_bias": False,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
    "Mistral 7B": {
        **{name: value for name, value in LLAMA.items() if name not in ("pretraining_tp", "rope_scaling")},
        **shape(4096, 14336, 32, 32, 8),
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "rope_theta": 10000.0,
        "sliding_window": 4096,
    },
    "Mistral Nemo": {
        **{name: value for name, value in LLAMA.items() if name not in ("pretraining_tp", "rope_scaling")},
        **shape(5120, 14336, 40, 32, 8),
        "head_dim": 128,
        "max_position_embeddings": 1024000,
        "model_type": "mistral",
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "vocab_size": 131072,
    },
    "Gemma 2B": {
        **GEMMA,
        **shape(2048, 16384, 18, 8, 1),
        "hidden_act": "gelu",
        "hidden_activation": None,
        "model_type": "gemma",
        "rope_scaling": None,
    },
    "Gemma 2 2B": {
        **GEMMA,
        **shape(2304, 9216, 26, 8, 4),
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    "Gemma 3 1B": {
        **GEMMA,
        **shape(1152, 6912, 26, 4, 1),
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Gemma 3 27B, the text half": {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
    },
    "Qwen1.5 0.5B": {
        **QWEN,
        **shape(1024, 2816, 24, 16, 16),
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "model_type": "qwen2",
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "Qwen2.5 7B": {
        **QWEN,
        **shape(3584, 18944, 28, 28, 4),
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "model_type": "qwen2",
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_mrope": False,
        "vocab_size": 152064,
    },
    "Qwen3 0.6B": {
        **QWEN,
        **shape(1024, 3072, 28, 16, 8),
        "attention_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "Phi-3 mini 128k": {
        **PHI,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 32000,
        "rope_scaling": {
            "long_factor": [1.08 + 1.3 * i for i in range(48)],
            "short_factor": [1.0 + 0.04 * i for i in range(48)],
            "type": "longrope",
        },
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-4 mini": {
        **PHI,
        "bos_token_id": 199999,
        "eos_token_id": 199999,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "long_factor": [1.118320672**i for i in range(48)],
            "short_factor": [1.0] * 48,
            "type": "longrope",
        },
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "DeepSeek V3.2": {
        **DEEPSEEK,
        **shape(7168, 18432, 61, 128, 128),
        "architectures": ["DeepseekV32ForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "index_n_heads": 64,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v32",
        "n_group": 8,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "topk_group": 4,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "GLM-5.2": {
        **DEEPSEEK,
        **shape(6144, 12288, 78, 64, 64),
        "architectures": ["GlmMoeDsaForCausalLM"],
        "eos_token_id": [154820, 154827, 154829],
        "head_dim": 192,
        "index_n_heads": 32,
        "index_share_for_mtp_iteration": True,
        "index_skip_topk_offset": 3,
        "index_topk_freq": 4,
        "index_topk_pattern": None,
        "indexer_rope_interleave": True,
        "indexer_types": ["full" if i < 3 or i % 4 == 2 else "shared" for i in range(78)],
        "max_position_embeddings": 1048576,
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 75,
        "model_type": "glm_moe_dsa",
        "moe_router_dtype": "float32",
        "n_group": 1,
        "pad_token_id": 154820,
        "q_lora_rank": 2048,
        "qk_head_dim": 256,
        "qk_nope_head_dim": 192,
        "rms_norm_eps": 1e-05,
        "rope_interleave": True,
        "rope_parameters": {"rope_theta": 8000000, "rope_type": "default"},
        "topk_group": 1,
        "v_head_dim": 256,
        "vocab_size": 154880,
    },
}


def meaning(kind: str, published: dict[str, Any]) -> dict[str, Any]:
    """What Transformers makes of a config file: the fields that its models read."""
    config = importlib.import_module(f"families.{kind}").CONFIG.from_dict(json.loads(json.dumps(published)))
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    (fields.get("rope_parameters") or {}).pop("type", None)  # says the same as rope_type
    fields.pop("max_window_layers", None)  # layer_types say what follows from it
    fields.pop("interleave_moe_layer_step", None)  # and so do moe_layers
    fields.pop("num_mtp_layers", None)  # are not loaded, and not written
    return {name: value for name, value in fields.items() if name not in NEUTRAL}


# Transformers has no Grok-1.
THEIRS = [name for name, entry in zoo.PUBLISHED.items() if entry.config["model_type"] != "grok-1"]
# Falcon's flags can be set in several ways for the same layer.
ZOO = {name: zoo.PUBLISHED[name].config for name in THEIRS if not name.startswith("falcon")}


@pytest.mark.parametrize("name", [*PUBLISHED, *ZOO])
def test_published_configs(name):
    published = PUBLISHED.get(name) or ZOO[name]
    config = family(published["model_type"]).config_from_hf(published)
    kind = config.model_type
    after = meaning(kind, family(kind).config_to_hf(config))
    # What was left to follow from other fields may have been spelled out.
    before = {name: value for name, value in meaning(kind, published).items() if value is not None}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("name", THEIRS)
def test_the_zoos_published_models_have_as_many_parameters(name):
    """By the same config, which Transformers reads as it stands."""
    config = zoo.config(name)
    module = importlib.import_module(f"families.{config.model_type}")
    published = zoo.PUBLISHED[name].config | {"model_type": config.model_type}
    with torch.device("meta"):  # shapes without memory
        theirs = module.MODEL(module.CONFIG.from_dict(json.loads(json.dumps(published))))
    biases = config.router == "sigmoid" and config.mlp_types.count("moe") * config.num_experts  # a buffer there
    assert measure(config).parameters == theirs.num_parameters() + biases


@pytest.mark.parametrize(("name", "total"), [("llama-4-scout", 108.6), ("llama-4-maverick", 401.6)])
def test_llama_4_with_its_vision_tower(name, total):
    """What its publisher counts; tinymoe leaves the tower out."""
    text = Llama4TextConfig.from_dict(json.loads(json.dumps(zoo.PUBLISHED[name].config)))
    tower = {"hidden_size": 1408, "intermediate_size": 5632, "num_hidden_layers": 34, "vision_output_dim": 4096}
    config = Llama4Config(text_config=text, vision_config={**tower, "image_size": 336})
    with torch.device("meta"):
        whole = Llama4ForConditionalGeneration(config)
    assert round(whole.num_parameters() / 1e9, 1) == total
    assert round((whole.num_parameters() - measure(zoo.config(name)).parameters) / 1e9, 1) == 0.9


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.variant}")
def test_fields_left_out_mean_what_transformers_takes_them_for(case):
    settings = case.settings()
    complete = importlib.import_module(f"families.{case.kind}").CONFIG(**settings).to_dict()
    config = family(case.kind).config_from_hf(settings)
    assert config == family(case.kind).config_from_hf(complete)


@pytest.mark.parametrize("older", [False, True])
def test_the_text_half_of_a_multimodal_file(tmp_path, older):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    text = {**shape(32, 56, 3, 4, 2), "vocab_size": 97, "head_dim": 8, "sliding_window": 7, "pad_token_id": None}
    vision = {"image_size": 8, "patch_size": 4, **shape(16, 16, 1, 2)}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text),
        vision_config={"model_type": "siglip_vision_model", **vision},
        mm_tokens_per_image=4,
        attn_implementation="eager",
    )
    theirs = Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    if older:  # as on the Hub: Transformers once had the language model whole, and the vision tower beside it
        file = tmp_path / "model.safetensors"
        renamed = {
            name.replace("model.language_model.", "language_model.model.").replace("model.vision", "vision"): tensor
            for name, tensor in load_file(file).items()
        }
        save_file(renamed, file)
    ours = tm.from_pretrained(tmp_path)
    assert ours.config.model_type == "gemma3_text"
    assert logits_error(theirs, ours, tokens(2, 19)) < 1e-5
    ours.save_pretrained(tmp_path / "text")
    alone = Gemma3ForCausalLM.from_pretrained(tmp_path / "text", attn_implementation="eager").eval()
    ids = torch.tensor(tokens(2, 19))
    with torch.no_grad():
        np.testing.assert_allclose(alone(ids).logits.numpy(), theirs(ids).logits.numpy(), atol=1e-5)
