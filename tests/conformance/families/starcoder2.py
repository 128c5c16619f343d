from transformers import Starcoder2Config as CONFIG  # noqa: F401, N814
from transformers import Starcoder2ForCausalLM as MODEL  # noqa: F401, N814

VARIANTS = {
    "window": {"sliding_window": 7},
    "no window, multi-query": {"num_key_value_heads": 1},
    "window, untied, multi-head": {"sliding_window": 16, "num_key_value_heads": 4, "tie_word_embeddings": False},
    "no biases": {"use_bias": False, "sliding_window": 40},
    "theta, eps and activation": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 999999.4420358813},
        "norm_epsilon": 1e-2,
        "hidden_act": "gelu",
    },
    "three heads, stretched": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
}
