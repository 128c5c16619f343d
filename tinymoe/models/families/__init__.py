"""The published model families: one short file each, found by the `model_type` of a config file."""

from __future__ import annotations

from .base import Family
from .llama import Llama
from .mistral import Mistral

FAMILIES: dict[str, Family] = {family.model_type: family for family in (Llama(), Mistral())}


def family(model_type: str) -> Family:
    """The family with this `model_type`. Raises ValueError, listing those there are, for any other."""
    if model_type not in FAMILIES:
        raise ValueError(f"model_type: got {model_type!r}, expected one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
