"""The view of a run on a reward model: what it is given, what the script says of it, and a page without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz


def entry(step: int, gold: float, proxy: float) -> dict[str, Any]:
    points = {"name": 1.0, "kind": 0.0, "repeated": -float(step)}
    note = {"prompt": "To Lily, for the kite:\n", "text": f"step {step}", "points": points, "gold": gold}
    return {"step": step, "kl": step / 4, "gold": gold, "proxy": proxy, "notes": [{**note, "proxy": proxy}]}


RUNS = {
    "free": [entry(0, 1.0, 0.0), entry(10, 2.5, 1.0), entry(20, -3.0, 2.0)],
    "held": [entry(0, 1.0, 0.0), entry(20, 2.0, 1.2)],
}


@needs_node
def test_script_finds_the_best_step_and_the_reasons():
    code = """
        import { bestOf, reasons } from "./preferences.js";
        answer([bestOf(data.entries, "gold"), bestOf(data.entries, "proxy"), reasons(data.entries[1].notes[0].points)]);
    """
    assert node(code, entries=RUNS["free"]) == [1, 2, [["name", "+1"], ["repeated", "−10"]]]


def test_what_is_left_out_is_not_sent_and_a_summary():
    view = viz.RewardPath({"free": [{**one, "length": 3} for one in RUNS["free"]]}, step=10)
    assert view.runs["free"] == RUNS["free"] and view.step == 10
    assert repr(view) == "<RewardPath: 1 runs>"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "runs: got none, expected at least one"),
        ({"a": RUNS["free"][:1]}, r"runs\['a'\]: got 1 entries, expected two or more"),
        ({"a": [RUNS["free"][0], {"step": 1}]}, r"runs\['a'\]\[1\]: got None as 'kl', expected a finite number"),
        ({"a": [entry(0, float("nan"), 0), entry(1, 0, 0)]}, r"runs\['a'\]\[0\]: got nan as 'gold'"),
    ],
)
def test_bad_runs_are_named(runs, message):
    with pytest.raises(ValueError, match=message):
        viz.RewardPath(runs)


def test_steps_are_read_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"path": viz.RewardPath(RUNS, step=12)}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#path .tm-mark-line').length", timeout=20_000)

    path = page.locator("#path")
    state, note = path.locator(".tm-state"), path.locator(".tm-written")
    assert "Step 10: the reward model gives 1.00, the notes are worth 2.50" in state.inner_text()
    assert "step 10" in note.inner_text() and "repeated −10" in note.locator(".tm-bad").inner_text()
    path.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert "Step 20" in state.inner_text() and "worth −3.00" in note.inner_text()
    assert "worth most at step 10: 2.50" in state.inner_text()
    path.get_by_role("radio", name="held").click()
    assert "Step 20" in state.inner_text() and "worth 2.00" in note.inner_text()
    path.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    assert "Step 0" in state.inner_text()
    assert page.evaluate("(() => { models.path.leave(); return models.path.left(); })()") == 0
    assert not problems
    page.close()
