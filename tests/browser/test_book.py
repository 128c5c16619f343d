"""All pages of the built book: links, errors, requests, widgets, accessibility and weight.

Skipped, with the reason, where the book has not been built, or where there is no browser. `make browser` builds it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from book_site import BOOK, DRAWN, REACTIONS, ROOT, WIDGETS_COME_LATE, Visit, reacts, shoot, unmoved, widgets_of
from test_viz import chromium  # noqa: F401 - a fixture

if not (BOOK / "index.html").exists():
    pytest.skip("the book has not been built: make book", allow_module_level=True)

# JupyterLite's pages are another site; its own tests try it.
PAGES = [page.relative_to(BOOK).as_posix() for page in sorted(BOOK.rglob("*.html"))]
PAGES = [page for page in PAGES if not page.startswith(("lite/", "_static/"))]
REFERENCE = [page for page in PAGES if page.startswith("reference/")]
READ = [page for page in PAGES if page not in REFERENCE]
MB = 1 << 20
CODE = "chapters/00_welcome.html"  # where the colors of code are looked at


class _Page(HTMLParser):
    """The addresses that a page's elements name, and the ids in it."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := known.get(name))}
        if known.get("rel") not in ("search", "index"):
            self.links += [value for name in ("href", "src") if (value := known.get(name))]


@functools.cache
def _read(page: str) -> _Page:
    return _Page((BOOK / page).read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    broken = []
    for link in _read(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            assert parts.scheme in ("https", "http", "data", "mailto"), link
            continue
        target = (BOOK / page).parent / unquote(parts.path) if parts.path else BOOK / page
        if not target.is_file():
            broken.append(link)
        elif parts.fragment and target.suffix == ".html":
            ids = _read(target.resolve().relative_to(BOOK).as_posix()).ids
            if unquote(parts.fragment) not in ids:
                broken.append(link)
    assert not broken


def test_every_page_can_be_found():
    linked = {
        ((BOOK / page).parent / unquote(urlsplit(link).path)).resolve()
        for page in PAGES
        for link in _read(page).links
        if not urlsplit(link).scheme
    }
    assert [page for page in PAGES if (BOOK / page).resolve() not in linked and page != "genindex.html"] == []


def test_nothing_is_bound_to_another_host():
    """Scripts, styles and pictures come from here: only links that a reader follows lead elsewhere."""
    for page in PAGES:
        text = (BOOK / page).read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:[^"]*)"', text)
        loaded += re.findall(r'<link\b[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="(https?:[^"]*)"', text)
        assert loaded == [], page


@pytest.fixture(scope="module")
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens a page by its name: on a desktop in the light, on a phone in the dark, or where widgets come late.

    Pages seen on one device share what the browser keeps of them, as a reader's do.
    """
    desktop = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
    phone = {"viewport": {"width": 390, "height": 900}, "color_scheme": "dark"}
    settings = {"desktop": desktop, "phone": phone, "late": desktop}
    devices = {name: chromium.new_context(**setting) for name, setting in settings.items()}
    devices["late"].add_init_script(WIDGETS_COME_LATE)
    with shoot.serve_pages(BOOK / "index.html", "light") as url:

        @contextmanager
        def opened(name: str, device: str = "desktop") -> Iterator[Visit]:
            with Visit(devices[device], url.removesuffix("index.html") + name) as seen:
                yield seen

        yield opened
    for context in devices.values():
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_page(visit, name):
    with visit(name) as seen:
        assert seen.overflow() == []
        assert seen.bytes < (3 if name == "index.html" else 8) * MB
        assert seen.violations(code=name == CODE) == []
        views = widgets_of(ROOT / name.replace(".html", ".ipynb")) if name.startswith("chapters/") else []
        cards = seen.page.locator("section.tm")
        assert cards.count() == len(views) + (name == "index.html")
        for view in sorted(REACTIONS.keys() & set(views)):
            assert unmoved(seen.page, view) == []
        for card in cards.all():
            box = card.bounding_box()
            assert box["width"] > 300 and box["height"] > 100
            assert reacts(seen.page, card), card.evaluate("(card) => card.className")
        assert seen.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_page_on_a_phone_in_the_dark(visit, name):
    with visit(name, "phone") as seen:
        assert seen.overflow() == []
        for card in seen.page.locator("section.tm").all():
            assert card.evaluate("(card) => card.scrollWidth <= card.clientWidth + 1"), "wider than its card"
        squeezed = """(images) => images.filter((image) => {
            const { paddingLeft, paddingTop } = getComputedStyle(image);
            const width = image.clientWidth - 2 * parseFloat(paddingLeft);
            const height = image.clientHeight - 2 * parseFloat(paddingTop);
            return image.naturalWidth && Math.abs(width / height / image.naturalWidth * image.naturalHeight - 1) > 0.03;
        }).length"""
        assert seen.page.locator("article .cell_output img").evaluate_all(squeezed) == 0
        assert seen.violations(code=name == CODE, only="color-contrast") == []
        assert seen.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [page for page in READ if page.startswith("chapters/")])
def test_widgets_draw_once_a_slow_page_takes_them_in(visit, name):
    with visit(name, "late") as seen:
        shown = len(widgets_of(ROOT / name.replace(".html", ".ipynb")))
        seen.page.wait_for_function("(shown) => document.querySelectorAll('section.tm').length === shown", arg=shown)
        seen.page.evaluate(DRAWN)
        assert seen.problems == []
        painted = """() => [...document.querySelectorAll("section.tm canvas")].every((canvas) => {
            const { width, height } = canvas;
            const empty = Object.assign(document.createElement("canvas"), { width, height });
            return canvas.toDataURL() !== empty.toDataURL();
        })"""
        seen.page.wait_for_function(painted)


@pytest.mark.slow
def test_pages_of_the_reference(visit):
    """They are made alike: each is opened, and some are looked at closely."""
    with visit("genindex.html") as seen:
        root = seen.page.url.removesuffix("genindex.html")
        for number, name in enumerate(REFERENCE):
            seen.open(root + name)
            if number % 40 == 0:
                assert seen.violations() == [], name
                assert seen.overflow() == [], name
            assert seen.problems == [], name


@pytest.mark.slow
def test_the_map_shows_what_a_chapter_rests_on(visit):
    with visit("index.html") as seen:
        seen.page.locator("[data-number='10']").hover()
        needed = seen.page.locator(".tm-needed").evaluate_all("(cards) => cards.map((card) => card.dataset.number)")
        assert needed == ["02", "03", "04", "09"]


@pytest.mark.slow
def test_the_table_of_the_zoo_sorts_and_finds(visit):
    with visit("pages/zoo.html") as seen:
        names = seen.page.locator(".tm-zootable tbody tr:not([hidden]) td:first-child")
        seen.page.get_by_role("button", name="parameters").click()
        assert names.first.inner_text() == "gpt2"
        seen.page.get_by_role("button", name="parameters").click()
        assert names.first.inner_text() == "kimi-k2"
        seen.page.locator(".tm-find input").fill("mixtral 8x22")
        assert names.all_inner_texts() == ["mixtral-8x22b"]


@pytest.mark.slow
def test_search_finds_a_chapter(visit):
    with visit("search.html?q=lightning+indexer") as seen:
        seen.page.wait_for_selector("#search-results li a")
        found = seen.page.locator("#search-results li a").all_inner_texts()
        assert any("Sparse attention" in title for title in found)
        assert seen.problems == []
