"""The page of papers: what the chapters refer to, each once, by year."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from chaptertools.notebooks import Chapter

from .chapters import ARXIV, link_papers
from .course import Course

_HEAD = """# Papers

What the chapters build on, {count} papers, reports and model cards, by year. Numbers in front are the chapters that use
them. Those with a number of arXiv can be read there for free.
"""


@dataclass
class Paper:
    """One reference, as the first chapter that has it writes it, and the chapters that have it."""

    text: str
    year: int
    chapters: list[str] = field(default_factory=list)
    shared: bool = False  # whether its entry names other papers too


def references(chapter: Chapter) -> list[str]:
    """The entries of a chapter's section of references, each in one line."""
    last = [cell.source for cell in chapter.cells if not cell.is_code and "## References" in cell.source]
    if not last:
        return []
    section = re.split(r"^## ", last[-1].partition("## References")[2], flags=re.MULTILINE)[0]
    entries = re.findall(r"^- (.*?)(?=^- |\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    return [" ".join(entry.split()) for entry in entries]


def year_of(entry: str) -> int:
    """The year a reference names, the last where there are several; arXiv's numbers are no years. 0 without one."""
    years = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", ARXIV.sub("", re.sub(r"https?://\S+", "", entry)))
    return int(years[-1]) if years else 0


def collect(chapters: list[Chapter]) -> list[Paper]:
    """All references, each once: those with the same number of arXiv, or the same title, are the same."""
    papers: dict[str, Paper] = {}
    for chapter in chapters:
        for entry in references(chapter):
            alone = len(ARXIV.findall(entry)) < 2
            for part in [entry] if alone else entry.split("; "):
                key = _key(part)
                # One that stands for itself says more than one among several.
                paper = papers.setdefault(key, Paper("", 0))
                if not paper.text or (alone and paper.shared):
                    paper.text, paper.year, paper.shared = part.rstrip(";"), year_of(part), not alone
                if chapter.number not in paper.chapters:
                    paper.chapters.append(chapter.number)
    return sorted(papers.values(), key=lambda paper: (-paper.year, paper.text.lower()))


def _key(entry: str) -> str:
    found = ARXIV.search(entry)
    pieces = [piece.lower().strip() for piece in re.split(r"[.:*(]", entry) if piece.count(",") < 2]
    return found["id"] if found else max(pieces, key=len)


def papers_page(chapters: list[Chapter], course: Course) -> str:
    """The page in Markdown."""
    papers = collect(chapters)
    stems = {chapter.number: chapter.stem for chapter in course.chapters}
    parts, year = [_HEAD.format(count=len(papers))], None
    for paper in papers:
        if paper.year != year:
            year = paper.year
            parts.append(f"\n## {year or 'Without a year'}\n")
        where = ", ".join(f"[{number}](/chapters/{stems[number]}.ipynb)" for number in paper.chapters)
        parts.append(f"- {where} · {link_papers(paper.text)}")
    return "\n".join(parts) + "\n"
