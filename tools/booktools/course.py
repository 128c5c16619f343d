"""What book.yml and the measured times say about the chapters, and where the links to them go."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LITE_PAGE = "lite/notebooks/index.html?path=chapters/{stem}.ipynb"


@dataclass(frozen=True)
class ChapterFacts:
    """A chapter as the map shows it: `minutes` to read and solve it, and `seconds` it ran for, if that was measured."""

    stem: str
    title: str
    needs: tuple[str, ...]
    minutes: int
    builds: str
    explains: str
    teaser: str
    seconds: int | None = None

    @property
    def number(self) -> str:
        """Its two digits."""
        return self.stem[:2]

    @property
    def reading(self) -> str:
        """How long to read and solve it: `½ h`, `1½ h`."""
        hours, rest = divmod(self.minutes, 60)
        return f"{hours or ''}{'½' if rest else ''} h"

    @property
    def running(self) -> str:
        """How long it runs: `48 s`; empty where nobody has measured it."""
        return f"{self.seconds} s" if self.seconds else ""


@dataclass(frozen=True)
class Course:
    """The chapters in their parts, (caption, chapters) each; the address of the repository; whether they run in place.

    `lite` says that the site which runs chapters in the browser is built beside these pages.
    """

    parts: tuple[tuple[str, tuple[ChapterFacts, ...]], ...]
    repository: str
    branch: str
    lite: bool = False

    @property
    def chapters(self) -> list[ChapterFacts]:
        """All chapters, in the order of the book."""
        return [chapter for _, chapters in self.parts for chapter in chapters]

    def source_url(self, path: str, lines: tuple[int, int] | None = None) -> str:
        """The address of a file of the repository, and lines in it; empty where the repository has no address."""
        if not self.repository:
            return ""
        place = f"#L{lines[0]}-L{lines[1]}" if lines else ""
        return f"{self.repository}/blob/{self.branch}/{path}{place}"

    def places_to_run(self, chapter: ChapterFacts, root: str) -> list[tuple[str, str]]:
        """(words, address) for each place where a chapter runs without installing; `root` leads to the first page."""
        places = [("run in the browser", root + LITE_PAGE.format(stem=chapter.stem))] if self.lite else []
        owner_and_name = self.repository.partition("://github.com/")[2]
        if owner_and_name:
            notebook = f"chapters/{chapter.stem}.ipynb"
            places += [
                ("Colab", f"https://colab.research.google.com/github/{owner_and_name}/blob/{self.branch}/{notebook}"),
                ("Binder", f"https://mybinder.org/v2/gh/{owner_and_name}/{self.branch}?urlpath=lab/tree/{notebook}"),
            ]
        return places


def read_course(config: dict[str, Any], times: Path, *, lite: bool = False) -> Course:
    """The course in book.yml, read into `config`, with the times that `times` keeps.

    Raises ValueError for a chapter of the table of contents that `course` says nothing about, or the other way round,
    and for one that needs a chapter which does not exist.
    """
    section = config["course"]
    facts = section["chapters"]
    measured = json.loads(times.read_text("utf-8")) if times.exists() else {}
    parts = []
    for part in config["toc"]["parts"]:
        stems = [page["file"].partition("chapters/")[2] for page in part["chapters"]]
        chapters = [_chapter(stem, facts, measured) for stem in stems if stem]
        if chapters:
            parts.append((part["caption"], tuple(chapters)))
    course = Course(tuple(parts), _repository(section), section["branch"], lite)
    if lost := sorted(facts.keys() - {chapter.stem for chapter in course.chapters}):
        raise ValueError(f"book.yml: course tells of {lost[0]}, which toc does not name")
    numbers = {chapter.number for chapter in course.chapters}
    for chapter in course.chapters:
        if unknown := sorted(set(chapter.needs) - numbers):
            raise ValueError(f"book.yml: {chapter.stem} needs {unknown[0]}, which is no chapter")
    return course


def _chapter(stem: str, facts: dict[str, Any], measured: dict[str, Any]) -> ChapterFacts:
    if stem not in facts:
        raise ValueError(f"book.yml: toc names chapters/{stem}, of which course says nothing")
    known = dict(facts[stem])
    known["needs"] = tuple(known["needs"])
    return ChapterFacts(stem, **known, seconds=measured.get(f"{stem}.ipynb", {}).get("seconds"))


def _repository(section: dict[str, Any]) -> str:
    """The address that book.yml gives, else that of the repository whose GitHub Actions build this."""
    if section["repository"]:
        return section["repository"].rstrip("/")
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server}/{name}" if server and name else ""
