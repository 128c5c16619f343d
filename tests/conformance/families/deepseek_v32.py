from transformers import DeepseekV32Config as CONFIG  # noqa: F401, N814
from transformers import DeepseekV32ForCausalLM as MODEL  # noqa: F401, N814

from families.deepseek_v2 import EXPERTS, LATENT, YARN

# With few heads many scores are exactly 0, and which of equal ones PyTorch takes is not defined.
INDEX = {"index_n_heads": 16, "index_head_dim": 10, "index_topk": 6}
BASE = {
    **LATENT,
    **EXPERTS,
    **INDEX,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}

VARIANTS = {
    "limited groups, six tokens": {},
    "one group, forty tokens": {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827, "index_topk": 40},
    "every token": {"index_topk": 512, "norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "one of eight, two shared, one token": {
        "num_experts_per_tok": 1,
        "n_shared_experts": 2,
        "topk_group": 1,
        "index_topk": 1,
    },
    "all experts, not renormalized": {"num_experts_per_tok": 8, "topk_group": 4, "norm_topk_prob": False},
    "no shared expert, no dense layer": {"n_shared_experts": 0, "n_group": 2, "first_k_dense_replace": 0},
    "all layers dense, tied": {"first_k_dense_replace": 2, "tie_word_embeddings": True},
    "dense layers as listed": {"num_hidden_layers": 4, "mlp_layer_types": ["sparse", "dense", "sparse", "dense"]},
    "biases, values wider than keys": {"attention_bias": True, "v_head_dim": 14, "qk_nope_head_dim": 2},
    "an indexer that turns all channels, yarn": {
        "index_head_dim": 4,
        "index_n_heads": 20,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "three heads": {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3, "rms_norm_eps": 1e-2},
}
