"""`bench`: how fast it is here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .command import Command, say
from .folders import load_model


def bench(options: argparse.Namespace) -> int:
    """`bench`: measure something, and print a table."""
    from ..files import write_atomically

    report = _MEASURES[options.measure](options)
    _print_table(report["rows"])
    if options.json:
        write_atomically(options.json, json.dumps(report, indent=1).encode() + b"\n")
        say(f"wrote {options.json}")
    return 0


def add_bench_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `bench`."""
    command.add_argument("measure", choices=_MEASURES, metavar=" | ".join(_MEASURES), help="what to measure")
    command.add_argument("--model", metavar="DIR", help="a saved model (default: llama-nano with random weights)")
    command.add_argument("--answers", type=int, nargs="+", default=[16, 64, 256], metavar="N", help="sampled together")
    command.add_argument("--new-tokens", type=int, default=64, metavar="N", help="tokens of each")
    command.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="runs, of which the best counts (default: 5)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")


def _rollout(options: argparse.Namespace) -> dict[str, Any]:
    from .. import bench

    model = None if options.model is None else load_model(options.model)
    return bench.rollout(model, answers=options.answers, new_tokens=options.new_tokens, repeats=options.repeats)


_MEASURES = {"rollout": _rollout}

COMMANDS = (Command("bench", "measure how fast it is here", add_bench_flags, bench),)


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(rows[0]), *([f"{value:,}" for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
