"""Attention in tiles: the page's tiles and running softmax against the course's, and a page without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.course.exercises.ch12 import causal_tiles

N = 10


def some_scores() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=2, size=(N, N)).astype(np.float32)


@needs_node
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (3, 5), (5, 2), (10, 10)])
def test_script_visits_the_tiles_that_the_course_does(rows, columns):
    code = 'import { causalTiles } from "./tiles.js"; answer(causalTiles(data.n, data.rows, data.columns));'
    expected = [list(tile) for tile in causal_tiles(N, rows, columns)]
    assert node(code, n=N, rows=rows, columns=columns) == expected


@needs_node
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 7), (5, 1)])
def test_script_ends_with_the_softmax(rows, columns):
    code = """
        import { causalTiles, known } from "./tiles.js";
        const tiles = causalTiles(data.n, data.rows, data.columns);
        answer(known(Float32Array.from(data.scores.flat()), data.n, tiles, data.rows, data.columns, tiles.length));
    """
    scores = some_scores()
    state = node(code, n=N, rows=rows, columns=columns, scores=scores.tolist())
    for t, one in enumerate(state):
        seen = scores[t, : t + 1].astype(float)
        assert one["top"] + np.log(one["total"]) == pytest.approx(np.log(np.exp(seen).sum()))


@needs_node
def test_script_knows_part_of_a_row():
    code = """
        import { known } from "./tiles.js";
        const scores = Float32Array.from([1, 0, 0, 0,  3, 2, 0, 0,  0, 1, 4, 0,  1, 1, 1, 1]);
        const steps = [[1, 0, false], [1, 1, true]];
        answer([1, 2].map((done) => known(scores, 4, steps, 2, 2, done).slice(2)));
    """
    first, second = node(code)
    assert [one["top"] for one in first] == [1, 1] and first[0]["total"] == pytest.approx(1 + np.exp(-1))
    assert second[0]["top"] == 4 and second[0]["shrink"] == pytest.approx(np.exp(-3))
    assert second[1] == {"top": 1, "total": 4, "shrink": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((2, 3))}, r"scores: got shape \(2, 3\), expected finite numbers"),
        ({"scores": np.full((2, 2), np.nan)}, "expected finite numbers"),
        ({"scores": np.zeros((0, 0))}, r"scores: got shape \(0, 0\)"),
        ({"rows": 0}, "rows: got 0, expected 1 to 10"),
        ({"columns": 11}, "columns: got 11, expected 1 to 10"),
        ({"done": 0}, "done: got 0, expected at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(changes, message):
    scores = changes.pop("scores", some_scores())
    with pytest.raises(ValueError, match=message):
        viz.TilePlay(scores, **changes)


def test_summary():
    assert repr(viz.TilePlay(some_scores(), rows=2)) == "<TilePlay: 10 tokens in tiles of 2 × 4>"


def test_tiles_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    view = viz.TilePlay(some_scores(), rows=5, columns=5)
    (tmp_path / "page.html").write_text(_page({"tiles": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#tiles tbody tr').length", timeout=20_000)

    tiles = page.locator("#tiles")
    heading, note, rows = tiles.locator("h4"), tiles.locator(".tm-note"), tiles.locator("tbody tr")
    assert "Queries 1 to 5, after keys up to 5: a mask is needed" in heading.inner_text()
    assert "Tile 1 of 3; 1 more are never computed. 20 scores are computed for nothing." in note.inner_text()
    tiles.get_by_role("button", name="Next tile").click()
    assert heading.inner_text() == "Queries 6 to 10, after keys up to 5" and rows.count() == 5
    assert rows.first.locator("td").last.inner_text() == "5 of 6"
    box = tiles.locator("canvas").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"])
    assert rows.first.locator("td").last.inner_text() == "6 of 6"
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])  # never computed: nothing
    tiles.get_by_role("button", name="From the start").click()
    assert "Tile 1 of 3" in note.inner_text()
    tiles.get_by_role("slider", name="queries a tile").focus()
    page.keyboard.press("Home")
    tiles.get_by_role("slider", name="tiles done").focus()
    page.keyboard.press("End")
    assert "Tile 15 of 15; 5 more are never computed" in note.inner_text() and rows.count() == 1
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert page.evaluate("(() => { models.tiles.leave(); return models.tiles.left(); })()") == 0
    assert not problems
    page.close()
