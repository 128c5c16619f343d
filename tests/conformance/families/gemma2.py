from transformers import Gemma2Config as CONFIG  # noqa: F401, N814
from transformers import Gemma2ForCausalLM as MODEL  # noqa: F401, N814

# PyTorch gives the embedding of a padding token no gradient; here all tokens are alike.
BASE = {"pad_token_id": None, "head_dim": 8, "query_pre_attn_scalar": 8, "num_key_value_heads": 2, "sliding_window": 7}

VARIANTS = {
    "every second layer slides": {},
    "low caps": {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    "no caps, wide heads": {"attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 14},
    "scale of its own, as in 27B": {"query_pre_attn_scalar": 18, "num_key_value_heads": 4, "sliding_window": 40},
    "one cap, biases, not tied": {
        "final_logit_softcapping": None,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "num_key_value_heads": 1,
    },
    "three layers, chosen": {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 16,
        "rope_theta": 1000.0,
        "rms_norm_eps": 1e-2,
    },
    "three heads, another bend": {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "hidden_activation": "relu",
    },
}
