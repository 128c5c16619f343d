from transformers import DeepseekV2Config as CONFIG  # noqa: F401, N814
from transformers import DeepseekV2ForCausalLM as MODEL  # noqa: F401, N814

LATENT = {
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}

EXPERTS = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}

BASE = {**LATENT, **EXPERTS, "first_k_dense_replace": 1}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 32,
}

VARIANTS = {
    "latent queries": {},
    "full queries, one group, as V2 Lite": {"q_lora_rank": None, "n_shared_experts": 2, "n_group": 1, "topk_group": 1},
    "limited groups, as V2": {**GROUPS, "n_shared_experts": 2, "routed_scaling_factor": 16.0, "num_hidden_layers": 3},
    "one group of two": {**GROUPS, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 0},
    "one of eight": {"num_experts_per_tok": 1, "routed_scaling_factor": 0.5},
    "all experts, in all groups": {**GROUPS, "topk_group": 4, "num_experts_per_tok": 8},
    "no shared expert": {**GROUPS, "n_shared_experts": 0},
    "all layers dense": {"first_k_dense_replace": 2},
    "tied": {"tie_word_embeddings": True, "num_attention_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "values wider than keys": {"v_head_dim": 14, "qk_nope_head_dim": 2},
    "rope wider than the rest": {"qk_rope_head_dim": 10, "qk_nope_head_dim": 4, "v_head_dim": 6, "kv_lora_rank": 6},
    "another eps and theta": {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "yarn with V2's mscale": {"rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    "yarn, two mscales": {"q_lora_rank": None, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "yarn without mscale": {"rope_parameters": YARN},
    "three heads": {"hidden_size": 36, "num_attention_heads": 3},
}
