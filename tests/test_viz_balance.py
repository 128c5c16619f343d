"""The view of biases that balance: the page's steps against the package's, and a page without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.nn.balance import bias_step, max_violation

SHAPE = {"experts": 5, "steps": 40, "tokens": 12}


def by_package(scores: np.ndarray, speed: float, fading: bool) -> tuple[np.ndarray, np.ndarray]:
    """Loads and biases (steps, E) of scores (steps, tokens, E), two experts a token."""
    bias, loads, biases = np.zeros(scores.shape[-1]), [], []
    for step, rows in enumerate(scores):
        choices = np.argsort(-(rows + bias), axis=-1, kind="stable")[:, :2]
        loads.append(np.bincount(choices.reshape(-1), minlength=scores.shape[-1]))
        biases.append(bias)
        bias = bias + bias_step(loads[-1], speed * (1 - step / len(scores) if fading else 1))
    return np.array(loads), np.array(biases)


@needs_node
@pytest.mark.parametrize(("speed", "fading"), [(0.0, False), (0.03, False), (0.1, True)])
def test_script_moves_biases_as_the_package_does(speed, fading):
    code = """
        import { simulate, together } from "./balanceplay.js";
        const run = simulate(Float64Array.from(data.scores.flat(2)), data.settings);
        answer([run.loads.map((load) => [...load]), run.biases.map((bias) => [...bias]), [...together(run.loads)]]);
    """
    scores = np.random.default_rng(0).random((SHAPE["steps"], 16, SHAPE["experts"])) + np.linspace(-0.3, 0.3, 5)
    loads, biases = by_package(scores[:, : SHAPE["tokens"]], speed, fading)
    got = node(code, scores=scores.tolist(), settings={**SHAPE, "speed": speed, "fading": fading})
    assert np.array_equal(got[0], loads) and np.array_equal(got[2], loads.sum(axis=0))
    np.testing.assert_allclose(got[1], biases, atol=1e-12)
    assert (biases == 0).all() == (speed == 0)


@needs_node
def test_script_draws_normal_scores_with_preferences():
    code = """
        import { normals, scoresOf } from "./balanceplay.js";
        answer([[...normals(20000, 1)], [...normals(3, 1)], [...normals(3, 2)], [...scoresOf(data, 100)]]);
    """
    many, first, other, scores = node(code, experts=5, steps=40)
    assert np.mean(many) == pytest.approx(0, abs=0.03) and np.std(many) == pytest.approx(1, abs=0.03)
    assert many[:3] == first != other
    scores = np.reshape(scores, (40, 100, 5))
    medians = np.median(scores, axis=(0, 1))
    np.testing.assert_allclose(medians, 1 / (1 + np.exp(-np.linspace(-1, 1, 5))), atol=0.02)
    loads, _ = by_package(scores, 0.01, False)
    assert max_violation(loads[0]) > 0.5 > 0.2 > max_violation(loads[-20:].sum(axis=0))


@needs_node
def test_script_knows_about_how_uneven_chance_is():
    rng = np.random.default_rng(3)
    for experts, tokens in ((5, 64), (12, 128), (16, 256)):
        drawn = np.argsort(rng.random((400 * tokens, experts)), axis=-1)[:, :2].reshape(400, -1)
        loads = [np.bincount(row, minlength=experts) for row in drawn]
        code = 'import { chance } from "./balanceplay.js"; answer(chance(data));'
        assert node(code, experts=experts, tokens=tokens) == pytest.approx(max_violation(loads).mean(), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": 2}, "experts: got 2, expected 3 to 16"),
        ({"steps": 50}, "steps: got 50, expected 100 to 500"),
        ({"tokens": 512}, "tokens: got 512, expected 16 to 256"),
        ({"speed": -0.1}, "speed: got -0.1, expected 0, or 0.0001 to 0.3"),
    ],
    ids=str,
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        viz.BalancePlay(**changes)


def test_summary():
    assert repr(viz.BalancePlay(experts=8, steps=200)) == "<BalancePlay: 8 experts over 200 steps>"


def test_speed_changes_the_balance_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"play": viz.BalancePlay(speed=0.005)}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#play .tm-chart path').length", timeout=20_000)

    play, said = page.locator("#play"), page.locator("#play .tm-said")
    pixel = "document.querySelector('#play canvas').getContext('2d').getImageData(0, 0, 1, 1).data"
    page.wait_for_function(f"{pixel}[3] === 255")  # the most popular expert, too busy at first
    red, _, blue, _ = page.evaluate(f"[...{pixel}]")
    assert red > blue

    def figures() -> tuple[float, float]:
        batch, together = (float(text) for text in play.locator("dd").all_inner_texts())
        return batch, together

    batch, together = figures()
    assert batch < 0.6 and together < 0.1 and "as even as it gets" in said.inner_text()
    play.get_by_role("slider", name="speed of the biases").focus()
    page.keyboard.press("Home")  # no balancing
    assert figures()[1] > 0.5 and "No bias moves" in said.inner_text()
    page.keyboard.press("End")  # as fast as it goes
    assert figures()[0] > 2 * batch and "to and fro" in said.inner_text()
    play.get_by_role("radio", name="fading to 0").click()
    assert figures()[0] < 2 * batch
    assert page.evaluate("(() => { models.play.leave(); return models.play.left(); })()") == 0
    assert not problems
    page.close()
