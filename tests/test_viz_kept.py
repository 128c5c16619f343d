"""The widget of kept tokens: its script chooses what the indexer, a window and the best choice keep, and shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.nn.sparse import top_keys

N = 12
TOKENS = ["Rita", " saw", " a", " crow", ".", "\n", "Rita", " saw", " a", " crow", ".", "\n"]


def tables() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    past = np.tri(N, dtype=bool)
    attention = np.where(past, rng.random((2, N, N)) ** 4, 0)
    attention /= attention.sum(axis=-1, keepdims=True)
    scores = np.maximum(rng.normal(size=(2, N, N)), 0)  # many of them equal, as after the indexer's relu
    names = ["first", "second"]
    return dict(zip(names, attention, strict=True)), dict(zip(names, scores, strict=True))


def ranks_of(view: Any) -> np.ndarray:
    return np.frombuffer(view.ranks, dtype="<u2").reshape(2, N, N)


@pytest.mark.parametrize("k", [1, 3, N])
def test_ranks_keep_what_top_keys_keeps(k):
    attention, scores = tables()
    ranks = ranks_of(viz.KeptTokens(TOKENS, attention, scores, k=3))
    visible = np.where(np.tri(N, dtype=bool), np.stack([*scores.values()]), -np.inf)
    for layer, table in enumerate(top_keys(visible, k)):
        for t, keys in enumerate(table):
            assert set(np.flatnonzero(ranks[layer, t, : t + 1] < k)) == set(keys[keys >= 0].tolist())


def test_weights_come_through():
    attention, scores = tables()
    view = viz.KeptTokens(TOKENS, attention, scores, k=3)
    weights = np.frombuffer(view.weights, dtype="<u2").reshape(2, N, N) / 65535
    np.testing.assert_allclose(weights, np.stack([*attention.values()]), atol=1e-5)
    assert repr(view) == "<KeptTokens: 2 layers over 12 tokens>"


@needs_node
def test_script_orders_keys_and_adds_up_what_they_hold():
    code = """
        import { held, orderOf } from "./kept.js";
        const weights = [10, 40, 40, 5, 5];
        const ranks = [4, 0, 3, 1, 2];
        const orders = ["indexer", "window", "best"].map((who) => orderOf(who, 4, weights, ranks));
        answer({ orders, held: held(orders[0], weights), early: orderOf("window", 1, weights, ranks) });
    """
    answer = node(code)
    assert answer["orders"] == [[1, 3, 4, 2, 0], [4, 3, 2, 1, 0], [2, 1, 0, 4, 3]]
    assert answer["held"] == pytest.approx([0, 0.4, 0.45, 0.5, 0.9, 1])
    assert answer["early"] == [1, 0]


def test_bad_tables_are_named():
    attention, scores = tables()
    with pytest.raises(ValueError, match="query: got 12, expected 0 to 11"):
        viz.KeptTokens(TOKENS, attention, scores, k=3, query=N)
    with pytest.raises(ValueError, match="k: got 0, expected 1 to 12"):
        viz.KeptTokens(TOKENS, attention, scores, k=0)
    with pytest.raises(ValueError, match=r"scores: got the layers \['first'\]"):
        viz.KeptTokens(TOKENS, attention, {"first": scores["first"]}, k=3)
    with pytest.raises(ValueError, match=r"attention\['first'\]: got shape \(3, 3\), expected \(12, 12\)"):
        viz.KeptTokens(TOKENS, {**attention, "first": np.zeros((3, 3))}, scores, k=3)
    with pytest.raises(ValueError, match=r"scores\['second'\]: got numbers that are not finite"):
        viz.KeptTokens(TOKENS, attention, {**scores, "second": np.full((N, N), np.nan)}, k=3)
    with pytest.raises(ValueError, match="attention: got weights from 0 to 2, expected 0 to 1"):
        viz.KeptTokens(TOKENS, {**attention, "first": np.tri(N) * 2}, scores, k=3)


def test_tokens_are_kept_and_left_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    attention, scores = tables()
    view = viz.KeptTokens(TOKENS, attention, scores, k=3)
    (tmp_path / "page.html").write_text(_page({"kept": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#kept .tm-mark-line').length", timeout=20_000)

    card = page.locator("#kept")
    state, words = card.locator(".tm-state"), card.locator(".tm-word")

    def kept() -> set[int]:
        return {i for i in range(N) if "tm-kept" in (words.nth(i).get_attribute("class") or "")}

    expected = set(np.flatnonzero(ranks_of(view)[0, N - 1] < 3))
    assert kept() == expected
    share = attention["first"][N - 1][sorted(expected)].sum()
    assert f"hold {round(100 * share)}\u00a0%" in state.inner_text()
    card.get_by_role("radio", name="a window").click()
    assert kept() == {9, 10, 11}
    card.get_by_role("radio", name="the best k").click()
    assert kept() == set(np.argsort(-attention["first"][N - 1])[:3])
    card.get_by_role("radio", name="second").click()
    assert kept() == set(np.argsort(-attention["second"][N - 1])[:3])

    words.nth(5).click()
    assert "Token 6 looks at 6 tokens" in state.inner_text()
    assert "tm-future" in (words.nth(6).get_attribute("class") or "")
    slider = card.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    page.mouse.move(0, 0)
    assert "all are kept" in state.inner_text() and kept() == set(range(6))
    card.locator(".tm-words").focus()
    page.keyboard.press("ArrowRight")
    assert "Token 7 has only 7 tokens" in state.inner_text()
    assert page.evaluate("(() => { models.kept.leave(); return models.kept.left(); })()") == 0
    assert not problems
    page.close()
