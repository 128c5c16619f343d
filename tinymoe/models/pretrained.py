"""Checkpoints in Hugging Face's layout: config.json, *.safetensors and tokenizer.json in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..files import write_atomically
from ..nn.config import Config
from ..nn.module import Module, shapes_only
from .decoder import CausalLM
from .families import family
from .tensor_files import deserialize, serialize


def from_pretrained(folder: str | Path) -> CausalLM:
    """Load a model, its float32 weights and, where there is one, its tokenizer (`model.tokenizer`).

    Raises FileNotFoundError for a folder without config.json or weights, and ValueError for a config field that is not
    supported, a damaged file, and tensors that are missing, unexpected or of another shape: all named.
    """
    folder = Path(folder)
    published = _read_json(folder / "config.json")
    if "model_type" not in published:
        raise ValueError(f"{folder / 'config.json'}: it has no model_type")
    kind = family(published["model_type"])
    with shapes_only():
        model = CausalLM(kind.config_from_hf(published))
    load_weights(model, model.config, folder)
    if (folder / "tokenizer.json").exists():
        from ..text.tokenizer import Tokenizer

        model.tokenizer = Tokenizer.load(folder)
    return model


def save_pretrained(model: CausalLM, folder: str | Path) -> None:
    """Write the folder that `from_pretrained` and Transformers read. Each file is complete before it gets its name.

    Raises ValueError for a model that is not whole: its file would be another's.
    """
    config = {**family(model.config.model_type).config_to_hf(model.config), "dtype": "float32"}
    if not is_whole(model):
        raise ValueError("model: it has adapters or quantized matrices; save the adapter, or merge and unload it first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, model.config, folder)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def load_weights(model: Module, config: Config, folder: Path) -> None:
    """Fill a model's parameters, whose shapes are known, from a folder. Raises as `from_pretrained` does."""
    kind, parameters = family(config.model_type), dict(model.named_parameters())
    tensors = kind.parameters_in(dict(_read_weights(folder)), config)
    placeholders = {name: np.broadcast_to(np.int8(0), p.shape) for name, p in parameters.items()}
    _check_fit(tensors, kind.weights_to_hf(placeholders, config), folder)
    for name, array in kind.weights_from_hf(tensors, config).items():
        parameters[name].data = current().asarray(np.ascontiguousarray(array))


def save_weights(model: Module, config: Config, folder: Path) -> None:
    """Write a model's parameters to model.safetensors, under their published names and in the published layout."""
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    published = family(config.model_type).weights_to_hf(weights, config)
    write_atomically(folder / "model.safetensors", serialize(published, {"format": "pt"}))


def is_whole(model: CausalLM) -> bool:
    """Whether a model's parameters are those of its config: not so where some are frozen, quantized, or adapters'."""
    with shapes_only():
        plain = CausalLM(model.config)
    return {name for name, _ in model.named_parameters()} == {name for name, _ in plain.named_parameters()}


def _check_fit(published: dict[str, np.ndarray], expected: dict[str, np.ndarray], folder: Path) -> None:
    missing, extra = expected.keys() - published.keys(), published.keys() - expected.keys()
    problems = [f"missing {name}" for name in sorted(missing)] + [f"unexpected {name}" for name in sorted(extra)]
    for name in sorted(expected.keys() & published.keys()):
        if published[name].dtype != np.float32:
            problems.append(f"{name} is stored as {published[name].dtype}, expected floating-point numbers")
        if published[name].shape != expected[name].shape:
            problems.append(f"{name} has shape {published[name].shape}, expected {expected[name].shape}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{folder}: the weights do not fit the config: {'; '.join(problems[:8])}{more}")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; a model folder holds config.json and model*.safetensors")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: it is not valid JSON ({error})") from error


def _read_weights(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    paths = sorted(folder.glob("model*.safetensors"))  # others may lie beside: consolidated, adapters, optimizer state
    if not paths:
        raise FileNotFoundError(f"{folder}: it holds no model*.safetensors file")
    for path in paths:
        yield from read_safetensors(path)


def read_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a file by name, in float32. Raises ValueError for a damaged file or another kind of number."""
    try:
        tensors = deserialize(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: it is damaged or no safetensors file ({error})") from error
    for name, tensor in tensors:
        yield name, _to_float32(tensor["data"], tensor["dtype"], path, name).reshape(tensor["shape"])


def _to_float32(data: bytes, dtype: str, path: Path, name: str) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32; NumPy has no such type
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "U8":  # packed, for the family to unpack
        return np.frombuffer(data, dtype=np.uint8)
    if dtype not in ("F32", "F16", "F64"):
        raise ValueError(f"{path}: {name} is stored as {dtype}, expected F32, F16, BF16, F64 or packed U8")
    return np.frombuffer(data, dtype=f"<f{int(dtype[1:]) // 8}").astype(np.float32)
