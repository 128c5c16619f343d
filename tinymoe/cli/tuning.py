"""What the commands of post-training share: the model they start from, its template, its adapters, and its folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_run_flags, check_free, run_trainer, say
from .folders import end_ids, load_with_tokenizer, read_request
from .settings import given_settings

if TYPE_CHECKING:
    from ..models import CausalLM
    from ..text.tokenizer import Tokenizer
    from ..train.trainer import Trainer

# What has to be the same when a run is resumed, by its name in run.json, and what the flag is called.
_SAME = ("command", "template", "lora", "lora_alpha", "lora_targets", "nf4", "reward", "teacher")


@dataclasses.dataclass
class Start:
    """Where a command starts: the model, ready to be trained, and what run.json is to say of it."""

    model: CausalLM
    tokenizer: Tokenizer
    template: str | None
    request: dict[str, Any]


def add_tuning_flags(command: argparse.ArgumentParser, data: str, adapters: bool = True) -> None:
    """The flags of everything that tunes a saved model; `data` says what --data is."""
    command.add_argument("--model", required=True, metavar="DIR", help="a saved model, or a run")
    command.add_argument("--data", required=True, metavar="DATA", help=data)
    command.add_argument("--template", metavar="NAME", help="chat template, as chatml or qwen3 (default: the model's)")
    add_run_flags(command)
    if adapters:
        command.add_argument("--lora", type=int, metavar="R", help="train LoRA adapters of this rank and nothing else")
        command.add_argument("--lora-alpha", type=float, metavar="A", help="their scaling times R (default: 2 R)")
        command.add_argument("--lora-targets", metavar="NAMES", help="layers to adapt, as q_proj,v_proj (default: all)")
        command.add_argument("--nf4", action="store_true", help="QLoRA: the model below the adapters in four bits")


def start(options: argparse.Namespace) -> Start:
    """Load the model, give it the template's tokens and, where they are asked for, adapters.

    Raises ValueError for flags that do not go together, and FileExistsError for a folder that holds another run.
    """
    from ..posttrain.online_trainer import _fingerprint

    check_free(Path(options.out), options.resume)
    seed = options.seed or 0
    model, tokenizer = load_with_tokenizer(options.model)
    request: dict[str, Any] = {"command": options.command, "data": options.data}
    request["model"] = os.path.abspath(options.model)  # where adapters find what they belong to
    request["weights"] = _fingerprint(model)
    request["template"] = options.template or read_request(Path(options.model)).get("template")
    request |= {name: getattr(options, name, None) for name in _SAME[2:]}
    if request["template"] is not None:
        tokenizer = _take_template(model, tokenizer, request["template"], seed, request["lora"] is not None)
    if not end_ids(model):
        raise ValueError("--model: it has no token that ends a text; choose a --template, whose tokens are added to it")
    model.config = dataclasses.replace(model.config, eos_token_id=model.config.eos_token_id or end_ids(model)[0])
    _add_adapters(model, options, seed)
    return Start(model, tokenizer, request["template"], request)


def finish(trainer: Trainer, begun: Start, what: str, options: argparse.Namespace) -> int:
    """Write run.json, train to the end, and save adapters where these were trained; returns the exit code."""
    from ..posttrain import save_adapter

    def save() -> None:
        if begun.request["lora"] is not None:
            save_adapter(begun.model, out)
            begun.tokenizer.save(out)

    out = Path(options.out)
    _keep_request(out, begun.request, options.resume)
    return run_trainer(trainer, f"{trainer.model.num_parameters():,} parameters to train; {what}", options, save)


def settings(options: argparse.Namespace, config: type, **defaults: Any) -> Any:
    """A trainer's configuration from the flags; what is not given is as `defaults`, or the configuration, has it."""
    return config(**defaults | given_settings(options, config))


def _take_template(model: CausalLM, tokenizer: Tokenizer, template: str, seed: int, frozen: bool) -> Tokenizer:
    """Let the model have the tokens of a template, and end its texts as that does. Returns its tokenizer."""
    from ..models.resize import resize_token_embeddings
    from ..text import chat

    model.tokenizer = larger = chat.add_special_tokens(tokenizer, template)
    if new := len(larger) - len(tokenizer):
        if frozen:
            raise ValueError(
                f"--lora: the tokenizer lacks {new} tokens of the template {template!r}, whose embeddings would not be "
                "trained; tune the whole model with --template first, or choose another template"
            )
        say(f"template {template}: {new} new tokens")
    resize_token_embeddings(model, max(len(larger), model.config.vocab_size), seed)
    stops = [larger.special_tokens[token] for token in chat.stop_tokens(template)]
    model.config = dataclasses.replace(model.config, eos_token_id=stops if len(stops) > 1 else stops[0])
    return larger


def _add_adapters(model: CausalLM, options: argparse.Namespace, seed: int) -> None:
    from ..posttrain import LoraConfig, add_lora, quantize_model
    from ..posttrain.adapter_files import published_paths
    from ..posttrain.lora import lora_layers

    if getattr(options, "lora", None) is None:
        for name in ("lora_alpha", "lora_targets", "nf4"):
            if getattr(options, name, None):
                raise ValueError(f"--{name.replace('_', '-')}: it needs --lora R, the rank of the adapters")
        return
    alpha = 2 * options.lora if options.lora_alpha is None else options.lora_alpha
    targets = options.lora_targets or "all-linear"
    config = LoraConfig(options.lora, alpha, targets if targets == "all-linear" else tuple(targets.split(",")))
    if options.nf4:
        quantize_model(model)
    add_lora(model, config, seed=seed)
    if odd := sorted(lora_layers(model).keys() - published_paths(model).keys()):
        raise ValueError(
            f"--lora-targets: {model.config.model_type} publishes {odd[0]} fused with others, or turned, so that its "
            "adapter has no file format; name other layers"
        )


def _keep_request(out: Path, request: dict[str, Any], resume: bool) -> None:
    """Write what was asked for into the run's folder; when it is resumed, compare."""
    from ..files import write_atomically

    was = read_request(out) if resume else {}
    for name in (*_SAME, "weights") if was else ():
        if was.get(name) != request[name]:
            if name == "weights":
                raise ValueError(f"--model: the run in {out} began with other weights than those in {request['model']}")
            flag = f"--{name.replace('_', '-')}" if name != "command" else "--resume"
            raise ValueError(f"{flag}: the run in {out} was started with {was.get(name)!r}, got {request[name]!r}")
    if not was:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "run.json", json.dumps(request, indent=1).encode())
