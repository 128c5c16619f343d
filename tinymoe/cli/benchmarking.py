"""`bench`: how fast it is here."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from .command import Command, say
from .folders import load_model


class Peers(NamedTuple):
    """The program of `benchmarks/` that measures the same beside other libraries, with arguments, and what it needs."""

    program: str
    arguments: tuple[str, ...] = ()
    needs: str = "torch"


def bench(options: argparse.Namespace) -> int:
    """`bench`: measure something, and print a table."""
    from ..files import write_atomically

    if options.against:
        return _measure_peers(_PEERS[options.measure], options.json)
    report = _MEASURES[options.measure](options)
    _print_table(report["rows"])
    if options.json:
        write_atomically(options.json, json.dumps(report, indent=1).encode() + b"\n")
        say(f"wrote {options.json}")
    return 0


def add_bench_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `bench`."""
    command.add_argument("measure", choices=_MEASURES, metavar=" | ".join(_MEASURES), help="what to measure")
    command.add_argument(
        "--against", choices=["torch"], help="beside PyTorch and its relatives, by the program in benchmarks/"
    )
    command.add_argument("--model", metavar="DIR", help="decode, rollout: a saved model (default: random weights)")
    command.add_argument(
        "--answers", type=int, nargs="+", default=[16, 64, 256], metavar="N", help="rollout: sampled together"
    )
    command.add_argument("--new-tokens", type=int, default=64, metavar="N", help="decode, rollout: tokens of each text")
    command.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each (default: 5)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from .. import bench

    names = ["moe"] if options.measure == "moe" else ["nano", "small"]
    return bench.train({name: bench.TRAINING[name] for name in names}, repeats=options.repeats)


def _decode(options: argparse.Namespace) -> dict[str, Any]:
    from .. import bench

    return bench.decode(_model(options), new_tokens=options.new_tokens, repeats=options.repeats)


def _tokenizer(options: argparse.Namespace) -> dict[str, Any]:
    from .. import bench

    return bench.tokenizer(repeats=options.repeats)


def _rollout(options: argparse.Namespace) -> dict[str, Any]:
    from .. import bench

    return bench.rollout(
        _model(options), answers=options.answers, new_tokens=options.new_tokens, repeats=options.repeats
    )


_MEASURES = {"train": _train, "moe": _train, "decode": _decode, "tokenizer": _tokenizer, "rollout": _rollout}
_PEERS = {
    "train": Peers("train_speed.py", ("--models", "nano", "small")),
    "moe": Peers("train_speed.py", ("--models", "moe")),
    "decode": Peers("decode.py", needs="transformers"),
    "tokenizer": Peers("tokenizer.py", needs="tokenizers"),
    "rollout": Peers("rollout.py", needs="transformers"),
}

COMMANDS = (Command("bench", "measure how fast it is here", add_bench_flags, bench),)


def _model(options: argparse.Namespace) -> Any:
    return None if options.model is None else load_model(options.model)


def _measure_peers(peers: Peers, file: Path | None) -> int:
    """Run a program of `benchmarks/`, in a process of its own: no module of the package imports another framework."""
    program = Path(__file__).resolve().parents[2] / "benchmarks" / peers.program
    if not program.exists():
        raise FileNotFoundError(
            f"--against: benchmarks/{peers.program} comes with a clone of tinymoe's repository only"
        )
    if importlib.util.find_spec(peers.needs) is None:
        raise ImportError(f"--against: {peers.needs} is not installed here; pip install {peers.needs}")
    command = [sys.executable, str(program), *peers.arguments, *(["--json", str(file)] if file else [])]
    return subprocess.run(command).returncode


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(rows[0]), *([v if isinstance(v, str) else f"{v:,}" for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
