from transformers import Qwen3Config as CONFIG  # noqa: F401, N814
from transformers import Qwen3ForCausalLM as MODEL  # noqa: F401, N814

BASE = {"head_dim": 8, "num_key_value_heads": 2}

VARIANTS = {
    "grouped": {},
    "multi-head, tied": {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 1e6},
    "wide heads, multi-query": {"num_key_value_heads": 1, "head_dim": 18},
    "narrow heads, biases": {"head_dim": 6, "attention_bias": True, "rms_norm_eps": 1e-2},
    "the upper layer slides": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "chosen layers slide": {
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "three heads, yarn": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 10,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
