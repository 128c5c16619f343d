"""The map of the zoo: cards from configs and releases, what the page makes of them, and how it is read by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.models import zoo
from tinymoe.models.published import PUBLISHED
from tinymoe.models.releases import LICENSES, OPEN_SOURCE, RELEASES, Release
from tinymoe.models.size import measure
from tinymoe.viz.zoo import LENGTHS

FEW = ["gpt2", "mistral-7b", "mixtral-8x7b", "deepseek-v3", "deepseek-r1", "gpt-oss-20b", "llama-7b"]


def test_every_published_model_has_a_release_with_a_license():
    assert set(RELEASES) == set(PUBLISHED)
    assert {release.license for release in RELEASES.values()} == set(LICENSES)
    for release in RELEASES.values():
        year, month = map(int, release.month.split("-"))
        assert 2019 <= year <= 2026 and 1 <= month <= 12 and release.maker
        assert release.year == pytest.approx(year + (month - 0.5) / 12)
    assert Release("x", "2024-07", "MIT").openness == OPEN_SOURCE
    assert RELEASES["llama-7b"].openness == "research only" and RELEASES["kimi-k2"].openness == "conditions"


def test_cards_are_what_measure_says():
    cards = viz.model_cards(FEW)
    assert [card.name for card in cards] == sorted(FEW, key=lambda name: RELEASES[name].month)
    for card in cards:
        config = zoo.config(card.name)
        for length in (1024, 8192, 2**20):
            size = measure(config, context=length)
            assert (card.flops_at(length), card.kv_bytes_at(length)) == (size.flops_per_token, size.kv_cache_bytes)
        assert (card.parameters, card.active) == (size.parameters, size.active_parameters)
        assert card.is_dense == (card.parameters == card.active)
    assert len(viz.model_cards()) == len(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "heads", "attention", "experts"),
    [
        ("gpt2", "multi-head", "multi-head, 12 heads", ""),
        ("gemma-2b", "multi-query", "multi-query, 1 key head for 8", ""),
        ("mistral-7b", "grouped", "grouped, 8 key heads for 32; 32 of 32 layers with a window of 4,096", ""),
        ("mixtral-8x7b", "grouped", "grouped, 8 key heads for 32", "2 of 8"),
        ("deepseek-v3", "latent", "latent of 512 + 64", "8 of 256, and a shared one, in 58 of 61 layers"),
        ("llama-4-maverick", "grouped", "grouped, 8 key heads for 40; 36 of 48 layers with chunks of 8,192",
         "1 of 128, and a shared one, in 24 of 48 layers"),
    ],
)  # fmt: skip
def test_cards_in_words(name, heads, attention, experts):
    (card,) = viz.model_cards([name])
    assert (card.heads, card.attention, card.experts) == (heads, attention, experts)


def test_a_map_holds_the_cards():
    view = viz.ModelMap(FEW, x="year", y="kv", selected="gpt2")
    assert view.models[view.selected]["name"] == "gpt2" and view.models[-1]["name"] == "gpt-oss-20b"
    kv = np.frombuffer(view.kv).reshape(len(FEW), len(LENGTHS))
    assert kv[view.selected, 0] == measure(zoo.config("gpt2"), context=1024).kv_cache_bytes
    assert view.series == ["Llama", "Mistral", "DeepSeek and its kind", "GPT"]
    assert repr(view) == "<ModelMap: 7 models, KV cache a token over year>"
    assert viz.ModelMap(FEW).selected == len(FEW) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "models: got none"),
        ({"models": ["llama-nano"]}, "names: got 'llama-nano', expected published models"),
        ({"x": "price"}, "x: got 'price', expected one of parameters, active, flops"),
        ({"y": "speed"}, "y: got 'speed'"),
        ({"context": 1000}, "context: got 1000, expected a power of two from 1024 to 1048576"),
        ({"selected": "gpt2-xl"}, "selected: got 'gpt2-xl', expected one of the models shown"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        viz.ModelMap(**{"models": FEW, **arguments})


@needs_node
def test_script_filters_scales_and_walks():
    code = """
        import { logTicks, nextPoint, placeLabels, scale, shownModels, sizes, valueOf } from "./zoo.js";
        const { models } = data;
        const filters = { series: new Set(["A", "B"]), kind: "all", license: "all" };
        const kinds = [{ kind: "dense" }, { kind: "experts" }];
        const changes = [{}, ...kinds, { license: "conditions" }, { series: new Set(["A"]) }];
        const points = [{ m: 0, x: 0, y: 9 }, { m: 1, x: 5, y: 5 }, { m: 2, x: 5, y: 5 }, { m: 3, x: 9, y: 0 }];
        const walk = (from, ...keys) => keys.map((key) => (from = nextPoint(points, from, key)));
        const log = scale([10, 1000], true, 0, 100);
        const pair = [{ m: 0, x: 50, y: 50, name: "one" }, { m: 1, x: 50, y: 52, name: "two" }];
        const kv = [1, 2, 3, 4, 5, 6];
        answer({
          shown: changes.map((change) => shownModels(models, { ...filters, ...change })),
          value: [valueOf({ models, lengths: [1, 2], kv }, "kv", 1, 1), valueOf({ models }, "year", 2, 0)],
          ticks: [logTicks(900, 2.5e6, 8), logTicks(40, 700, 8), logTicks(1000, 20000, 4, 2), logTicks(3, 4, 5)],
          middle: log.to(100), ends: [log.to(log.low), log.to(log.high)], same: scale([7, 7], false, 0, 10).to(7),
          walk: walk(0, "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"),
          up: walk(0, "ArrowUp", "ArrowUp", "ArrowDown"), lost: nextPoint(points, 17, "ArrowRight"),
          labels: placeLabels(pair, 1, [0, 0, 90, 90], []),
          none: placeLabels([{ m: 0, x: 5, y: 5, name: "a long name" }], 1, [0, 0, 60, 9], []),
          sizes: [124e6, 46.7e9, 1.03e12].map(sizes),
        });
    """
    models = [
        {"series": "A", "experts": "", "openness": "open source", "year": 2019},
        {"series": "B", "experts": "2 of 8", "openness": "conditions", "year": 2024},
        {"series": "A", "experts": "1 of 4", "openness": "open source", "year": 2025},
    ]
    answer = node(code, models=models)
    assert answer["shown"] == [[0, 1, 2], [0], [1, 2], [1], [0, 2]]
    assert answer["value"] == [4, 2025]
    assert answer["ticks"] == [[1e3, 1e4, 1e5, 1e6], [50, 100, 200, 500], [1024, 4096, 16384], [3, 4]]
    assert answer["middle"] == pytest.approx(50) and answer["ends"] == pytest.approx([0, 100])
    assert answer["same"] == pytest.approx(5)
    assert answer["walk"] == [1, 2, 3, 3, 2, 0, 3] and answer["up"] == [2, 1, 2] and answer["lost"] == 3
    assert [label["m"] for label in answer["labels"]] == [1, 0]
    assert answer["labels"][0] == {"m": 1, "x": 59, "y": 52} and answer["labels"][1]["x"] < 50
    assert answer["none"] == []
    assert answer["sizes"] == ["124 M", "46.7 B", "1.03 T"]


def test_the_map_is_read_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    view = viz.ModelMap(FEW, selected="mixtral-8x7b")
    (tmp_path / "page.html").write_text(_page({"map": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1000, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#map .tm-point').length", timeout=20_000)

    zoo_map = page.locator("#map")
    facts, points = zoo_map.locator(".tm-facts"), zoo_map.locator(".tm-point")
    assert points.count() == len(FEW) and zoo_map.locator(".tm-hollow").count() == 4 + 1  # and the card's
    assert "46.7 B, 12.9 B active (28 %)" in facts.inner_text() and "Apache-2.0" in facts.inner_text()

    zoo_map.locator("[data-name='gpt2']").hover()
    assert "OpenAI, 2019-02" in facts.inner_text() and "none: dense" in facts.inner_text()
    page.mouse.move(2, 2)
    assert "Mistral AI, 2023-12" in facts.inner_text()  # pointing looks, a click keeps
    zoo_map.locator("[data-name='deepseek-r1']").click()
    page.mouse.move(2, 2)
    assert "8 of 256, and a shared one" in facts.inner_text()
    assert "At the same place: deepseek-v3" in facts.inner_text()

    zoo_map.locator(".tm-map").focus()
    page.keyboard.press("Home")
    assert "gpt2: parameters 124 M, active parameters 124 M" in zoo_map.locator("[aria-live=polite]").inner_text()
    page.keyboard.press("ArrowRight")
    assert "llama-7b" in facts.inner_text() and "research only" in facts.inner_text()

    zoo_map.get_by_role("radiogroup", name="axis up").get_by_role("radio", name="KV cache a token").click()
    assert "KV cache a token at 8k tokens" in (zoo_map.locator(".tm-axes").text_content() or "")
    assert "Pale: 2 made for texts shorter than 8k" in zoo_map.locator(".tm-note[role=status]").inner_text()
    zoo_map.get_by_role("slider").focus()
    page.keyboard.press("Home")
    assert "Pale" not in zoo_map.locator(".tm-note[role=status]").inner_text()
    zoo_map.get_by_role("radio", name="open source").click()
    assert points.count() == 5 and "The filters hide it" in facts.inner_text()
    zoo_map.get_by_role("radio", name="with experts").click()
    zoo_map.get_by_role("checkbox", name="GPT").click()
    names = [points.nth(i).get_attribute("data-name") for i in range(points.count())]
    assert names == ["mixtral-8x7b", "deepseek-r1"]
    zoo_map.get_by_role("radio", name="research only").click()
    assert points.count() == 0 and "No model is left" in zoo_map.locator(".tm-note[role=status]").inner_text()

    assert page.evaluate("(() => { models.map.leave(); return models.map.left(); })()") == 0
    assert not problems
    page.close()
