"""What Llama 4 and GPT-OSS have in common: checkpoints hold the matrices of all experts in two tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ...nn.config import Config
from .experts import RouterFamily


class FusedExpertFamily(RouterFamily):
    """A family whose checkpoints hold `experts.gate_up_proj` (E, C, 2 I) and `experts.down_proj` (E, I, C).

    They are (in, out); the gate's columns stand before up's, or with `interleaved` every other column is up's. Biases
    have the same names and `_bias`.
    """

    interleaved: ClassVar[bool] = False

    def weights_from_hf(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with gate and up apart."""
        apart = {}
        for name, array in published.items():
            block, _, matrix = name.rpartition(".")
            if not block.endswith(".experts"):
                apart[name] = array
            elif matrix.startswith("gate_up_proj"):
                halves = (array[..., ::2], array[..., 1::2]) if self.interleaved else np.split(array, 2, axis=-1)
                for ours, half in zip(("gate_proj", "up_proj"), halves, strict=True):
                    apart[f"{block}.{matrix.replace('gate_up_proj', ours)}"] = _turned(half)
            else:
                apart[name] = _turned(array)
        return super().weights_from_hf(apart, config)

    def weights_to_hf(self, weights: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with gate and up together."""
        published = super().weights_to_hf(weights, config)
        for name in [name for name in published if ".experts." in name]:
            array = _turned(published.pop(name))
            if ".gate_proj" in name:
                up = _turned(published[name.replace(".gate_proj", ".up_proj")])
                order = "stack" if self.interleaved else "concatenate"
                both = getattr(np, order)([array, up], axis=-1).reshape(*array.shape[:-1], -1)
                published[name.replace(".gate_proj", ".gate_up_proj")] = both
            elif ".up_proj" not in name:
                published[name] = array
        return published


def _turned(array: np.ndarray) -> np.ndarray:
    """Matrices (E, in, out) as (E, out, in), or back; biases (E, out) as they are."""
    return array.swapaxes(1, 2) if array.ndim == 3 else array
