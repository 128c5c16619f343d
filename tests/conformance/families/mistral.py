from transformers import MistralForCausalLM as MODEL  # noqa: F401, N814

VARIANTS = {
    "window": {"num_key_value_heads": 2, "sliding_window": 7},
    "no window": {"num_key_value_heads": 1, "sliding_window": None},
    "wide heads, tied": {"num_key_value_heads": 2, "head_dim": 12, "sliding_window": 16, "tie_word_embeddings": True},
    "theta": {"num_key_value_heads": 4, "rope_theta": 1e6, "sliding_window": 40},
}
