"""What the course says: one object, a small box in a notebook, plain text anywhere else."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Wong's palette (Nature Methods 2011), which color-blind readers can tell apart.
COLORS = {"✓": "#009E73", "✗": "#D55E00", "…": "#999999", "·": "#0072B2"}


@dataclass(frozen=True)
class Note:
    """A message: a line of text, (label, text) pairs below it, and a (title, source) that is folded up in a notebook.

    The pairs' texts are values, set as code, unless `prose` says that they are sentences.
    """

    mark: str
    text: str
    details: Sequence[tuple[str, str]] = ()
    fold: tuple[str, str] | None = None
    prose: bool = False

    def __str__(self) -> str:
        lines = [f"{self.mark} {self.text}"]
        width = max((len(label) for label, _ in self.details), default=0)
        for label, text in self.details:
            body = text.replace("\n", "\n" + " " * (width + 4))
            lines.append(f"  {label:<{width}}  {body}".rstrip())
        if self.fold:
            lines += ["", self.fold[1]]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:left;vertical-align:top;padding:.1em 1em .1em 0">'
        style = "margin:0;white-space:pre-wrap" + (";font-family:inherit;font-size:inherit" if self.prose else "")
        rows = "".join(
            f'<tr style="background:none;font-size:inherit">{cell}{html.escape(label)}</td>'
            f'{cell}<pre style="{style}">{html.escape(text)}</pre></td></tr>'
            for label, text in self.details
        )
        table = f'<table style="margin:.3em 0 0 0;font-size:inherit">{rows}</table>' if rows else ""
        fold = ""
        if self.fold:
            summary, body = map(html.escape, self.fold)
            fold = f"<details><summary>{summary}</summary><pre>{body}</pre></details>"
        mark = f'<b style="color:{COLORS[self.mark]}">{self.mark}</b>'
        text = html.escape(self.text).replace("\n", "<br>")
        box = f"border-left:4px solid {COLORS[self.mark]};padding:.2em .8em"
        return f'<div style="{box}">{mark} {text}{table}{fold}</div>'


def tell(note: Note) -> None:
    """Show a message now: as a box in a notebook, else as printed text."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display(note)
    else:
        print(note)
