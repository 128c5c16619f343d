from transformers import Qwen2MoeConfig as CONFIG  # noqa: F401, N814
from transformers import Qwen2MoeForCausalLM as MODEL  # noqa: F401, N814

BASE = {
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}

VARIANTS = {
    "not renormalized": {},
    "renormalized, tied": {"norm_topk_prob": True, "tie_word_embeddings": True},
    "one of six, no biases": {"num_experts_per_tok": 1, "qkv_bias": False},
    "all experts": {"num_experts_per_tok": 6, "norm_topk_prob": True},
    "dense first layer": {"mlp_only_layers": [0]},
    "every second layer": {"decoder_sparse_step": 2, "num_hidden_layers": 4},
    "all dense": {"mlp_only_layers": [0, 1]},
    "window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3, "num_hidden_layers": 4},
}
