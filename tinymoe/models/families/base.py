"""What a model family is: how its published config and weight names map to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import Config

# Fields of Hugging Face configs that say nothing about the computation in evaluation mode.
NEUTRAL = frozenset(
    "_name_or_path architectures dtype torch_dtype transformers_version use_cache id2label label2id "
    "attention_dropout attn_implementation _attn_implementation return_dict output_hidden_states output_attentions "
    "chunk_size_feed_forward is_encoder_decoder problem_type pretraining_tp num_return_sequences".split()
)


class Family:
    """One published family, described by tables. A family's file subclasses this and registers one instance.

    `fields` maps each field of its config file to ours, `fixed` lists those of which one value is supported.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    fields: ClassVar[dict[str, str]]
    fixed: ClassVar[dict[str, Any]] = {}

    def config_from_hf(self, published: Mapping[str, Any]) -> Config:
        """Read a config file's fields. Raises ValueError naming every field that is unknown or has a value we lack."""
        values: dict[str, Any] = {"model_type": self.model_type}
        problems = []
        for name, value in self.normalize(dict(published)).items():
            if name in self.fields:
                if value is not None:
                    values[self.fields[name]] = value
            elif name in self.fixed:
                if value != self.fixed[name]:
                    problems.append(f"{name} = {value!r} (only {self.fixed[name]!r} is supported)")
            elif name not in NEUTRAL and name != "model_type":
                problems.append(f"{name} = {value!r} (not known for {self.model_type})")
        required = {f.name for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING}
        problems += [f"{name} is missing" for name in sorted(required - values.keys())]
        if problems:
            raise ValueError(f"config of {self.model_type}: " + "; ".join(problems))
        return Config(**values)

    def config_to_hf(self, config: Config) -> dict[str, Any]:
        """The config file of a model of ours, with every field that Transformers needs to build the same one."""
        values = {name: getattr(config, ours) for name, ours in self.fields.items()}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **self.fixed,
            **{name: value for name, value in values.items() if value is not None},
        }

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Bring older and newer spellings of a config into one form."""
        return published

    def name_from_hf(self, name: str) -> str | None:
        """Our name of a published weight, or None for one that is no parameter."""
        return name

    def name_to_hf(self, name: str) -> str:
        """The published name of one of our weights."""
        return name
