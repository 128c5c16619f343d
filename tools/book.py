"""Build the book: split book.yml, gather the browser's files, run Jupyter Book on the committed chapters.

    python tools/book.py

The pages land in `_build/html`. They load nothing from another host: require.js, the widget manager and
MathJax come from the npm registry, each in the version and with the checksum that `book_assets.json` names.
Notebooks are not executed; a warning is an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
SOURCE = BUILD / "source"
PAGE_FILES = ("*.ipynb", "*.md", "*.png", "*.svg", "*.gif")


def split_config(config_file: Path, build: Path) -> list[str]:
    """Write `_config.yml` and `_toc.yml` from the one book.yml; return the pages that its `toc` names."""
    import yaml

    config = yaml.safe_load(config_file.read_text("utf-8"))
    toc = config.pop("toc")
    build.mkdir(parents=True, exist_ok=True)
    (build / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    (build / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), "utf-8")
    return [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]


def download(asset: dict, folder: Path) -> Path:
    """Return the package's archive in `folder`, fetched by npm unless it is there already.

    Raises FileNotFoundError when npm is not installed, RuntimeError when npm fails, and ValueError when the
    archive has another SHA-512 than the manifest says.
    """
    name = f"{asset['package']}@{asset['version']}"
    archive = folder / f"{name.replace('/', '-').lstrip('@')}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is needed to fetch {name} for the book; install Node.js, which brings it")
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        done = subprocess.run(
            [npm, "pack", name, "--silent", "--pack-destination", str(fresh)],
            capture_output=True, text=True, cwd=fresh, stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"npm could not fetch {name}:\n{done.stderr.strip()}")
        next(fresh.glob("*.tgz")).replace(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != asset["integrity"]:
        archive.unlink()
        raise ValueError(f"{name}: expected {asset['integrity']}, got sha512-{digest}; the file was removed")
    return archive


def unpack(archive: Path, asset: dict, target: Path) -> None:
    """Copy the files that the manifest names, and the license, out of an npm archive into `target`.

    Raises ValueError when a pattern of the manifest matches no file.
    """
    patterns = {str(PurePosixPath("package", asset["from"], name)): False for name in asset["files"]}
    with tarfile.open(archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar.getmembers()):
            wanted = [pattern for pattern in patterns if fnmatch(member.name, pattern)]
            if not wanted and not fnmatch(member.name, "package/LICENSE*"):
                continue
            patterns |= dict.fromkeys(wanted, True)
            start = PurePosixPath("package", asset["from"] if wanted else ".")
            file = target / PurePosixPath(member.name).relative_to(start)
            file.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as data, file.open("wb") as out:  # pyright: ignore[reportOptionalContextManager]
                shutil.copyfileobj(data, out)
    missing = [pattern for pattern, found in patterns.items() if not found]
    if missing:
        raise ValueError(f"{archive.name} holds no file that matches {', '.join(missing)}")


def gather_assets(target: Path) -> None:
    """Fill `target`, which the pages see as `_static`: npm's files, anywidget's module, our own style."""
    import anywidget

    for asset in json.loads((ROOT / "tools" / "book_assets.json").read_text("utf-8")):
        unpack(download(asset, BUILD / "npm"), asset, target / asset["into"])
    module = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    shutil.copyfile(module, target / "anywidget.js")
    shutil.copytree(ROOT / "book" / "assets", target, dirs_exist_ok=True)


def gather_pages(pages: list[str], target: Path) -> None:
    """Copy the landing page and the chapters, with the pictures beside them, into `target`.

    Raises FileNotFoundError for a page of the table of contents that does not exist.
    """
    shutil.copyfile(ROOT / "book" / "index.md", target / "index.md")
    (target / "chapters").mkdir()
    for pattern in PAGE_FILES:
        for file in (ROOT / "chapters").glob(pattern):
            shutil.copyfile(file, target / "chapters" / file.name)
    for page in pages:
        if not any((target / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")):
            raise FileNotFoundError(f"book.yml: toc names {page}, but there is no {page}.ipynb and no {page}.md")


def main() -> int:
    """Build the whole book afresh; return Jupyter Book's exit status."""
    for leftover in (SOURCE, BUILD / "html", BUILD / ".doctrees"):
        shutil.rmtree(leftover, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    gather_pages(split_config(ROOT / "book.yml", BUILD), SOURCE)
    gather_assets(SOURCE / "assets")
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    configuration = ["--config", str(BUILD / "_config.yml"), "--toc", str(BUILD / "_toc.yml")]
    strict = ["--all", "-W", "--keep-going", "-q"]
    command = [jupyter_book, "build", str(SOURCE), "--path-output", str(ROOT), *configuration, *strict]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, RuntimeError, ValueError) as problem:
        sys.exit(f"make book: {problem}")
