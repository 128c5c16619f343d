"""LoRA: fine-tuning by small matrices beside the large ones, which stay as they are.

A matrix W (out, in) gets a companion B A of rank r, with A (r, in) and B (out, r), and only A and B are trained (Hu et
al. 2021, arXiv:2106.09685). In a model each adapted `Linear` is replaced by a `LoraLinear`, which holds it and any
number of adapters, each under a name. `adapter_files` saves and loads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .. import ops
from ..backend import current
from ..models.decoder import CausalLM
from ..nn.module import Linear, Module, Parameter, shapes_only
from ..tensor import Tensor, no_grad


@dataclass(frozen=True)
class LoraConfig:
    """How to adapt a model, under PEFT's names. ValueError names a bad setting.

    `target_modules` are the last steps of paths, as "q_proj"; whole paths; or one regular expression that must match a
    whole path. "all-linear" means every linear layer but the output layer.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: list[str] | tuple[str, ...] | str = ("q_proj", "v_proj")
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, list | tuple) and all(isinstance(x, str) for x in self.target_modules):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))  # as constant as the rest
        elif not isinstance(self.target_modules, str):
            raise ValueError(f"target_modules: got {self.target_modules!r}, expected names, or one regular expression")
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"r: got {self.r!r}, expected a whole number ≥ 1")
        if not isinstance(self.lora_alpha, int | float) or not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha: got {self.lora_alpha!r}, expected a number > 0")
        if not self.target_modules:
            raise ValueError("target_modules: got none, expected at least one")
        if self.bias != "none":
            raise ValueError(f"bias: got {self.bias!r}, expected 'none': biases are not trained")

    @property
    def scaling(self) -> float:
        """What B A is multiplied by: alpha / r, so that alpha need not be tuned again for another rank.

        Rank-stabilized LoRA divides by the root of r: then large ranks do not learn too slowly (Kalajdzievski 2023,
        arXiv:2312.03732).
        """
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class LoraAdapter(Module):
    """The trained part of one linear layer: lora_A (r, in), drawn at random, and lora_B (out, r), zero at first.

    So at the start B A is zero, and the model is what it was.
    """

    def __init__(self, name: str, config: LoraConfig, base: Linear, rng: np.random.Generator):
        out_features, in_features = base.weight.shape
        self.name, self.config, self.scale = name, config, 1.0
        bound = 1 / math.sqrt(in_features)
        self.lora_A = _parameter(rng.uniform(-bound, bound, (config.r, in_features)), like=base.weight)
        self.lora_B = _parameter(np.zeros((out_features, config.r)), like=base.weight)

    @property
    def scaling(self) -> float:
        """The config's scaling, turned up or down by `set_scale`."""
        return self.scale * self.config.scaling

    def __call__(self, x: Tensor) -> Tensor:
        """What is added to the layer's answer: x (..., in) -> (..., out), by way of r numbers a token."""
        return ops.linear(ops.linear(x, self.lora_A) * self.scaling, self.lora_B)

    def adapt(self, weight: Tensor) -> Tensor:
        """The matrix that does both at once: W + scaling B A, (out, in)."""
        return weight + (self.lora_B @ self.lora_A) * self.scaling


class DoraAdapter(LoraAdapter):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): LoRA turns the rows of the matrix, and their lengths are learned apart.

    lora_magnitude_vector (out,) holds the lengths; they begin as those of W's rows. Raises ValueError where a row is
    zero, and so has no direction.
    """

    def __init__(self, name: str, config: LoraConfig, base: Linear, rng: np.random.Generator):
        super().__init__(name, config, base, rng)
        lengths = _row_lengths(base.weight)
        if not (lengths > 0).all():
            raise ValueError("use_dora: a matrix has a row of zeros, which cannot be turned")
        self.lora_magnitude_vector = Parameter(lengths)

    def adapt(self, weight: Tensor) -> Tensor:
        """The rows of W + scaling B A, each brought to its learned length: (out, in).

        The length it is divided by counts as a constant in the gradient (section 4.3 of the paper).
        """
        turned = super().adapt(weight)
        return turned * (self.lora_magnitude_vector / _row_lengths(turned)).reshape(-1, 1)


class LoraLinear(Module):
    """A linear layer with adapters beside it. The layer itself, `base`, never changes.

    `active` are the names of the adapters that take part. While `merged` holds a matrix, that is used instead.
    """

    def __init__(self, base: Linear):
        self.base = base
        self.adapters: list[LoraAdapter] = []
        self.active: tuple[str, ...] = ()
        self.merged: Tensor | None = None
        self.enabled = True

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if not self.enabled:
            return self.base(x)
        adapters = self.taking_part()
        if self.merged is not None or any(isinstance(adapter, DoraAdapter) for adapter in adapters):
            bias = (self.base.bias,) if hasattr(self.base, "bias") else ()
            return ops.linear(x, self.weight, *bias)
        y = self.base(x)
        for adapter in adapters:
            y = y + adapter(x)
        return y

    @property
    def weight(self) -> Tensor:
        """The matrix that this layer amounts to, (out, in): for those who multiply by it themselves."""
        if not self.enabled:
            return self.base.weight
        if self.merged is not None:
            return self.merged
        weight: Tensor = self.base.weight
        for adapter in self.taking_part():
            weight = adapter.adapt(weight)
        return weight

    @property
    def bias(self) -> Tensor:
        """The base's, (out,). AttributeError where it has none."""
        return self.base.bias

    def taking_part(self) -> list[LoraAdapter]:
        """The active adapters, in the order in which they were named."""
        return [adapter for name in self.active for adapter in self.adapters if adapter.name == name]

    def adapter(self, name: str) -> LoraAdapter | None:
        """The adapter of this name, or None."""
        return next((adapter for adapter in self.adapters if adapter.name == name), None)


class Frozen(Tensor):
    """A parameter that is not trained now: `parameters()` passes it over. `parameter` is what it was."""

    __slots__ = ("parameter",)

    def __init__(self, parameter: Parameter):
        super().__init__(parameter.data)
        self.parameter = parameter


def freeze(module: Module) -> None:
    """Take every parameter under `module` out of training: no gradient, no optimizer, no checkpoint sees it."""
    for each in module.modules():
        for name, value in vars(each).items():
            if isinstance(value, Parameter):
                setattr(each, name, Frozen(value))


def thaw(module: Module) -> None:
    """Undo `freeze`: the same `Parameter` objects as before, so that an optimizer made for them still serves."""
    for each in module.modules():
        for name, value in vars(each).items():
            if isinstance(value, Frozen):
                value.parameter.data = value.data
                setattr(each, name, value.parameter)


def named_linears(module: Module, prefix: str = "") -> Iterator[tuple[str, Linear | LoraLinear]]:
    """Every linear layer under `module`, adapted or not, with its path, as "model.layers.0.self_attn.q_proj"."""
    for name, value in vars(module).items():
        children = {f"{name}.{i}": item for i, item in enumerate(value)} if isinstance(value, list) else {name: value}
        for path, child in children.items():
            if isinstance(child, Linear | LoraLinear):
                yield prefix + path, child
            elif isinstance(child, Module):
                yield from named_linears(child, f"{prefix}{path}.")


def replace_module(root: Module, path: str, new: Module) -> None:
    """Put `new` in the place of the module at `path`; what is a number in the path counts in a list."""
    *steps, last = path.split(".")
    parent = root
    for step in steps:
        parent = parent[int(step)] if isinstance(parent, list) else getattr(parent, step)
    if isinstance(parent, list):
        parent[int(last)] = new
    else:
        setattr(parent, last, new)


def targeted(paths: Iterable[str], target_modules: Sequence[str] | str) -> list[str]:
    """Those of the paths of linear layers that `target_modules` means: see `LoraConfig`.

    Raises ValueError naming the targets that mean none, and what there is.
    """
    paths = list(paths)
    if target_modules == "all-linear":
        return [path for path in paths if path != "lm_head"]
    if isinstance(target_modules, str):
        try:
            found = {target_modules: [path for path in paths if re.fullmatch(target_modules, path)]}
        except re.error as error:
            raise ValueError(f"target_modules: {target_modules!r} is no regular expression ({error})") from error
    else:
        found = {target: [path for path in paths if f".{path}".endswith(f".{target}")] for target in target_modules}
    unknown = [target for target, matches in found.items() if not matches]
    if unknown:
        known, wanted = dict.fromkeys(path.rpartition(".")[2] for path in paths), ", ".join(map(repr, unknown))
        raise ValueError(f"target_modules: no linear layer is called {wanted}; there are {', '.join(known)}")
    chosen = {path for matches in found.values() for path in matches}
    return [path for path in paths if path in chosen]


def lora_layers(model: Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model by their paths."""
    return {path: layer for path, layer in named_linears(model) if isinstance(layer, LoraLinear)}


def adapters(model: Module) -> dict[str, LoraConfig]:
    """The names of a model's adapters, in the order in which they came, with their configs."""
    every = [adapter for layer in lora_layers(model).values() for adapter in layer.adapters]
    return {adapter.name: adapter.config for adapter in every}


def add_lora(model: CausalLM, config: LoraConfig, name: str = "default", seed: int = 0) -> CausalLM:
    """Give the model an adapter and switch to it: from now on that is all that is trained. Returns the model.

    Raises ValueError for a name that is taken, for targets that are not there, and while adapters are merged.
    """
    check_new_name(model, name)
    linears, rng = dict(named_linears(model)), np.random.default_rng(seed)
    chosen = targeted(linears, config.target_modules)
    return attach(model, {path: new_adapter(name, config, linears[path], rng) for path in chosen})


def check_new_name(model: CausalLM, name: str) -> None:
    """Raises ValueError unless the model can be given an adapter of this name now."""
    taken = adapters(model)
    if not name or name in taken:
        raise ValueError(f"name: got {name!r}, expected a new one; there are {', '.join(taken) or 'none'}")
    if is_merged(model):
        raise ValueError("model: its adapters are merged; unmerge them first")


def new_adapter(name: str, config: LoraConfig, layer: Linear | LoraLinear, rng: np.random.Generator) -> LoraAdapter:
    """An adapter that changes nothing yet, for a layer."""
    kind = DoraAdapter if config.use_dora else LoraAdapter
    return kind(name, config, layer.base if isinstance(layer, LoraLinear) else layer, rng)


def attach(model: CausalLM, by_path: Mapping[str, LoraAdapter]) -> CausalLM:
    """Put adapters of one name beside the linear layers at their paths, and switch to that name. Returns the model.

    A layer that has none yet becomes a `LoraLinear`, and the model's own parameters are frozen.
    """
    freeze(model)
    linears = dict(named_linears(model))
    for path, adapter in by_path.items():
        layer = linears[path]
        if isinstance(layer, Linear):
            layer = LoraLinear(layer)
            replace_module(model, path, layer)
        layer.adapters.append(adapter)
    set_adapter(model, next(adapter.name for adapter in by_path.values()))
    return model


def set_adapter(model: CausalLM, names: str | Sequence[str]) -> None:
    """Switch to these adapters: they take part, their changes added up, and are trained; the others rest.

    Raises ValueError for an unknown name, a DoRA adapter among several, and while adapters are merged.
    """
    names, known = (names,) if isinstance(names, str) else tuple(names), adapters(model)
    for name in names:
        check_name(model, name)
        if known[name].use_dora and len(names) > 1:
            raise ValueError(f"names: got {names}, but {name!r} is a DoRA adapter: these work alone")
    if is_merged(model):
        raise ValueError("model: its adapters are merged; unmerge them first")
    for layer in lora_layers(model).values():
        layer.active = names
        for adapter in layer.adapters:
            (thaw if adapter.name in names else freeze)(adapter)


def check_name(model: CausalLM, name: str) -> None:
    """Raises ValueError unless the model has an adapter of this name."""
    known = adapters(model)
    if name not in known:
        raise ValueError(f"name: got {name!r}, expected an adapter of the model: {', '.join(known) or 'it has none'}")


@contextmanager
def adapters_off(model: CausalLM) -> Iterator[CausalLM]:
    """Inside the block the model is its base: the reference that preference learning needs, at no memory."""
    layers = lora_layers(model).values()
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield model
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled


def set_scale(model: CausalLM, name: str, scale: float) -> None:
    """Turn an adapter up or down: its scaling is `scale` times what its config says."""
    check_name(model, name)
    if not math.isfinite(scale):
        raise ValueError(f"scale: got {scale}, expected a finite number")
    for layer in lora_layers(model).values():
        if (adapter := layer.adapter(name)) is not None:
            adapter.scale = scale


def combine(model: CausalLM, weights: Mapping[str, float], name: str) -> CausalLM:
    """Make one adapter of several, each times its weight, and switch to it.

    Its matrices are theirs side by side, so that it is their weighted sum exactly; its rank is the sum of their ranks.
    Where a layer has not all of them, zeros stand in. Raises ValueError for DoRA adapters: rows that are rescaled
    cannot be added up.
    """
    check_new_name(model, name)
    for each in weights:
        check_name(model, each)
    configs = {each: adapters(model)[each] for each in weights}
    if not weights or any(config.use_dora for config in configs.values()):
        raise ValueError(f"weights: got {dict(weights)}, expected one or more adapters without DoRA")
    rank = sum(config.r for config in configs.values())
    layers = {path: x for path, x in lora_layers(model).items() if any(x.adapter(each) is not None for each in weights)}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=tuple(layers))
    wholes = {path: new_adapter(name, config, layer, np.random.default_rng(0)) for path, layer in layers.items()}
    for path, whole in wholes.items():
        start = 0
        for each, weight in weights.items():
            part, end = layers[path].adapter(each), start + configs[each].r
            whole.lora_A.data[start:end] = 0.0 if part is None else part.lora_A.data
            whole.lora_B.data[:, start:end] = 0.0 if part is None else part.lora_B.data * (weight * part.scaling)
            start = end
    return attach(model, wholes)


def is_merged(model: CausalLM) -> bool:
    """Whether the adapters are merged."""
    return any(layer.merged is not None for layer in lora_layers(model).values())


def merge(model: CausalLM) -> CausalLM:
    """Let the active adapters and their base be one matrix each: as fast as without adapters. Returns the model.

    The bases are kept, so that `unmerge` brings back exactly what was. Raises ValueError where there is nothing to
    merge, and when it is merged already.
    """
    layers = lora_layers(model)
    if not layers or is_merged(model):
        raise ValueError(f"model: {'its adapters are merged already' if layers else 'it has no adapters'}")
    with no_grad():
        for layer in layers.values():
            layer.merged = Tensor(layer.weight.data.copy())
    return model


def unmerge(model: CausalLM) -> CausalLM:
    """Undo `merge`, to the last bit. Returns the model. Raises ValueError when nothing is merged."""
    if not is_merged(model):
        raise ValueError("model: its adapters are not merged")
    for layer in lora_layers(model).values():
        layer.merged = None
    return model


def unload(model: CausalLM) -> CausalLM:
    """Take the adapters out: a plain model again, all of it trained. Returns the model.

    What was merged stays, as new matrices; otherwise it is the base that is left.
    """
    for path, layer in lora_layers(model).items():
        replace_module(model, path, layer.base if layer.merged is None else _linear(layer.merged, layer.base))
    thaw(model)
    return model


def _linear(weight: Tensor, base: Linear) -> Linear:
    """A plain layer with this matrix and the base's bias."""
    with shapes_only():
        linear = Linear(1, 1, bias=False, rng=np.random.default_rng(0))
    linear.weight = Parameter(weight.data)
    if hasattr(base, "bias"):
        linear.bias = base.bias
    return linear


def _parameter(values: np.ndarray, like: Tensor) -> Parameter:
    return Parameter(current().asarray(values.astype(like.dtype)))


def _row_lengths(weight: Tensor) -> np.ndarray:
    return current().xp.sqrt((weight.data * weight.data).sum(axis=1))
