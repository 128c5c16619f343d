"""Fetch the compiled packages of Pyodide for the tests: the same files as on its CDN, from a wheel on PyPI.

    python tools/lite_fixture.py

Tests reach no CDN. One wheel on PyPI happens to carry Pyodide's NumPy, matplotlib and what they need. Each file is
compared with the checksum in Pyodide's own lock file, which npm has, and put into `_build/pyodide`; whatever is not the
published file is left out. pytest and its like, and the wheels of the site, lie beside them, in `tools`. Without that
folder the tests that need it are skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from booktools.npm import BUILD, ROOT, download, unpack
from lite import ASSETS, get_wheels

FOLDER = BUILD / "pyodide"


def take(wheel: Path, target: Path) -> list[str]:
    """Copy Pyodide's core from npm and, from the wheel, all files that Pyodide published; return the others' names."""
    core = {**ASSETS["core"], "files": [*ASSETS["core"]["files"], "pyodide.mjs", "package.json"]}
    unpack(download(core, BUILD / "npm"), core, target)
    lock = json.loads((target / "pyodide-lock.json").read_text("utf-8"))
    sums = {package["file_name"]: package["sha256"] for package in lock["packages"].values()}
    others = []
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member)
            if str(path.parent) != ASSETS["fixture"]["folder"] or (target / path.name).exists():
                continue
            data = archive.read(member)
            if hashlib.sha256(data).hexdigest() == sums.get(path.name):
                (target / path.name).write_bytes(data)
            else:
                others.append(path.name)
    return others


def main() -> int:
    """Make the folder afresh, all or nothing."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as made:
        fresh, fixture = Path(made, "pyodide"), ASSETS["fixture"]
        others = take(get_wheels([fixture], BUILD / "wheels")[0], fresh)
        for tool in get_wheels([*fixture["tools"], *ASSETS["wheels"]], BUILD / "wheels"):
            with zipfile.ZipFile(tool) as archive:
                archive.extractall(fresh / "tools")
        shutil.rmtree(FOLDER, ignore_errors=True)
        fresh.rename(FOLDER)
    print(f"{FOLDER.relative_to(ROOT)}: {len(list(FOLDER.iterdir()))} files; left out: {', '.join(others) or 'none'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, RuntimeError, ValueError) as problem:
        sys.exit(f"lite_fixture.py: {problem}")
