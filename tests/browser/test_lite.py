"""The course in the browser: the chapters run to the end in Chromium, with the committed outputs, and work is kept.

Skipped, with the reason, where the site has not been built (`make lite`), or Chromium or Pyodide's packages are missing
(`python tools/lite_fixture.py`).
"""

from __future__ import annotations

import json

import lite_site
import pytest

pytest.importorskip("playwright.sync_api", reason="the course is tried in a browser with playwright")


@pytest.fixture
def browser():
    if reason := lite_site.why_not():
        pytest.skip(reason)
    with lite_site.visit() as visited:
        yield visited


def committed(path):
    """The cells of a chapter; skips where the site was built from another version of it."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    if json.loads((lite_site.SITE / "files" / "chapters" / path.name).read_text("utf-8"))["cells"] != cells:
        pytest.skip(f"the site holds another {path.name}: make lite")
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("number", lite_site.CHAPTERS)
def test_a_chapter_runs_to_the_end(browser, number):
    expected = committed(lite_site.CHAPTERS[number])
    page = browser.open(f"chapters/{lite_site.CHAPTERS[number].name}")
    cells = browser.run(page)
    assert not lite_site.errors(cells)
    assert not lite_site.differences(number, cells, expected)
    assert page.locator(".jp-OutputArea-output img").count() > 0  # figures are drawn
    assert not browser.problems


@pytest.mark.slow
def test_only_a_started_kernel_asks_another_host(browser):
    page = browser.context.new_page()
    page.goto(f"{browser.url}/tree/index.html")
    page.wait_for_selector(".jp-DirListing-item")
    page.wait_for_timeout(3000)
    assert not browser.asked and not browser.problems


SOLVE = """
from tinymoe.course import exercise, progress
import math

@exercise("00.bits_per_character")
def bits_per_character(loss, tokens, characters):
    return loss * tokens / math.log(2) / characters
"""
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python", "display_name": "Python (Pyodide)"}},
    "cells": [],
}


def notebook_of(source):
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
    return {**NOTEBOOK, "cells": [cell]}


def run_code(browser, name, source):
    """Put a notebook beside the chapters, as a reader would, run it in a page of its own, and return what it shows."""
    page = browser.context.new_page()
    page.goto(f"{browser.url}/tree/index.html")
    page.wait_for_function("() => window.jupyterapp?.serviceManager?.contents")
    save = """async ([path, content]) => { await window.jupyterapp.serviceManager.contents.save(
        path, {type: 'notebook', format: 'json', content}); }"""
    page.evaluate(save, [f"chapters/{name}.ipynb", notebook_of(source)])
    page.close()
    page = browser.open(f"chapters/{name}.ipynb")
    cells = browser.run(page)
    assert not lite_site.errors(cells)
    page.close()
    return json.dumps(cells[0]["outputs"], ensure_ascii=False)


@pytest.mark.slow
def test_solved_exercises_are_found_again_by_a_page_that_is_loaded_anew(browser):
    first = run_code(browser, "first", SOLVE)
    assert "✓ 00.bits_per_character" in first and "not kept" not in first
    later = run_code(browser, "second", "from tinymoe.course import progress\nprint(progress('00'))")
    assert "tinymoe runs on your own 00.bits_per_character" in later and "✓ 00.bits_per_character" in later
    assert not browser.problems
