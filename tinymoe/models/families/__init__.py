"""The published model families: one short file each, found by the `model_type` of a config file."""

from __future__ import annotations

from .base import Family
from .bloom import Bloom
from .deepseek_v2 import DeepseekV2
from .deepseek_v3 import DeepseekV3
from .deepseek_v32 import DeepseekV32
from .falcon import Falcon
from .gemma import Gemma
from .gemma2 import Gemma2
from .gemma3_text import Gemma3Text
from .glm_moe_dsa import GlmMoeDsa
from .gpt2 import GPT2
from .gpt_bigcode import GPTBigCode
from .gpt_oss import GptOss
from .grok1 import Grok1
from .llama import Llama
from .llama4 import Llama4Text
from .mistral import Mistral
from .mixtral import Mixtral
from .olmoe import Olmoe
from .phi import Phi
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen2_moe import Qwen2Moe
from .qwen3 import Qwen3
from .qwen3_moe import Qwen3Moe
from .starcoder2 import Starcoder2

_ALL = (
    Bloom(),
    DeepseekV2(),
    DeepseekV3(),
    DeepseekV32(),
    Falcon(),
    GPT2(),
    GPTBigCode(),
    Gemma(),
    Gemma2(),
    Gemma3Text(),
    GlmMoeDsa(),
    GptOss(),
    Grok1(),
    Llama(),
    Llama4Text(),
    Mistral(),
    Mixtral(),
    Olmoe(),
    Phi(),
    Phi3(),
    Qwen2(),
    Qwen2Moe(),
    Qwen3(),
    Qwen3Moe(),
    Starcoder2(),
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
# Files with a vision tower too, and a fork's own name.
OTHER_NAMES = {"gemma3": "gemma3_text", "llama4": "llama4_text", "kimi_k2": "deepseek_v3"}


def family(model_type: str) -> Family:
    """The family with this `model_type`. Raises ValueError, listing those there are, for any other."""
    model_type = OTHER_NAMES.get(model_type, model_type)
    if model_type not in FAMILIES:
        raise ValueError(f"model_type: got {model_type!r}, expected one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
