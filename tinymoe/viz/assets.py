"""The scripts and style sheets of the widgets, each joined into the one text that a notebook carries."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_STATIC = Path(__file__).parent / "static"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const|function|class|let)", re.MULTILINE)


@cache
def script(name: str) -> str:
    """The ES module static/`name`.js with the modules it imports written out before it, each once.

    A notebook holds one script a widget, and a static page may have no server to fetch a second file from.
    """
    joined: dict[str, str] = {}

    def add(module: str) -> None:
        if module in joined:
            return
        source = (_STATIC / f"{module}.js").read_text("utf-8")
        for dependency in _IMPORT.findall(source):
            add(dependency)
        joined[module] = _EXPORT.sub("", _IMPORT.sub("", source))

    add(name)
    return "\n".join(joined.values())


@cache
def style_sheet(*names: str) -> str:
    """The style sheets static/`name`.css in this order, in one text."""
    return "\n".join((_STATIC / f"{name}.css").read_text("utf-8") for name in names)
