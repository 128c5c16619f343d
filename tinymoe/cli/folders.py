"""The folders that models are read from: saved models, unfinished runs, and adapters with the model they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import say

if TYPE_CHECKING:
    from ..models import CausalLM
    from ..text.tokenizer import Tokenizer

END = "<|endoftext|>"


def load_model(folder: str | Path, flag: str = "--model") -> CausalLM:
    """The model of a folder; an adapter is put into its base model, as if that had been trained itself.

    Raises as `from_pretrained` does, and FileNotFoundError for an adapter whose base is not known or not there.
    """
    from ..models import from_pretrained
    from ..posttrain import load_adapter, merge, unload

    place = model_folder(Path(folder), flag)
    if (place / "config.json").exists() or not (place / "adapter_config.json").exists():
        return from_pretrained(place)
    base = read_request(place).get("model")
    if base is None or not Path(base).is_dir():
        raise FileNotFoundError(f"{flag}: {place} holds an adapter; its base model, {base or 'unknown'}, is no folder")
    return unload(merge(load_adapter(load_model(base, flag), place)))


def load_with_tokenizer(folder: str | Path) -> tuple[CausalLM, Tokenizer]:
    """A model and its tokenizer. Raises FileNotFoundError where it has none."""
    model = load_model(folder)
    if model.tokenizer is None:
        raise FileNotFoundError(f"--model: {folder} has no tokenizer.json, so text cannot be read or written")
    return model, model.tokenizer


def model_folder(folder: Path, flag: str = "--model") -> Path:
    """The folder itself, or the newest checkpoint of a run that has not come to its end.

    Raises FileNotFoundError where there is none.
    """
    from ..train import checkpoint

    if not folder.is_dir():
        raise FileNotFoundError(f"{flag}: {folder} is no folder")
    newest = checkpoint.latest(folder)
    if newest is None or any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        return folder
    if not (newest / "config.json").exists():
        raise FileNotFoundError(f"{flag}: the training in {folder} is unfinished; finish it first, with --resume")
    say(f"the training in {folder} is unfinished; using {newest.name}")
    return newest


def read_request(folder: Path) -> dict[str, Any]:
    """What was asked for when the run in a folder was started; empty for a model that no run made."""
    file = folder / "run.json"
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is damaged ({error})") from error


def end_ids(model: CausalLM) -> list[int]:
    """The ids that end a text."""
    end = model.config.eos_token_id
    if end is None and model.tokenizer is not None:
        end = model.tokenizer.special_tokens.get(END)
    return [end] if isinstance(end, int) else list(end or [])
