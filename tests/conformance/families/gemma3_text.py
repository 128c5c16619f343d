from transformers import Gemma3ForCausalLM as MODEL  # noqa: F401, N814
from transformers import Gemma3TextConfig as CONFIG  # noqa: F401, N814

# PyTorch gives the embedding of a padding token no gradient; here all tokens are alike.
BASE = {
    "pad_token_id": None,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "num_key_value_heads": 2,
    "sliding_window": 7,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}

VARIANTS = {
    "two local to one global": {},
    "five local to one global": {"num_hidden_layers": 7, "layer_types": None, "sliding_window": 16},
    "a pattern of two": {"num_hidden_layers": 4, "layer_types": None, "sliding_window_pattern": 2, "head_dim": 14},
    "stretched eight times": {
        "num_key_value_heads": 1,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    },
    "thetas of an older file": {
        "rope_theta": 5000.0,
        "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "sliding_window": 40,
    },
    "capped logits, biases, not tied": {
        "final_logit_softcapping": 2.0,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "num_key_value_heads": 4,
    },
    "scale of its own, as in 27B": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "query_pre_attn_scalar": 10,
        "rms_norm_eps": 1e-2,
    },
    "only local": {"layer_types": ["sliding_attention"] * 3},
}
