"""The parts that models are made of."""

from . import balance, latent, moe, routers, scaling, sharing, sparse, specials, variants
from .attention import Attention, Places
from .cache import KVCache
from .config import Config
from .mlp import MLP
from .module import Embedding, Linear, Module, Parameter
from .norm import RMSNorm
from .position import RotaryEmbedding

__all__ = [
    "MLP",
    "Attention",
    "Config",
    "Embedding",
    "KVCache",
    "Linear",
    "Module",
    "Parameter",
    "Places",
    "RMSNorm",
    "RotaryEmbedding",
    "balance",
    "latent",
    "moe",
    "routers",
    "scaling",
    "sharing",
    "sparse",
    "specials",
    "variants",
]
