"""Whole models: the decoder, the published families, checkpoints, and the zoo."""

from . import zoo
from .config import Config
from .decoder import CausalLM, Trace
from .pretrained import from_pretrained, save_pretrained

__all__ = ["CausalLM", "Config", "Trace", "from_pretrained", "save_pretrained", "zoo"]
