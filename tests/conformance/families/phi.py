from transformers import PhiConfig as CONFIG  # noqa: F401, N814
from transformers import PhiForCausalLM as MODEL  # noqa: F401, N814

VARIANTS = {
    "half of each head turned": {},
    "grouped heads": {"num_key_value_heads": 2},
    "a quarter turned, multi-query": {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    },
    "all turned, another eps": {
        "layer_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    },
    "normed queries and keys": {"qk_layernorm": True, "num_key_value_heads": 2},
    "Phi-2's 0.4 of three heads": {
        "hidden_size": 60,
        "num_attention_heads": 3,
        "hidden_act": "relu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    },
    "stretched": {
        "rope_parameters": {
            "rope_type": "linear",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "factor": 4.0,
        },
    },
}
