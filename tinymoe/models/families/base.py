"""What a model family is: how its published config and weights map to ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config

# Fields of Hugging Face configs that say nothing about the computation in evaluation mode.
NEUTRAL = frozenset(
    "_name_or_path architectures dtype torch_dtype transformers_version use_cache id2label label2id "
    "attention_dropout attn_implementation _attn_implementation return_dict output_hidden_states output_attentions "
    "chunk_size_feed_forward is_encoder_decoder problem_type pretraining_tp num_return_sequences".split()
)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A published matrix (or bias) that holds several of ours: `rows` gives, for each of ours, its rows in theirs.

    `theirs` and `ours` are what stands before `.weight` or `.bias`, from the layer's own name on. With one matrix of
    ours, `rows` is a reordering.
    """

    theirs: str
    ours: tuple[str, ...]
    rows: Callable[[Config], Sequence[np.ndarray]]


class Family:
    """One published family, described by tables. A family's file subclasses this and registers one instance.

    Config: `fields` maps each field of the published config to ours; `fixed` lists those of which one value is
    supported; `absent` says what a field means that is not there; `parts` are the values of ours that make the family.
    Weights: `prefixes` and `names` map the published names to ours, `stacked` takes fused matrices apart, `transposed`
    are those stored (in, out), and `ignored` matches what is no parameter.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    fields: ClassVar[dict[str, str]]
    fixed: ClassVar[dict[str, Any]] = {}
    absent: ClassVar[dict[str, Any]] = {}
    parts: ClassVar[dict[str, Any]] = {}
    names: ClassVar[dict[str, str]] = {}
    stacked: ClassVar[tuple[Stacked, ...]] = ()
    transposed: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[str] = r"rotary_emb\.inv_freq$"

    def config_from_hf(self, published: Mapping[str, Any]) -> Config:
        """Read a config file's fields. Raises ValueError naming every field that is unknown or has a value we lack."""
        values: dict[str, Any] = {"model_type": self.model_type, **self.parts}
        problems = []
        for name, value in self.normalize({**self.absent, **published}).items():
            if name in self.fields:
                if value is not None:
                    values[self.fields[name]] = tuple(value) if isinstance(value, list) else value
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
        return self.denormalize(
            {
                "architectures": [self.architecture],
                "model_type": self.model_type,
                **self.fixed,
                **{name: value for name, value in values.items() if value is not None},
            },
            config,
        )

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Bring older and newer spellings of a config into one form. By default: see `with_rope_apart`."""
        return with_rope_apart(published)

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse of `normalize`, for what does not follow from the tables."""
        return published

    def weights_from_hf(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """Our weights by our names, from theirs by theirs."""
        weights = {}
        for name, array in published.items():
            if re.search(self.ignored, name) or (name == "lm_head.weight" and config.tie_word_embeddings):
                continue  # some files repeat a tied embedding under the output layer's name
            array = array.T if self._is_transposed(name) else array
            stack = self._stack(name, [s.theirs for s in self.stacked])
            if stack is None:
                weights[self._renamed(name)] = array
                continue
            start, entry, end = stack
            for ours, rows in zip(entry.ours, entry.rows(config), strict=True):
                # Too few rows is for the check of shapes to report, by the weight's name.
                fits = len(rows) == 0 or rows.max() < len(array)
                weights[self._renamed(start) + ours + end] = array[rows] if fits else array
        return weights

    def weights_to_hf(self, weights: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """The inverse: weights (or their gradients) under the published names, in the published layout."""
        published: dict[str, np.ndarray] = {}
        for name, array in weights.items():
            stack = self._stack(name, [ours for s in self.stacked for ours in s.ours])
            if stack is None:
                theirs = self._named_back(name)
                published[theirs] = array.T if self._is_transposed(theirs) else array
                continue
            start, entry, end = stack
            theirs = self._named_back(start) + entry.theirs + end
            if theirs in published:
                continue
            rows = entry.rows(config)
            whole = np.empty((sum(map(len, rows)), *array.shape[1:]), dtype=array.dtype)
            for ours, places in zip(entry.ours, rows, strict=True):
                whole[places] = weights[start + ours + end]
            published[theirs] = whole.T if self._is_transposed(theirs) else whole
        return published

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(tuple(f"{part}.weight" for part in self.transposed))

    def _stack(self, name: str, candidates: Sequence[str]) -> tuple[str, Stacked, str] | None:
        for entry in self.stacked:
            for part in (entry.theirs, *entry.ours):
                for end in (".weight", ".bias"):
                    if part in candidates and name.endswith("." + part + end):
                        return name.removesuffix(part + end), entry, end
        return None

    def _renamed(self, name: str) -> str:
        for theirs, ours in self.names.items():
            name = re.sub(rf"(?:^|(?<=\.)){re.escape(theirs)}(?=\.|$)", ours, name)
        return name

    def _named_back(self, name: str) -> str:
        for theirs, ours in reversed(self.names.items()):
            name = re.sub(rf"(?:^|(?<=\.)){re.escape(ours)}(?=\.|$)", theirs, name)
        return name


def same(names: str) -> dict[str, str]:
    """A table of fields that have the same name in the published config and in ours."""
    return {name: name for name in names.split()}


def with_rope_apart(published: dict[str, Any]) -> dict[str, Any]:
    """Transformers 5 keeps theta and the kind of scaling together in `rope_parameters`; we, and older files, apart."""
    rope = dict(published.pop("rope_parameters", None) or published.pop("rope_scaling", None) or {})
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            published[name] = rope.pop(name)
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    return published if kind == "default" else {**published, "rope_scaling": {"rope_type": kind, **rope}}
