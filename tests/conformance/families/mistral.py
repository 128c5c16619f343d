from transformers import MistralConfig as CONFIG  # noqa: F401, N814
from transformers import MistralForCausalLM as MODEL  # noqa: F401, N814

VARIANTS = {
    "window": {"num_key_value_heads": 2, "sliding_window": 7},
    "no window": {"num_key_value_heads": 1, "sliding_window": None},
    "wide heads, tied": {"num_key_value_heads": 2, "head_dim": 12, "sliding_window": 16, "tie_word_embeddings": True},
    "theta": {"num_key_value_heads": 4, "rope_theta": 1e6, "sliding_window": 40},
    "three heads, multi-query": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "sliding_window": 2,
    },
    "yarn and a window": {
        "num_key_value_heads": 2,
        "sliding_window": 23,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
