from transformers import LlamaConfig as CONFIG  # noqa: F401, N814
from transformers import LlamaForCausalLM as MODEL  # noqa: F401, N814

ROPE = {"rope_theta": 10000.0}

VARIANTS = {
    "multi-head": {"num_key_value_heads": 4},
    "grouped, tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "multi-query": {"num_key_value_heads": 1},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 22},
    "narrow heads": {"num_key_value_heads": 4, "head_dim": 6},
    "three heads": {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10},
    "theta and eps": {"num_key_value_heads": 2, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    "llama 3.1": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "linear": {"num_key_value_heads": 2, "rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
    # Only the longest inputs are longer: beyond the switch, old keys in a cache differ from keys read afresh.
    "dynamic": {
        "max_position_embeddings": 100,
        "head_dim": 10,
        "rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 3.0},
    },
    "yarn": {
        "num_key_value_heads": 1,
        "attention_bias": True,
        "rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32},
    },
    "yarn, tuned": {
        "head_dim": 16,
        "tie_word_embeddings": True,
        "rope_parameters": {
            **ROPE,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.3,
        },
    },
}
