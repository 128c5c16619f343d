from transformers import GPT2Config as CONFIG  # noqa: F401, N814
from transformers import GPT2LMHeadModel as MODEL  # noqa: F401, N814

SMALL_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}

VARIANTS = {
    "as published": {},
    "untied": {"tie_word_embeddings": False},
    "default width of the block": {"n_inner": None},
    "three heads of odd size": {"n_embd": 33, "n_head": 3},
    "another activation and eps": {"activation_function": "relu", "layer_norm_epsilon": 1e-2},
    "exact GELU, one head": {"activation_function": "gelu", "n_head": 1, "n_layer": 3},
}
