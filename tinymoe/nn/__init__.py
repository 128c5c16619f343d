"""The parts that models are made of."""

from .attention import Attention, Places
from .cache import KVCache
from .mlp import MLP
from .module import Embedding, Linear, Module, Parameter
from .norm import RMSNorm
from .position import RotaryEmbedding

__all__ = [
    "MLP",
    "Attention",
    "Embedding",
    "KVCache",
    "Linear",
    "Module",
    "Parameter",
    "Places",
    "RMSNorm",
    "RotaryEmbedding",
]
