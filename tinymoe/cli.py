"""The command line: `python -m tinymoe train | generate | info | export`.

A mistake of the user is answered by one line and exit code 2; TINYMOE_DEBUG=1 shows the traceback.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

# What goes wrong for reasons outside the program; anything else is a bug and shows its traceback.
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)
_END = "<|endoftext|>"

# Settings of a run: flag of TrainConfig → its type and help. Those not given come from the model's recipe.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "steps": (int, "optimizer steps"),
    "batch_size": (int, "rows a step (times --accumulate)"),
    "context": (int, "tokens a row"),
    "lr": (float, "peak learning rate"),
    "min_lr": (float, "final learning rate"),
    "warmup": (int, "steps of linear warm-up"),
    "schedule": (str, "cosine, wsd (warm-up, stable, decay) or constant"),
    "decay": (int, "steps of wsd's decay (default: a fifth of the run)"),
    "decay_shape": (str, "of wsd: linear or 1-sqrt"),
    "weight_decay": (float, "decay of matrices, decoupled"),
    "beta1": (float, "AdamW's first moment"),
    "beta2": (float, "AdamW's second moment"),
    "grad_clip": (float, "largest norm of the gradient; 0 is off"),
    "accumulate": (int, "batches whose gradients make one step"),
    "eval_every": (int, "steps between evaluations"),
    "eval_batches": (int, "batches in an evaluation; the last one takes the whole validation text"),
    "checkpoint_every": (int, "steps between checkpoints"),
    "keep": (int, "checkpoints to keep"),
    "seed": (int, "of the weights and of the batches"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        options = _parser().parse_args(arguments)
        if options.backend:
            from .backend import use

            use(options.backend)
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _USER_ERRORS as error:
        if os.environ.get("TINYMOE_DEBUG") == "1":
            raise
        print(f"tinymoe: error: {_one_line(error)}", file=sys.stderr)
        return 2


def train(options: argparse.Namespace) -> int:
    """`train`: from a text to a model in `--out`."""
    from .train.trainer import TrainConfig, Trainer, holds_a_run

    out = Path(options.out)
    if not options.resume and holds_a_run(out):
        raise FileExistsError(f"--out: {out} already holds a run; add --resume to go on, or choose another folder")
    config = TrainConfig(**_settings(options))
    documents = _documents(options.data)
    request = {"model": options.model, "data": options.data, "tokenizer": options.tokenizer}
    tokenizer = _tokenizer(options, documents, request)
    model = _model(options, tokenizer, config.seed)
    trainer = Trainer(model, _token_data(documents, tokenizer, config.context, options.packed), config, out)
    if options.resume:
        done = trainer.resume()
        _say(f"resumed at step {done} of {config.steps}" if done else f"nothing to resume in {out}: starting")
    _say(f"{options.model}: {model.num_parameters():,} parameters; {trainer.data.describe()}")
    trainer.run(progress=not options.quiet)
    if trainer.steps_done < config.steps:
        _say(f"stopped after step {trainer.steps_done} of {config.steps}; add --resume to go on")
        return 130
    losses = [metrics["val_loss"] for metrics in trainer.history if "val_loss" in metrics]
    _say(f"validation loss {losses[-1]:.4f}; the model is in {out}" if losses else f"the model is in {out}")
    return 0


def generate(options: argparse.Namespace) -> int:
    """`generate`: the prompt, and what the model makes of it, printed as it comes."""
    from .generate import stream
    from .models import from_pretrained

    model = from_pretrained(_model_folder(Path(options.model)))
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise FileNotFoundError(f"--model: {options.model} has no tokenizer.json, so text cannot be read or written")
    ends = _end_ids(model, tokenizer)
    ids = tokenizer.encode(options.prompt) or ends[:1]
    if not ids:
        raise ValueError("--prompt: got an empty text, and this model has no token to begin with; give some text")
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a character may span several tokens
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack some characters
    print(options.prompt, end="", flush=True)
    for step in stream(model, [ids], **{name: getattr(options, name) for name in names}):
        token = int(step.tokens[0])
        if token in ends:
            break
        print(decode(tokenizer.tokens([token])[0]), end="", flush=True)
    print(decode(b"", final=True))
    return 0


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
    if options.to != "hf":
        raise ValueError(f"--to: got {options.to!r}, expected hf (Hugging Face: config.json, *.safetensors)")
    from .models import from_pretrained
    from .train.trainer import holds_a_run

    out = Path(options.out)
    if holds_a_run(out):
        raise FileExistsError(f"--out: {out} already holds a run or a model; choose another folder")
    from_pretrained(_model_folder(Path(options.model))).save_pretrained(out)
    _say(f"wrote {out}")
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"tinymoe: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tinymoe", description="Train and run small language models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | generate | info | export")
    for add in (_add_train, _add_generate, _add_info, _add_export):
        add(commands)
    return parser


def _add_train(commands: Any) -> None:
    command = _command(commands, train, "train a model on a text")
    command.add_argument("--model", required=True, metavar="NAME|DIR", help="from the zoo, or a folder to go on from")
    command.add_argument("--data", required=True, metavar="FILE|NAME", help="text file, folder of them, or corpus")
    command.add_argument("--tokenizer", metavar="char|DIR|bpe:N", help="default: what the model's recipe says")
    command.add_argument("--out", required=True, metavar="DIR", help="for the model, metrics.jsonl and checkpoints")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    command.add_argument("--packed", action="store_true", help="rows of whole documents that do not see each other")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    for name, (kind, text) in _SETTINGS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=name[0].upper(), help=text)


def _add_generate(commands: Any) -> None:
    command = _command(commands, generate, "continue a text")
    command.add_argument("--model", required=True, metavar="DIR", help="a trained model's folder")
    command.add_argument("--prompt", required=True, metavar="TEXT")
    command.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    command.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token")
    command.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    command.add_argument("--top-p", type=float, metavar="P", help="only the likeliest tokens that make up P")
    command.add_argument("--min-p", type=float, metavar="P", help="only tokens at least P times the likeliest")
    command.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    command.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


def _add_info(commands: Any) -> None:
    command = _command(commands, info, "parameters, memory and work of a model")
    command.add_argument("model", metavar="NAME|DIR")


def _add_export(commands: Any) -> None:
    command = _command(commands, export, "write a model for other programs")
    command.add_argument("model", metavar="DIR")
    command.add_argument("--to", required=True, metavar="hf")
    command.add_argument("--out", required=True, metavar="PATH")


def _command(commands: Any, run: Any, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(run.__name__, help=text, description=text, allow_abbrev=False)
    command.add_argument("--backend", metavar="B", help="numpy, numba or cupy")
    command.set_defaults(run=run)
    return command


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from .models import zoo

    recipe = {} if Path(options.model).is_dir() else zoo.recipe(options.model)
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    settings = {name: value for name, value in recipe.items() if name in _SETTINGS} | given
    if "lr" in given and "min_lr" not in given:
        settings["min_lr"] = given["lr"] / 10
    return settings


def _documents(data: str) -> list[str]:
    from .text import corpora

    documents = corpora.documents(data)
    if not any(documents):
        raise ValueError(f"--data: {data} holds no text")
    _say(f"{data}: {sum(map(len, documents)):,} characters; documents: {len(documents):,}")
    return documents


def _tokenizer(options: argparse.Namespace, documents: list[str], request: dict[str, Any]) -> Any:
    """The run's tokenizer, kept in its folder together with what was asked for."""
    from .files import write_atomically
    from .text.tokenizer import Tokenizer

    out = Path(options.out)
    record, kept = out / "run.json", out / "tokenizer.json"
    if options.resume and record.exists() and kept.exists():
        was = json.loads(record.read_text("utf-8"))["tokenizer"]
        if was != options.tokenizer:
            raise ValueError(f"--tokenizer: the run in {out} was started with {was!r}, got {options.tokenizer!r}")
        return Tokenizer.load(kept)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(request, indent=1).encode())
    tokenizer = _make_tokenizer(options, documents)
    tokenizer.save(out)
    return tokenizer


def _make_tokenizer(options: argparse.Namespace, documents: list[str]) -> Any:
    from .models import zoo
    from .text.tokenizer import CharTokenizer, Tokenizer

    wanted, folder = options.tokenizer, Path(options.model)
    if wanted is None and folder.is_dir():
        if not (folder / "tokenizer.json").exists():
            raise FileNotFoundError(f"--tokenizer: {folder} has no tokenizer.json; say which to use")
        wanted = str(folder)
    elif wanted is None:
        wanted = zoo.recipe(options.model).get("tokenizer") or f"bpe:{zoo.config(options.model).vocab_size}"
    if wanted == "char":
        return CharTokenizer.train(documents, special_tokens=() if len(documents) == 1 else (_END,))
    if wanted.startswith("bpe:"):
        size = wanted.removeprefix("bpe:")
        if not size.isdecimal():
            raise ValueError(f"--tokenizer: got {wanted!r}, expected a number of tokens as in bpe:2048")
        return Tokenizer.train(documents, vocab_size=int(size), special_tokens=(_END,))
    if not Path(wanted).exists():
        raise FileNotFoundError(f"--tokenizer: got {wanted!r}, expected char, bpe:N or a folder with tokenizer.json")
    return Tokenizer.load(wanted)


def _model(options: argparse.Namespace, tokenizer: Any, seed: int) -> Any:
    from .models import from_pretrained, zoo

    if not Path(options.model).is_dir():
        end = tokenizer.special_tokens.get(_END)
        model = zoo.build(options.model, vocab_size=tokenizer.vocab_size, seed=seed, eos_token_id=end)
    else:
        model = from_pretrained(_model_folder(Path(options.model)))
        if options.tokenizer and tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"--tokenizer: it has {tokenizer.vocab_size} tokens and the model's vocabulary "
                f"{model.config.vocab_size}, expected the same; leave --tokenizer out to use the model's own"
            )
    model.tokenizer = tokenizer
    return model


def _token_data(documents: list[str], tokenizer: Any, context: int, packed: bool) -> Any:
    from .train.data import TokenData

    end = tokenizer.special_tokens.get(_END)
    return TokenData.from_documents(tokenizer.encode_batch(documents), context, end=end, packed=packed)


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the newest checkpoint of a run that has not come to its end."""
    from .train import checkpoint

    if not folder.is_dir():
        raise FileNotFoundError(f"--model: {folder} is no folder")
    newest = checkpoint.latest(folder)
    if (folder / "config.json").exists() or newest is None:
        return folder
    _say(f"the training in {folder} is unfinished; using {newest.name}")
    return newest


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The ids that end a text."""
    end = model.config.eos_token_id
    if end is None:
        end = tokenizer.special_tokens.get(_END, [])
    return [end] if isinstance(end, int) else list(end)


def _config(model: str) -> Any:
    from .models import zoo
    from .models.families import family

    if not Path(model).is_dir():
        return zoo.config(model)
    file = _model_folder(Path(model)) / "config.json"
    try:
        published = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is not valid JSON ({error})") from error
    return family(published.get("model_type")).config_from_hf(published)


def _costs(config: Any) -> list[tuple[str, str, str]]:
    """Rows of name, value and note."""
    from .models.size import measure

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
    from .models.published import PUBLISHED

    if model not in PUBLISHED:
        return []
    stated = PUBLISHED[model]
    active = "" if stated.active is None else f", {stated.active:g} B active"
    return [("published as", f"{stated.total:g} B", f"total{active} ({stated.source})")]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
