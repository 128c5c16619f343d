"""Checkpoints that survive being killed at any moment, and resume exactly.

A run's folder holds `checkpoints/step-000200/`: the model as Hugging Face lays it out (config.json,
model.safetensors, tokenizer.json), and under `trainer/` what else it takes to go on: `optimizer.safetensors`,
`state.json` and, where something is trained along with the model, `companion.safetensors`. A checkpoint is written
under another name, flushed to the disk, and renamed; so a folder called `step-…` is always complete.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..files import write_atomically
from ..models import from_pretrained
from ..models.decoder import CausalLM
from ..models.pretrained import is_whole, read_safetensors
from ..models.tensor_files import serialize
from ..nn.module import Module, Parameter
from .optim import AdamW

_UNFINISHED = ".writing-"
_DISCARDED = ".discarded-"
# What `trainer/` holds of a model that is not whole, and of what is trained along with a model.
_PARAMETERS, _COMPANION = Path("trainer", "parameters.safetensors"), Path("trainer", "companion.safetensors")


def save(
    run: Path,
    model: CausalLM,
    optimizer: AdamW,
    record: dict[str, Any],
    keep: int = 2,
    companion: Module | None = None,
) -> Path:
    """Write `run/checkpoints/step-NNNNNN` (NNNNNN is record["step"]), then drop all but the last `keep`.

    `record` is what else has to be known to resume, as JSON; a companion is what is trained along with the model.
    OSError, with the older checkpoints as they were, where the disk is full or the folder cannot be written.
    """
    final = run / "checkpoints" / f"step-{record['step']:06d}"
    unfinished = final.with_name(_UNFINISHED + final.name)
    try:
        (unfinished / "trainer").mkdir(parents=True, exist_ok=True)
        _save_model(model, unfinished, companion)
        groups = _save_optimizer(optimizer, unfinished / "trainer" / "optimizer.safetensors")
        state = json.dumps({**record, "optimizer": groups}, indent=1)
        write_atomically(unfinished / "trainer" / "state.json", state.encode())
        sync(unfinished / "trainer")
        sync(unfinished)
        os.rename(unfinished, final)
        sync(final.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(
            error.errno,
            f"the checkpoint of step {record['step']} could not be written ({error.strerror}); "
            f"older checkpoints are as they were",
            str(final),
        ) from error
    for old in complete(run)[:-keep]:
        _discard(old)
    return final


def complete(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoints/step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(reversed(complete(run)), None)


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What `save` was given as `record`, and the optimizer's settings under "optimizer"."""
    file = checkpoint / "trainer" / "state.json"
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is damaged ({error})") from error


def load(checkpoint: Path, model: CausalLM, optimizer: AdamW, companion: Module | None = None) -> None:
    """Put a checkpoint's weights into `model` and its moments into `optimizer`; all must have its shapes."""
    optimizer_state = _read_optimizer(checkpoint)
    saved = _read_model(checkpoint, model, companion)  # pairs of a parameter and its values
    optimizer.load_state_dict(optimizer_state)
    for p, values in saved:
        p.data[...] = current().asarray(values)


def clean(run: Path) -> None:
    """Remove what a killed run left half written or half deleted."""
    for prefix in (_UNFINISHED, _DISCARDED):
        for folder in run.glob(f"checkpoints/{prefix}*"):
            shutil.rmtree(folder)
    for name in ("metrics.jsonl", "run.json", "config.json", "tokenizer.json", "model.safetensors"):
        for file in run.glob(f".{name}.*"):  # as `write_atomically` calls a file before it is complete
            file.unlink()


def sync(path: Path) -> None:
    """Return once a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_model(model: CausalLM, folder: Path, companion: Module | None) -> None:
    """The model as published; of one that is not whole, only what is trained: the rest is in its base."""
    if is_whole(model):
        model.save_pretrained(folder)
    else:
        _save_parameters(model, folder / _PARAMETERS)
    if companion is not None:
        _save_parameters(companion, folder / _COMPANION)


def _read_model(checkpoint: Path, model: CausalLM, companion: Module | None) -> list[tuple[Parameter, np.ndarray]]:
    others = [] if companion is None else _read_parameters(companion, checkpoint / _COMPANION)
    if (checkpoint / _PARAMETERS).exists():
        return _read_parameters(model, checkpoint / _PARAMETERS) + others
    published = dict(from_pretrained(checkpoint).named_parameters())
    return [(p, published[name].numpy()) for name, p in model.named_parameters()] + others


def _save_parameters(module: Module, file: Path) -> None:
    write_atomically(file, serialize({name: p.numpy() for name, p in module.named_parameters()}))


def _read_parameters(module: Module, file: Path) -> list[tuple[Parameter, np.ndarray]]:
    saved, here = dict(read_safetensors(file)), dict(module.named_parameters())
    if wrong := sorted(saved.keys() ^ here.keys()):
        raise ValueError(f"{file}: its parameters are not those of the model; {wrong[0]} is only in one of them")
    return [(p, saved[name]) for name, p in here.items()]


def _save_optimizer(optimizer: AdamW, file: Path) -> dict[str, Any]:
    state = optimizer.state_dict()
    arrays = {f"{n}.{key}": s[key] for n, s in state["state"].items() for key in ("exp_avg", "exp_avg_sq")}
    write_atomically(file, serialize(arrays))
    return {"param_groups": state["param_groups"], "steps": {str(n): s["step"] for n, s in state["state"].items()}}


def _read_optimizer(checkpoint: Path) -> dict[str, Any]:
    file, settings = checkpoint / "trainer" / "optimizer.safetensors", read_record(checkpoint)["optimizer"]
    try:
        arrays = dict(read_safetensors(file))
        state = {
            int(n): {"step": step, "exp_avg": arrays[f"{n}.exp_avg"], "exp_avg_sq": arrays[f"{n}.exp_avg_sq"]}
            for n, step in settings["steps"].items()
        }
    except KeyError as error:
        raise ValueError(f"{file}: it is damaged ({error})") from error
    return {"state": state, "param_groups": settings["param_groups"]}


def _discard(checkpoint: Path) -> None:
    # Renamed first: killed half-way through the deletion, it must not look complete.
    discarded = checkpoint.with_name(_DISCARDED + checkpoint.name)
    os.rename(checkpoint, discarded)
    shutil.rmtree(discarded)
