"""The first page: a routing explorer that is alive, and the map of the chapters."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from chaptertools.notebooks import Chapter

from tinymoe.viz import assets

from .chapters import WIDGETS, built_by
from .course import ChapterFacts, Course

_HELD = "tokens layers shape scores choices layer token expert title".split()


def explorer_state(chapter: Chapter) -> dict[str, Any]:
    """What the chapter's routing explorer shows: its traits, and its buffers in base64 under `buffers`.

    The model behind it was trained when the chapter was run. Raises ValueError where the chapter has no explorer.
    """
    saved = chapter.notebook.metadata["widgets"][WIDGETS]["state"].values()
    for widget in saved:
        if widget["state"].get("_anywidget_id", "").endswith(".RoutingExplorer"):
            state = {key: widget["state"].get(key) for key in _HELD}
            state["buffers"] = {buffer["path"][0]: buffer["data"] for buffer in widget.get("buffers", [])}
            return state
    raise ValueError(f"{chapter.name}: expected a RoutingExplorer among its widgets, got none")


def explorer_html(chapter: Chapter) -> str:
    """An element, and the script that draws the explorer in it, with its state and style.

    All of it stands in the page: it waits for no other file, and none of the page's other scripts comes before it.
    """
    data = json.dumps(explorer_state(chapter)).replace("<", "\\u003c")
    style = assets.style_sheet("common", "routingbase", "routing")
    return (
        f'<style>{style}</style><div id="tm-explorer"></div>'
        f'<script type="application/json" id="tm-explorer-state">{data}</script>'
        f'<script type="module" async>{landing_script()}</script>'
    )


def landing_script() -> str:
    """The widget's own module, drawn over a model that holds the state and has no kernel."""
    return re.sub(r"export default (\{ render \});?\s*$", r"const explorer = \1;", assets.script("routing")) + _HOLDER


_HOLDER = """
const state = JSON.parse(document.getElementById("tm-explorer-state").textContent);
for (const [name, data] of Object.entries(state.buffers)) {
  state[name] = new DataView(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer);
}
const place = document.getElementById("tm-explorer");
place.replaceChildren();
explorer.render({ model: { get: (key) => state[key], on() {}, off() {}, send() {} }, el: place });
document.documentElement.dataset.explorer = "ready";
performance.mark("explorer");
"""


_COLUMNS = 5  # of the map on a wide screen, as book.css has them


def map_html(course: Course, chapters: list[Chapter]) -> str:
    """All chapters as cards, in their parts."""
    modules = {chapter.number: list(built_by(chapter)) for chapter in chapters}
    parts = []
    for caption, members in course.parts:
        cards = "".join(_card(chapter, course, modules.get(chapter.number, [])) for chapter in members)
        head = f'<section style="--chapters: {min(len(members), _COLUMNS)}"><h3>{html.escape(caption)}</h3>'
        parts.append(f'{head}<div class="tm-cards">{cards}</div></section>')
    return f'<div class="tm-map">{"".join(parts)}</div>'


def _card(chapter: ChapterFacts, course: Course, modules: list[str]) -> str:
    stems = {other.number: other.stem for other in course.chapters}
    needs = " ".join(f'<a href="chapters/{stems[number]}.html">{number}</a>' for number in chapter.needs)
    facts = [f'<span title="to read and to solve the exercises">{chapter.reading} to read</span>']
    if chapter.running:
        facts.append(f'<span title="processor time, measured on one core">{chapter.running} to run</span>')
    facts.append(f"<span>after {needs}</span>" if needs else "<span>needs no other</span>")
    shown = [f"<code>{html.escape(path.removesuffix('.py').removesuffix('/__init__'))}</code>" for path in modules[:4]]
    if len(modules) > len(shown):
        shown.append(f"<span>and {len(modules) - len(shown)} more</span>")
    place = dict(course.places_to_run(chapter, "")).get("run in the browser")
    run = f'<a class="tm-here" href="{html.escape(place)}">run in the browser</a>' if place else ""
    return (
        f'<article class="tm-chapter" data-number="{chapter.number}" data-needs="{" ".join(chapter.needs)}">'
        f'<h4><a href="chapters/{chapter.stem}.html"><b>{chapter.number}</b> {html.escape(chapter.title)}</a></h4>'
        f"<p>{_inline(chapter.teaser)}</p>"
        f'<p class="tm-explains">{html.escape(chapter.explains)}</p>'
        f'<p class="tm-facts">{"".join(facts)}{run}</p>'
        f'<p class="tm-modules">{"".join(shown)}</p></article>'
    )


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def readme_table(course: Course) -> str:
    """The table of chapters in README.md."""
    rows = ["| chapter | you build | it explains |", "|---|---|---|"]
    for chapter in course.chapters:
        link = f"[{chapter.number} · {chapter.title}](chapters/{chapter.stem}.ipynb)"
        rows.append(f"| {link} | {chapter.builds} | {chapter.explains} |")
    return "\n".join(rows)
