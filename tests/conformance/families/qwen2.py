from transformers import Qwen2Config as CONFIG  # noqa: F401, N814
from transformers import Qwen2ForCausalLM as MODEL  # noqa: F401, N814

VARIANTS = {
    "multi-head, as Qwen1.5": {"num_key_value_heads": 4},
    "grouped, tied": {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 1e6},
    "wide heads, multi-query": {"num_key_value_heads": 1, "head_dim": 14, "rms_norm_eps": 1e-2},
    "the upper layer slides": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
    "every layer slides": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 0,
    },
    "chosen layers slide": {
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 40,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "a window not in use": {"num_key_value_heads": 2, "sliding_window": 7, "max_window_layers": 0},
    "three heads, yarn": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}
