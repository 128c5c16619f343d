"""`info` and `export`: what a model costs, and a model for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .command import Command, say
from .folders import load_model, model_folder

_FORMATS = {"hf": "Hugging Face: config.json, *.safetensors", "gguf": "llama.cpp: one file"}


def info(options: argparse.Namespace) -> int:
    """`info`: what a model costs."""
    family, *costs = _costs(_config(options.model))
    rows = [family, *_stated(options.model), *costs]
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(value) for _, value, _ in rows)
    for name, value, note in rows:
        print(f"{name:<{width}}  {value:>{digits}}  {note}".rstrip())
    return 0


def export(options: argparse.Namespace) -> int:
    """`export`: a model in a format that other programs read."""
    from ..models.gguf_models import save_gguf
    from ..train.trainer import holds_a_run

    out = Path(options.out)
    if options.to not in _FORMATS:
        expected = " or ".join(f"{name} ({what})" for name, what in _FORMATS.items())
        raise ValueError(f"--to: got {options.to!r}, expected {expected}")
    if options.to == "gguf":
        if out.exists():
            raise FileExistsError(f"--out: {out} is already there; choose another file")
        model = load_model(options.model)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_gguf(model, out, options.dtype)
    else:
        if options.dtype != "float32":
            raise ValueError(f"--dtype: got {options.dtype!r}, expected float32; others go with --to gguf")
        if holds_a_run(out):
            raise FileExistsError(f"--out: {out} already holds a run or a model; choose another folder")
        load_model(options.model).save_pretrained(out)
    say(f"wrote {out}")
    return 0


def add_info_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `info`."""
    command.add_argument("model", metavar="NAME|DIR")


def add_export_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `export`."""
    command.add_argument("model", metavar="DIR")
    command.add_argument("--to", required=True, metavar="FORMAT", help="; ".join(map(": ".join, _FORMATS.items())))
    command.add_argument("--out", required=True, metavar="PATH", help="a new folder; for gguf a new file")
    command.add_argument("--dtype", default="float32", metavar="D", help="of the matrices in gguf: float16, bfloat16")


COMMANDS = (
    Command("info", "parameters, memory and work of a model", add_info_flags, info),
    Command("export", "write a model for other programs", add_export_flags, export),
)


def _config(model: str) -> Any:
    from ..models import zoo
    from ..models.families import family

    if not Path(model).is_dir():
        return zoo.config(model)
    file = model_folder(Path(model)) / "config.json"
    try:
        published = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is not valid JSON ({error})") from error
    return family(published.get("model_type")).config_from_hf(published)


def _costs(config: Any) -> list[tuple[str, str, str]]:
    """Rows of name, value and note."""
    from ..models.size import measure

    context = config.max_position_embeddings
    # `measure` takes a token in the middle of a text.
    first, mean, last = (measure(config, context=length) for length in (2, context, 2 * context))
    total, active, cached = mean.parameters, mean.active_parameters, first.kv_cache_bytes
    used = f"{_billions(active)} used for each token"
    if not config.tie_word_embeddings:
        table = config.vocab_size * config.hidden_size
        used += f"; {_billions(active - table)} without the embedding table"
        used += f", {_billions(active - 2 * table)} without the output layer either"
    rows = [
        ("family", config.model_type, ""),
        ("vocabulary", f"{config.vocab_size:,}", "tokens"),
        ("context", f"{context:,}", "tokens"),
        ("parameters, total", f"{total:,}", _billions(total)),
        ("parameters, active", f"{active:,}", used),
        ("weights", f"{4 * total:,}", f"bytes in float32; {2 * total:,} in bfloat16"),
        ("KV cache per token", f"{2 * cached:,}", f"bytes in float32; {cached:,} in bfloat16"),
        ("FLOPs per token", f"{first.flops_per_token:,}", "forward, for the first token of a text"),
        ("", f"{last.flops_per_token:,}", f"forward, at position {context:,}"),
        ("", f"{3 * mean.flops_per_token:,}", "training, mean over a full context"),
    ]
    if mean.kv_cache_bytes < cached:  # layers with a window keep no more than that
        full = mean.kv_cache_bytes * context
        rows.insert(7, ("KV cache, full", f"{2 * full:,}", f"bytes in float32; {full:,} in bfloat16"))
    return rows


def _billions(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _stated(model: str) -> list[tuple[str, str, str]]:
    """What the publisher says of a model of the zoo."""
    from ..models.published import PUBLISHED

    if model not in PUBLISHED:
        return []
    stated = PUBLISHED[model]
    active = "" if stated.active is None else f", {stated.active:g} B active"
    return [("published as", f"{stated.total:g} B", f"total{active} ({stated.source})")]
