from transformers import MixtralConfig as CONFIG  # noqa: F401, N814
from transformers import MixtralForCausalLM as MODEL  # noqa: F401, N814

BASE = {"num_key_value_heads": 2, "num_local_experts": 6}

VARIANTS = {
    "two of six": {},
    "one of six": {"num_experts_per_tok": 1},
    "all experts, tied": {"num_experts_per_tok": 6, "tie_word_embeddings": True},
    "window, wide heads": {"sliding_window": 7, "head_dim": 12},
    "one expert": {"num_local_experts": 1, "num_experts_per_tok": 1},
    "theta and eps": {"rope_theta": 1e4, "rms_norm_eps": 1e-6, "num_experts_per_tok": 3},
}
