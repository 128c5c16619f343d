"""tinymoe: today's open language models, built from scratch in NumPy.

    import tinymoe as tm

The names below are loaded when they are first used, so that importing the package costs no more than NumPy.
"""

from __future__ import annotations

import importlib
from typing import Any

# Not lazily: `tm.backend` is the function, and must be bound after the folder of that name has been imported.
from .backend import backend, use, using

__version__ = "0.1.0"

_HOMES = {
    "Tensor": "tensor",
    "no_grad": "tensor",
    "Tokenizer": "text.tokenizer",
    "CharTokenizer": "text.tokenizer",
    "from_pretrained": "models",
    "AdamW": "train.optim",
    "clip_grad_norm": "train.optim",
}
_MODULES = {"corpora": "text.corpora", "zoo": "models.zoo", "ops": "ops", "nn": "nn", "posttrain": "posttrain"}

__all__ = ["__version__", "backend", "use", "using", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'tinymoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
