"""Plans for lecturers: which chapters in which week, and the hours they take, from what book.yml says."""

from __future__ import annotations

import re

from .course import Course

_PLAN = re.compile(r"<!-- plan: (?P<weeks>[\d |]+?) -->")


def fill_plans(text: str, course: Course) -> str:
    """A page in which `<!-- plan: 00 01 | 02 -->` has become a table with a row for each week.

    Raises ValueError for a chapter that does not exist.
    """
    return _PLAN.sub(lambda match: _table(match["weeks"], course), text)


def _table(weeks: str, course: Course) -> str:
    chapters = {chapter.number: chapter for chapter in course.chapters}
    rows = ["| week | chapters | hours | what it explains |", "|---|---|---|---|"]
    total = 0
    for week, numbers in enumerate(weeks.split("|"), 1):
        if unknown := [number for number in numbers.split() if number not in chapters]:
            raise ValueError(f"plan: there is no chapter {unknown[0]}")
        members = [chapters[number] for number in numbers.split()]
        minutes = sum(chapter.minutes for chapter in members)
        total += minutes
        links = ", ".join(f"[{one.number} {one.title}](/chapters/{one.stem}.ipynb)" for one in members)
        says = "; ".join(one.explains for one in members)
        rows.append(f"| {week} | {links} | {_hours(minutes)} | {says} |")
    return "\n".join([*rows, f"| | | **{_hours(total)}** | |"])


def _hours(minutes: int) -> str:
    whole, rest = divmod(minutes, 60)
    return f"{whole or ''}{'½' if rest else ''}"
