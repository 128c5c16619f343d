"""How long the views of routing take in a browser, from a script's arrival to a picture, and from a click to the next.

    python benchmarks/widgets.py [--tokens 512] [--layers 8] [--experts 64] [--k 6] [--rounds 5] [--json FILE]

The trace is random; times do not depend on what it says, but for the number of ribbons between layers. A view is made
in Python, written into a page without a kernel, and opened in headless Chromium: `python_ms` is the making, `drawn_ms`
the time from before its module is loaded to the frame that shows it, `redrawn_ms` from a click, on another layer where
there are layers, to the frame that shows that. The quickest of `--rounds` counts, since other work on the machine only
ever adds. Nothing is measured, and the exit status is 0, where one of these is missing: anywidget, playwright
(`pip install playwright`, no browser download), a Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # so that it runs from a clone that is not installed

LIMIT = 1000  # milliseconds that a view may take
CLICKS = {  # what shows another layer
    "RoutingExplorer": ".tm-way button:nth-child(4)",
    "RoutingFlow": ".tm-line button:nth-of-type(3)",
    "RouteIt": ".tm-line button",
}
CLICK = """async (selector) => {
  const frame = () => new Promise(requestAnimationFrame);
  const began = performance.now();
  document.querySelector(selector).click();
  await frame().then(frame);
  return performance.now() - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--k", type=int, default=6, help="experts a token")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    try:
        import widget_page  # noqa: F401 - it needs ipywidgets
        from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]
    except ImportError as missing:
        print(f"nothing is measured: {missing}; pip install anywidget ipywidgets playwright")
        return
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        print("nothing is measured: Chromium is not installed")
        return

    results: dict[str, dict[str, float]] = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        version = chromium.version
        for name in CLICKS:
            rounds = [measure(chromium, Path(folder) / "page.html", name, args) for _ in range(args.rounds)]
            python, drawn, redrawn = (round(min(times)) for times in zip(*rounds, strict=True))
            results[name] = {"python_ms": python, "drawn_ms": drawn, "redrawn_ms": redrawn}
        chromium.close()

    print(f"{args.tokens} tokens × {args.layers} layers × {args.experts} experts, {args.k} a token, Chromium {version}")
    print(f"{'':18} made in Python   drawn   drawn anew")
    for name, row in results.items():
        late = f"   over {LIMIT} ms" if max(row["drawn_ms"], row["redrawn_ms"]) > LIMIT else ""
        print(f"{name:18}{row['python_ms']:12.0f} ms{row['drawn_ms']:6.0f} ms{row['redrawn_ms']:10.0f} ms{late}")
    if args.json:
        trace = {name: getattr(args, name) for name in ("tokens", "layers", "experts", "k", "rounds")}
        about = {"processor": processor(), "browser": f"Chromium {version}", "limit_ms": LIMIT}
        args.json.write_text(json.dumps({**about, **trace, "views": results}, indent=2) + "\n")


def measure(chromium: Any, file: Path, name: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds to make a view, to the first picture of it in a page, and to the one after a click."""
    from widget_page import widget_page

    make = maker(name, args)
    began = time.perf_counter()
    view = make()
    python = 1000 * (time.perf_counter() - began)
    file.write_text(widget_page({"view": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1200, "height": 1000})
    page.goto(file.as_uri())
    page.wait_for_function("window.ready", timeout=60_000)
    times = python, page.evaluate("window.drawn.view"), page.evaluate(CLICK, CLICKS[name])
    page.close()
    return times


def maker(name: str, args: argparse.Namespace) -> Callable[[], Any]:
    """What makes the view of a random trace; the router to set by hand is its largest, of 12 tokens and 8 experts."""
    from tinymoe import viz

    rng = np.random.default_rng(0)
    if name == "RouteIt":
        table = rng.normal(size=(12, 8)).clip(-4, 4)
        return lambda: viz.RouteIt([f" t{i}" for i in range(12)], table, capacity=1.0)
    logits = rng.normal(size=(args.layers, args.tokens, args.experts)).astype(np.float32)
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    experts = [np.argsort(-layer, axis=-1)[:, : args.k] for layer in scores]
    tokens = [f" t{i % 97}" for i in range(args.tokens)]
    if name == "RoutingFlow":
        return lambda: viz.RoutingFlow(tokens, experts, args.experts)
    return lambda: viz.RoutingExplorer(tokens, list(scores), experts)


def processor() -> str:
    """The name of the processor, as far as it is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
