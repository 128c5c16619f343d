"""`train`: from a text to a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from .command import Command, add_run_flags, check_free, run_trainer, say
from .folders import END, load_model
from .settings import add_settings, given_settings


def train(options: argparse.Namespace) -> int:
    """`train`: train a model on a text, from random weights or from where another run ended."""
    from ..train.trainer import TrainConfig, Trainer

    out = Path(options.out)
    check_free(out, options.resume)
    config = TrainConfig(**_settings(options))
    documents = _documents(options.data)
    request = {"model": options.model, "data": options.data, "tokenizer": options.tokenizer}
    tokenizer = _tokenizer(options, documents, request)
    model = _model(options, tokenizer, config.seed)
    trainer = Trainer(model, _token_data(documents, tokenizer, config.context, options.packed), config, out)
    what = f"{options.model}: {model.num_parameters():,} parameters; {trainer.data.describe()}"
    return run_trainer(trainer, what, options)


def add_train_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `train`. Settings that are not given come from the model's recipe."""
    from ..train.trainer import TrainConfig

    command.add_argument("--model", required=True, metavar="NAME|DIR", help="from the zoo, or a folder to go on from")
    command.add_argument("--data", required=True, metavar="FILE|NAME", help="text file, folder of them, or corpus")
    command.add_argument("--tokenizer", metavar="char|DIR|bpe:N", help="default: what the model's recipe says")
    command.add_argument("--packed", action="store_true", help="rows of whole documents that do not see each other")
    add_run_flags(command)
    add_settings(command, TrainConfig, show_defaults=False)


COMMANDS = (Command("train", "train a model on a text", add_train_flags, train),)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from ..models import zoo
    from ..train.trainer import TrainConfig

    recipe = {} if Path(options.model).is_dir() else zoo.recipe(options.model)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    return {name: value for name, value in recipe.items() if name in known} | given_settings(options, TrainConfig)


def _documents(data: str) -> list[str]:
    from ..text import corpora

    documents = corpora.documents(data)
    if not any(documents):
        raise ValueError(f"--data: {data} holds no text")
    say(f"{data}: {sum(map(len, documents)):,} characters; documents: {len(documents):,}")
    return documents


def _tokenizer(options: argparse.Namespace, documents: list[str], request: dict[str, Any]) -> Any:
    """The run's tokenizer, kept in its folder together with what was asked for."""
    from ..files import write_atomically
    from ..text.tokenizer import Tokenizer

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
    from ..models import zoo
    from ..text.tokenizer import CharTokenizer, Tokenizer

    wanted, folder = options.tokenizer, Path(options.model)
    if wanted is None and folder.is_dir():
        if not (folder / "tokenizer.json").exists():
            raise FileNotFoundError(f"--tokenizer: {folder} has no tokenizer.json; say which to use")
        wanted = str(folder)
    elif wanted is None:
        wanted = zoo.recipe(options.model).get("tokenizer") or f"bpe:{zoo.config(options.model).vocab_size}"
    if wanted == "char":
        return CharTokenizer.train(documents, special_tokens=() if len(documents) == 1 else (END,))
    if wanted.startswith("bpe:"):
        size = wanted.removeprefix("bpe:")
        if not size.isdecimal():
            raise ValueError(f"--tokenizer: got {wanted!r}, expected a number of tokens as in bpe:2048")
        return Tokenizer.train(documents, vocab_size=int(size), special_tokens=(END,))
    if not Path(wanted).exists():
        raise FileNotFoundError(f"--tokenizer: got {wanted!r}, expected char, bpe:N or a folder with tokenizer.json")
    return Tokenizer.load(wanted)


def _model(options: argparse.Namespace, tokenizer: Any, seed: int) -> Any:
    from ..models import zoo

    if not Path(options.model).is_dir():
        end = tokenizer.special_tokens.get(END)
        model = zoo.build(options.model, vocab_size=tokenizer.vocab_size, seed=seed, eos_token_id=end)
    else:
        model = load_model(options.model)
        if options.tokenizer and tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"--tokenizer: it has {tokenizer.vocab_size} tokens and the model's vocabulary "
                f"{model.config.vocab_size}, expected the same; leave --tokenizer out to use the model's own"
            )
    model.tokenizer = tokenizer
    return model


def _token_data(documents: list[str], tokenizer: Any, context: int, packed: bool) -> Any:
    from ..train.data import TokenData

    end = tokenizer.special_tokens.get(END)
    return TokenData.from_documents(tokenizer.encode_batch(documents), context, end=end, packed=packed)
