from transformers import GptOssConfig as CONFIG  # noqa: F401, N814
from transformers import GptOssForCausalLM as MODEL  # noqa: F401, N814

YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}
BASE = {
    "num_key_value_heads": 2,
    "head_dim": 10,
    "sliding_window": 7,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rope_parameters": YARN,
}

VARIANTS = {
    "every second layer slides": {},
    "one of six, tied": {"num_experts_per_tok": 1, "tie_word_embeddings": True},
    "all experts, no biases": {"num_experts_per_tok": 6, "attention_bias": False},
    "low limit, another bend": {"swiglu_limit": 0.4, "swiglu_alpha": 1.0, "initializer_range": 0.3},
    "not stretched, all global": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "layer_types": ["full_attention", "full_attention"],
    },
    "truncated yarn, three layers": {
        "num_hidden_layers": 3,
        "rope_parameters": {**YARN, "truncate": True, "rope_theta": 1000.0},
    },
}
