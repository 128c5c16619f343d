"""Build the course for the browser: JupyterLite with the chapters, and tinymoe as a wheel made in the same run.

    python tools/lite.py [--output _build/html/lite]

One link opens a chapter: `lite/notebooks/index.html?path=chapters/NN_name.ipynb`. The site holds JupyterLite, Pyodide's
core, the wheels that Pyodide has not got, and all that the chapters read. Compiled packages (NumPy, matplotlib, …) come
from Pyodide's own CDN when a reader starts a kernel, and are refused if they are not what the lock file says. Every
version and checksum stands in `lite_assets.json`.

They are not the newest, but the newest that can be tested: for Pyodide 0.27.7 the compiled packages can be had without
its CDN (`lite_fixture.py`); for Pyodide 314, with which JupyterLite 0.8 goes, PyPI has no NumPy and no matplotlib.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from booktools.npm import BUILD, ROOT, download, unpack

ASSETS: dict[str, Any] = json.loads((ROOT / "tools" / "lite_assets.json").read_text("utf-8"))
KERNEL = "@jupyterlite/pyodide-kernel-extension:kernel"
# What the chapters read, beside the package: everything is where it is in the repository.
CONTENTS = ("chapters/*.ipynb", "data/checkpoints/**/*", "benchmarks/results/*.json")


def make_wheel(folder: Path) -> Path:
    """Build tinymoe's wheel from the working tree into `folder`. Raises RuntimeError with pip's words if it fails."""
    pip = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*pip, "--wheel-dir", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the wheel of tinymoe could not be built:\n{done.stderr.strip()}")
    return next(folder.glob("tinymoe-*.whl"))


def get_wheels(wanted: list[dict[str, str]], folder: Path) -> list[Path]:
    """Pure Python wheels from PyPI, as the manifest names them, kept in `folder`.

    Raises RuntimeError when pip cannot fetch them, and ValueError when one is not the file that the manifest means.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / wheel["file"] for wheel in wanted]
    if missing := [file for file in files if not file.exists()]:
        names = ["==".join(file.name.split("-")[:2]) for file in missing]
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        pure = ["--python-version=3.12", "--implementation=py", "--abi=none", "--platform=any"]
        done = subprocess.run([*pip, *pure, *names], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not fetch {', '.join(names)}:\n{done.stderr.strip()}")
    for file, wheel in zip(files, wanted, strict=True):
        if not file.exists() or sha256(file) != wheel["sha256"]:
            file.unlink(missing_ok=True)
            raise ValueError(f"{file.name}: it is not the file that lite_assets.json names, and was removed")
    return files


def lock_file(published: dict[str, Any], wheels: list[Path]) -> dict[str, Any]:
    """Pyodide's lock file for this site: its own packages from its CDN, by checksum, and the wheels beside it."""
    lock = {**published, "packages": dict(published["packages"])}
    for name, package in lock["packages"].items():
        lock["packages"][name] = {**package, "file_name": ASSETS["cdn"] + package["file_name"]}
    for wheel in wheels:
        package = entry_of(wheel)
        lock["packages"][package["name"]] = package
    return lock


def entry_of(wheel: Path) -> dict[str, Any]:
    """What the lock file says of a wheel: `import` of one of its modules loads it, with what it needs."""
    name, version = wheel.name.split("-")[:2]
    name = name.lower().replace("_", "-")
    with zipfile.ZipFile(wheel) as archive:
        tops = {Path(file).parts[0] for file in archive.namelist() if file.endswith(".py")}
    return {
        "name": name,
        "version": version,
        "file_name": wheel.name,
        "install_dir": "site",
        "sha256": sha256(wheel),
        "package_type": "package",
        "imports": sorted(top.removesuffix(".py") for top in tops if "." not in top.removesuffix(".py")),
        "depends": ASSETS["depends"].get(name, []),
        "unvendored_tests": False,
    }


def make_pyodide(wheel: Path, target: Path) -> str:
    """Put Pyodide's core, the lock file and the wheels into a folder below `target`, and return the folder's name.

    It is named by what it holds, so that no browser mixes an old file with a new one.
    """
    core = ASSETS["core"]
    with tempfile.TemporaryDirectory(dir=target) as made:
        folder = Path(made, "pyodide")
        unpack(download(core, BUILD / "npm"), core, folder)
        (folder / "pyodide-lock.json").rename(published := Path(made, "published.json"))
        wheels = [wheel, *get_wheels(ASSETS["wheels"], BUILD / "wheels")]
        for one in wheels:
            shutil.copyfile(one, folder / one.name)
        lock = json.dumps(lock_file(json.loads(published.read_text("utf-8")), wheels), sort_keys=True)
        (folder / "pyodide-lock.json").write_text(lock, "utf-8")
        name = f"pyodide-{hashlib.sha256(lock.encode()).hexdigest()[:12]}"
        folder.rename(target / name)
    return name


def settings(pyodide: str) -> dict[str, Any]:
    """The site's jupyter-lite.json: our Pyodide, no package from anywhere else, and nothing loaded for decoration."""
    kernel = {"pyodideUrl": f"./static/{pyodide}/pyodide.js", "disablePyPIFallback": True}
    config = {
        "appName": "tinymoe",
        "litePluginSettings": {KERNEL: kernel},
        "disabledExtensions": [
            "@jupyterlab/apputils-extension:announcements",
            "@jupyterlab/extensionmanager-extension",
        ],
        "exposeAppInBrowser": True,
    }
    return {"jupyter-lite-schema-version": 0, "jupyter-config-data": config}


def gather(target: Path) -> None:
    """Copy what the chapters read into `target`. Raises FileNotFoundError for a pattern that matches nothing."""
    for pattern in CONTENTS:
        files = [file for file in ROOT.glob(pattern) if file.is_file()]
        if not files:
            raise FileNotFoundError(f"{pattern}: no such file, but the chapters in the browser need it")
        for file in files:
            copy = target / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def build(output: Path) -> int:
    """Build the site afresh into `output`; return JupyterLite's exit status."""
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="tinymoe-lite-") as made:
        source = Path(made, "source")
        gather(source / "files")
        (static := source / "static").mkdir()
        pyodide = make_pyodide(make_wheel(Path(made)), static)
        (source / "jupyter-lite.json").write_text(json.dumps(settings(pyodide), indent=2), "utf-8")
        jupyter = [sys.executable, "-m", "jupyter", "lite", "build", "--lite-dir", str(source)]
        options = ["--contents", str(source / "files"), "--no-sourcemaps", "--no-libarchive"]
        apps = [f"--apps={app}" for app in ("lab", "notebooks", "tree")]
        command = [*jupyter, *options, *apps, "--output-dir", str(output)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        else:
            shutil.copytree(static, output / "static", dirs_exist_ok=True)
    return done.returncode


def sha256(file: Path) -> str:
    """The file's checksum, in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    """Build the site where the command line says."""
    parser = argparse.ArgumentParser(prog="lite.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--output", type=Path, default=BUILD / "html" / "lite")
    return build(parser.parse_args().output.resolve())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, RuntimeError, ValueError) as problem:
        sys.exit(f"make lite: {problem}")
