"""Keep the chapters true to the package.

    python tools/chapters.py COMMAND... [NN...] [--fast] [--limit SECONDS]

    sync      refresh the cells that show package code
    check     such cells equal the package; every chapter is executed, clean and complete
    order     a chapter uses only what it, or an earlier one, has taught
    coverage  every public definition is taught once, or listed in chapters/untaught.txt with a reason
    rebuild   put the package together from the chapters' cells and run its tests on that (--fast: not the slow ones)
    run       execute chapters in place; fails over --limit seconds (90)

Numbers, as in `run 01 04`, choose chapters for sync, check, order and run; coverage and rebuild always take all.
Everything is read as text: no command but `run` and `rebuild` executes anything.

How to write a chapter
----------------------
- `chapters/NN_name.ipynb` begins with a text cell `# NN · Title` and ends with a section `## References`.
- A cell that shows package code has `# tinymoe: nn/attention.py::Attention` as its first line; write only that line
  and `sync` fills in the rest. It shows one whole function, class or constant of the top level of a module. It also
  runs: it defines the thing once more in the notebook, from names that earlier cells imported or defined.
- Drafts, first versions and trials stay untagged.
- Definitions that no chapter shows stand in `chapters/untaught.txt`, one a line: `text/bpe.py::merge — why`, or
  `text/bpe.py::* — why` for all of a module. What is listed may be used in any chapter.
- At least three exercises. Each is defined in `tinymoe/course/exercises/chNN.py` (`tinymoe.course.registry.Exercise`,
  `tinymoe.course.checks`), its wrong answers in `tests/exercises/test_chNN.py` (see `runner.py` there). In the
  chapter it is a function under `@exercise("NN.name")` whose body, or the gaps in it, are `...`.
- Print rounded numbers. The tag `nbval-ignore-output` is for timings, plots and samples; `nbval_sanitize.cfg` makes
  times, rates and addresses equal before outputs are compared.
- Then `sync run check NN`, look at the result, and commit it with its outputs.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chaptertools.coverage import check_coverage  # noqa: E402
from chaptertools.execute import LIMIT, run  # noqa: E402
from chaptertools.hygiene import check_hygiene  # noqa: E402
from chaptertools.notebooks import read_chapters, read_untaught  # noqa: E402
from chaptertools.order import check_order  # noqa: E402
from chaptertools.package import Package  # noqa: E402
from chaptertools.rebuild import rebuild  # noqa: E402
from chaptertools.tags import check_tags, sync  # noqa: E402

COMMANDS = ("sync", "run", "check", "order", "coverage", "rebuild")


def main(arguments: list[str] | None = None) -> int:
    """Run the commands in the order given; 1 when any found a problem."""
    options = _options(arguments)
    commands = [word for word in options.words if word in COMMANDS]
    numbers = [word for word in options.words if word not in COMMANDS]
    problems = 0
    for command in commands:
        try:
            found = _run(command, numbers, options)
        except (ValueError, OSError) as error:
            found = [str(error)]
        for problem in found:
            print(f"{command}: {problem}", file=sys.stderr)
        print(f"{command}: {f'{len(found)} problems' if found else 'ok'}", flush=True)
        problems += len(found)
    return 1 if problems else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chapters.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="COMMAND|NN", help=", ".join(COMMANDS) + "; numbers of chapters")
    parser.add_argument("--fast", action="store_true", help="rebuild: leave out the tests marked slow")
    parser.add_argument("--limit", type=float, default=LIMIT, help="run: seconds that a chapter may take")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of tinymoe/, chapters/ and tests/")
    options = parser.parse_args(arguments)
    unknown = [word for word in options.words if word not in COMMANDS and not re.fullmatch(r"\d\d", word)]
    if unknown:
        parser.error(f"got {unknown[0]!r}, expected one of {', '.join(COMMANDS)}, or a chapter's number such as 01")
    if not any(word in COMMANDS for word in options.words):
        parser.error(f"expected a command: {', '.join(COMMANDS)}")
    return options


def _run(command: str, numbers: list[str], options: argparse.Namespace) -> list[str]:
    root = options.root.resolve()
    package, everything = Package(root / "tinymoe"), read_chapters(root / "chapters")
    untaught, chosen = read_untaught(root / "chapters"), read_chapters(root / "chapters", numbers)
    if command == "sync":
        changed, problems = sync(package, chosen)
        print("".join(f"sync: {line}\n" for line in changed), end="")
        return problems
    if command == "check":
        return check_tags(package, chosen) + check_hygiene(package.folder, chosen)
    if command == "order":
        return check_order(package, everything, untaught, chosen)
    if command == "coverage":
        return check_coverage(package, everything, untaught)
    if command == "rebuild":
        return rebuild(root, package, everything, untaught, options.fast)
    return run(root, chosen, options.limit)


if __name__ == "__main__":
    sys.exit(main())
