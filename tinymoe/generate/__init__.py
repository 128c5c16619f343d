"""Generation: sampling rules and the token-by-token loop."""

from .engine import Step, generate, stream

__all__ = ["Step", "generate", "stream"]
