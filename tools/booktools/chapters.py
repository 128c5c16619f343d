"""What the book adds to a chapter: where to run it, hints and solutions to fold out, and what it has built."""

from __future__ import annotations

import html
import importlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import nbformat
from chaptertools.notebooks import Chapter
from chaptertools.package import Package

from tinymoe.course import registry

from .course import ChapterFacts, Course
from .reference import address

ARXIV = re.compile(r"arXiv[: ]*(?:hep-\w+/)?(?P<id>\d{4}\.\d{4,5})")
ADDRESS = re.compile(r"(?<![(<])https?://[^\s()<>]*[^\s()<>.,;:]")

WIDGETS = "application/vnd.jupyter.widget-state+json"
# Figures from blue over white to red: of these the dark theme makes no negatives.
DIVERGING = re.compile(r"RdBu|viz\.(expert_load|specialization)\(")


def dress(chapter: Chapter, facts: ChapterFacts, course: Course, package: Package) -> Any:
    """The chapter's notebook with what the book adds to it. The notebook on disk stays as it is."""
    notebook = chapter.notebook
    refresh_widgets(notebook)
    cells = []
    waiting: list[str] = []  # exercises whose hints and solution come after the learner's own `hint(...)`
    for number, cell in enumerate(chapter.cells):
        if waiting and not cell.source.startswith("hint("):
            cells += [_answer(id, facts.number) for id in waiting]
            waiting = []
        if not cell.is_code:
            cell.node["source"] = link_papers(cell.source)
        else:
            tags = ["package"] * bool(cell.key) + ["light-figure"] * bool(DIVERGING.search(cell.source))
            cell.node["metadata"]["tags"] = [*cell.node["metadata"].get("tags", []), *tags]
        cells.append(cell.node)
        if number == 0 and (places := course.places_to_run(facts, "../")):
            cells.append(_text(_run_line(places), f"run-{facts.number}"))
        waiting += [id for id, _ in cell.exercises] if "@exercise(" in cell.source else []
    cells += [_answer(id, facts.number) for id in waiting]
    cells.append(_text(footer(chapter, course, package), f"built-{facts.number}"))
    notebook.cells = cells
    return notebook


def refresh_widgets(notebook: Any) -> None:
    """Give the saved widgets the scripts and styles that the package has now, in place of those of the day they ran."""
    saved = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    for widget in saved.values():
        module, _, name = widget["state"].get("_anywidget_id", "").rpartition(".")
        if module.startswith("tinymoe."):
            view = getattr(importlib.import_module(module), name)
            widget["state"] |= {"_esm": view._esm, "_css": view._css}


def built_by(chapter: Chapter) -> dict[str, list[str]]:
    """The definitions that the chapter's tagged cells show, by their modules: path -> names."""
    built: dict[str, list[str]] = defaultdict(list)
    for cell in chapter.cells:
        if cell.key:
            path, _, name = cell.key.partition("::")
            built[path].append(name)
    return dict(sorted(built.items()))


def footer(chapter: Chapter, course: Course, package: Package) -> str:
    """The modules that the chapter has built, each definition with a link to its docstring and source."""
    built = built_by(chapter)
    if not built:
        return ""
    rows = []
    for path, names in built.items():
        links = [_link(address(package, path, name, "../"), name) for name in names]
        module = _link(address(package, path, "", "../"), f"tinymoe/{path}")
        if url := course.source_url(f"tinymoe/{path}"):
            module += f' <a class="tm-github" href="{url}">on GitHub</a>'
        rows.append(f"<dt>{module}</dt><dd>{' '.join(links)}</dd>")
    head = '<p class="tm-built-title">What this chapter has built</p>'
    return f'<div class="tm-built">{head}<dl>{"".join(rows)}</dl></div>'


def link_papers(text: str) -> str:
    """Text in which arXiv numbers and bare addresses are links; those in links and code stay."""
    if "arXiv" not in text and "http" not in text:
        return text
    parts = re.split(r"(`[^`]*`|\[[^\]]*\]\([^)]*\)|<[^>]*>)", text)
    link = r"[\g<0>](https://arxiv.org/abs/\g<id>)"
    parts[::2] = [ADDRESS.sub(r"<\g<0>>", ARXIV.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def write_chapters(chapters: list[Chapter], course: Course, package: Package, target: Path) -> None:
    """Write the dressed notebooks into `target`."""
    facts = {chapter.stem: chapter for chapter in course.chapters}
    for chapter in chapters:
        if known := facts.get(chapter.file.stem):
            text = nbformat.writes(dress(chapter, known, course, package))
            (target / chapter.name).write_text(text + "\n", "utf-8")


def _link(url: str, name: str) -> str:
    code = f"<code>{html.escape(name)}</code>"
    return f'<a href="{html.escape(url)}">{code}</a>' if url else code


def _text(source: str, id: str) -> Any:
    return nbformat.v4.new_markdown_cell(source, id=id)


def _run_line(places: list[tuple[str, str]]) -> str:
    links = "".join(f'<a href="{html.escape(url)}">{html.escape(words)}</a>' for words, url in places)
    return f'<p class="tm-run"><span>Try it now:</span>{links}</p>'


def _answer(id: str, number: str) -> Any:
    """Hints and the reference solution of an exercise, folded up."""
    known = registry.find(id)
    hints = "\n".join("1. " + hint.replace("\n", "\n   ") for hint in known.hints)
    source = (
        f":::{{dropdown}} Hints for {known.title}\n:class-container: tm-fold\n{hints}\n:::\n\n"
        f":::{{dropdown}} A solution\n:class-container: tm-fold\n```python\n{known.solution}\n```\n:::"
    )
    return _text(source, re.sub(r"\W", "-", f"answer-{id}")[:64])
