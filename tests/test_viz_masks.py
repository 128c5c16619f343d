"""The widget of masks: its script computes what attention does, and every variant can be chosen and pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.backend.reference import AttentionRules
from tinymoe.nn.variants import weights_by_rules
from tinymoe.tensor import Tensor
from tinymoe.viz.masks import OFF, PRESETS

TOKENS = ["Rita", " saw", " a", " crow", ".", " She", " laughed", "."]
DOCUMENTS = [0, 0, 0, 0, 0, 1, 1, 1]
N = len(TOKENS)


def queries_and_keys() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, N, 4))
    return q, k, q @ k.T


@needs_node
@pytest.mark.parametrize("name", PRESETS)
def test_script_attends_as_the_package_does(name):
    settings = {**OFF, **PRESETS[name], "window": PRESETS[name].get("window") and 3}
    q, k, scores = queries_and_keys()
    code = """
        import { attend } from "./masks.js";
        answer(data.scores.map((row, t) => attend(row, t, data.settings, data.documents)));
    """
    answers = node(code, scores=scores.tolist(), settings=settings, documents=DOCUMENTS)
    got = np.zeros((N, N))
    for t, answer in enumerate(answers):
        got[t, : t + 1] = [w or 0 for w in answer["weights"]]
        assert sum(got[t]) + answer["sink"] == pytest.approx(1)

    documents = np.array([DOCUMENTS]) if settings["documents"] else None
    slopes = np.array([settings["slope"]]) if settings["slope"] else None
    rules = AttentionRules(1.0, documents, documents, settings["window"], settings["softcap"], slopes)
    sinks = None if settings["sink"] is None else Tensor(np.array([float(settings["sink"])]))
    expected = weights_by_rules(Tensor(q[None, :, None]), Tensor(k[None, :, None]), sinks, rules)[0, 0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@needs_node
def test_script_counts_layers():
    code = """
        import { layersTo } from "./masks.js";
        const rules = (window, documents) => ({ window, documents });
        const { documents } = data;
        answer([rules(null, false), rules(3, false), rules(3, true)].map((one) => layersTo(7, one, documents))
          .map((steps) => steps.map((k) => (k === Infinity ? -1 : k))));
    """
    assert node(code, documents=DOCUMENTS) == [
        [1, 1, 1, 1, 1, 1, 1, 0],
        [4, 3, 3, 2, 2, 1, 1, 0],
        [-1, -1, -1, -1, -1, 1, 1, 0],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {}}, "scores: got none"),
        (
            {"scores": {"a head": np.zeros((2, 2))}},
            r"scores\['a head'\]: got shape \(2, 2\), expected finite .* \(8, 8\)",
        ),
        ({"scores": {"a head": np.full((N, N), np.nan)}}, "expected finite numbers"),
        ({"documents": [0]}, "documents: got 1 numbers, expected one for each of the 8 tokens"),
        ({"query": 8}, "query: got 8, expected 0 to 7"),
        ({"presets": {"mine": {"windows": 3}}}, r"presets\['mine'\]: got 'windows', expected window, softcap"),
        ({"presets": {"mine": {"window": 0}}}, "got the window 0, expected at least 1"),
        ({"presets": {"mine": {"softcap": 0}}}, "got the softcap 0, expected a positive number"),
    ],
    ids=str,
)
def test_bad_arguments(changes, message):
    scores = changes.pop("scores", {"a head": np.zeros((N, N))})
    with pytest.raises(ValueError, match=message):
        viz.MaskPlay(TOKENS, scores, **changes)


def test_summary():
    assert repr(viz.MaskPlay(TOKENS, {"a head": np.zeros((N, N))})) == "<MaskPlay: 6 variants over 8 tokens>"


def test_rules_are_set_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    presets = {"Llama": {}, "Mistral": {"window": 3}, "GPT-OSS": {"window": 3, "sink": 1.0}}
    heads = {"a head": queries_and_keys()[2], "an even one": np.zeros((N, N))}
    view = viz.MaskPlay(TOKENS, heads, documents=DOCUMENTS, presets=presets)
    (tmp_path / "page.html").write_text(_page({"masks": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#masks .tm-bars li').length", timeout=20_000)

    masks = page.locator("#masks")
    note, words, bars = masks.locator(".tm-note"), masks.locator(".tm-word"), masks.locator(".tm-bar-value")
    assert "It sees 8 of 8 tokens." in note.inner_text() and masks.locator(".tm-strip").is_hidden()
    masks.get_by_role("radio", name="an even one").click()
    masks.get_by_role("radio", name="Mistral").click()
    assert "It sees 3 of 8 tokens. Through 4 such layers it knows of 8" in note.inner_text()
    assert masks.locator(".tm-unseen").count() == 5 and bars.all_inner_texts() == ["33 %"] * 3
    masks.get_by_role("radio", name="GPT-OSS").click()
    assert masks.locator(".tm-strip").is_visible() and bars.all_inner_texts() == ["48 %", "17 %", "17 %", "17 %"]
    masks.get_by_role("radio", name="apart").click()
    assert masks.get_by_role("radio", name="my own").get_attribute("aria-checked") == "true"
    words.nth(5).hover()  # the first of the second text
    assert "It sees 1 of 6 tokens. More layers do not help" in note.inner_text()

    frame = masks.locator(".tm-map").bounding_box()
    assert frame["width"] == pytest.approx(frame["height"], abs=1)
    page.mouse.click(frame["x"] + 5, frame["y"] + frame["height"] * 1.5 / N)  # the second row
    assert "·saw (number 2)" in masks.locator(".tm-panel h4").inner_text()
    masks.locator(".tm-words").focus()
    page.keyboard.press("End")
    assert "number 8" in masks.locator(".tm-panel h4").inner_text()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)

    assert page.evaluate("(() => { models.masks.leave(); return models.masks.left(); })()") == 0
    assert not problems
    page.close()
