"""What a model family is: how its published config and weights map to ours."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...nn.config import Config

# Fields of Hugging Face configs that say nothing about the computation in evaluation mode.
NEUTRAL = frozenset(
    "_name_or_path architectures auto_map dtype torch_dtype transformers_version use_cache id2label label2id "
    "attention_dropout attn_pdrop embd_pdrop resid_pdrop embedding_dropout hidden_dropout residual_dropout "
    "attn_implementation _attn_implementation return_dict output_hidden_states output_attentions "
    "chunk_size_feed_forward is_encoder_decoder problem_type pretraining_tp num_return_sequences "
    "task_specific_params unk_token_id _attn_implementation_autoset".split()
)

# The projections that many families publish as one matrix.
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

_HINTS = typing.get_type_hints(Config)


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

    Config: `fields` maps each field of the published config to ours: to one, to several (separated by spaces), or to
    none, "", where `derived` reads it. `fixed` lists those of which one value is supported, and `neutral` those that
    change nothing; `absent` says what a field means that is not there; `parts` are the values of ours that make the
    family.
    Weights: `prefix` is the published name of what we call "model"; `names` map the rest of the published names to
    ours, one after the other. `stacked` takes fused matrices apart, `transposed` are those stored (in, out), and
    `ignored` matches what is no parameter.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    fields: ClassVar[dict[str, str]]
    fixed: ClassVar[dict[str, Any]] = {}
    neutral: ClassVar[frozenset[str]] = frozenset()
    absent: ClassVar[dict[str, Any]] = {}
    parts: ClassVar[dict[str, Any]] = {}
    prefix: ClassVar[str] = "model"
    names: ClassVar[dict[str, str]] = {}
    stacked: ClassVar[tuple[Stacked, ...]] = ()
    transposed: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[str] = r"rotary_emb\.inv_freq$"

    def config_from_hf(self, published: Mapping[str, Any], **changes: Any) -> Config:
        """Read a config file. `changes` are fields of ours that take the place of what it says.

        Raises ValueError naming every field that is missing, unknown, or not as it should be.
        """
        theirs = {ours: name for name, ours in self.fields.items() if ours in changes}
        said = {name: changes[ours] for ours, name in theirs.items()}
        published = self.normalize({**self.absent, **published, **said})
        values: dict[str, Any] = {"model_type": self.model_type, **self.parts}
        problems = []
        for name, value in published.items():
            if value is not None:
                values.update(dict.fromkeys(self.fields.get(name, "").split(), _frozen(value)))
            if problem := self._problem(name, value):
                problems.append(f"{name} = {value!r} ({problem})")
        required = {f.name for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING} - values.keys()
        problems += [f"{name} is missing" for name, ours in self.fields.items() if required & {*ours.split()}]
        if problems:
            raise ValueError(f"config of {self.model_type}: " + "; ".join(problems))
        others = {name: value for name, value in changes.items() if name not in theirs}
        return Config(**{**values, **self.derived(published), **others})

    def config_to_hf(self, config: Config) -> dict[str, Any]:
        """The config file of a model of ours, with every field that Transformers needs to build the same one.

        Raises ValueError naming what the published format has no place for: it would be another model that is read.
        """
        values = {name: getattr(config, ours.split()[0]) for name, ours in self.fields.items() if ours}
        published = {"architectures": [self.architecture], "model_type": self.model_type, **self.fixed, **values}
        published = self.denormalize(published, config)
        again = self.config_from_hf(published)
        lost = [
            f"{f.name} = {getattr(config, f.name)!r}"
            for f in dataclasses.fields(Config)
            if _frozen(getattr(config, f.name)) != getattr(again, f.name)
        ]
        if lost:
            raise ValueError(f"config of {self.model_type}: its config file cannot say {', '.join(lost)}")
        return published

    def normalize(self, published: dict[str, Any]) -> dict[str, Any]:
        """Bring older and newer spellings of a config into one form. By default: see `with_rope_apart`."""
        return with_rope_apart(published)

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Values of ours that no field gives by itself. `published` is normalized, known and complete."""
        return {}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse of `normalize` and `derived`, for what does not follow from the tables."""
        return published

    def renaming(self, config: Config) -> dict[str, str]:
        """`names`, for families in which they depend on the config."""
        return self.names

    def parameters_in(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """The parameters among a checkpoint's tensors, under their full published names."""
        # Files saved from a model without its output layer leave out the prefix.
        bare = not any(name.startswith(f"{self.prefix}.") for name in published)
        parameters = {}
        for name, array in published.items():
            if re.search(self.ignored, name) or (name == "lm_head.weight" and config.tie_word_embeddings):
                continue  # some files repeat a tied embedding under the output layer's name
            parameters[f"{self.prefix}.{name}" if bare and not name.startswith("lm_head.") else name] = array
        return parameters

    def weights_from_hf(self, published: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """Our weights by our names, from theirs by theirs, which must be those of `parameters_in` and complete."""
        weights = {}
        for name, array in published.items():
            array = np.ascontiguousarray(array.T) if self._is_transposed(name) else array
            stack = self._stack(name, [s.theirs for s in self.stacked])
            if stack is None:
                weights[self._renamed(name, config)] = array
                continue
            start, entry, end = stack
            for ours, rows in zip(entry.ours, entry.rows(config), strict=True):
                weights[self._renamed(start, config) + ours + end] = array[rows]
        return weights

    def weights_to_hf(self, weights: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """The inverse: weights (or their gradients) under the published names, in the published layout."""
        published: dict[str, np.ndarray] = {}
        for name, array in weights.items():
            stack = self._stack(name, [ours for s in self.stacked for ours in s.ours])
            if stack is None:
                theirs = self._named_back(name, config)
                published[theirs] = array.T if self._is_transposed(theirs) else array
                continue
            start, entry, end = stack
            theirs = self._named_back(start, config) + entry.theirs + end
            if theirs in published:
                continue
            rows = entry.rows(config)
            whole = np.empty((sum(map(len, rows)), *array.shape[1:]), dtype=array.dtype)
            for ours, places in zip(entry.ours, rows, strict=True):
                whole[places] = weights[start + ours + end]
            published[theirs] = whole.T if self._is_transposed(theirs) else whole
        return published

    def _problem(self, name: str, value: Any) -> str | None:
        if name in self.fields:
            ours, default = self.fields[name].split(), self.absent.get(name)
            if not ours and default is not None and not _fits(value, type(default)):
                return f"expected {type(default).__name__}"
            for hint in (_HINTS[field] for field in ours):
                if value is not None and not _fits(_frozen(value), hint):
                    return f"expected {getattr(hint, '__name__', hint)}"
        elif name in self.fixed:
            if value != self.fixed[name]:
                return f"only {self.fixed[name]!r} is supported"
        elif name not in NEUTRAL | self.neutral | {"model_type"}:
            return f"not known for {self.model_type}"
        return None

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(tuple(f"{part}.weight" for part in self.transposed))

    def _stack(self, name: str, candidates: Sequence[str]) -> tuple[str, Stacked, str] | None:
        for entry in self.stacked:
            for part in (entry.theirs, *entry.ours):
                for end in (".weight", ".bias"):
                    if part in candidates and name.endswith("." + part + end):
                        return name.removesuffix(part + end), entry, end
        return None

    def _renamed(self, name: str, config: Config) -> str:
        name = re.sub(rf"^{re.escape(self.prefix)}\.", "model.", name)
        for theirs, ours in self.renaming(config).items():
            name = _replaced(name, theirs, ours)
        return name

    def _named_back(self, name: str, config: Config) -> str:
        for theirs, ours in reversed(self.renaming(config).items()):
            name = _replaced(name, ours, theirs)
        return re.sub(r"^model\.", f"{self.prefix}.", name)


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
    if kind == "default":  # that knows no other fields: `config_from_hf` will name them
        return {**published, **{f"rope_parameters.{name}": value for name, value in rope.items() if value is not None}}
    return {**published, "rope_scaling": {"rope_type": kind, **rope}}


def rows_in_turn(*sizes: int) -> list[np.ndarray]:
    """The rows of matrices that stand one below the other in a fused one, `sizes` rows each."""
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def rows_by_group(config: Config) -> list[np.ndarray]:
    """The rows of q, k and v in a fused matrix where each group of query heads is followed by its key and value head.

    With as many groups as heads it is q, k, v of the first head, then of the second, and so on; with one group, all
    the queries, then k and v.
    """
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = np.arange(heads * config.head_dim).reshape(config.num_key_value_heads, -1, config.head_dim)  # (K, G + 2, D)
    return [part.reshape(-1) for part in (rows[:, :-2], rows[:, -2], rows[:, -1])]


def _replaced(name: str, old: str, new: str) -> str:
    """`name` with `old` replaced where it is one or more whole steps of the path."""
    return re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, name)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = {typing.get_origin(option) or option for option in options}
    kinds |= {int} if float in kinds else {tuple} if list in kinds else set()
    return isinstance(value, tuple(kinds)) and isinstance(value, bool) == (bool in kinds)
