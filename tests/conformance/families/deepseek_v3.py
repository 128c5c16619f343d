from transformers import DeepseekV3Config as CONFIG  # noqa: F401, N814
from transformers import DeepseekV3ForCausalLM as MODEL  # noqa: F401, N814

from families.deepseek_v2 import EXPERTS, LATENT, YARN

BASE = {**LATENT, **EXPERTS, "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2}

VARIANTS = {
    "limited groups": {},
    "one group, as Kimi K2": {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827},
    "not renormalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "one of eight, two shared": {"num_experts_per_tok": 1, "n_shared_experts": 2, "topk_group": 1},
    "all experts": {"num_experts_per_tok": 8, "topk_group": 4},
    "two groups of four, no dense layer": {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0},
    "no shared expert": {"n_shared_experts": 0},
    "all layers dense": {"first_k_dense_replace": 2},
    "full queries, tied": {"q_lora_rank": None, "tie_word_embeddings": True},
    "biases, values wider than keys": {"attention_bias": True, "v_head_dim": 14, "qk_nope_head_dim": 2},
    "yarn with V3's mscale": {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "three heads, yarn": {
        "hidden_size": 36,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_parameters": {**YARN, "beta_fast": 1, "mscale": 1.0, "mscale_all_dim": 0.5},
    },
}
