"""The second half of `check`: a chapter is committed executed, clean, and has the parts that a chapter has."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from .notebooks import Cell, Chapter

LEAST_EXERCISES = 3
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|tmp|work|Users|private|var/folders)/[\w.-]")
BASE64 = re.compile(r"base64,[A-Za-z0-9+/=\s]+")
# With these, nbval proves nothing about a cell; the last it only knows as a comment, and ignores as a tag.
BAD_TAGS = {"raises-exception", "nbval-raises-exception", "nbval-skip", "NBVAL_IGNORE_OUTPUT"}
BAD_COMMENT = re.compile(
    r"^\s*#+\s*(NBVAL_SKIP|NBVAL_RAISES_EXCEPTION|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE
)


def check_hygiene(package: Path, chapters: list[Chapter]) -> list[str]:
    """Everything about the chapters, other than their tagged cells, that should not be committed."""
    problems = []
    numbers = [chapter.number for chapter in chapters]
    for chapter in chapters:
        if not chapter.number:
            problems.append(f"{chapter.name}: the name is not of the form 01_tokenizer.ipynb")
            continue
        if numbers.count(chapter.number) > 1:
            problems.append(f"{chapter.name}: another chapter has the number {chapter.number}")
        problems += _format(chapter) + _structure(chapter) + _exercises(package, chapter)
        for cell in chapter.cells:
            problems += [f"{chapter.where(cell)}: {problem}" for problem in _cell(cell)]
        problems += [f"{chapter.name}: {problem}" for problem in _run_order(chapter)]
        state = json.dumps(chapter.notebook.metadata.get("widgets", {}))
        if found := MACHINE_PATH.search(BASE64.sub("", state)):
            problems.append(f"{chapter.name}: the saved widgets hold a path of this machine, {found[0]}…")
    return problems


def _format(chapter: Chapter) -> list[str]:
    try:
        nbformat.validate(chapter.notebook)
    except nbformat.ValidationError as error:
        return [f"{chapter.name}: is no valid notebook: {str(error).splitlines()[0]}"]
    name = chapter.notebook.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"{chapter.name}: its kernel is {name!r}, expected 'python3'; `run` sets it"]


def _structure(chapter: Chapter) -> list[str]:
    problems = []
    first = chapter.cells[0] if chapter.cells else None
    if first is None or first.is_code or not first.source.startswith(f"# {chapter.number} · "):
        problems.append(f"{chapter.name}: its first cell should be text that begins with '# {chapter.number} · Title'")
    text = "\n".join(cell.source for cell in chapter.cells if not cell.is_code)
    last = re.split(r"^##\s+", text, flags=re.MULTILINE)[-1]
    if not re.match(r".*references", last.partition("\n")[0], re.IGNORECASE) or not re.search(r"\b(19|20)\d\d\b", last):
        problems.append(f"{chapter.name}: its last section should be '## References', papers with their years")
    return problems


def _exercises(package: Path, chapter: Chapter) -> list[str]:
    problems, asked = [], []
    for cell in chapter.cells:
        try:
            found = list(cell.exercises)
        except SyntaxError as error:
            problems.append(f"{chapter.where(cell)}: is not valid Python: {error.msg} (line {error.lineno})")
            continue
        for id, gap in found:
            asked.append(id)
            if gap is None:
                problems.append(f"{chapter.where(cell)}: exercise {id} is committed solved; leave its body `...`")
    if len(set(asked)) < LEAST_EXERCISES:
        problems.append(f"{chapter.name}: has {len(set(asked))} exercises, expected at least {LEAST_EXERCISES}")
    defined = _defined_exercises(package / "course" / "exercises" / f"ch{chapter.number}.py")
    problems += [f"{chapter.name}: asks for {id}, which ch{chapter.number}.py does not define"
                 for id in sorted(set(asked) - defined)]  # fmt: skip
    problems += [f"{chapter.name}: does not ask for {id}, which ch{chapter.number}.py defines"
                 for id in sorted(defined - set(asked))]  # fmt: skip
    problems += [f"{chapter.name}: asks for {id} more than once" for id in sorted(set(asked)) if asked.count(id) > 1]
    return problems


def _defined_exercises(file: Path) -> set[str]:
    ids = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else ():
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Exercise":
            values = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "id")]
            ids |= {value.value for value in values if isinstance(value, ast.Constant)}
    return ids


def _cell(cell: Cell) -> Iterator[str]:
    if found := MACHINE_PATH.search(BASE64.sub("", cell.source)):
        yield f"its source holds a path of this machine, {found[0]}…"
    tags = {str(tag).lower().replace("_", "-") for tag in cell.node.metadata.get("tags", [])}
    for tag in sorted(tags & BAD_TAGS):
        yield f"has the tag {tag}, which proves nothing"
    if not cell.is_code:
        return
    if found := BAD_COMMENT.search(cell.source):
        yield f"has the comment {found[1]}, which proves nothing"
    if not cell.source.strip():
        yield "is empty"
    if "execution" in cell.node.metadata:
        yield "holds the time it was run at; `run` takes it out"
    for output in cell.node["outputs"]:
        if output["output_type"] == "error":
            yield f"ends in an error: {output['ename']}: {output['evalue']}"
            continue
        text = BASE64.sub("", _text(output))
        if found := MACHINE_PATH.search(text):
            yield f"its output holds a path of this machine, {found[0]}…"
        if output.get("name") == "stderr" and "Warning" in text:
            yield f"its output holds a warning: {text.strip().splitlines()[0]}"


def _run_order(chapter: Chapter) -> list[str]:
    counts = [cell.node["execution_count"] for cell in chapter.cells if cell.is_code and cell.source.strip()]
    if counts == list(range(1, len(counts) + 1)):
        return []
    missing = [cell.number for cell in chapter.cells if cell.is_code and cell.node["execution_count"] is None]
    what = f"cell {missing[0]} was not run" if missing else "the cells were not run once, from top to bottom"
    return [f"{what}; `run {chapter.number}` does that"]


def _text(output: Any) -> str:
    """All text of an output; pictures are left out."""
    texts = [output.get("text", "")]
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/") or kind == "image/svg+xml":
            texts.append(data if isinstance(data, str) else json.dumps(data))
    return "\n".join("".join(text) for text in texts)
