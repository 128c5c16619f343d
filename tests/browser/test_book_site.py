"""All pages of the built book: links, errors, requests, widgets, accessibility and weight.

Skipped, with the reason, where the book has not been built, or where there is no browser. `make browser` builds it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_book import BOOK, ROOT, shoot
from test_viz import chromium  # noqa: F401 - a fixture

if not (BOOK / "index.html").exists():
    pytest.skip("the book has not been built: make book", allow_module_level=True)

# JupyterLite's pages are another site; its own tests try it.
PAGES = [page.relative_to(BOOK).as_posix() for page in sorted(BOOK.rglob("*.html"))]
PAGES = [page for page in PAGES if not page.startswith(("lite/", "_static/"))]
REFERENCE = [page for page in PAGES if page.startswith("reference/")]
READ = [page for page in PAGES if page not in REFERENCE]
MB = 1 << 20
# What tries all widgets alike: the first of these that changes what the widget shows will do.
TOUCHED = (
    "[role=radio][aria-checked=false], [role=option], [role=tab], button:not(:disabled), summary, .tm-node, [data-i], "
    "input, select, canvas, svg"
)


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
def site(chromium: Any) -> Iterator[tuple[Any, str]]:  # noqa: F811
    """A browser, and the address of the first page's folder."""
    with shoot.serve_pages(BOOK / "index.html", "light") as url:
        yield chromium, url.removesuffix("index.html")


class _Visit:
    """A page that is open: what went wrong in it, and how many bytes it has loaded."""

    def __init__(self, site: tuple[Any, str], name: str, *, width: int = 1280, theme: str = "light"):
        browser, root = site
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.page.set_default_timeout(120_000)
        self.problems = shoot.watch(self.page)
        self.bytes = 0
        self.page.on("console", self._said)
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on("response", self._came)
        self.page.goto(root + name, wait_until="load")
        widgets = "() => [...document.querySelectorAll('.widget-subarea')].every((el) => el.childElementCount > 0)"
        self.page.wait_for_function(widgets)
        self.page.wait_for_timeout(300)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _came(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")
        self.bytes += int(response.headers.get("content-length", 0))

    def __enter__(self) -> _Visit:
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

    def violations(self) -> list[str]:
        """What axe-core takes for a serious or critical fault."""
        self.page.add_script_tag(content=_axe())
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        return [
            f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:150]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]


@functools.cache
def _axe() -> str:
    """axe-core, in the version and with the checksum that the book's manifest names."""
    import tarfile

    from test_book import _tool

    book = _tool("book")
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


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_page(site, name):
    with _Visit(site, name) as visit:
        assert visit.overflow() == []
        assert visit.bytes < (3 if name == "index.html" else 8) * MB
        assert visit.violations() == []
        for card in visit.page.locator("section.tm").all():
            assert _reacts(visit.page, card), card.evaluate("(card) => card.className")
        assert visit.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_page_on_a_phone_in_the_dark(site, name):
    with _Visit(site, name, width=390, theme="dark") as visit:
        assert visit.overflow() == []
        for card in visit.page.locator("section.tm").all():
            assert card.evaluate("(card) => card.scrollWidth <= card.clientWidth + 1"), "wider than its card"
        squeezed = """(images) => images.filter((image) => {
            const { paddingLeft, paddingTop } = getComputedStyle(image);
            const width = image.clientWidth - 2 * parseFloat(paddingLeft);
            const height = image.clientHeight - 2 * parseFloat(paddingTop);
            return image.naturalWidth && Math.abs(width / height / image.naturalWidth * image.naturalHeight - 1) > 0.03;
        }).length"""
        assert visit.page.locator("article .cell_output img").evaluate_all(squeezed) == 0
        assert [fault for fault in visit.violations() if fault.startswith("color-contrast")] == []
        assert visit.problems == []


@pytest.mark.slow
def test_pages_of_the_reference(site):
    """They are made alike: each is opened, and some are looked at closely."""
    for number, name in enumerate(REFERENCE):
        with _Visit(site, name) as visit:
            if number % 40 == 0:
                assert visit.violations() == [], name
                assert visit.overflow() == [], name
            assert visit.problems == [], name


def _reacts(page: Any, card: Any) -> bool:
    """Whether a click on one of its parts changes what a widget shows."""
    drawn = "(card) => card.outerHTML + [...card.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()"
    card.scroll_into_view_if_needed()
    for part in card.locator(TOUCHED).all()[:12]:
        before = card.evaluate(drawn)
        if part.is_visible():
            part.click(timeout=5_000, force=True)
            page.wait_for_timeout(150)
            if card.evaluate(drawn) != before:
                return True
    return False


@pytest.mark.slow
def test_the_map_shows_what_a_chapter_rests_on(site):
    with _Visit(site, "index.html") as visit:
        visit.page.locator("[data-number='10']").hover()
        needed = visit.page.locator(".tm-needed").evaluate_all("(cards) => cards.map((card) => card.dataset.number)")
        assert needed == ["02", "03", "04", "09"]


@pytest.mark.slow
def test_the_table_of_the_zoo_sorts_and_finds(site):
    with _Visit(site, "pages/zoo.html") as visit:
        names = visit.page.locator(".tm-zootable tbody tr:not([hidden]) td:first-child")
        visit.page.get_by_role("button", name="parameters").click()
        assert names.first.inner_text() == "gpt2"
        visit.page.get_by_role("button", name="parameters").click()
        assert names.first.inner_text() == "kimi-k2"
        visit.page.locator(".tm-find input").fill("mixtral 8x22")
        assert names.all_inner_texts() == ["mixtral-8x22b"]


@pytest.mark.slow
def test_search_finds_a_chapter(site):
    with _Visit(site, "search.html?q=lightning+indexer") as visit:
        visit.page.wait_for_selector("#search-results li a")
        found = visit.page.locator("#search-results li a").all_inner_texts()
        assert any("Sparse attention" in title for title in found)
        assert visit.problems == []
