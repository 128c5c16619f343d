"""Make the built pages light and quick to show, and better to read aloud: scripts wait, styles and figures shrink."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# The theme's icons are a font; the same icons as a script of 1.5 MB are loaded beside it for no use.
_ICON_SCRIPTS = re.compile(r'\n?\s*<(?:script|link)\b[^>]*fontawesome/[^>"]*/js/[^>]*>(?:</script>)?')
# Neither the icons' font nor the scripts may be fetched before the style sheets that the text waits for.
_PRELOADS = re.compile(r'\n?\s*<link rel="preload"[^>]*(?:fontawesome/[^>"]*/webfonts/|as="script")[^>]*>')
_MATHJAX = re.compile(r"\n?\s*<script\b[^>]*mathjax/[^>]*></script>")
_AT_ONCE = re.compile(r'<script\b(?![^>]*(?:\bdefer\b|\basync\b|type="module"))(?=[^>]*\bsrc=)')
# The one script that scripts within the page need at once: it becomes one of them.
_OPTIONS = re.compile(r'<script src="[^"]*documentation_options\.js[^"]*"></script>')
# The theme's own script, which comes last, decides between light and dark: too late for the first look at the page.
_THEME = 'localStorage.getItem("theme") || "auto"'
_THEME_NOW = (
    '{light: "light", dark: "dark"}[localStorage.getItem("mode")] '
    '|| (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")'
)
# Style sheets of others, of which the pages use a part.
_SHEETS = ("styles/*.css", "vendor/fontawesome/*/css/all.min.css", "sphinx-design.min.css", "mystnb.*.css")
# Names for screen readers: of the theme's, some say other words than the eye reads, and one says nothing.
_NAMES = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages of this part"><span class="toctree-toggle"',
}
_SEARCH = re.compile(r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) aria-label="Search"', re.DOTALL)
_LARGE = 60_000  # bytes, from which a figure is worth the effort
_COLORS = 256


def slim(site: Path) -> None:
    """Slim all pages, style sheets and figures of a built site, in place."""
    options = f"<script>{(site / '_static' / 'documentation_options.js').read_text('utf-8')}</script>"
    used: set[str] = set()
    for page in site.rglob("*.html"):
        text = slim_page(page.read_text("utf-8"), options)
        page.write_text(text, "utf-8")
        used |= words(text)
    for script in [*(site / "_static").glob("*.js"), *(site / "_static" / "scripts").glob("*.js")]:
        used |= words(script.read_text("utf-8"))
    for pattern in _SHEETS:
        for sheet in (site / "_static").glob(pattern):
            sheet.write_text(slim_sheet(sheet.read_text("utf-8"), used), "utf-8")
    for figure in (site / "_images").glob("*.png"):
        if figure.stat().st_size > _LARGE:
            slim_figure(figure)


def slim_page(text: str, options: str = "") -> str:
    """A page whose scripts wait until it stands, without those it has no use for, with names read as seen.

    `options` takes the place of the script that holds Sphinx's options.
    """
    for theirs, ours in _NAMES.items():
        text = text.replace(theirs, ours)
    text = _SEARCH.sub(r"\1", text)
    text = _PRELOADS.sub("", _ICON_SCRIPTS.sub("", text)).replace(_THEME, _THEME_NOW)
    has_math = 'class="math' in text or "jupyter.widget-view" in text
    text = text if has_math else _MATHJAX.sub("", text)
    return _AT_ONCE.sub('<script defer="defer"', _OPTIONS.sub(lambda _: options, text))


def words(text: str) -> set[str]:
    """All that could be the name of a class in a page or a script."""
    return set(re.findall(r"[A-Za-z][\w-]*", text))


def slim_sheet(text: str, used: set[str]) -> str:
    """A style sheet without the rules for classes that are not among the `used` words."""
    import tinycss2

    def kept(rules: list[Any]) -> str:
        return "".join(filter(None, map(rule_text, rules)))

    def rule_text(rule: Any) -> str:
        if rule.type == "qualified-rule":
            selectors = [one for one in _selectors(tinycss2.serialize(rule.prelude)) if _classes(one) <= used]
            return f"{','.join(selectors)}{{{tinycss2.serialize(rule.content).strip()}}}\n" if selectors else ""
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inner = kept(tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True))
            return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{\n{inner}}}\n" if inner else ""
        return rule.serialize() + "\n"

    licenses = "".join(f"{found}\n" for found in re.findall(r"/\*!.*?\*/", text, re.DOTALL))
    return licenses + kept(tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True))


def _selectors(prelude: str) -> list[str]:
    """The selectors of a rule: parted by the commas outside of parentheses."""
    parts = [""]
    for piece in prelude.split(","):
        inside = parts[-1].count("(") > parts[-1].count(")")
        if inside:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return [part.strip() for part in parts[1:]]


def _classes(selector: str) -> set[str]:
    """The classes that an element has to have: what stands in parentheses may be an alternative, or excluded."""
    last = ""
    while last != selector:
        last, selector = selector, re.sub(r"\([^()]*\)|\[[^\]]*\]", "", selector)
    return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", selector))


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
