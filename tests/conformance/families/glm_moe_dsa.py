from transformers import GlmMoeDsaConfig as CONFIG  # noqa: F401, N814
from transformers import GlmMoeDsaForCausalLM as MODEL  # noqa: F401, N814

from families.deepseek_v2 import EXPERTS, LATENT, YARN
from families.deepseek_v32 import INDEX

BASE = {**LATENT, **EXPERTS, **INDEX, "num_key_value_heads": 4, "first_k_dense_replace": 1}

VARIANTS = {
    "one group, six tokens": {},
    "limited groups, forty tokens": {"n_group": 4, "topk_group": 2, "index_topk": 40},
    "every token, not renormalized": {"index_topk": 512, "norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "one of eight, two shared": {"num_experts_per_tok": 1, "n_shared_experts": 2, "index_topk": 1},
    "all experts, no dense layer": {"num_experts_per_tok": 8, "first_k_dense_replace": 0, "n_shared_experts": 0},
    "one choice for two layers, as listed": {"num_hidden_layers": 4, "indexer_types": ["full", "shared"] * 2},
    "one choice for three layers, as GLM-5.2": {
        "num_hidden_layers": 6,
        "index_topk_freq": 3,
        "index_skip_topk_offset": 2,
        "index_topk": 15,
    },
    "a letter each, all layers dense": {
        "num_hidden_layers": 4,
        "index_topk_pattern": "FSSF",
        "first_k_dense_replace": 4,
    },
    "dense layers as listed, tied": {
        "num_hidden_layers": 3,
        "mlp_layer_types": ["sparse", "dense", "sparse"],
        "tie_word_embeddings": True,
    },
    "biases, values wider than keys": {"attention_bias": True, "v_head_dim": 14, "qk_nope_head_dim": 2},
    "rope wider than the rest, theta and eps": {
        "qk_rope_head_dim": 8,
        "index_head_dim": 8,
        "rms_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "three heads, yarn": {
        "hidden_size": 36,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    },
}
