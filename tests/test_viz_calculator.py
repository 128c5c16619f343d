"""The calculator of costs: what Python computes for it, and how the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.models.size import measure
from tinymoe.nn.config import Config

SHAPE = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 8}  # fmt: skip
ALL = Config(**SHAPE, max_position_embeddings=4096)
FEW = Config(**SHAPE, num_key_value_heads=2, max_position_embeddings=2**20)
LOCAL = Config(
    **SHAPE, attention="variant", sliding_window=4096, layer_types=("sliding_attention", "full_attention"),
    max_position_embeddings=2**17,
)  # fmt: skip
MODELS = {"all heads": ALL, "two heads": FEW, "local and global": LOCAL}


def tables(view: Any) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.frombuffer(data).reshape(len(view.models), -1) for data in (view.cached, view.work))


def test_costs_are_those_of_measure():
    view = viz.CostCalculator(MODELS)
    cached, work = tables(view)
    assert len(view.lengths) == 81 and view.lengths[0] == 1024 and view.lengths[-1] == 2**20
    assert np.diff(view.lengths).min() > 0 and {2**k for k in range(10, 21)} <= set(view.lengths)
    for m, config in enumerate(MODELS.values()):
        for length in (1024, 8192, 2**20):
            i = view.lengths.index(length)
            size = measure(config, context=2 * length)  # half of it is seen
            assert view.models[m]["operations"] + work[m, i] == size.flops_per_token
            assert cached[m, i] * 2 // length == measure(config, context=length).kv_cache_bytes
        assert view.models[m]["parameters"] == size.parameters
        assert view.models[m]["context"] == config.max_position_embeddings
    assert (cached[1] * 4 == cached[0]).all() and (work[1] == work[0]).all()


def test_a_window_bends_the_line_where_it_ends():
    view = viz.CostCalculator(MODELS)
    for table in tables(view):
        plain, local = table[0], table[2]
        end = view.lengths.index(4096)
        assert (local[: end + 1] == plain[: end + 1]).all()
        assert np.allclose(np.diff(local)[end:] * 2, np.diff(plain)[end:])  # only one of two layers grows on


def test_models_can_be_named():
    view = viz.CostCalculator(["llama-2-7b", "llama-2-70b"], chosen=["llama-2-70b"])
    assert [model["name"] for model in view.models] == ["llama-2-7b", "llama-2-70b"] and view.chosen == [1]
    cached, _ = tables(view)
    assert cached[0, 0] * 2 == 1024 * 2**19  # half a MiB a token
    assert repr(view) == "<CostCalculator: 2 models from 1,024 to 1,048,576 tokens>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "models: got none"),
        ({"models": ["llama-9"]}, "model: got 'llama-9', which is not in the zoo"),
        ({"models": MODELS, "chosen": ["GPT-5"]}, "chosen: got 'GPT-5', expected names among all heads, two heads"),
        ({"models": MODELS, "chosen": []}, "chosen: got 0 models, expected 1 to 7"),
        ({"models": MODELS, "context": 512}, "context: got 512, expected 1024 to 1048576 tokens"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        viz.CostCalculator(**arguments)


@needs_node
def test_script_writes_amounts_and_adds_up():
    code = """
        import { amount, billions, tokens } from "./amounts.js";
        import { costs, decades } from "./calculator.js";
        const table = { models: [{ operations: 5, parameters: 10 }, { operations: 6, parameters: 11 }], points: 2,
          cached: [1, 2, 3, 4], work: [10, 20, 30, 40] };
        answer([[131072, 999.6, 12, 17.18e9, 1e15].map((x) => amount(x, "B")), [6738415616, 230208].map(billions),
          [1024, 131072, 2 ** 20].map(tokens), costs(table, 1, 0, { bytes: 0.5, texts: 4 }), decades([3, 1000, 99])]);
    """
    amounts, sizes, lengths, cost, (low, high) = node(code)
    assert amounts == ["131 kB", "1 kB", "12 B", "17.2 GB", "1 PB"]
    assert sizes == ["6.74 B", "230 k"] and lengths == ["1k", "128k", "1M"]
    assert cost == {"cache": 6, "weights": 22, "operations": 6, "attention": 30}
    assert (low, high) == (0, 3)


def test_models_and_context_are_chosen_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    nine = {**MODELS, **{f"other {i}": FEW for i in range(6)}}
    view = viz.CostCalculator(nine, chosen=["all heads", "two heads"], context=4096)
    (tmp_path / "page.html").write_text(_page({"costs": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#costs .tm-mark-line').length", timeout=20_000)

    costs = page.locator("#costs")
    values, note = costs.locator(".tm-cost-value b"), costs.locator(".tm-note")
    assert costs.get_by_role("slider").first.get_attribute("aria-valuetext") == "4,096 (4k)"
    assert values.nth(0).inner_text() == "2.1 MB" and values.nth(2).inner_text() == "524 kB"
    assert "All of these were made for texts of this length" in note.inner_text()

    costs.get_by_role("slider").first.focus()
    page.keyboard.press("End")
    assert values.nth(0).inner_text() == "537 MB" and "shorter texts, thin lines: all heads (4k)" in note.inner_text()
    costs.get_by_role("radio", name="8 bits").click()
    costs.get_by_role("slider").nth(1).focus()
    page.keyboard.press("ArrowRight")  # two texts of half the width: the same
    assert values.nth(0).inner_text() == "537 MB"

    costs.get_by_role("checkbox", name="local and global").click()
    page.wait_for_timeout(100)
    assert costs.locator(".tm-mark-line").count() == 6 and values.count() == 6
    for i in range(4):
        costs.get_by_role("checkbox", name=f"other {i}").click()
    assert costs.get_by_role("checkbox", name="other 5").is_disabled() and "7 models are as many" in note.inner_text()
    for name in nine:
        if costs.get_by_role("checkbox", name=name).get_attribute("aria-checked") == "true":
            costs.get_by_role("checkbox", name=name).click()
    assert costs.locator("[aria-checked=true][role=checkbox]").count() == 1  # one is always left

    assert page.evaluate("(() => { models.costs.leave(); return models.costs.left(); })()") == 0
    assert not problems
    page.close()
