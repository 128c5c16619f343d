from transformers import Llama4ForCausalLM as MODEL  # noqa: F401, N814
from transformers import Llama4TextConfig as CONFIG  # noqa: F401, N814

BASE = {
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size_mlp": 48,
    "num_local_experts": 6,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "num_hidden_layers": 4,
}

VARIANTS = {
    "one of six, every fourth layer global": {},
    "every second layer dense, as Maverick": {"interleave_moe_layer_step": 2, "use_qk_norm": False},
    "two of six, biases, tied": {"num_experts_per_tok": 2, "attention_bias": True, "tie_word_embeddings": True},
    "no temperature, chosen layers": {
        "num_hidden_layers": 3,
        "attn_temperature_tuning": False,
        "no_rope_layers": [0, 1, 1],
        "moe_layers": [0, 2],
        "attention_chunk_size": 7,
    },
    "all experts, stretched": {
        "num_hidden_layers": 2,
        "num_experts_per_tok": 6,
        "no_rope_layer_interval": 2,
        "attn_scale": 0.5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
