from transformers import FalconConfig as CONFIG  # noqa: F401, N814
from transformers import FalconForCausalLM as MODEL  # noqa: F401, N814

ATTENTION = "sdpa"  # "eager" adds ALiBi twice: to the scores, and again with the mask

SMALL_NAMES = {"intermediate_size": "ffn_hidden_size"}

REFINED_WEB = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}

VARIANTS = {
    "7B": {},
    "40B": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "40B, a head each, biases": {"new_decoder_architecture": True, "num_kv_heads": 4, "bias": True},
    "40B, three groups of two": {
        "new_decoder_architecture": True,
        "num_kv_heads": 3,
        "hidden_size": 36,
        "num_attention_heads": 6,
    },
    "11B": {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500042.0},
        "tie_word_embeddings": False,
    },
    "RW-1B": REFINED_WEB,
    "RW with eight heads and the default block": {**REFINED_WEB, "num_attention_heads": 8, "ffn_hidden_size": None},
    "sequential, multi-query, rotary": {"parallel_attn": False, "bias": True, "layer_norm_epsilon": 1e-2},
    "multi-head": {"multi_query": False, "hidden_size": 30, "num_attention_heads": 3},
    "7B with ALiBi": {"alibi": True},
    "stretched": {
        "activation": "relu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
}
