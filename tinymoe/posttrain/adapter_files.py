"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors in one folder, both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..files import write_atomically
from ..models.decoder import CausalLM
from ..models.families import family
from ..models.pretrained import read_safetensors
from ..models.tensor_files import serialize
from .lora import (
    LoraAdapter,
    LoraConfig,
    attach,
    check_name,
    check_new_name,
    lora_layers,
    named_linears,
    new_adapter,
    targeted,
)

_PREFIX = "base_model.model."
_BY_ROWS = {"lora_B": ".weight", "lora_magnitude_vector": ""}  # what has a row for each output -> how its name ends
_OURS = tuple(field.name for field in dataclasses.fields(LoraConfig))
# Fields of PEFT's config that do not change what a trained adapter computes.
_NEUTRAL = frozenset(
    "auto_mapping base_model_name_or_path ensure_weight_tying inference_mode lora_dropout megatron_core peft_type "
    "peft_version qalora_group_size revision runtime_config task_type".split()
)
# Ways of drawing A and B that leave the base as it is; others, as "pissa", take from it what they put into A and B.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def save_adapter(model: CausalLM, folder: str | Path, name: str = "default") -> None:
    """Write a folder that PEFT loads, for the same base model in Transformers. Each file is complete or not there.

    Raises ValueError for an unknown name, and for layers that the family publishes in another form: see
    `published_paths`.
    """
    check_name(model, name)
    layers = {path: adapter for path, layer in lora_layers(model).items() if (adapter := layer.adapter(name))}
    published = published_paths(model)
    if odd := sorted(layers.keys() - published.keys()):
        raise ValueError(f"{name}: {_unsupported(model)}; it adapts {', '.join(odd[:4])}")
    tensors: dict[str, np.ndarray] = {}
    for path, adapter in layers.items():
        tensors |= _to_peft(model, path, published[path], adapter)
    chosen, every = [published[path] for path in layers], list(published.values())
    config = _config_to_peft(next(iter(layers.values())).config, chosen, every)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "adapter_model.safetensors", serialize(tensors, {"format": "pt"}))
    write_atomically(folder / "adapter_config.json", json.dumps(config, indent=2).encode())


def load_adapter(model: CausalLM, folder: str | Path, name: str = "default") -> CausalLM:
    """Give the model an adapter that `save_adapter` or PEFT saved, and switch to it. Returns the model.

    Raises FileNotFoundError for a missing file, and ValueError for a name that is taken, a damaged file, a field of the
    config that is not supported, and tensors that are missing, unexpected or of another shape. Then nothing is changed.
    """
    folder = Path(folder)
    check_new_name(model, name)
    config, tensors = _read_config(folder / "adapter_config.json"), _read_tensors(folder / "adapter_model.safetensors")
    ours = {theirs: path for path, theirs in published_paths(model).items()}
    chosen = _chosen(model, ours, config, folder)
    config = dataclasses.replace(config, target_modules=_short([ours[theirs] for theirs in chosen], ours.values()))
    linears, blank = dict(named_linears(model)), np.random.default_rng(0)
    adapters = {theirs: new_adapter(name, config, linears[ours[theirs]], blank) for theirs in chosen}
    expected = [_to_peft(model, ours[theirs], theirs, adapter) for theirs, adapter in adapters.items()]
    _check_fit(tensors, {key: array.shape for part in expected for key, array in part.items()}, folder)
    for theirs, adapter in adapters.items():
        _fill(model, ours[theirs], theirs, adapter, tensors)
    return attach(model, {ours[theirs]: adapter for theirs, adapter in adapters.items()})


def published_paths(model: CausalLM) -> dict[str, str]:
    """The published path of each linear layer of the model, by ours.

    Left out are those that the family publishes as part of a larger matrix (Phi-3, Falcon, BLOOM, GPT-2's queries, keys
    and values) or turned (GPT-2): PEFT's adapters of such layers have another form.
    """
    kind, paths = family(model.config.model_type), {}
    fused = tuple(f".{ours}" for entry in kind.stacked if len(entry.ours) > 1 for ours in entry.ours)
    for path, layer in named_linears(model):
        if f".{path}".endswith(fused):
            continue
        rows = np.broadcast_to(np.int8(0), (layer.weight.shape[0], 1))
        (theirs,) = kind.weights_to_hf({f"{path}.weight": rows}, model.config)
        theirs = theirs.removesuffix(".weight")
        if not theirs.endswith(kind.transposed):
            paths[path] = theirs
    return paths


def _to_peft(model: CausalLM, path: str, theirs: str, adapter: LoraAdapter) -> dict[str, np.ndarray]:
    """The tensors of one layer's adapter; rows for outputs stand in the order that the published matrix has.

    The format knows no scale beside alpha's, so that lora_B takes it in.
    """
    kind = family(model.config.model_type)
    tensors = {f"{_PREFIX}{theirs}.lora_A.weight": adapter.lora_A.numpy()}
    for field, suffix in _BY_ROWS.items():
        if hasattr(adapter, field):
            (rows,) = kind.weights_to_hf({f"{path}.weight": getattr(adapter, field).numpy()}, model.config).values()
            tensors[f"{_PREFIX}{theirs}.{field}{suffix}"] = rows * adapter.scale if field == "lora_B" else rows
    return {key: np.ascontiguousarray(array, dtype=np.float32) for key, array in tensors.items()}


def _fill(model: CausalLM, path: str, theirs: str, adapter: LoraAdapter, tensors: dict[str, np.ndarray]) -> None:
    kind = family(model.config.model_type)
    adapter.lora_A.data[...] = current().asarray(tensors[f"{_PREFIX}{theirs}.lora_A.weight"])
    for field, suffix in _BY_ROWS.items():
        if hasattr(adapter, field):
            published = {f"{theirs}.weight": tensors[f"{_PREFIX}{theirs}.{field}{suffix}"]}
            (rows,) = kind.weights_from_hf(published, model.config).values()
            getattr(adapter, field).data[...] = current().asarray(rows)


def _config_to_peft(config: LoraConfig, chosen: list[str], every: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": list(_short(chosen, every)),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "bias": config.bias,
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _short(chosen: list[str], every: Iterable[str]) -> tuple[str, ...]:
    """The last steps of the chosen paths where these mean no other layers, else the whole paths."""
    last = tuple(dict.fromkeys(path.rpartition(".")[2] for path in chosen))
    return last if set(targeted(every, last)) == set(chosen) else tuple(chosen)


def _read_config(file: Path) -> LoraConfig:
    """PEFT's config, with the published names of the targets."""
    published = _read_json(file)
    problems = [f"{name} is missing" for name in ("peft_type", "r", "target_modules") if not published.get(name)]
    if published.get("peft_type", "LORA") != "LORA":
        problems.append(f"peft_type = {published['peft_type']!r} (only 'LORA' is supported)")
    if published.get("init_lora_weights", True) not in _STARTS:
        problems.append(f"init_lora_weights = {published['init_lora_weights']!r} (it changes the base model)")
    known = {*_OURS, *_NEUTRAL, "init_lora_weights"}
    unknown = {name: value for name, value in published.items() if value and name not in known}
    problems += [f"{name} = {value!r} (not supported)" for name, value in unknown.items()]
    if problems:
        raise ValueError(f"{file}: {'; '.join(problems)}")
    try:
        return LoraConfig(**{name: published[name] for name in _OURS if name in published})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; an adapter's folder holds it and adapter_model.safetensors")
    try:
        published = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is not valid JSON ({error})") from error
    if not isinstance(published, dict):
        raise ValueError(f"{file}: it holds a {type(published).__name__}, expected an object of settings")
    return published


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; an adapter's folder holds it and adapter_config.json")
    return dict(read_safetensors(file))


def _chosen(model: CausalLM, published: Iterable[str], config: LoraConfig, folder: Path) -> list[str]:
    try:
        return targeted(published, config.target_modules)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; {_unsupported(model)}") from error


def _unsupported(model: CausalLM) -> str:
    return (
        f"layers that {model.config.model_type} publishes fused with others, or turned, can have no adapter of "
        "PEFT's format"
    )


def _check_fit(got: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    problems = [f"missing {key}" for key in expected if key not in got]
    problems += [f"unexpected {key}" for key in sorted(got) if key not in expected]
    for key, shape in expected.items():
        if key in got and got[key].shape != shape:
            problems.append(f"{key} has shape {got[key].shape}, expected {shape}")
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"{folder}: the adapter does not fit the model: {'; '.join(problems[:4])}{more}")
