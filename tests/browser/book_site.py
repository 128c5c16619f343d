"""Tools for tests of the built book: an open page with all that went wrong in it, and what makes widgets react."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "_build" / "html"
PATIENCE = 300_000  # milliseconds; a slow machine is no failure

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
# What tries all widgets alike: the first of these that changes what the widget shows will do.
TOUCHED = (
    "[role=radio][aria-checked=false], [role=option], [role=tab], button:not(:disabled), summary, .tm-node, [data-i], "
    "input, select, canvas, svg"
)
# Until the page has drawn what is due, however slow the machine: two frames, and what they have called for.
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"

# A script for a page that is slow to take its widgets in: they begin to draw before they have a place on it.
WIDGETS_COME_LATE = """
const insert = Node.prototype.insertBefore;
Node.prototype.insertBefore = function (node, next) {
  if (!this.matches?.(".widget-subarea")) return insert.call(this, node, next);
  setTimeout(() => insert.call(this, node, next), 1500);
  return node;
};
"""


def tool(name: str) -> ModuleType:
    """The script tools/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


shoot = tool("shoot")


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


class Visit:
    """A page that is open: what went wrong in it, and how many bytes it has loaded."""

    def __init__(self, context: Any, url: str):
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.problems = shoot.watch(self.page)
        self.bytes = 0
        self.page.on("console", self._said)
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on("response", self._came)
        self.open(url)

    def open(self, url: str) -> None:
        """Go to another page; what went wrong is still remembered."""
        self.page.goto(url, wait_until="load")
        widgets = "() => [...document.querySelectorAll('.widget-subarea')].every((el) => el.childElementCount > 0)"
        self.page.wait_for_function(widgets)
        self.page.evaluate(DRAWN)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _came(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")
        self.bytes += int(response.headers.get("content-length", 0))

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def overflow(self) -> list[str]:
        """What is wider than the window, and not in a box that scrolls."""
        return self.page.evaluate(
            """() => document.documentElement.scrollWidth <= innerWidth + 1 ? [] :
            [...document.querySelectorAll('.bd-article *')]
            .filter((el) => el.getBoundingClientRect().right > innerWidth + 1).slice(0, 5)
            .map((el) => `${el.tagName}.${el.className}`)"""
        )

    def violations(self, *, code: bool = False, only: str = "") -> list[str]:
        """What axe-core takes for a serious or critical fault; of `only` one rule, or all.

        The colors of code are the same on all pages, and it takes long to look at each word of it: only with `code`.
        """
        self.page.add_script_tag(content=_axe())
        where = {"include": [["body"]], "exclude": [] if code else [[".highlight"]]}
        options = {"resultTypes": ["violations"]} | ({"runOnly": [only]} if only else {})
        found = self.page.evaluate("([where, options]) => axe.run(where, options)", [where, options])["violations"]
        return [
            f"{fault['id']}: {fault['help']}: {node['html'][:150]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
            # The texts of a drawn node are one word to axe-core: its name is read with words between the numbers.
            if fault["id"] != "label-content-name-mismatch" or not node["html"].startswith("<g ")
        ]


@functools.cache
def _axe() -> str:
    """axe-core, in the version and with the checksum that the book's manifest names."""
    import tarfile

    book = tool("book")
    assets = json.loads((ROOT / "tools" / "book_assets.json").read_text("utf-8"))
    asset = next(asset for asset in assets if asset["package"] == "axe-core")
    try:
        archive = book.download(asset, book.BUILD / "npm")
    except (FileNotFoundError, RuntimeError) as problem:
        pytest.skip(f"accessibility is tested with axe-core: {problem}")
    with tarfile.open(archive) as tar:
        file = tar.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def reacts(page: Any, card: Any) -> bool:
    """Whether a click on one of its parts changes what a widget shows."""
    drawn = "(card) => card.outerHTML + [...card.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()"
    card.scroll_into_view_if_needed()
    for part in card.locator(TOUCHED).all()[:12]:
        before = card.evaluate(drawn)
        if part.is_visible():
            part.click(force=True)
            page.evaluate(DRAWN)
            if card.evaluate(drawn) != before:
                return True
    return False


def unmoved(page: Any, view: str) -> list[str]:
    """Which of a view's `REACTIONS` did not come."""
    selector, reactions = REACTIONS[view]
    card = page.locator(selector).first
    card.scroll_into_view_if_needed()
    page.evaluate(DRAWN)
    silent = []
    for act, where, shown in reactions:
        before = card.locator(shown).inner_html()
        if act == "click":
            card.locator(where).first.click()
        else:
            card.locator(where).focus()
            page.keyboard.press(act)
        page.evaluate(DRAWN)
        if card.locator(shown).inner_html() == before:
            silent.append(f"{view}: {act} on {where}")
    return silent
