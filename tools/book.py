"""Build the book: split book.yml, make the pages that are made, gather the browser's files, run Jupyter Book.

    python tools/book.py [--lite]    # build the site; with --lite linked to what runs the chapters in the browser
    python tools/book.py readme      # bring the table of chapters in README.md up to date

The pages land in `_build/html`. They load nothing from another host: require.js, the widget manager and
MathJax come from the npm registry, each in the version and with the checksum that `book_assets.json` names.
Notebooks are not executed; a warning is an error. `--lite` is the one setting by which the links «run in the browser»
are shown; `make site` sets it, and builds with `tools/lite.py` what they lead to.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from booktools.npm import BUILD, ROOT, download, unpack

SOURCE = BUILD / "source"
PAGE_FILES = ("*.ipynb", "*.md", "*.png", "*.svg", "*.gif")


README_TABLE = ("<!-- chapters: python tools/book.py readme -->\n", "\n<!-- chapters: end -->")


def read_config() -> dict[str, Any]:
    """The one configuration, book.yml."""
    import yaml

    return yaml.safe_load((ROOT / "book.yml").read_text("utf-8"))


def split_config(config: dict[str, Any], reference: list[str], build: Path) -> list[str]:
    """Write `_config.yml` and `_toc.yml` from book.yml; return the pages that its `toc` names.

    `reference` are the pages of the reference, which come below the page of that name.
    """
    import yaml

    toc = config["toc"]
    for page in (page for part in toc["parts"] for page in part["chapters"]):
        if page["file"] == "pages/reference":
            page["sections"] = [{"file": name} for name in reference]
    rest = {key: value for key, value in config.items() if key not in ("toc", "course")}
    build.mkdir(parents=True, exist_ok=True)
    (build / "_config.yml").write_text(yaml.safe_dump(rest, sort_keys=False), "utf-8")
    (build / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), "utf-8")
    return [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]


def gather_assets(target: Path) -> None:
    """Fill `target`, which the pages see as `_static`: npm's files, anywidget's module, our own style."""
    import anywidget

    for asset in json.loads((ROOT / "tools" / "book_assets.json").read_text("utf-8")):
        if asset["into"]:  # axe-core is for the tests alone
            unpack(download(asset, BUILD / "npm"), asset, target / asset["into"])
    module = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    shutil.copyfile(module, target / "anywidget.js")
    shutil.copytree(ROOT / "book" / "assets", target, dirs_exist_ok=True)


def gather_pages(course: Any, target: Path) -> list[str]:
    """Write all pages into `target`; return the names of those of the reference."""
    from booktools import chapters as dressing
    from booktools import landing, papers, plans, reference, zoo
    from chaptertools.notebooks import read_chapters
    from chaptertools.package import Package

    chapters = read_chapters(ROOT / "chapters")
    shutil.copytree(ROOT / "book" / "pages", target / "pages")
    (target / "chapters").mkdir()
    for pattern in PAGE_FILES:
        for file in (ROOT / "chapters").glob(pattern):
            shutil.copyfile(file, target / "chapters" / file.name)
    parts = {"explorer": landing.explorer_html(chapters[0]), "map": landing.map_html(course, chapters)}
    places = course.places_to_run(course.chapters[0], "")
    parts["start"] = "".join(f'<a href="{url.replace("&", "&amp;")}">{words}</a>' for words, url in places)
    page = (ROOT / "book" / "index.md").read_text("utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    (target / "index.md").write_text(page, "utf-8")
    lecturers = target / "pages" / "lecturers.md"
    lecturers.write_text(plans.fill_plans(lecturers.read_text("utf-8"), course), "utf-8")
    (target / "pages" / "papers.md").write_text(papers.papers_page(chapters, course), "utf-8")
    (target / "pages" / "zoo.md").write_text(zoo.zoo_page(), "utf-8")
    facts = {chapter.number: chapter for chapter in course.chapters}
    taught = {
        f"{path}::{name}": facts[chapter.number]
        for chapter in chapters
        if chapter.number in facts
        for path, names in dressing.built_by(chapter).items()
        for name in names
    }
    package = Package(ROOT / "tinymoe")
    names = reference.write_reference(package, taught, course, target)
    dressing.write_chapters(chapters, course, package, target / "chapters")  # last: it changes the notebooks in memory
    return names


def write_readme() -> None:
    """Put the table of chapters between its marks in README.md."""
    from booktools.course import read_course
    from booktools.landing import readme_table

    file = ROOT / "README.md"
    start, end = README_TABLE
    before, _, rest = file.read_text("utf-8").partition(start)
    after = rest.partition(end)[2]
    if not after:
        raise ValueError(f"README.md: expected {start.strip()} and {end.strip()} around the table of chapters")
    table = readme_table(read_course(read_config(), ROOT / "book" / "times.json"))
    file.write_text(f"{before}{start}{table}{end}{after}", "utf-8")


def build(*, lite: bool) -> int:
    """Build the whole book afresh; return Jupyter Book's exit status."""
    from booktools.course import read_course
    from booktools.lean import slim

    for leftover in (SOURCE, BUILD / "html", BUILD / ".doctrees"):
        shutil.rmtree(leftover, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    config = read_config()
    course = read_course(config, ROOT / "book" / "times.json", lite=lite)
    pages = split_config(config, gather_pages(course, SOURCE), BUILD)
    for page in pages:
        if not any((SOURCE / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")):
            raise FileNotFoundError(f"book.yml: toc names {page}, but there is no {page}.ipynb and no {page}.md")
    gather_assets(SOURCE / "assets")
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    configuration = ["--config", str(BUILD / "_config.yml"), "--toc", str(BUILD / "_toc.yml")]
    strict = ["--all", "-W", "--keep-going", "-q"]
    command = [jupyter_book, "build", str(SOURCE), "--path-output", str(ROOT), *configuration, *strict]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not status:
        slim(BUILD / "html")
    return status


def main() -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("build", "readme"), default="build")
    parser.add_argument("--lite", action="store_true", help="link to what runs the chapters in the browser")
    options = parser.parse_args()
    if options.command == "readme":
        write_readme()
        return 0
    return build(lite=options.lite)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, RuntimeError, ValueError) as problem:
        sys.exit(f"make book: {problem}")
