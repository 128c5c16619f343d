"""The widget of ranks: its script puts a matrix together from its most important directions, and shows what is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz

RNG = np.random.default_rng(0)
CHANGES = {
    "q_proj": 1e-3 * RNG.normal(size=(6, 2)) @ RNG.normal(size=(2, 8)),  # rank 2
    "up_proj": RNG.normal(size=(9, 5)),
}


def factors_of(view: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    numbers, pairs = np.frombuffer(view.factors, dtype="<i2").astype(np.float64), []
    for i, (out, into) in enumerate(view.shapes):
        most = min(out, into)
        left, right, numbers = np.split(numbers, [out * most, out * most + most * into])
        one, other = view.units[2 * i : 2 * i + 2]
        pairs.append((left.reshape(out, most) * one, right.reshape(most, into) * other))
    assert not len(numbers)
    return pairs


def test_factors_come_through():
    view = viz.RankPlay(CHANGES, rank=2)
    assert view.names == ["q_proj", "up_proj"] and view.shapes == [[6, 8], [9, 5]]
    for (left, right), change in zip(factors_of(view), CHANGES.values(), strict=True):
        np.testing.assert_allclose(left @ right, change, atol=3e-4 * np.abs(change).max())
        sizes = np.linalg.norm(left, axis=0)
        np.testing.assert_allclose(sizes, np.linalg.svd(change)[1], atol=1e-3 * sizes[0])
    assert repr(view) == "<RankPlay: q_proj (6 x 8), up_proj (9 x 5)>"


@needs_node
def test_script_adds_up_directions_and_reads_between_scores():
    left, right = np.array([[3.0, 0], [0, 2], [4, 0]]), np.array([[0.6, 0.8], [0.8, -0.6]])
    code = f"""
        import {{ between, held, partial, unpack }} from "./adapters.js";
        const factors = Int16Array.from({[3, 0, 0, 2, 4, 0, 6, 8, 8, -6]});
        const [matrix] = unpack([[3, 2]], factors, [1, 0.1]);
        const at = (rank) => between([0, 2, 10], [5, 1, 1], rank);
        answer({{ sizes: matrix.sizes, first: [...partial(matrix, 0, 1)], whole: [...partial(matrix, 0, 2)],
                  held: held(matrix.sizes), scores: [0, 1, 2, 7, 12].map(at) }});
    """
    answer = node(code)
    assert answer["sizes"] == pytest.approx([5, 2])
    assert answer["first"] == pytest.approx((left[:, :1] @ right[:1]).ravel(), abs=1e-6)
    assert answer["whole"] == pytest.approx((left @ right).ravel(), abs=1e-6)
    assert answer["held"] == pytest.approx([0, 25 / 29, 1])
    assert answer["scores"] == pytest.approx([5, 3, 1, 1, 1])


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="changes: got none"):
        viz.RankPlay({})
    with pytest.raises(ValueError, match=r"changes\['a'\]: got shape \(3,\), expected a matrix"):
        viz.RankPlay({"a": np.ones(3)})
    for empty in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"changes\['a'\]: got shape \(2, 2\)"):
            viz.RankPlay({"a": empty})
    with pytest.raises(ValueError, match="rank: got 6, expected 0 to 5"):
        viz.RankPlay(CHANGES, rank=6)
    with pytest.raises(ValueError, match=r"scores\['loss'\]: got 1 ranks, expected two or more"):
        viz.RankPlay(CHANGES, scores={"loss": {0: 1.0}})


def test_the_rank_is_moved_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    view = viz.RankPlay(CHANGES, scores={"loss": {0: 2.0, 1: 1.0, 5: 0.5}}, rank=1)
    (tmp_path / "page.html").write_text(_page({"ranks": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#ranks .tm-mark-line').length", timeout=20_000)

    card = page.locator("#ranks")
    state, slider = card.locator(".tm-state"), card.locator("input[type=range]")

    def share(name: str, rank: int) -> str:
        squares = np.linalg.svd(CHANGES[name])[1] ** 2
        return f"{round(100 * squares[:rank].sum() / squares.sum())} %"

    assert f"Rank 1 keeps {share('q_proj', 1)} of the change" in state.inner_text()
    assert (
        "14 numbers, 29 % of the 48" in state.inner_text()
        and "With all matrices cut so, loss: 1.000" in state.inner_text()
    )
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert "Rank 2 keeps all of the change" in state.inner_text() and "0.875" in state.inner_text()
    card.get_by_role("radio", name="up_proj").click()
    assert f"Rank 2 keeps {share('up_proj', 2)} of the change" in state.inner_text()
    lost = "(() => { const c = document.querySelectorAll('#ranks canvas')[2], d = c.getContext('2d')"
    lost += ".getImageData(0, 0, c.width, c.height).data; return new Set(d).size; })()"
    assert page.evaluate(lost) > 10
    slider.focus()
    page.keyboard.press("End")
    assert "more than the 45 in the matrix" in state.inner_text() and page.evaluate(lost) < 10
    assert page.evaluate("(() => { models.ranks.leave(); return models.ranks.left(); })()") == 0
    assert not problems
    page.close()
