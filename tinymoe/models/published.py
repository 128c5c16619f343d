"""Published models: the fields of their config files that matter, and the sizes that their publishers state.

Fields that are left out mean what the family takes them for. Nothing is loaded: `python -m tinymoe info NAME` computes
a model's size and costs from its config alone.

Papers by their arXiv numbers: Touvron et al. 2023a 2302.13971, Li et al. 2023 2305.06161, Almazrouei et al. 2023
2311.16867, Grattafiori et al. 2024 2407.21783, Muennighoff et al. 2024 2409.02060; Gemma Team 2024a 2403.08295, 2024b
2408.00118, 2025 2503.19786; DeepSeek-AI 2024a 2405.04434, 2024b 2412.19437, 2025a 2501.12948, 2025b 2512.02556; Kimi
Team 2025 2507.20534; OpenAI 2025 2508.10925; GLM-5 Team 2026 2602.15763.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CARD = "its model card"
WEIGHTS = "the size of its files, as Hugging Face shows it"


@dataclass(frozen=True)
class Published:
    """What a publisher says: the config file, and how many billions of parameters there are.

    `active` are those that a token uses, of which some publishers count the embedding, and others do not. `source` says
    where the numbers stand.
    """

    config: dict[str, Any]
    total: float
    source: str
    active: float | None = None


def _shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int | None = None) -> dict[str, Any]:
    """Five fields that most config files have in common."""
    shape = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return shape if kv_heads is None else {**shape, "num_key_value_heads": kv_heads}


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "vocab_size": 50257, "n_embd": width, "n_layer": layers, "n_head": heads}


def _bloom(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bloom",
        "vocab_size": 250880,
        "hidden_size": width,
        "n_layer": layers,
        "n_head": heads,
        "seq_length": 2048,
        "pad_token_id": 3,
    }


def _falcon(width: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "model_type": "falcon",
        "vocab_size": 65024,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "bias": False,
        **others,
    }


_LLAMA = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
_LLAMA_2 = {**_LLAMA, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_CODE_LLAMA = {**_LLAMA_2, "max_position_embeddings": 16384, "rope_theta": 1e6}
_YI = {**_LLAMA_2, "vocab_size": 64000, "rope_theta": 5e6}
_LLAMA_3 = {
    **_LLAMA_2,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 5e5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
_STRETCH = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_31 = {**_LLAMA_3, "max_position_embeddings": 131072, "rope_scaling": _STRETCH}
_LLAMA_32 = {**_LLAMA_31, "rope_scaling": {**_STRETCH, "factor": 32.0}, "tie_word_embeddings": True}
_MISTRAL = {"model_type": "mistral", "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
_MIXTRAL = {**_MISTRAL, "model_type": "mixtral", "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2}
_GEMMA = {"model_type": "gemma", "vocab_size": 256000, "max_position_embeddings": 8192, "head_dim": 256}
_GEMMA_2 = {**_GEMMA, "model_type": "gemma2", "sliding_window": 4096, "query_pre_attn_scalar": 256}
_GEMMA_3 = {
    **_GEMMA,
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
_QWEN = {"vocab_size": 151936, "rope_theta": 1e6, "bos_token_id": 151643, "eos_token_id": 151643}
_QWEN_15 = {**_QWEN, "model_type": "qwen2", "max_position_embeddings": 32768}
_QWEN_2 = {**_QWEN, "model_type": "qwen2", "vocab_size": 152064, "max_position_embeddings": 131072}
_QWEN_3 = {**_QWEN, "model_type": "qwen3", "max_position_embeddings": 40960, "head_dim": 128, "eos_token_id": 151645}
_QWEN_2_MOE = {**_QWEN, "model_type": "qwen2_moe", "max_position_embeddings": 8192}
_QWEN_3_MOE = {**_QWEN_3, "model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8}
_PHI_3 = {"model_type": "phi3", "vocab_size": 32064, "max_position_embeddings": 4096}
_STARCODER_2 = {
    "model_type": "starcoder2",
    "vocab_size": 49152,
    "max_position_embeddings": 16384,
    "sliding_window": 4096,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "head_dim": 64,
    "sliding_window": 128,
    "rope_theta": 150000,
    "num_experts_per_tok": 4,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
}
_YARN = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096}
_LLAMA_4 = {
    "model_type": "llama4_text",
    **_shape(5120, 8192, 48, 40, 8),
    "intermediate_size_mlp": 16384,
    "vocab_size": 202048,
    "bos_token_id": 200000,
    "eos_token_id": [200001, 200007, 200008],
    "pad_token_id": 200018,
}
_DEEPSEEK_V2 = {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "rope_scaling": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    "kv_lora_rank": 512,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}
_DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    **_shape(7168, 18432, 61, 128, 128),
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
}
_DEEPSEEK_V32 = {
    **_DEEPSEEK_V3,
    "model_type": "deepseek_v32",
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
}
_GLM_5 = {
    "model_type": "glm_moe_dsa",
    **_shape(6144, 12288, 78, 64, 64),
    "vocab_size": 154880,
    "max_position_embeddings": 202752,
    "rope_theta": 1e6,
    "q_lora_rank": 2048,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 2048,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [154820, 154827, 154829],
    "pad_token_id": 154820,
    "num_nextn_predict_layers": 1,
}
_GLM_52 = {
    **_GLM_5,
    "max_position_embeddings": 1048576,
    "rope_theta": 8e6,
    "index_topk_freq": 4,
    "index_skip_topk_offset": 3,
}
_GROK_1 = {
    "model_type": "grok-1",
    **_shape(6144, 32768, 64, 48, 8),
    "vocab_size": 131072,
    "max_position_embeddings": 8192,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "attn_output_multiplier": 0.08838834764831845,
    "embedding_multiplier_scale": 78.38367176906169,
    "output_multiplier_scale": 0.5773502691896257,
    "max_attn_value": 30.0,
}
_KIMI_K2 = {
    **_DEEPSEEK_V3,
    **_shape(7168, 18432, 61, 64, 64),
    "model_type": "kimi_k2",
    "vocab_size": 163840,
    "max_position_embeddings": 131072,
    "rope_theta": 5e4,
    "rope_scaling": {**_YARN, "factor": 32, "beta_fast": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "first_k_dense_replace": 1,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "num_nextn_predict_layers": 0,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
}

PUBLISHED: dict[str, Published] = {
    "gpt2": Published(_gpt2(768, 12, 12), 0.124, "github.com/openai/gpt-2"),
    "gpt2-medium": Published(_gpt2(1024, 24, 16), 0.355, "github.com/openai/gpt-2"),
    "gpt2-large": Published(_gpt2(1280, 36, 20), 0.774, "github.com/openai/gpt-2"),
    "gpt2-xl": Published(_gpt2(1600, 48, 25), 1.558, "github.com/openai/gpt-2"),
    "bloom-560m": Published(_bloom(1024, 24, 16), 0.559214592, CARD),
    "bloom-7b1": Published(_bloom(4096, 30, 32), 7.069016064, CARD),
    "bloom": Published(_bloom(14336, 70, 112), 176.247271424, CARD),
    "falcon-rw-1b": Published(
        _falcon(2048, 24, 32, vocab_size=50304, alibi=True, bias=True, multi_query=False, parallel_attn=False),
        1.31,
        WEIGHTS,
    ),
    "falcon-7b": Published(_falcon(4544, 32, 71), 7, "Almazrouei et al. 2023"),
    "falcon-40b": Published(
        _falcon(8192, 60, 128, new_decoder_architecture=True, num_kv_heads=8), 40, "Almazrouei et al. 2023"
    ),
    "falcon-180b": Published(
        _falcon(14848, 80, 232, new_decoder_architecture=True, num_kv_heads=8), 180, "Almazrouei et al. 2023"
    ),
    "falcon-11b": Published(
        _falcon(
            4096,
            60,
            32,
            new_decoder_architecture=True,
            num_kv_heads=8,
            num_ln_in_parallel_attn=1,
            max_position_embeddings=8192,
            rope_theta=500042.0,
            tie_word_embeddings=False,
        ),
        11.1,
        WEIGHTS,
    ),
    "llama-7b": Published({**_LLAMA, **_shape(4096, 11008, 32, 32)}, 6.74, WEIGHTS),
    "llama-13b": Published({**_LLAMA, **_shape(5120, 13824, 40, 40)}, 13.0, "Touvron et al. 2023a, table 2"),
    "llama-30b": Published({**_LLAMA, **_shape(6656, 17920, 60, 52)}, 32.5, "Touvron et al. 2023a, table 2"),
    "llama-65b": Published({**_LLAMA, **_shape(8192, 22016, 80, 64)}, 65.2, "Touvron et al. 2023a, table 2"),
    "llama-2-7b": Published({**_LLAMA_2, **_shape(4096, 11008, 32, 32)}, 6.74, WEIGHTS),
    "llama-2-13b": Published({**_LLAMA_2, **_shape(5120, 13824, 40, 40)}, 13.0, WEIGHTS),
    "llama-2-70b": Published({**_LLAMA_2, **_shape(8192, 28672, 80, 64, 8)}, 69.0, WEIGHTS),
    "llama-3-8b": Published({**_LLAMA_3, **_shape(4096, 14336, 32, 32, 8)}, 8.03, WEIGHTS),
    "llama-3-70b": Published({**_LLAMA_3, **_shape(8192, 28672, 80, 64, 8)}, 70.6, WEIGHTS),
    "llama-3.1-8b": Published({**_LLAMA_31, **_shape(4096, 14336, 32, 32, 8)}, 8.03, WEIGHTS),
    "llama-3.1-70b": Published({**_LLAMA_31, **_shape(8192, 28672, 80, 64, 8)}, 70.6, WEIGHTS),
    "llama-3.1-405b": Published({**_LLAMA_31, **_shape(16384, 53248, 126, 128, 8)}, 405, "Grattafiori et al. 2024"),
    "llama-3.2-1b": Published({**_LLAMA_32, **_shape(2048, 8192, 16, 32, 8), "head_dim": 64}, 1.23, CARD),
    "llama-3.2-3b": Published({**_LLAMA_32, **_shape(3072, 8192, 28, 24, 8), "head_dim": 128}, 3.21, CARD),
    "codellama-7b": Published({**_CODE_LLAMA, **_shape(4096, 11008, 32, 32), "vocab_size": 32016}, 6.74, WEIGHTS),
    "codellama-34b": Published({**_CODE_LLAMA, **_shape(8192, 22016, 48, 64, 8)}, 33.7, WEIGHTS),
    "tinyllama-1.1b": Published({**_LLAMA, **_shape(2048, 5632, 22, 32, 4), "rms_norm_eps": 1e-5}, 1.1, CARD),
    "yi-6b": Published({**_YI, **_shape(4096, 11008, 32, 32, 4)}, 6.06, WEIGHTS),
    "yi-34b": Published({**_YI, **_shape(7168, 20480, 60, 56, 8)}, 34.4, WEIGHTS),
    "mistral-7b": Published({**_MISTRAL, **_shape(4096, 14336, 32, 32, 8), "sliding_window": 4096}, 7.24, WEIGHTS),
    "mistral-nemo": Published(
        {
            **_MISTRAL,
            **_shape(5120, 14336, 40, 32, 8),
            "vocab_size": 131072,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "sliding_window": None,
        },
        12.2,
        WEIGHTS,
    ),
    "mixtral-8x7b": Published({**_MIXTRAL, **_shape(4096, 14336, 32, 32, 8)}, 46.7, "mistral.ai", active=12.9),
    "mixtral-8x22b": Published(
        {**_MIXTRAL, **_shape(6144, 16384, 56, 48, 8), "max_position_embeddings": 65536}, 141, "mistral.ai", active=39
    ),
    "gemma-2b": Published({**_GEMMA, **_shape(2048, 16384, 18, 8, 1)}, 2.506434560, "Gemma Team 2024a, table 2"),
    "gemma-7b": Published({**_GEMMA, **_shape(3072, 24576, 28, 16, 16)}, 8.538074112, "Gemma Team 2024a, table 2"),
    "gemma-2-2b": Published({**_GEMMA_2, **_shape(2304, 9216, 26, 8, 4)}, 2.614636800, "Gemma Team 2024b, table 2"),
    "gemma-2-9b": Published({**_GEMMA_2, **_shape(3584, 14336, 42, 16, 8)}, 9.242164736, "Gemma Team 2024b, table 2"),
    "gemma-2-27b": Published(
        {**_GEMMA_2, **_shape(4608, 36864, 46, 32, 16), "head_dim": 128, "query_pre_attn_scalar": 144},
        27.227718144,
        "Gemma Team 2024b, table 2",
    ),
    "gemma-3-1b": Published(
        {
            **_GEMMA_3,
            **_shape(1152, 6912, 26, 4, 1),
            "vocab_size": 262144,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "rope_scaling": None,
        },
        1.000,
        "Gemma Team 2025, table 1",
    ),
    "gemma-3-4b": Published({**_GEMMA_3, **_shape(2560, 10240, 34, 8, 4)}, 3.884, "Gemma Team 2025, table 1, text"),
    "gemma-3-12b": Published({**_GEMMA_3, **_shape(3840, 15360, 48, 16, 8)}, 11.771, "Gemma Team 2025, table 1, text"),
    "gemma-3-27b": Published(
        {**_GEMMA_3, **_shape(5376, 21504, 62, 32, 16), "head_dim": 128, "query_pre_attn_scalar": 168},
        27.016,
        "Gemma Team 2025, table 1, text",
    ),
    "qwen1.5-7b": Published({**_QWEN_15, **_shape(4096, 11008, 32, 32, 32)}, 7.72, WEIGHTS),
    "qwen1.5-72b": Published({**_QWEN_15, **_shape(8192, 24576, 80, 64, 64), "vocab_size": 152064}, 72.3, WEIGHTS),
    "qwen2-7b": Published({**_QWEN_2, **_shape(3584, 18944, 28, 28, 4)}, 7.62, WEIGHTS),
    "qwen2-72b": Published({**_QWEN_2, **_shape(8192, 29568, 80, 64, 8)}, 72.7, WEIGHTS),
    "qwen2.5-7b": Published({**_QWEN_2, **_shape(3584, 18944, 28, 28, 4)}, 7.61, CARD),
    "qwen2.5-14b": Published({**_QWEN_2, **_shape(5120, 13824, 48, 40, 8)}, 14.7, CARD),
    "qwen2.5-72b": Published({**_QWEN_2, **_shape(8192, 29568, 80, 64, 8)}, 72.7, CARD),
    "qwen3-4b": Published({**_QWEN_3, **_shape(2560, 9728, 36, 32, 8), "tie_word_embeddings": True}, 4.02, WEIGHTS),
    "qwen3-8b": Published({**_QWEN_3, **_shape(4096, 12288, 36, 32, 8)}, 8.2, CARD),
    "qwen3-14b": Published({**_QWEN_3, **_shape(5120, 17408, 40, 40, 8)}, 14.8, CARD),
    "qwen3-32b": Published({**_QWEN_3, **_shape(5120, 25600, 64, 64, 8)}, 32.8, CARD),
    "qwen1.5-moe-a2.7b": Published(
        {
            **_QWEN_2_MOE,
            **_shape(2048, 5632, 24, 16, 16),
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        14.3,
        CARD,
        active=2.7,
    ),
    "qwen2-57b-a14b": Published(
        {
            **_QWEN_2_MOE,
            **_shape(3584, 18944, 28, 28, 4),
            "max_position_embeddings": 131072,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2560,
            "shared_expert_intermediate_size": 20480,
        },
        57.4,
        WEIGHTS,
        active=14,
    ),
    "qwen3-30b-a3b": Published(
        {**_QWEN_3_MOE, **_shape(2048, 6144, 48, 32, 4), "moe_intermediate_size": 768, "norm_topk_prob": True},
        30.5,
        CARD,
        active=3.3,
    ),
    "qwen3-235b-a22b": Published(
        {**_QWEN_3_MOE, **_shape(4096, 12288, 94, 64, 4), "moe_intermediate_size": 1536, "norm_topk_prob": True},
        235,
        CARD,
        active=22,
    ),
    "phi-2": Published(
        {
            "model_type": "phi",
            **_shape(2560, 10240, 32, 32, 32),
            "vocab_size": 51200,
            "max_position_embeddings": 2048,
            "partial_rotary_factor": 0.4,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        2.78,
        WEIGHTS,
    ),
    "phi-3-mini": Published({**_PHI_3, **_shape(3072, 8192, 32, 32, 32), "sliding_window": 2047}, 3.82, WEIGHTS),
    "phi-3-medium": Published({**_PHI_3, **_shape(5120, 17920, 40, 40, 10), "sliding_window": 2047}, 14, CARD),
    "phi-4": Published(
        {
            **_PHI_3,
            **_shape(5120, 17920, 40, 40, 10),
            "vocab_size": 100352,
            "max_position_embeddings": 16384,
            "original_max_position_embeddings": 16384,
            "rope_theta": 250000,
            "bos_token_id": 100257,
            "eos_token_id": 100265,
            "pad_token_id": 100349,
        },
        14.7,
        WEIGHTS,
    ),
    "starcoder": Published(
        {
            "model_type": "gpt_bigcode",
            "vocab_size": 49152,
            "n_embd": 6144,
            "n_inner": 24576,
            "n_layer": 40,
            "n_head": 48,
            "n_positions": 8192,
            "activation_function": "gelu",
            "multi_query": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        15.5,
        "Li et al. 2023",
    ),
    "starcoder2-3b": Published(
        {**_STARCODER_2, **_shape(3072, 12288, 30, 24, 2), "rope_theta": 999999.4420358813}, 3.03, WEIGHTS
    ),
    "starcoder2-7b": Published({**_STARCODER_2, **_shape(4608, 18432, 32, 36, 4), "rope_theta": 1e6}, 7.17, WEIGHTS),
    "starcoder2-15b": Published(
        {**_STARCODER_2, **_shape(6144, 24576, 40, 48, 4), "rope_theta": 1e5, "tie_word_embeddings": False},
        16.0,
        WEIGHTS,
    ),
    "olmoe-1b-7b": Published(
        {
            "model_type": "olmoe",
            **_shape(2048, 1024, 16, 16, 16),
            "vocab_size": 50304,
            "max_position_embeddings": 4096,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
        6.9,
        "Muennighoff et al. 2024",
        active=1.3,
    ),
    "gpt-oss-20b": Published(
        {**_GPT_OSS, **_shape(2880, 2880, 24, 64, 8), "num_local_experts": 32}, 20.91, "OpenAI 2025", active=3.61
    ),
    "gpt-oss-120b": Published(
        {**_GPT_OSS, **_shape(2880, 2880, 36, 64, 8), "num_local_experts": 128}, 116.83, "OpenAI 2025", active=5.13
    ),
    "deepseek-v2-lite": Published(
        {
            **_DEEPSEEK_V2,
            **_shape(2048, 10944, 27, 16, 16),
            "q_lora_rank": None,
            "n_routed_experts": 64,
            "moe_intermediate_size": 1408,
        },
        15.7,
        "DeepSeek-AI 2024a, appendix B",
        active=2.4,
    ),
    "deepseek-v2": Published(
        {
            **_DEEPSEEK_V2,
            **_shape(5120, 12288, 60, 128, 128),
            "q_lora_rank": 1536,
            "n_routed_experts": 160,
            "moe_intermediate_size": 1536,
            "topk_method": "group_limited_greedy",
            "n_group": 8,
            "topk_group": 3,
            "routed_scaling_factor": 16.0,
        },
        236,
        "DeepSeek-AI 2024a",
        active=21,
    ),
    "deepseek-v3": Published(_DEEPSEEK_V3, 671, "DeepSeek-AI 2024b", active=37),
    "deepseek-r1": Published(_DEEPSEEK_V3, 671, "DeepSeek-AI 2025a", active=37),
    # Meta's totals count a vision tower of 0.9 B too; the configs are of the text model alone.
    "llama-4-scout": Published(
        {**_LLAMA_4, "max_position_embeddings": 10485760, "num_local_experts": 16}, 109, CARD, active=17
    ),
    "llama-4-maverick": Published(
        {
            **_LLAMA_4,
            "max_position_embeddings": 1048576,
            "num_local_experts": 128,
            "interleave_moe_layer_step": 2,
        },
        400,
        CARD,
        active=17,
    ),
    "kimi-k2": Published(_KIMI_K2, 1000, "Kimi Team 2025", active=32),
    "deepseek-v3.2": Published(_DEEPSEEK_V32, 671, "DeepSeek-AI 2025b", active=37),
    "glm-5": Published(_GLM_5, 744, "GLM-5 Team 2026", active=40),
    "glm-5.2": Published(_GLM_52, 744, CARD, active=40),
    # "25% of the weights active on a given token", and no number; 314 B without the embedding table, rounded down
    "grok-1": Published(_GROK_1, 314, "x.ai/blog/grok-os"),
}
