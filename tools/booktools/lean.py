"""Make the built pages light, and better to read aloud: fewer scripts, smaller figures, names as they are seen."""

from __future__ import annotations

import re
from pathlib import Path

# The theme's icons are a font; the same icons as a script of 1.5 MB are loaded beside it for no use.
_ICON_SCRIPTS = re.compile(r'\n?\s*<(?:script|link)\b[^>]*fontawesome/[^>"]*/js/[^>]*>(?:</script>)?')
_BRANDS = re.compile(r'\n?\s*<link rel="preload"[^>]*fa-(?:brands|regular)-400[^>]*>')
_MATHJAX = re.compile(r"\n?\s*<script\b[^>]*mathjax/[^>]*></script>")
# Names for screen readers: of the theme's, some say other words than the eye reads, and one says nothing.
_NAMES = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages of this part"><span class="toctree-toggle"',
}
_SEARCH = re.compile(r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) aria-label="Search"', re.DOTALL)
_LARGE = 60_000  # bytes, from which a figure is worth the effort
_COLORS = 256


def slim(site: Path) -> None:
    """Slim all pages and figures of a built site, in place."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        page.write_text(slim_page(text), "utf-8")
    for figure in (site / "_images").glob("*.png"):
        if figure.stat().st_size > _LARGE:
            slim_figure(figure)


def slim_page(text: str) -> str:
    """A page without the icons' script, without MathJax where nothing needs it, with names read as seen."""
    for theirs, ours in _NAMES.items():
        text = text.replace(theirs, ours)
    text = _SEARCH.sub(r"\1", text)
    text = _BRANDS.sub("", _ICON_SCRIPTS.sub("", text))
    has_math = 'class="math' in text or "jupyter.widget-view" in text
    return text if has_math else _MATHJAX.sub("", text)


def slim_figure(figure: Path) -> None:
    """Store a figure with a palette, if that takes fewer bytes: a plot has few colors."""
    from PIL import Image

    with Image.open(figure) as image:
        palette = image.convert("RGB").quantize(_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    fresh = figure.with_suffix(".new")
    palette.save(fresh, "PNG", optimize=True)
    if fresh.stat().st_size < figure.stat().st_size:
        fresh.replace(figure)
    else:
        fresh.unlink()
