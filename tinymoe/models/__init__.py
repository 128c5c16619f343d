"""Whole models: the decoder, the published families, checkpoints, and the zoo."""

from ..nn.config import Config
from . import layers, zoo
from .decoder import CausalLM, Trace
from .pretrained import from_pretrained, save_pretrained

__all__ = ["CausalLM", "Config", "Trace", "from_pretrained", "layers", "save_pretrained", "zoo"]
