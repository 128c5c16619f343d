from transformers import OlmoeConfig as CONFIG  # noqa: F401, N814
from transformers import OlmoeForCausalLM as MODEL  # noqa: F401, N814

# PyTorch gives the embedding of a padding token no gradient; here all tokens are alike.
BASE = {"pad_token_id": None, "num_experts": 8, "num_experts_per_tok": 3}

VARIANTS = {
    "not renormalized": {},
    "renormalized, tied": {"norm_topk_prob": True, "tie_word_embeddings": True},
    "one of eight, grouped heads": {"num_experts_per_tok": 1, "num_key_value_heads": 2},
    "all experts, biases": {"num_experts_per_tok": 8, "attention_bias": True, "num_key_value_heads": 1},
    "theta and eps": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-3},
}
