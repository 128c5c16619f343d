"""The published model families: one short file each, found by the `model_type` of a config file."""

from __future__ import annotations

from .base import Family
from .bloom import Bloom
from .deepseek_v2 import DeepseekV2
from .falcon import Falcon
from .gemma import Gemma
from .gemma2 import Gemma2
from .gemma3_text import Gemma3Text
from .gpt2 import GPT2
from .gpt_bigcode import GPTBigCode
from .llama import Llama
from .mistral import Mistral
from .mixtral import Mixtral
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
    Falcon(),
    GPT2(),
    GPTBigCode(),
    Gemma(),
    Gemma2(),
    Gemma3Text(),
    Llama(),
    Mistral(),
    Mixtral(),
    Phi(),
    Phi3(),
    Qwen2(),
    Qwen2Moe(),
    Qwen3(),
    Qwen3Moe(),
    Starcoder2(),
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
PART_OF = {"gemma3": "gemma3_text"}  # files that hold a family's model beside other things


def family(model_type: str) -> Family:
    """The family with this `model_type`. Raises ValueError, listing those there are, for any other."""
    model_type = PART_OF.get(model_type, model_type)
    if model_type not in FAMILIES:
        raise ValueError(f"model_type: got {model_type!r}, expected one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
