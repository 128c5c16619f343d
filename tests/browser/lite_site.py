"""The course for the browser, as `make lite` built it, opened in Chromium without a network.

The site is served as it is. What it asks of Pyodide's CDN is answered with the same files from `_build/pyodide`
(`tools/lite_fixture.py`); every other host is out of reach, and asking for it is a problem that is told.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import mimetypes
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SITE, FIXTURE = ROOT / "_build" / "html" / "lite", ROOT / "_build" / "pyodide"
CHAPTERS = {
    path.stem[:2]: path
    for path in sorted((ROOT / "chapters").glob("*.ipynb"))
    if path.stem[:2] in {"00", "01", "02", "03", "06", "09", "10", "17"}
}
# Of these cells the browser shows something else, and why.
ELSEWHERE = {("17", "sandbox.run_tests"): "code is judged in a process of its own, and a browser has none"}
CDN = json.loads((ROOT / "tools" / "lite_assets.json").read_text("utf-8"))["cdn"]

# The fixture has not got Pyodide's lzma, which chapter 00 compares a model with: here bz2 answers in its place.
STAND_IN = ROOT / "tests" / "pyodide" / "stand_ins" / "chapters" / "lzma.py"
STAND_IN_ARCHIVE = CDN + "lzma-1.0.0.zip"

# What matplotlib says once, where that takes it more than five seconds.
FONTS = "Matplotlib is building the font cache"

READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
SOURCES = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON()"
DONE = """() => { const app = window.jupyterapp, cells = app.shell.currentWidget.content.widgets;
    return window.allRun !== undefined && !cells.some((cell) => cell.model.executionState === 'running')
        && app.shell.currentWidget.sessionContext.session.kernel.status === 'idle'; }"""
RUN = """() => { delete window.allRun; window.jupyterapp.commands.execute('notebook:run-all-cells')
    .then((done) => { window.allRun = done; }, (error) => { window.allRun = String(error); }); }"""


def why_not() -> str | None:
    """Why nothing can be tried here: the site, the fixture or the browser is missing."""
    if not (SITE / "jupyter-lite.json").exists():
        return "the course for the browser has not been built: make lite"
    if not (FIXTURE / "pyodide-lock.json").exists():
        return "Pyodide's packages are not here: python tools/lite_fixture.py"
    if _chromium() is None:
        return "Chromium is not installed"
    return None


@dataclass
class Visit:
    """A browser with an empty memory at the site; what it asked for elsewhere, and what went wrong."""

    context: Any
    url: str
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def open(self, path: str, timeout: float = 300) -> Any:
        """The page of a notebook, once its kernel is ready."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.set_default_timeout(1000 * timeout)
        page.goto(f"{self.url}/notebooks/index.html?path={path}")
        page.wait_for_function(READY)
        return page

    def run(self, page: Any, timeout: float = 1200) -> list[dict[str, Any]]:
        """Run all cells of an opened notebook, and return the cells with their outputs."""
        page.set_default_timeout(1000 * timeout)
        page.evaluate(RUN)
        page.wait_for_function(DONE)
        return page.evaluate(SOURCES)["cells"]


@contextmanager
def visit() -> Iterator[Visit]:
    """A fresh browser at the site."""
    from playwright.sync_api import sync_playwright

    with _served(SITE) as url, sync_playwright() as playwright:
        # Names of other hosts lead nowhere, so what is not answered below fails, whoever asks.
        nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", nowhere])
        visited = Visit(browser.new_context(viewport={"width": 1280, "height": 900}), url)
        visited.context.route(lambda address: not address.startswith(url), functools.partial(_answer, visited))
        try:
            yield visited
        finally:
            browser.close()


def _answer(visited: Visit, route: Any) -> None:
    address = route.request.url
    if not address.startswith("http"):
        return route.continue_()
    visited.asked.append(address)
    name = address.removeprefix(CDN)
    if address == STAND_IN_ARCHIVE:
        return route.fulfill(body=_stand_in(), content_type="application/zip")
    if address.startswith(CDN) and (FIXTURE / name).is_file():
        return route.fulfill(path=FIXTURE / name, content_type=mimetypes.guess_type(name)[0])
    visited.problems.append(f"asked for {address}")
    return route.abort()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if not self.path.endswith("/pyodide-lock.json"):
            return super().do_GET()
        lock = json.loads(Path(self.translate_path(self.path)).read_text("utf-8"))
        sha256 = hashlib.sha256(_stand_in()).hexdigest()
        lock["packages"]["lzma"] |= {"file_name": STAND_IN_ARCHIVE, "sha256": sha256}
        body = json.dumps(lock).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@functools.cache
def _stand_in() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("lzma.py"), STAND_IN.read_text("utf-8"))
    return made.getvalue()


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def errors(cells: list[dict[str, Any]]) -> list[str]:
    """What failed: the exceptions and warnings among the outputs, and code cells that were not run."""
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        if cell["execution_count"] is None:
            found.append(f"cell {number} was not run")
        for output in _outputs(cell):
            if output["output_type"] == "error":
                found.append(f"cell {number}: {output['ename']}: {output['evalue']}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number}: {''.join(output['text'])}")
    return found


def differences(chapter: str, cells: Sequence[dict[str, Any]], committed: Sequence[dict[str, Any]]) -> list[str]:
    """Where deterministic outputs are not the committed ones; as in nbval, tagged cells may differ in what they show.

    Even those have outputs of the same kinds, and perhaps a note that training runs are shortened.
    """
    found, other = [], [code for there, code in ELSEWHERE if there == chapter]
    for number, (ours, theirs) in enumerate(zip(cells, committed, strict=True)):
        if ours["cell_type"] != "code" or any(code in "".join(theirs["source"]) for code in other):
            continue
        ignored = "nbval-ignore-output" in theirs["metadata"].get("tags", [])
        got, expected = (_kinds(one) if ignored else _shown(one) for one in (ours, theirs))
        if got != expected and not (ignored and set(got) >= set(expected)):
            found.append(f"cell {number}: got\n{got}\nexpected\n{expected}")
    return found


def _outputs(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in cell["outputs"] if one.get("name") != "stderr" or FONTS not in "".join(one["text"])]


def _shown(cell: dict[str, Any]) -> dict[str, str]:
    """What a cell shows as text, with what differs from run to run made equal."""
    shown: dict[str, str] = {}
    for output in _outputs(cell):
        texts = output.get("data") or {output.get("name", output["output_type"]): output.get("text", "")}
        for kind, text in texts.items():
            if kind.startswith(("text/plain", "std")):
                shown[kind] = shown.get(kind, "") + "".join(text)
    return {kind: _sanitized(text) for kind, text in shown.items()}


def _kinds(cell: dict[str, Any]) -> set[str]:
    return {kind for output in _outputs(cell) for kind in output.get("data", {output.get("name", "error"): ""})}


@functools.cache
def _rules() -> list[tuple[re.Pattern[str], str]]:
    config = RawConfigParser()
    text = (ROOT / "chapters" / "nbval_sanitize.cfg").read_text("utf-8")
    config.read_string(text[text.index("[") :])
    return [(re.compile(config[name]["regex"]), config[name]["replace"]) for name in config.sections()]


def _sanitized(text: str) -> str:
    for pattern, replacement in _rules():
        text = pattern.sub(replacement, text)
    return text
