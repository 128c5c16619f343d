"""The built book in a browser: every widget is drawn without a kernel, and those of routing react to clicks and keys.

Skipped, with the reason, where there is no browser, or a page has not been built since its chapter changed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import chromium  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build" / "html"

# For each view: its element, then pairs of something to do (click an element, or press a key in it) and what changes.
REACTIONS = {
    "RoutingExplorer": (
        ".tm-routing",
        [
            ("click", ".tm-way [aria-checked=false]", ".tm-second"),
            ("ArrowRight", ".tm-words", ".tm-said >> nth=0"),
            ("ArrowRight", ".tm-columns", ".tm-said >> nth=1"),
        ],
    ),
    "RoutingFlow": (
        ".tm-routingflow",
        [("click", ".tm-node >> nth=0", ".tm-said"), ("ArrowDown", ".tm-flow", ".tm-said")],
    ),
    "RouteIt": (
        ".tm-routingplay",
        [
            ("click", ".tm-line button", ".tm-biases"),
            ("ArrowRight", "input[type=range] >> nth=0", ".tm-said"),
        ],
    ),
    "ModelMap": (
        ".tm-zoo",
        [("click", "[role=radio][aria-checked=false] >> nth=0", ".tm-map"), ("End", ".tm-map", ".tm-facts")],
    ),
}


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


shoot = _tool("shoot")


def widgets_of(chapter: Path) -> list[str]:
    """The classes of the widgets that a chapter's outputs show, in their order."""
    notebook = json.loads(chapter.read_text("utf-8"))
    saved = notebook["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    shown = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    return [saved["state"][key]["state"].get("_anywidget_id", "").rpartition(".")[2] for key in shown]


CHAPTERS = {path.stem: widgets_of(path) for path in sorted((ROOT / "chapters").glob("*.ipynb"))}


@pytest.fixture
def opened(chromium: Any, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:  # noqa: F811
    """The page of the chapter that the test is about, from a server of this machine, and what went wrong in it."""
    name = request.getfixturevalue("name")
    file, chapter = BOOK / "chapters" / f"{name}.html", ROOT / "chapters" / f"{name}.ipynb"
    if not file.exists():
        pytest.skip(f"the book has no page {name}: make book")
    if file.stat().st_mtime < chapter.stat().st_mtime:
        pytest.skip(f"the book's page {name} is older than the chapter: make book")
    page = chromium.new_page(viewport={"width": 1200, "height": 1000})
    problems = shoot.watch(page)
    with shoot.serve_pages(file, "light") as url:
        page.goto(url, wait_until="load")
        drawn = "(count) => document.querySelectorAll('section.tm').length >= count"
        page.wait_for_function(drawn, arg=len(CHAPTERS[name]), timeout=60_000)
        yield page, problems
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, widgets in CHAPTERS.items() if widgets])
def test_widgets_live_in_the_book(name, opened):
    page, problems = opened
    page.wait_for_timeout(300)
    cards = page.locator("section.tm")
    assert cards.count() == len(CHAPTERS[name])
    for card in cards.all():
        box = card.bounding_box()
        assert box["width"] > 300 and box["height"] > 100
        assert card.evaluate("(card) => card.scrollWidth <= card.clientWidth + 1"), "wider than its card"
    for view in sorted(REACTIONS.keys() & set(CHAPTERS[name])):
        _react(page, view)
    assert not problems  # script errors, or requests to other machines
    images = page.locator("article img")
    images.evaluate_all("(images) => Promise.all(images.map((image) => ((image.loading = 'eager'), image.decode())))")


def _react(page: Any, view: str) -> None:
    selector, reactions = REACTIONS[view]
    card = page.locator(selector).first
    card.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    for act, where, shown in reactions:
        before = card.locator(shown).inner_html()
        if act == "click":
            card.locator(where).first.click()
        else:
            card.locator(where).focus()
            page.keyboard.press(act)
        page.wait_for_timeout(100)
        assert card.locator(shown).inner_html() != before, (view, act, where)
