"""Look at a chapter as a reader sees it: screenshots from a real JupyterLab, or of a page of the built book.

    python tools/shoot.py chapters/01_tokenizer.ipynb --out shots            # opens JupyterLab, runs all cells
    python tools/shoot.py chapters/01_tokenizer.ipynb --out shots --no-run   # as it is committed
    python tools/shoot.py _build/html/chapters/01_tokenizer.html --out shots --theme dark --width 480
    python tools/shoot.py _build/html/index.html --out shots --element "#tm-explorer"        # that alone

The pictures are NAME-THEME-WIDTH-00.png, -01.png, … from top to bottom. Failed cells, script errors and requests to
other machines are listed, and make the exit status 1. The notebook itself is not saved.

Needs `pip install playwright` (no browser download: it drives the system's Chromium; set CHROMIUM to its path where it
is not found), which is not among the learners' requirements.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
_SETTINGS = {
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none", "recordTiming": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
}
_WIDGETS_DRAWN = """() => [...document.querySelectorAll('.jp-OutputArea-output .jupyter-widgets, .widget-subarea')]
    .every((el) => el.childElementCount > 0)"""

_CELLS_DONE = """() => !document.querySelector('.jp-Notebook .jp-Cell.jp-mod-executing')
    && ![...document.querySelectorAll('.jp-InputPrompt')].some((el) => el.textContent.includes('*'))"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="a notebook or an HTML page")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="folder for the pictures")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=1500, help="of one picture, in pixels")
    parser.add_argument("--element", default="", help="CSS selector of the one element to take a picture of")
    parser.add_argument("--no-run", action="store_true", help="show the notebook with its saved outputs")
    parser.add_argument("--eval", default="", help="JavaScript to run in the page before the pictures are taken")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that running the cells may take")
    args = parser.parse_args()
    if not args.target.exists():
        parser.error(f"{args.target} does not exist")
    args.out.mkdir(parents=True, exist_ok=True)
    is_notebook = args.target.suffix == ".ipynb"
    with (serve_lab if is_notebook else serve_pages)(args.target.resolve(), args.theme) as url, browser(args) as page:
        problems = watch(page)
        page.goto(url, wait_until="load", timeout=90_000)
        if is_notebook:
            problems += open_notebook(page, run=not args.no_run, timeout=args.timeout)
        else:
            page.wait_for_timeout(2500)
        if args.eval:
            page.evaluate(args.eval)
            page.wait_for_timeout(1000)
        stem = f"{args.target.stem}-{args.theme}-{args.width}"
        where = (".jp-WindowedPanel-outer", ".jp-Notebook .jp-Cell:last-child") if is_notebook else ("html", "body")
        if args.element:
            page.locator(args.element).first.screenshot(path=args.out / f"{stem}.png")
            print(args.out / f"{stem}.png")
        else:
            for picture in shoot(page, *where, args.out / stem):
                print(picture)
    for problem in problems:
        print("problem:", problem, file=sys.stderr)
    return 1 if problems else 0


@contextmanager
def browser(args: argparse.Namespace) -> Iterator[Any]:
    """A page of a headless Chromium."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium.new_page(viewport={"width": args.width, "height": args.height}, color_scheme=args.theme)
        chromium.close()


def watch(page: Any) -> list[str]:
    """A list that script errors and requests to other machines will be added to."""
    problems: list[str] = []

    def requested(request: Any) -> None:
        host = urlsplit(request.url).hostname
        if host not in (None, "127.0.0.1", "localhost"):
            problems.append(f"request to another machine: {request.url}")

    page.on("request", requested)
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    return problems


@contextmanager
def serve_lab(notebook: Path, theme: str) -> Iterator[str]:
    """A JupyterLab of its own, with no saved layout and no autosave; yields the notebook's address."""
    root = ROOT if notebook.is_relative_to(ROOT) else notebook.parent
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "settings"
        look = {"theme": "JupyterLab Dark" if theme == "dark" else "JupyterLab Light"}
        for name, values in {**_SETTINGS, "apputils-extension/themes": look}.items():
            file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        environment = os.environ | {
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(Path(scratch) / "workspaces"),
            "JUPYTER_DATA_DIR": str(Path(scratch) / "data"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        # JupyterLab shows saved widgets only of notebooks it trusts; what is signed here is forgotten afterwards.
        trust = [sys.executable, "-m", "jupyter", "trust", str(notebook)]
        subprocess.run(trust, env=environment, check=True, capture_output=True)
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.token=", "--ServerApp.password=",
            f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
        ]  # fmt: skip
        with open(Path(scratch) / "log", "wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/api", server, Path(scratch) / "log")
            yield f"http://127.0.0.1:{port}/doc/tree/{quote(notebook.relative_to(root).as_posix())}"
        finally:
            server.terminate()
            server.wait(20)


@contextmanager
def serve_pages(page: Path, theme: str) -> Iterator[str]:
    """The folder of a built book (or of a single page) on a port of this machine; yields the page's address."""
    root = next((folder for folder in page.parents if (folder / "_static").is_dir()), page.parent)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{quote(page.relative_to(root).as_posix())}"
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(url: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


def open_notebook(page: Any, *, run: bool, timeout: float) -> list[str]:
    """Wait for the notebook and, if asked, run all its cells; returns what went wrong."""
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    if page.locator(".jp-Dialog .jp-mod-accept").count():
        page.locator(".jp-Dialog .jp-mod-accept").click()  # a notebook without a kernel's name: take the default
    page.wait_for_function("!!window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel", timeout=90_000)
    page.wait_for_timeout(1500)
    if run:
        page.set_default_timeout(timeout * 1000)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(_CELLS_DONE)
    page.wait_for_function(_WIDGETS_DRAWN, timeout=20_000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:enter-command-mode')")
    page.wait_for_timeout(1500)
    failed = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
    failed += page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    return [f"cell output: {text[-600:]}" for text in failed]


def shoot(page: Any, scroller: str, last: str, stem: Path) -> Iterator[Path]:
    """Pictures of what can be scrolled through, from the top to the end of the element `last`, without overlap."""
    box = {"x": 0, "y": 0, **page.viewport_size} if scroller == "html" else page.locator(scroller).bounding_box()
    find = f"document.querySelector({json.dumps(scroller)})"
    bottom = f"[...document.querySelectorAll({json.dumps(last)})].at(-1).getBoundingClientRect().bottom"
    total = int(page.evaluate(f"{find}.scrollTop + {bottom}") - box["y"])
    for i, top in enumerate(range(0, total, int(box["height"]))):
        page.evaluate(f"{find}.scrollTo({{top: {top}, behavior: 'instant'}})")
        page.wait_for_timeout(350)
        at = page.evaluate(f"{find}.scrollTop")
        picture = stem.with_name(f"{stem.name}-{i:02d}.png")
        # The last piece cannot be scrolled to the top: cut off what the one before has shown.
        cut = top - at
        height = min(box["height"] - cut, total - top)
        page.screenshot(path=picture, clip=box | {"y": box["y"] + cut, "height": height})
        yield picture


if __name__ == "__main__":
    sys.exit(main())
