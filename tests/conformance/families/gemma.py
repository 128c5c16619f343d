from transformers import GemmaConfig as CONFIG  # noqa: F401, N814
from transformers import GemmaForCausalLM as MODEL  # noqa: F401, N814

# PyTorch gives the embedding of a padding token no gradient; here all tokens are alike.
BASE = {"pad_token_id": None, "head_dim": 8}

VARIANTS = {
    "multi-head": {"num_key_value_heads": 4},
    "multi-query, wide heads": {"num_key_value_heads": 1, "head_dim": 18},
    "grouped, not tied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "head_dim": 6},
    "three heads, theta and eps": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_theta": 500.0,
        "rms_norm_eps": 1e-2,
    },
    "another bend, linear scaling": {
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
}
