from transformers import Phi3Config as CONFIG  # noqa: F401, N814
from transformers import Phi3ForCausalLM as MODEL  # noqa: F401, N814

# PyTorch gives the embedding of a padding token no gradient; here all tokens are alike.
BASE = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.8],
    "long_factor": [1.0, 2.5, 6.0, 9.0],
}

VARIANTS = {
    "multi-head": {},
    "grouped, window": {"num_key_value_heads": 2, "sliding_window": 7},
    "wide heads, tied": {"num_key_value_heads": 1, "head_dim": 14, "tie_word_embeddings": True},
    "three heads, partly turned": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.75,
        "sliding_window": 40,
        "rms_norm_eps": 1e-2,
    },
    # Only the longest inputs are longer than the switch: beyond it, old keys in a cache differ from keys read afresh.
    "short and long": {"original_max_position_embeddings": 100, "rope_parameters": LONGROPE},
    "long from the start": {
        "original_max_position_embeddings": 4,
        "num_key_value_heads": 2,
        "sliding_window": 16,
        "rope_parameters": LONGROPE,
    },
    "half turned, temperature given": {
        "num_key_value_heads": 2,
        "hidden_size": 64,
        "partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 100,
        "rope_parameters": {**LONGROPE, "attention_factor": 1.4},
    },
}
