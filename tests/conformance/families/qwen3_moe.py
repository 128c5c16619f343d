from transformers import Qwen3MoeConfig as CONFIG  # noqa: F401, N814
from transformers import Qwen3MoeForCausalLM as MODEL  # noqa: F401, N814

BASE = {
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
}

VARIANTS = {
    "not renormalized": {},
    "renormalized, tied": {"norm_topk_prob": True, "tie_word_embeddings": True},
    "one of eight, biases": {"num_experts_per_tok": 1, "attention_bias": True},
    "all experts": {"num_experts_per_tok": 8, "norm_topk_prob": True},
    "dense last layer": {"mlp_only_layers": [1], "num_key_value_heads": 4},
    "window": {"use_sliding_window": True, "sliding_window": 7},
}
