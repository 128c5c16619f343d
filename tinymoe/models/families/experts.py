"""What the families with experts have in common: checkpoints keep experts' matrices apart, the model stacks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config
from .base import Family

# Fields of ours that say how routers are balanced in training.
TRAINING = (
    "router_aux_loss_coef",
    "layer_aux_loss_coef",
    "sequence_loss_coef",
    "router_z_loss_coef",
    "bias_update_speed",
)


class RouterFamily(Family):
    """A family with routers, which Transformers may balance by a loss."""

    fixed = {"hidden_act": "silu"}  # noqa: RUF012

    def config_from_hf(self, published: Mapping[str, Any], **changes: Any) -> Config:
        """As in `Family`, with the settings for training, which may all be absent.

        `router_aux_loss_coef` counts only with `output_router_logits`: otherwise Transformers does not add that loss.
        """
        training = {name: published[name] for name in TRAINING if published.get(name) is not None}
        if not published.get("output_router_logits"):
            training.pop("router_aux_loss_coef", None)
        others = {name: value for name, value in published.items() if name not in (*TRAINING, "output_router_logits")}
        return super().config_from_hf(others, **{**training, **changes})

    def config_to_hf(self, config: Config) -> dict[str, Any]:
        """As in `Family`, with those settings for training that are in use; Transformers carries along what is ours."""
        training = {name: value for name in TRAINING if (value := getattr(config, name))}
        published = super().config_to_hf(dataclasses.replace(config, **dict.fromkeys(TRAINING, 0.0)))
        if "router_aux_loss_coef" in training:
            published["output_router_logits"] = True
        return {**published, **training}


class ExpertFamily(RouterFamily):
    """A family whose checkpoints hold `experts.0.gate_proj.weight`, `experts.1.gate_proj.weight` and so on.

    `expert_names` maps our names of an expert's three matrices to the published ones. What Transformers 5 holds in
    memory, `experts.gate_up_proj` for all experts, can be read too.
    """

    expert_names: ClassVar[dict[str, str]] = {name: name for name in ("gate_proj", "up_proj", "down_proj")}

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with experts that were stacked taken apart."""
        parameters = {}
        for name, array in super().parameters_in(published, config).items():
            block, _, matrix = name.rpartition(".")
            if not block.endswith(".experts"):
                parameters[name] = array
            elif matrix == "gate_up_proj":
                gate, up = np.split(array, 2, axis=1)
                parameters |= self._apart(block, "gate_proj", gate) | self._apart(block, "up_proj", up)
            else:
                parameters |= self._apart(block, matrix, array)
        return parameters

    def weights_from_hf(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with the experts stacked."""
        ours = {theirs: name for name, theirs in self.expert_names.items()}
        stacked: dict[str, np.ndarray] = {}
        others = {}
        for name, array in published.items():
            block, _, rest = name.rpartition(".experts.")
            if not block:
                others[name] = array
                continue
            number, matrix, _ = rest.split(".")
            whole = f"{block}.experts.{ours[matrix]}"
            if whole not in stacked:
                stacked[whole] = np.empty((config.num_experts or 0, *array.shape), dtype=array.dtype)
            stacked[whole][int(number)] = array
        return super().weights_from_hf({**others, **stacked}, config)

    def weights_to_hf(self, weights: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """As in `Family`, with each expert's matrices apart."""
        published = {}
        for name, array in super().weights_to_hf(weights, config).items():
            block, _, matrix = name.rpartition(".")
            published |= self._apart(block, matrix, array) if block.endswith(".experts") else {name: array}
        return published

    def _apart(self, block: str, matrix: str, stacked: np.ndarray) -> dict[str, np.ndarray]:
        name = self.expert_names.get(matrix, matrix)
        return {f"{block}.{number}.{name}.weight": own for number, own in enumerate(stacked)}


def dense_layers(config: Config) -> list[int]:
    """The numbers of the layers without experts."""
    return [index for index, kind in enumerate(config.mlp_types) if kind != "moe"]
