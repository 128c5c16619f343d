"""The widget of RoPE's clocks: its script computes what nn/scaling.py does, and its hands can be dragged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.backend import current
from tinymoe.nn.module import make
from tinymoe.nn.position import rope_frequencies
from tinymoe.nn.scaling import ntk_theta, yarn_temperature

SHAPES = [
    {"head_dim": 16, "theta": 1e4, "trained": 64, "factor": 4.0},
    {"head_dim": 64, "theta": 5e5, "trained": 2048, "factor": 8.0},
    {"head_dim": 6, "theta": 100.0, "trained": 8, "factor": 1.0},
]


def by_package(kind: str, shape: dict[str, Any]) -> np.ndarray:
    dim, theta, factor = shape["head_dim"], shape["theta"], shape["factor"]
    if kind in ("none", "ntk"):
        return rope_frequencies(dim, theta if kind == "none" else ntk_theta(theta, dim, factor))
    scaling = {"rope_type": kind, "factor": factor}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    return current().to_numpy(make("rope_scaling", kind, dim, theta, scaling, shape["trained"]).frequencies)


@needs_node
@pytest.mark.parametrize("kind", ["none", "linear", "ntk", "yarn", "llama3"])
def test_script_stretches_as_the_package_does(kind):
    code = """
        import { clocks, sharpness, stretched } from "./positions.js";
        answer(data.shapes.map((shape) => [clocks(shape), stretched({ ...shape, kind: data.kind }),
          sharpness({ ...shape, kind: data.kind })]));
    """
    for shape, (before, now, sharper) in zip(SHAPES, node(code, shapes=SHAPES, kind=kind), strict=True):
        np.testing.assert_allclose(before, rope_frequencies(shape["head_dim"], shape["theta"]), rtol=1e-5)
        np.testing.assert_allclose(now, by_package(kind, shape), rtol=1e-5)
        expected = yarn_temperature(shape["factor"]) ** 2 if kind == "yarn" else 1
        assert sharper == pytest.approx(expected)


@needs_node
def test_script_scores_and_knows_directions():
    code = """
        import { clocks, known, score } from "./positions.js";
        const frequencies = clocks({ head_dim: 8, theta: 10000 });
        answer([[0, 1, 77].map((d) => score(frequencies, d)),
          [[0.5, 0.01], [0.7, 0.01], [0.5 + 2 * Math.PI, 0.01], [3, 1]].map(([a, f]) => known(a, f, 64))]);
    """
    scores, inside = node(code)
    np.testing.assert_allclose(scores, np.cos(np.outer([0, 1, 77], rope_frequencies(8))).mean(axis=1), atol=1e-6)
    assert inside == [True, False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 7}, "head_dim: got 7, expected an even number"),
        ({"theta": 10.0}, "theta: got 10.0, expected at least 100"),
        ({"trained": 4}, "trained: got 4, expected at least 8 tokens"),
        ({"kind": "rope"}, "kind: got 'rope', expected one of none, linear, ntk"),
        ({"factor": 9.0}, "factor: got 9.0, expected 1 to 8"),
        ({"position": 512}, "position: got 512, expected 0 to 511"),
    ],
    ids=str,
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        viz.RopePlay(**changes)


def test_summary():
    assert repr(viz.RopePlay(head_dim=32, trained=128)) == "<RopePlay: 16 clocks, trained on 128 tokens>"


def test_the_clocks_turn_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"clocks": viz.RopePlay(position=200)}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#clocks .tm-mark-line').length", timeout=20_000)

    clocks, state = page.locator("#clocks"), page.locator("#clocks .tm-state")
    new = clocks.locator(".tm-new")
    assert clocks.locator(".tm-dial").count() == 8
    assert "3.1 times as far" in state.inner_text()
    lost = new.count()
    assert f"{lost} of 8 hands" in state.inner_text() and lost >= 4
    clocks.get_by_role("radio", name="linear").click()  # brings every hand back
    assert new.count() == 0 and "not 1.00: neighbors look more alike" in state.inner_text()
    assert clocks.locator(".tm-slower").all_inner_texts() == ["4.0× slower"] * 8

    box = clocks.locator(".tm-face").nth(2).bounding_box()
    x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 3
    page.mouse.move(x, y - r)
    page.mouse.down()
    for angle in np.linspace(0, -np.pi / 2, 8):  # back by a quarter of a turn
        page.mouse.move(x + r * np.sin(angle), y - r * np.cos(angle))
    page.mouse.up()
    moved = np.pi / 2 / (rope_frequencies(16)[2] / 4)
    assert int(clocks.locator(".tm-slider-value").first.inner_text()) == pytest.approx(200 - moved, abs=2)

    slider = clocks.locator("input[type=range]").first
    slider.focus()
    page.keyboard.press("Home")
    assert "Position 0, inside the text trained on" in state.inner_text()
    assert page.evaluate("(() => { models.clocks.leave(); return models.clocks.left(); })()") == 0
    assert not problems
    page.close()
