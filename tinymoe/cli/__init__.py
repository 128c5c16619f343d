"""The command line: `python -m tinymoe COMMAND`, or `tinymoe COMMAND` where the package is installed.

A mistake of the user is answered by one line and exit code 2; TINYMOE_DEBUG=1 shows the traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import benchmarking, generation, inspection, posttraining, pretraining

# What goes wrong for reasons outside the program; anything else is a bug and shows its traceback.
_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)

COMMANDS = {
    command.name: command
    for module in (pretraining, posttraining, generation, inspection, benchmarking)
    for command in module.COMMANDS
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        if options.backend:
            from ..backend import use

            use(options.backend)
        return COMMANDS[options.command].run(options)
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"tinymoe: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="tinymoe", description="Train, tune and run small language models.", allow_abbrev=False)
    parsers = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for name, command in COMMANDS.items():
        mine = parsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        if name in arguments[:1]:  # the flags of the others need imports that take time
            command.add_flags(mine)
            mine.add_argument("--backend", metavar="B", help="numpy, numba or cupy")
    return parser.parse_args(arguments)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
