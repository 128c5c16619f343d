"""For lecturers: hand out chapters to solve, and grade what comes back by the course's own checks.

    python tools/handout.py make 03 09 --out handout        # the chapters, without outputs, to hand out
    python tools/handout.py make 09 --only 09.top_k_routing 09.balance_loss --out handout
    python tools/handout.py grade submissions --out grades.csv [--exercises 09.top_k_routing ...]

`make` writes the chapters without outputs and saved widgets. With `--only`, the other exercises are not asked: their
cells hold the reference, so that the chapter runs as it does when all is solved.

A learner hands in the folder `my_tinymoe`, where the course keeps every right answer. `submissions` holds one such
folder for each learner, under the learner's name. `grade` runs every answer through the exercise's checks again, each
in a process of its own with a time limit, and writes a table of names and exercises, with 1 for right and 0 for wrong
or missing. What a wrong answer fails at is printed. Answers are programs: grade where running them does no harm.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120  # that all checks of one answer may take
_CHECK = """
import pathlib, sys
from tinymoe.course import registry, session, shelf
id, file = sys.argv[1:]
right = sys.stdin.readline()  # not known beforehand: an answer that prints it has not guessed it
known = registry.find(id)
failure = known.failure(shelf.run(pathlib.Path(file).read_text("utf-8"), file, id))
print(right if failure is None else session.failure_note(known, failure))
"""


def stripped(notebook: Any, only: Sequence[str] = ()) -> Any:
    """A chapter to hand out: no outputs and no saved widgets; of its exercises those in `only`, all where it is empty.

    The cells of the other exercises hold the reference's source, and their hints are left out.
    """
    from tinymoe.course import registry

    notebook.metadata.pop("widgets", None)
    kept = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            ids = re.findall(r'^@exercise\("([\w.]+)"\)', cell.source, re.MULTILINE)
            if only and ids and not set(ids) & set(only):
                known = registry.find(ids[0])
                cell.source = f"# {known.title}: the course's own answer\n{known.solution}"
            hinted = re.fullmatch(r'hint\("([\w.]+)"\)', cell.source.strip())
            if only and hinted and hinted[1] not in only:
                continue
        kept.append(cell)
    notebook.cells = kept
    return notebook


def make(numbers: Sequence[str], only: Sequence[str], out: Path) -> list[Path]:
    """Write the chapters with these numbers into `out`; return the files.

    Raises ValueError for a chapter that does not exist, or an exercise that is in none of those chosen.
    """
    import nbformat

    files = [file for number in numbers for file in sorted((ROOT / "chapters").glob(f"{number}_*.ipynb"))]
    if missing := [number for number in numbers if not any(file.name.startswith(f"{number}_") for file in files)]:
        raise ValueError(f"chapters: there is no {missing[0]}")
    if foreign := [id for id in only if id not in _exercises(numbers)]:
        raise ValueError(f"--only: got {foreign[0]!r}, expected exercises of the chapters {', '.join(numbers)}")
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        notebook = stripped(nbformat.read(file, as_version=4), only)
        (out / file.name).write_text(nbformat.writes(notebook) + "\n", "utf-8")
    return [out / file.name for file in files]


def check(id: str, file: Path) -> str:
    """What is wrong with the answer in a file, by the exercise's checks; empty when it is right."""
    right = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as nothing_solved:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "TINYMOE_MY": nothing_solved, "PYTHONPATH": path}
        command = [sys.executable, "-c", _CHECK, id, str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=SECONDS, input=right
            )
        except subprocess.TimeoutExpired:
            return f"took more than {SECONDS} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended by itself"])[-1]
    return "" if lines and lines[-1] == right else "\n".join(lines) or "it printed nothing"


def grade(submissions: Path, exercises: Sequence[str]) -> dict[str, dict[str, str]]:
    """What is wrong with each learner's answers: name -> exercise -> problem, "" for a right one, "missing" for none.

    Raises ValueError where there are no folders to grade, or for an exercise that does not exist.
    """
    known = _exercises([])
    if unknown := [id for id in exercises if id not in known]:
        raise ValueError(f"--exercises: got {unknown[0]!r}, which the course has not")
    people = sorted(folder for folder in submissions.iterdir() if folder.is_dir()) if submissions.is_dir() else []
    if not people:
        raise ValueError(f"submissions: expected a folder for each learner in {submissions}, got none")
    files = {person.name: _answers(person) for person in people}
    asked = list(exercises) or sorted({id for answers in files.values() for id in answers if id in known})
    return {
        name: {id: check(id, answers[id]) if id in answers else "missing" for id in asked}
        for name, answers in files.items()
    }


def write_grades(grades: dict[str, dict[str, str]], out: Path) -> None:
    """The table as CSV: a line for each learner, a column for each exercise, and their sum."""
    asked = list(next(iter(grades.values())))
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", *asked, "right"])
        for name, problems in grades.items():
            points = [int(not problems[id]) for id in asked]
            table.writerow([name, *points, sum(points)])


def _answers(person: Path) -> dict[str, Path]:
    """The files of a learner's answers, in `my_tinymoe` or in the folder itself."""
    folder = person / "my_tinymoe" if (person / "my_tinymoe").is_dir() else person
    return {file.stem: file for file in sorted(folder.glob("*.py")) if re.fullmatch(r"\d\d\.\w+", file.stem)}


def _exercises(numbers: Sequence[str]) -> list[str]:
    from tinymoe.course import registry

    return [known.id for known in registry.every() if not numbers or known.chapter in numbers]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write chapters to hand out")
    making.add_argument("chapters", nargs="+", metavar="NN")
    making.add_argument("--only", nargs="+", default=[], metavar="EXERCISE", help="the exercises that are asked")
    making.add_argument("--out", type=Path, default=Path("handout"))
    grading = commands.add_parser("grade", help="check what was handed in")
    grading.add_argument("submissions", type=Path)
    grading.add_argument("--exercises", nargs="+", default=[], metavar="EXERCISE", help="all that are there, if none")
    grading.add_argument("--out", type=Path, default=Path("grades.csv"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "make":
            for file in make(options.chapters, options.only, options.out):
                print(file)
            return 0
        grades = grade(options.submissions, options.exercises)
    except ValueError as problem:
        parser.error(str(problem))
    write_grades(grades, options.out)
    for name, problems in grades.items():
        print(f"{name}: {sum(not problem for problem in problems.values())} of {len(problems)}")
        for id, problem in problems.items():
            if problem:
                print(f"  {id}: " + problem.replace("\n", "\n    "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
