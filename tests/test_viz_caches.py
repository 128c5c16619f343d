"""The widget of the caches: its script counts as nn/cache.py and nn/latent.py do, and a text can be read on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.course.registry import find
from tinymoe.models.size import measure
from tinymoe.nn import Config
from tinymoe.nn.cache import LayerCache
from tinymoe.viz.caches import SHAPES

TOKENS = ["Once", " upon", " a", " time", " there", " was", " a", " fox", " who", " ran", ".", " Then"]
TINY = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 6, "rank": 10, "rope": 4, "window": 5, "bytes": 4}


@needs_node
def test_the_ring_is_the_exercises():
    code = 'import { ring } from "./caches.js"; answer(data.cases.map(([length, window]) => ring(length, window)));'
    cases = [[length, window] for length in range(12) for window in range(1, 6)]
    for (length, window), places in zip(cases, node(code, cases=cases), strict=True):
        expected = find("07.ring_places").answer(length, window)
        assert [-1 if place is None else place for place in places] == expected.tolist()


@needs_node
def test_a_row_has_the_room_of_the_packages_cache():
    cache, capacities = LayerCache(), []
    for _ in range(20):
        keys, _ = cache.append(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)))
        capacities.append(keys.base.shape[1])
    code = 'import { room } from "./caches.js"; answer(Array.from({ length: 20 }, (_, i) => room(i + 1)));'
    assert node(code) == capacities


@needs_node
def test_bytes_are_those_of_the_package():
    base = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    sliding = {"attention": "variant", "layer_types": ("sliding_attention",) * 2, "sliding_window": 5}
    latent = {
        "attention": "latent",
        "kv_lora_rank": 10,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 6,
    }
    heads = {"num_key_value_heads": 2, "head_dim": 6}
    code = """
        import { bytes } from "./caches.js";
        answer(["row", "ring", "latents"].map((kind) => bytes(kind, data.shape, 20, 5)));
    """
    got = node(code, shape=TINY)
    configs = [Config(**base, **fields) for fields in (heads, {**heads, **sliding}, latent)]
    assert got == [measure(config, context=20, bytes_per_number=4).kv_cache_bytes * 20 for config in configs]


@needs_node
def test_sizes_and_divisors():
    code = """
        import { divisors, size } from "./caches.js";
        answer([[512, 1024, 70272, 327680, 40 * 2 ** 30, 2 ** 50].map(size), divisors(12)]);
    """
    sizes, divisors = node(code)
    assert sizes == ["512 B", "1 KiB", "68.6 KiB", "320 KiB", "40 GiB", "1,024 TiB"]
    assert divisors == [1, 2, 3, 4, 6, 12]


def test_published_shapes():
    """What the page says of a token: 70,272 bytes for DeepSeek V3's latents, 320 KiB for Llama 3 70B."""
    view = viz.CachePlay(TOKENS)
    v3, llama, _ = view.shapes
    assert v3["layers"] * (v3["rank"] + v3["rope"]) * v3["bytes"] == 70_272
    assert 2 * llama["layers"] * llama["kv_heads"] * llama["head_dim"] * llama["bytes"] == 320 * 1024
    assert [shape["name"] for shape in view.shapes] == list(SHAPES)
    assert repr(view) == "<CachePlay: 12 tokens into three caches, sized as in 3 models>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ["a"]}, "tokens: got 1, expected at least 2"),
        ({"window": 13}, "window: got 13, expected 1 to 12"),
        ({"read": 0}, "read: got 0, expected 1 to 12"),
        ({"shapes": {}}, "shapes: got none"),
        (
            {"shapes": {"x": {"layers": 1, "heads": 1, "kv_heads": 1}}},
            r"shapes\['x'\]: 'head_dim' is unknown or missing",
        ),
        ({"shapes": {"x": {**TINY, "depth": 1}}}, r"shapes\['x'\]: 'depth' is unknown or missing"),
        ({"shapes": {"x": {**TINY, "rank": 0}}}, r"shapes\['x'\]: got rank = 0, expected at least 1"),
        ({"shapes": {"x": {**TINY, "kv_heads": 3}}}, r"shapes\['x'\]: got kv_heads = 3, expected a divisor"),
    ],
    ids=str,
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        viz.CachePlay(**{"tokens": TOKENS, **changes})


def test_a_text_is_read_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    view = viz.CachePlay(TOKENS, shapes={"tiny": TINY, **SHAPES}, window=4, read=3)
    (tmp_path / "page.html").write_text(_page({"caches": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#caches .tm-lane').length", timeout=20_000)

    caches, note = page.locator("#caches"), page.locator("#caches .tm-note")
    row, ring, latents = (caches.locator(".tm-lane").nth(i) for i in range(3))
    names = lambda lane: [name for name in lane.locator(".tm-of").all_inner_texts() if name]  # noqa: E731
    assert [lane.locator(".tm-now").inner_text() for lane in (row, ring, latents)] == ["576 B", "576 B", "336 B"]
    assert names(ring) == ["Once", "upon", "a"] and "moved to a row of 4 slots" in note.inner_text()

    caches.get_by_role("slider", name="tokens read").focus()
    page.keyboard.press("End")
    assert names(row) == [token.strip() for token in TOKENS]
    assert names(ring) == ["who", "ran", ".", "Then"]
    assert [lane.locator(".tm-now").inner_text() for lane in (row, ring, latents)] == ["2.25 KiB", "768 B", "1.31 KiB"]
    assert "took the place of token 7, “·fox”" in note.inner_text()
    ring.locator(".tm-slot").first.hover()
    assert "Slot 0 of the ring: token 8, “·who”" in note.inner_text()
    assert "12 of keys, 12 of values" in note.inner_text()
    latents.locator(".tm-slot").nth(3).hover()
    assert "4 of rope key, 10 of latent: together 112 B" in note.inner_text()

    caches.get_by_role("slider", name="key/value heads").focus()
    page.keyboard.press("Home")
    assert row.locator(".tm-now").inner_text() == "1.13 KiB" and latents.locator(".tm-now").inner_text() == "1.31 KiB"
    caches.get_by_role("radio", name="DeepSeek V3").click()
    assert "68.6 KiB a token · 8.58 GiB at 131,072" in latents.locator(".tm-stats").inner_text()
    assert "3.81 MiB a token" in row.locator(".tm-stats").inner_text()

    button = caches.get_by_role("button")
    assert button.inner_text() == "Again"
    button.click()
    assert button.inner_text() == "Stop" and names(row) == ["Once"]
    page.wait_for_function("document.querySelectorAll('#caches .tm-word.tm-read').length > 2", timeout=5_000)
    button.click()
    assert button.inner_text() == "Read on"
    caches.locator(".tm-word").nth(4).click()
    assert names(ring) == ["there", "upon", "a", "time"]
    assert page.evaluate("(() => { models.caches.leave(); return models.caches.left(); })()") == 0
    assert not problems
    page.close()
