from transformers import BloomConfig as CONFIG  # noqa: F401, N814
from transformers import BloomForCausalLM as MODEL  # noqa: F401, N814

SMALL_NAMES = {
    "intermediate_size": None,
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}

VARIANTS = {
    "as published": {},
    "untied": {"tie_word_embeddings": False},
    "eight heads": {"n_head": 8},
    "six heads, no power of two": {"hidden_size": 30, "n_head": 6},
    "one head of odd size, another eps": {"hidden_size": 15, "n_head": 1, "layer_norm_epsilon": 1e-2},
}
