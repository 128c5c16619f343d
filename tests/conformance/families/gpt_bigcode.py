from transformers import GPTBigCodeConfig as CONFIG  # noqa: F401, N814
from transformers import GPTBigCodeForCausalLM as MODEL  # noqa: F401, N814

from families.gpt2 import SMALL_NAMES  # noqa: F401

VARIANTS = {
    "multi-query": {},
    "multi-head": {"multi_query": False},
    "untied": {"tie_word_embeddings": False},
    "default width of the block": {"n_inner": None},
    "three heads of odd size": {"n_embd": 33, "n_head": 3},
    "three heads of odd size, multi-head": {"n_embd": 33, "n_head": 3, "multi_query": False, "n_layer": 3},
    "StarCoder's activation, another eps": {"activation_function": "gelu", "layer_norm_epsilon": 1e-2},
}
