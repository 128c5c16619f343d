"""Views of routing in a real JupyterLab, with a kernel that talks to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")

import nbformat
from book_site import shoot
from test_viz import chromium  # noqa: F401 - a fixture

CELLS = [
    """import numpy as np
from tinymoe import viz

rng = np.random.default_rng(0)
scores = rng.dirichlet(np.ones(8), size=(3, 20))
experts = [np.argsort(-layer, axis=-1)[:, :2] for layer in scores]
tokens = [f" word{i}" for i in range(20)]
explorer = viz.RoutingExplorer(tokens, list(scores), experts)
explorer""",
    "viz.RoutingFlow(tokens, experts, 8)",
    "viz.RouteIt()",
    "explorer.layer, explorer.token = 2, 7",
]


@pytest.mark.slow
def test_views_are_drawn_react_and_follow_the_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    file = tmp_path / "views.ipynb"
    nbformat.write(notebook, file)
    page = chromium.new_page(viewport={"width": 1200, "height": 3000})
    problems = shoot.watch(page)
    with shoot.serve_lab(file, "light") as url:
        page.goto(url, wait_until="load", timeout=90_000)
        problems += shoot.open_notebook(page, run=True, timeout=90)

        explorer, flow, play = (page.locator(f".tm-{name}") for name in ("routing", "routingflow", "routingplay"))
        assert "load in layer 2" in explorer.locator(".tm-second").inner_text()  # as the last cell says
        assert "·word7 (number 8)" in explorer.locator(".tm-said").first.inner_text()
        explorer.get_by_role("radio", name="layer 1").click()
        assert "load in layer 1" in explorer.locator(".tm-second").inner_text()
        explorer.locator(".tm-words").focus()
        page.keyboard.press("ArrowRight")
        assert "·word8 (number 9)" in explorer.locator(".tm-said").first.inner_text()
        page.keyboard.press("x")  # JupyterLab's command to cut the cell
        assert explorer.count() == 1

        flow.locator("[data-side='0'][data-e='3'] .tm-load").click()
        assert "Expert 3 of layer 0" in flow.locator(".tm-said").inner_text()
        play.get_by_role("radio", name="the experts").click()
        assert play.locator(".tm-facts dd").first.inner_text() == "0.00"  # an even load
    page.close()
    assert not problems
