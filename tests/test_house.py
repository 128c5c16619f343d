"""The house itself: what importing costs, what depends on what, and that the project's files agree with each other."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from base64 import b64encode
from pathlib import Path
from types import ModuleType

import pytest

import tinymoe as tm

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = sorted((ROOT / "tinymoe").rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tools").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
FOREIGN = {"torch", "tensorflow", "jax", "transformers", "tokenizers", "trl", "peft", "pickle", "dill"}
TARGETS = {"help", "course", "test", "conformance", "chapters", "book", "bench", "lint", "clean"}
TARGETS |= {"lite", "site", "browser", "jupyterlite", "pyodide", "serve"}


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "tools"))  # as for a script: its neighbors can be imported
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


def project_files() -> list[Path]:
    """What is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [file for file in map(ROOT.joinpath, listed.stdout.decode().split("\0")) if file.is_file()]


# -- what importing costs


def test_importing_tinymoe_imports_numpy_alone():
    """Numba, CuPy, matplotlib and the rest come with their first use."""
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "import tinymoe\n"
        "new = {module.split('.')[0] for module in set(sys.modules) - before}\n"
        "print(*sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tinymoe"]


def test_every_public_name_is_there():
    for public in tm.__all__:
        assert getattr(tm, public) is not None
    assert set(tm.__all__) <= set(dir(tm))
    with pytest.raises(AttributeError, match="no attribute 'Tensr'"):
        _ = tm.Tensr


def test_the_version_is_that_of_the_project():
    assert tm.__version__ == PROJECT["version"]
    assert f"## {tm.__version__} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


# -- what the source may hold


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_no_framework_underneath(file):
    assert not imported(ast.parse(file.read_text("utf-8"))) & FOREIGN


def asks_for_model_type(tree: ast.AST) -> list[int]:
    """Lines that compare a `model_type`, or match on one."""
    lines = []
    for node in ast.walk(tree):
        asked = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        asked += [node.subject] if isinstance(node, ast.Match) else []
        if any("model_type" in (getattr(part, "attr", ""), getattr(part, "id", "")) for part in asked):
            lines.append(asked[0].lineno)
    return sorted(lines)


def test_asks_for_model_type_sees_what_it_should():
    source = "if config.model_type == 'llama': pass\nmatch model_type:\n    case 'x': pass\nx = {'a': model_type}\n"
    assert asks_for_model_type(ast.parse(source)) == [1, 2]


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_families_differ_only_in_their_own_files(file):
    if "families" not in file.parts:
        assert asks_for_model_type(ast.parse(file.read_text("utf-8"))) == []


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_source_is_python_3_11(file):
    ast.parse(file.read_text("utf-8"), feature_version=(3, 11))


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_annotations_are_not_evaluated(file):
    tree = ast.parse(file.read_text("utf-8"))
    if any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree)):
        assert "__future__" in imported(tree), "lacks `from __future__ import annotations`"


def test_no_file_names_a_machine_or_a_registry():
    machine = re.compile(r"(?<![\w.~/-])/(?:(?:root|work|opt)/|(?:home|Users)/(?!me?\b))[\w.-]+")
    registry = re.compile(r"registry\.npmjs|(?<!\w)pypi\.org/simple|pythonhosted|download\.pytorch|deb\.debian")
    found = []
    for file in project_files():
        text = file.read_text("utf-8", errors="ignore")
        for problem in (*machine.finditer(text), *registry.finditer(text)):
            if file != Path(__file__).resolve():
                found.append(f"{name(file)}: {problem[0]}")
    assert found == []


# -- the project's files agree


def test_learners_requirements_are_those_of_the_package():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith(("#", "-e"))}
    extras = PROJECT["optional-dependencies"]
    wanted = {*PROJECT["dependencies"], *extras["fast"], *extras["course"]}
    assert listed == {line for line in wanted if not line.startswith("tinymoe[")}


def test_the_makefile_has_the_commands():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert set(re.findall(r"^([a-z]+):.*  ## ", makefile.replace(":  ##", ":   ## "), re.MULTILINE)) == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony and set(phony[1].split()) == TARGETS


def test_ci_runs_commands_that_exist():
    script = ROOT / ".ci" / "run"
    steps = re.search(r"^for step in (.*); do$", script.read_text("utf-8"), re.MULTILINE)
    expected = {"test", "conformance", "chapters", "lint", "browser", "jupyterlite"}
    assert steps and set(steps[1].split()) == expected <= TARGETS


def test_every_chapter_is_in_the_book_and_the_readme():
    yaml = pytest.importorskip("yaml")
    toc = yaml.safe_load((ROOT / "book.yml").read_text("utf-8"))["toc"]
    pages = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    pages = [page for page in pages if page.startswith("chapters/")]
    assert pages == sorted(pages)
    assert {f"chapters/{file.stem}" for file in (ROOT / "chapters").glob("[0-9]*.ipynb")} <= set(pages)
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in pages:
        assert f"({page}.ipynb)" in readme


def test_the_book_loads_nothing_from_another_host():
    files = ["book.yml", "book/index.md", *(name(file) for file in (ROOT / "book" / "assets").iterdir())]
    for file in files:
        text = (ROOT / file).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        text = re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)  # comments of book.yml
        assert not re.search(r"https?://|//[a-z]+\.[a-z]+/", text), file


# -- the tools that make environments and the book


def archive_of(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for inside, data in files.items():
            member = tarfile.TarInfo(f"package/{inside}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_the_configuration_of_the_book_is_split(tmp_path):
    yaml = pytest.importorskip("yaml")
    book = tool("book")
    pages = book.split_config(book.read_config(), ["reference/ops"], tmp_path)
    assert pages[:2] == ["index", "chapters/00_welcome"]
    assert not {"toc", "course"} & yaml.safe_load((tmp_path / "_config.yml").read_text("utf-8")).keys()
    toc = yaml.safe_load((tmp_path / "_toc.yml").read_text("utf-8"))
    assert toc["root"] == "index"
    listed = {page["file"]: page.get("sections") for part in toc["parts"] for page in part["chapters"]}
    assert listed["pages/reference"] == [{"file": "reference/ops"}]


def test_only_the_named_files_leave_an_archive(tmp_path):
    book = tool("book")
    files = {"dist/a.js": b"a", "dist/b.map": b"b", "dist/deep/c.woff": b"c", "LICENSE": b"l", "package.json": b"{}"}
    archive = archive_of(files, tmp_path / "x.tgz")
    book.unpack(archive, {"from": "dist", "files": ["a.js", "deep/*.woff"]}, tmp_path / "out")
    assert sorted(name.name for name in (tmp_path / "out").rglob("*.*")) == ["a.js", "c.woff"]
    assert (tmp_path / "out" / "deep" / "c.woff").read_bytes() == b"c"
    assert (tmp_path / "out" / "LICENSE").read_bytes() == b"l"
    with pytest.raises(ValueError, match=r"no file that matches package/dist/z\.js"):
        book.unpack(archive, {"from": "dist", "files": ["z.js"]}, tmp_path / "out")


def test_an_archive_with_another_checksum_is_refused(tmp_path):
    book = tool("book")
    archive = archive_of({"a.js": b"a"}, tmp_path / "scope-thing@1.0.tgz")
    digest = b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    asset = {"package": "@scope/thing", "version": "1.0", "integrity": f"sha512-{digest}"}
    assert book.download(asset, tmp_path) == archive
    with pytest.raises(ValueError, match=r"@scope/thing@1\.0: expected sha512-AAAA, got sha512-"):
        book.download({**asset, "integrity": "sha512-AAAA"}, tmp_path)
    assert not archive.exists()


def test_a_machine_without_npm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="npm is needed"):
        tool("book").download({"package": "p", "version": "1", "integrity": ""}, tmp_path)


def test_the_books_scripts_are_pinned():
    for asset in json.loads((ROOT / "tools" / "book_assets.json").read_text("utf-8")):
        assert re.fullmatch(r"\d+\.\d+\.\d+", asset["version"])
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", asset["integrity"])


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    setup_env = tool("setup_env")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    project = '[build-system]\nrequires = []\n[project]\nname = "p"\n[project.optional-dependencies]\n'
    (tmp_path / "pyproject.toml").write_text(project + 'a = ["x==1", "y>2"]\n')
    return setup_env, tmp_path


def test_an_environment_is_refreshed_when_its_dependencies_change(small_project):
    setup_env, folder = small_project
    first = setup_env.fingerprint("a", "3.11.7")
    file = folder / "pyproject.toml"
    file.write_text(file.read_text() + "[tool.ruff]\nline-length = 100\n")
    assert setup_env.fingerprint("a", "3.11.7") == first
    assert setup_env.fingerprint("a", "3.12.0") != first
    file.write_text(file.read_text().replace("y>2", "y>3"))
    assert setup_env.fingerprint("a", "3.11.7") != first
    course = setup_env.fingerprint("course", "3.11.7")
    (folder / "requirements.txt").write_text("numpy>=2\n")
    assert setup_env.fingerprint("course", "3.11.7") != course


def test_pinned_requirements_come_first(small_project):
    setup_env, _ = small_project
    assert setup_env.pins_first("a") == ["x==1"]
    with pytest.raises(ValueError, match="extra: expected one of a, got 'b'"):
        setup_env.pins_first("b")


@pytest.mark.parametrize(("found", "usable"), [("", False), ("3.9.18", False), ("3.11.0", True), ("3.13.0", True)])
def test_old_pythons_are_not_used(found, usable):
    assert tool("setup_env").usable(found) is usable


@pytest.mark.skipif(os.name == "nt", reason="Makefiles and .ci/run are for Unix")
def test_ci_can_be_started():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
