"""What the commands share: what a command is, and how a run begins, goes on and ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..train.trainer import Trainer

# What a run is judged by at its end: the metric and its name for people.
_RESULTS = {"val_loss": "validation loss", "eval_reward": "held-out reward"}


class Command(NamedTuple):
    """A command: its name and help, what adds its flags to a parser, and what runs it and returns the exit code."""

    name: str
    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def say(text: str) -> None:
    """Tell people something: on stderr, so that a command's output can be piped."""
    print(text, file=sys.stderr)


def add_run_flags(command: argparse.ArgumentParser) -> None:
    """The flags of everything that trains."""
    command.add_argument("--out", required=True, metavar="DIR", help="for the model, metrics.jsonl and checkpoints")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def check_free(out: Path, resume: bool) -> None:
    """Raises FileExistsError where a run would be written over another run, or over a model that is not its own."""
    from ..train.trainer import holds_a_run

    adapter = (out / "adapter_config.json").exists()
    if resume and not any((out / name).exists() for name in ("metrics.jsonl", "checkpoints")):
        if adapter or holds_a_run(out):
            raise FileExistsError(f"--out: {out} holds a model and no run to resume; choose another folder")
    elif not resume and (adapter or holds_a_run(out)):
        raise FileExistsError(f"--out: {out} already holds a run; add --resume to go on, or choose another folder")


def run_trainer(
    trainer: Trainer, what: str, options: argparse.Namespace, save: Callable[[], None] = lambda: None
) -> int:
    """Train to the end, after what is done already with --resume; returns the exit code, 130 where it was stopped.

    `save` writes what a finished run has to leave beside what the trainer writes.
    """
    config, out = trainer.config, options.out
    if options.resume:
        done = trainer.resume()
        say(f"resumed at step {done} of {config.steps}" if done else f"nothing to resume in {out}: starting")
    say(what)
    trainer.run(progress=not options.quiet)
    if trainer.steps_done < config.steps:
        say(f"stopped after step {trainer.steps_done} of {config.steps}; add --resume to go on")
        return 130
    save()
    last = {name: metrics[name] for metrics in trainer.history for name in _RESULTS if name in metrics}
    say("; ".join([*(f"{_RESULTS[name]} {value:.4f}" for name, value in last.items()), f"the model is in {out}"]))
    return 0
