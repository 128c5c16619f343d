"""tools/chapters.py on a small package and small notebooks, each command with the fault that it has to find."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("chapters_tool", ROOT / "tools" / "chapters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "tools"))
    return module


FILES = {
    "tinymoe/__init__.py": '''
        """A small package."""
        import importlib
        from .backend import backend

        __version__ = "1"
        _HOMES = {"Norm": "nn.norm", "lost": "nowhere"}
        _MODULES = {"zoo": "models.zoo"}

        def __getattr__(name):
            if name in _MODULES:
                return importlib.import_module(f".{_MODULES[name]}", __name__)
            if name in _HOMES:
                return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
            raise AttributeError(name)
    ''',
    "tinymoe/backend/__init__.py": '''
        from .select import backend
    ''',
    "tinymoe/backend/select.py": '''
        import os
        from functools import lru_cache

        DEFAULT = "numpy"

        @lru_cache(
            maxsize=1
        )
        def backend():
            """Its name."""
            return DEFAULT
    ''',
    "tinymoe/nn/__init__.py": '''
        from . import norm
        from .norm import Norm
    ''',
    "tinymoe/nn/norm.py": '''
        from __future__ import annotations

        import math

        EPS = 1e-6
        WIDTH: int = 4

        def _square(x):
            return x * x

        class Norm:
            """Divides."""

            def __call__(self, x):
                return x / math.sqrt(_square(x) + EPS)  # the root

        try:
            import nothing_of_that_name
        except ImportError:
            def fallback(x):
                return x
    ''',
    "tinymoe/models/__init__.py": "",
    "tinymoe/models/zoo.py": '''
        from tinymoe.nn.norm import Norm

        def build():
            return Norm()

        def unused():
            return 0
    ''',
    "tinymoe/viz/__init__.py": '''
        def plot():
            """Free everywhere."""
    ''',
    "tinymoe/cli/__init__.py": '''
        def main():
            """Not taught."""
    ''',
    "tinymoe/course/__init__.py": '''
        def exercise(id):
            return lambda function: function
    ''',
    "tinymoe/course/exercises/__init__.py": "",
    "tinymoe/course/exercises/ch01.py": '''
        EXERCISES = [Exercise(id="01.one", title="A"), Exercise("01.two", "B"), Exercise("01.three", "C")]
    ''',
    "tinymoe/course/exercises/ch02.py": '''
        EXERCISES = [Exercise("02.one", "A"), Exercise("02.two", "B"), Exercise("02.three", "C")]
    ''',
    "tests/test_small.py": '''
        import tinymoe, pytest

        def test_zoo():
            assert round(tinymoe.zoo.build()(3.0), 3) == 1.0 and tinymoe.backend() == "numpy"

        @pytest.mark.slow
        def test_slow():
            from tinymoe.nn.norm import fallback
            assert fallback(3) == 3
    ''',
    "tests/test_course.py": "raise RuntimeError('is not run on the rebuilt package')",
    "pyproject.toml": '''
        [tool.pytest.ini_options]
        markers = ["slow: slow"]
    ''',
    "chapters/untaught.txt": '''
        # why
        backend/select.py::* — plumbing
        models/zoo.py::build — taught later
        models/zoo.py::unused — taught later
        nn/norm.py::fallback — a detail
    ''',
}  # fmt: skip

SQUARE = "def _square(x):\n    return x * x"
NORM = '''class Norm:
    """Divides."""

    def __call__(self, x):
        return x / math.sqrt(_square(x) + EPS)  # the root'''


def text(source: str) -> dict:
    return nbformat.v4.new_markdown_cell(source)


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)} if tags else {})


def printed(words: str, name: str = "stdout") -> dict:
    return nbformat.v4.new_output("stream", name=name, text=words)


def asks(chapter: str) -> dict:
    lines = ["from tinymoe.course import exercise"]
    lines += [f'@exercise("{chapter}.{name}")\ndef {name}(x):\n    ...' for name in ("one", "two", "three")]
    return code("\n".join(lines))


REFERENCES = text("## References\n- Norms, 2019, arXiv:1910.07467")


def write(root: Path, name: str, *cells: dict, run: bool = True) -> Path:
    """A chapter, its cells numbered as after a run."""
    book = nbformat.v4.new_notebook(cells=list(cells))
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    for number, cell in enumerate(codes, 1):
        cell.execution_count = number if run else None
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
    file = root / "chapters" / name
    nbformat.write(book, file)
    return file


@pytest.fixture
def root(tmp_path):
    """A project in which every command is content."""
    for name, body in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(body).lstrip("\n"))
    norm = code(f"# tinymoe: nn/norm.py::Norm\n{NORM}")
    square = code(f"# tinymoe: nn/norm.py::_square\n{SQUARE}")
    setup = code("import math\nEPS = 1e-6")
    use = code("print(round(Norm()(2.0), 3))", printed("1.0\n"))
    write(tmp_path, "01_norm.ipynb", text("# 01 · Norms"), setup, square, norm, use, asks("01"), REFERENCES)
    later = code(
        "import tinymoe as tm\nfrom tinymoe.viz import plot\nfrom tinymoe.nn import Norm\ntm.Norm, tm.zoo.build()"
    )
    write(tmp_path, "02_zoo.ipynb", text("# 02 · Zoo"), later, asks("02"), REFERENCES)
    return tmp_path


@pytest.fixture
def say(tool, root, capsys):
    """Run the tool on the project: its exit code, and all it said."""

    def run(*words: str) -> tuple[int, str]:
        code = tool.main([*words, "--root", str(root)])
        said = capsys.readouterr()
        return code, said.err + said.out

    return run


def edit(root: Path, name: str, change) -> None:
    """Change a chapter's notebook in place."""
    file = root / "chapters" / name
    book = nbformat.read(file, as_version=4)
    change(book)
    nbformat.write(book, file)


def test_a_sound_project(say):
    assert say("check", "order", "coverage") == (0, "check: ok\norder: ok\ncoverage: ok\n")


def test_check_shows_how_a_cell_differs(say, root):
    file = root / "tinymoe" / "nn" / "norm.py"
    file.write_text(file.read_text().replace("# the root", "# its root"))
    code, said = say("check")
    assert code == 1 and "check: 01_norm.ipynb, cell 4: differs from nn/norm.py::Norm; `sync` refreshes it" in said
    assert "    -        return x / math.sqrt(_square(x) + EPS)  # the root" in said
    assert "    +        return x / math.sqrt(_square(x) + EPS)  # its root" in said


def test_sync_refreshes_only_what_changed(say, root):
    file = root / "chapters" / "01_norm.ipynb"
    before = file.read_bytes()
    assert say("sync") == (0, "sync: ok\n") and file.read_bytes() == before
    module = root / "tinymoe" / "nn" / "norm.py"
    module.write_text(module.read_text().replace("# the root", "# its root"))
    assert say("sync") == (0, "sync: 01_norm.ipynb, cell 4: nn/norm.py::Norm\nsync: ok\n")
    book = nbformat.read(file, as_version=4)
    assert book.cells[3].source.endswith("# its root") and book.cells[3].execution_count is None
    assert book.cells[4].outputs[0].text == "1.0\n" and book.cells[4].execution_count == 4
    assert "01_norm.ipynb: cell 4 was not run; `run 01` does that" in say("check")[1]
    assert sorted(path.name for path in file.parent.iterdir()) == ["01_norm.ipynb", "02_zoo.ipynb", "untaught.txt"]


def test_sync_fills_in_a_bare_tag_with_decorators_and_constants(say, root):
    cells = [code("# tinymoe: backend/select.py::backend"), code("# tinymoe: nn/norm.py::WIDTH\nold")]
    file = write(root, "03_more.ipynb", text("# 03 · More"), *cells)
    say("sync", "03")
    book = nbformat.read(file, as_version=4)
    assert book.cells[1].source.splitlines()[1:5] == ["@lru_cache(", "    maxsize=1", ")", "def backend():"]
    assert book.cells[2].source == "# tinymoe: nn/norm.py::WIDTH\nWIDTH: int = 4"


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("# tinymoe: nn/norm.py::Nrom", "the package has no nn/norm.py::Nrom; did you mean nn/norm.py::Norm"),
        ("# tinymoe: zzz.py::qqq", "the package has no zzz.py::qqq\n"),
        ("# tinymoe nn/norm.py::Norm", "'# tinymoe nn/norm.py::Norm' is no tag like '# tinymoe: nn/norm.py::RMSNorm'"),
        ("# tinymoe: nn/norm.py::Norm.__call__", "is no tag like"),
    ],
)
def test_tags_of_nothing(say, root, tag, said):
    write(root, "01_norm.ipynb", text("# 01 · Norms"), code(f"{tag}\nx = 1"), asks("01"), REFERENCES)
    assert said in say("check")[1]
    assert say("check")[0] == 1
    if "has no" in said:
        assert say("sync")[0] == 1 and said in say("sync")[1]


HOME = "/home/me/x"
PICTURE = nbformat.v4.new_output(
    "display_data", {"image/png": "AA/tmp/x", "text/html": "<img src='data:image/png;base64,A+/tmp/xx'>"}
)
SVG = nbformat.v4.new_output("display_data", {"image/svg+xml": f"<svg>{HOME}</svg>"})
ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
FAULTS = [
    ([code("1", printed(f"saved {HOME}\n"))], "its output holds a path of this machine, /home/m"),
    ([code("1", SVG)], "its output holds a path of this machine"),
    ([code(f"open('{HOME}')")], "its source holds a path of this machine"),
    ([text(f"see {HOME}")], "its source holds a path of this machine"),
    ([code("1", ERROR)], "ends in an error: ValueError: no"),
    (
        [code("1", printed("x.py:1: UserWarning: careful\n", "stderr"))],
        "its output holds a warning: x.py:1: UserWarning",
    ),
    ([code("1", tags=("raises-exception",))], "has the tag raises-exception, which proves nothing"),
    ([code("1", tags=("NBVAL_SKIP",))], "has the tag nbval-skip, which proves nothing"),
    ([code("# NBVAL_RAISES_EXCEPTION\n1")], "has the comment NBVAL_RAISES_EXCEPTION, which proves nothing"),
    ([code("  ")], "is empty"),
    ([code("def f(:")], "is not valid Python"),
    ([code('@exercise("01.one")\ndef f(x):\n    return x')], "exercise 01.one is committed solved"),
    ([code('@exercise("01.one")\ndef f(x): ...')], "asks for 01.one more than once"),
    ([code('@exercise("01.four")\ndef f(x): ...')], "asks for 01.four, which ch01.py does not define"),
]


@pytest.mark.parametrize(("cells", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_check_finds_what_should_not_be_committed(say, root, cells, said):
    write(root, "01_norm.ipynb", text("# 01 · Norms"), *cells, asks("01"), REFERENCES)
    result, all_said = say("check", "01")
    assert result == 1 and said in all_said


@pytest.mark.parametrize(
    "cells",
    [
        [code("1", PICTURE)],
        [code("1", printed("https://example.org/home/x or a/tmp/b or ./work/c\n"))],
        [code("%matplotlib inline\n!ls\nx = 1", tags=("nbval-ignore-output", "hide-input"))],
        [code("# NBVAL_IGNORE_OUTPUT\nx = 1", printed("12 steps\n", "stderr"))],
    ],
)
def test_check_leaves_alone_what_is_fine(say, root, cells):
    write(root, "01_norm.ipynb", text("# 01 · Norms"), *cells, asks("01"), REFERENCES)
    assert say("check") == (0, "check: ok\n")


SHAPES = [
    ([asks("01"), REFERENCES], "its first cell should be text that begins with '# 01 · Title'"),
    ([text("# 02 · Norms"), asks("01"), REFERENCES], "its first cell should be text that begins with '# 01 · Title'"),
    ([], "its first cell should be text"),
    ([text("# 01 · Norms"), asks("01")], "its last section should be '## References'"),
    (
        [text("# 01 · Norms"), REFERENCES, text("## Afterword"), asks("01")],
        "its last section should be '## References'",
    ),
    ([text("# 01 · Norms"), asks("01"), text("## References\nnone")], "its last section should be '## References'"),
    ([text("# 01 · Norms"), REFERENCES], "has 0 exercises, expected at least 3"),
    ([text("# 01 · Norms"), REFERENCES], "does not ask for 01.one, which ch01.py defines"),
]


@pytest.mark.parametrize(("cells", "said"), SHAPES, ids=[f"{n}-{said}" for n, (_, said) in enumerate(SHAPES)])
def test_check_asks_for_the_parts_of_a_chapter(say, root, cells, said):
    write(root, "01_norm.ipynb", *cells)
    result, all_said = say("check", "01")
    assert result == 1 and f"01_norm.ipynb: {said}" in all_said


def test_check_finds_a_notebook_that_was_not_run_or_not_in_order(say, root):
    write(root, "01_norm.ipynb", text("# 01 · Norms"), asks("01"), REFERENCES, run=False)
    assert "01_norm.ipynb: cell 2 was not run" in say("check")[1]
    edit(root, "02_zoo.ipynb", lambda book: book.cells[1].update(execution_count=7))
    assert "02_zoo.ipynb: the cells were not run once, from top to bottom" in say("check")[1]


def test_check_finds_faults_of_the_file(say, root):
    write(root, "Norms.ipynb", text("# 01 · Norms"))
    write(root, "02_again.ipynb", text("# 02 · Zoo"), asks("02"), REFERENCES)
    edit(root, "01_norm.ipynb", lambda book: book.metadata.update(kernelspec={"name": "mine", "display_name": "x"}))
    edit(root, "02_zoo.ipynb", lambda book: book.cells[1].metadata.update(execution={"iopub.status.busy": "now"}))
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {"value": HOME}}}}
    edit(root, "02_again.ipynb", lambda book: book.metadata.update(widgets=state))
    said = say("check")[1]
    assert "Norms.ipynb: the name is not of the form 01_tokenizer.ipynb" in said
    assert "02_again.ipynb: another chapter has the number 02" in said
    assert "01_norm.ipynb: its kernel is 'mine', expected 'python3'; `run` sets it" in said
    assert "02_zoo.ipynb, cell 2: holds the time it was run at; `run` takes it out" in said
    assert "02_again.ipynb: the saved widgets hold a path of this machine" in said


def test_check_finds_an_invalid_notebook(say, root):
    file = root / "chapters" / "01_norm.ipynb"
    book = json.loads(file.read_text())
    book["cells"][1]["outputs"] = [{"output_type": "nonsense"}]
    file.write_text(json.dumps(book))
    assert "01_norm.ipynb: is no valid notebook" in say("check")[1]


ORDER = [
    ("from tinymoe.nn.norm import Norm", "nn.norm.Norm: is taught only in chapter 02"),
    ("import tinymoe as tm\ntm.Norm()", "Norm: is taught only in chapter 02"),
    (
        "from tinymoe import nn\ndef f():\n    return nn.norm.Norm()(1).real",
        "nn.norm.Norm: is taught only in chapter 02",
    ),
    ("import tinymoe.nn.norm\ntinymoe.nn.Norm", "nn.Norm: is taught only in chapter 02"),
    ("from tinymoe.nn.norm import _square as s", "nn.norm._square: is taught only in chapter 02"),
    ("from tinymoe.nn.norm import EPS", "nn.norm.EPS: nothing of nn/norm.py has been taught yet"),
    ("from tinymoe.nn.norm import *", "nn.norm.*: import what is used, by name"),
    ("from tinymoe.nn import nrom", "nn.nrom: the package has no such name"),
    ("import tinymoe as tm\ntm.lost", "lost: the package has no such name"),
]


@pytest.mark.parametrize(("source", "said"), ORDER)
def test_order_finds_what_is_used_too_early(say, root, source, said):
    (root / "chapters" / "02_zoo.ipynb").rename(root / "chapters" / "03_zoo.ipynb")
    (root / "chapters" / "01_norm.ipynb").rename(root / "chapters" / "02_norm.ipynb")
    write(root, "01_early.ipynb", text("# 01 · Early"), code(source))
    assert say("order") == (1, f"order: 01_early.ipynb, cell 2: tinymoe.{said}\norder: 1 problems\n")
    assert say("order", "02", "03") == (0, "order: ok\n")


@pytest.mark.parametrize(
    "source",
    [
        "from tinymoe.viz import plot\nfrom tinymoe.course import exercise\nfrom tinymoe.cli import main",
        "from tinymoe.models.zoo import build\nimport tinymoe\ntinymoe.backend(), tinymoe.zoo, tinymoe.__version__",
        "import tinymoe.backend.select as s\ns.DEFAULT\nfrom tinymoe.backend.select import DEFAULT, os\nos.path",
        "import os.path\nfrom .tinymoe import Norm\nfrom math import *",
        "def broken(:",
    ],
)
def test_order_allows_what_is_free_or_listed(say, root, source):
    write(root, "00_welcome.ipynb", code("from tinymoe.nn.norm import Norm, EPS"))
    edit(root, "01_norm.ipynb", lambda book: book.cells.insert(1, code(source)))
    assert say("order") == (0, "order: ok\n")


def test_order_finds_the_untaught_and_the_private(say, root):
    (root / "chapters" / "untaught.txt").write_text("models/zoo.py::build — later\n")
    write(
        root,
        "02_zoo.ipynb",
        code("from tinymoe.models.zoo import unused\nfrom tinymoe.backend.select import backend"),
    )
    write(root, "03_more.ipynb", code("from tinymoe.nn.norm import EPS, WIDTH, _square"))
    said = say("order")[1]
    assert "02_zoo.ipynb, cell 1: tinymoe.models.zoo.unused: is neither taught nor listed in untaught.txt" in said
    assert "tinymoe.backend.select.backend: is neither taught" in said and "03_more" not in said
    edit(root, "01_norm.ipynb", lambda book: book.cells.pop(2))
    assert "_square" not in say("order")[1]  # a helper comes with its module
    untagged = "# tinymoe:".__ne__
    edit(root, "01_norm.ipynb", lambda book: book.update(cells=[c for c in book.cells if untagged(c.source[:10])]))
    assert "nn.norm._square: nothing of nn/norm.py has been taught yet" in say("order")[1]


COVERAGE = [
    ("nn/norm.py::fallback — a detail", "", "nn/norm.py::fallback: is neither taught in a chapter nor listed"),
    ("a detail", "", "untaught.txt: nn/norm.py::fallback has no reason"),
    (" — a detail", " - a detail", "defines no fallback - a detail"),
    (
        "nn/norm.py::fallback",
        "nn/nrom.py::fallback",
        "untaught.txt: nn/nrom.py::fallback: the package has no nn/nrom.py",
    ),
    ("nn/norm.py::fallback", "nn/norm.py::fallbak", "untaught.txt: nn/norm.py::fallbak: nn/norm.py defines no fallbak"),
    ("nn/norm.py::fallback", "nn/norm.py::*", "untaught.txt: nn/norm.py::*: but nn/norm.py::"),
    (
        "nn/norm.py::fallback",
        "nn/norm.py::Norm — why\nnn/norm.py::fallback",
        "is taught in 01_norm.ipynb, cell 4 and listed",
    ),
    ("nn/norm.py::fallback", "fallback", "'fallback' is not of the form 'path.py::Name — reason'"),
]


@pytest.mark.parametrize(("old", "new", "said"), COVERAGE, ids=[said for *_, said in COVERAGE])
def test_coverage_finds_gaps_and_stale_entries(say, root, old, new, said):
    file = root / "chapters" / "untaught.txt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    result, all_said = say("coverage")
    assert result == 1 and said in all_said


def test_coverage_finds_what_is_taught_twice(say, root):
    edit(root, "02_zoo.ipynb", lambda book: book.cells.append(code(f"# tinymoe: nn/norm.py::Norm\n{NORM}")))
    said = "nn/norm.py::Norm: is taught 2 times, in 01_norm.ipynb, cell 4 and in 02_zoo.ipynb, cell 5"
    assert say("coverage") == (1, f"coverage: {said}\ncoverage: 1 problems\n")


def test_a_definition_given_twice_is_an_error(say, root):
    (root / "tinymoe" / "twice.py").write_text("def f(): pass\ndef f(): pass\n")
    assert "coverage: twice.py: f is defined twice, in lines 1 and 2" in say("coverage")[1]


def rebuild(root: Path, *words: str, **env: str) -> tuple[int, str]:
    """Run `rebuild` as from the command line, where the tests' own output can be seen."""
    command = [sys.executable, str(ROOT / "tools" / "chapters.py"), "rebuild", *words, "--root", str(root)]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    return done.returncode, done.stdout + done.stderr


def test_rebuild_runs_the_tests_on_what_the_chapters_show(root):
    result, said = rebuild(root)
    assert result == 0 and "2 passed" in said and "rebuild: ok" in said
    # The chapter's text is what is run: with a fault in it, the tests fail though the package is sound.
    edit(
        root, "01_norm.ipynb", lambda book: book.cells[3].update(source=book.cells[3].source.replace("x /", "2 * x /"))
    )
    result, said = rebuild(root, "--fast")
    assert result == 1 and "1 failed, 1 deselected" in said and "the tests of the rebuilt package fail" in said


def test_rebuild_leaves_out_what_is_neither_taught_nor_listed(root):
    (root / "chapters" / "untaught.txt").write_text("models/zoo.py::build — later\nbackend/select.py::* — plumbing\n")
    result, said = rebuild(root)
    assert result == 1 and "nn/norm.py::fallback: is missing from the rebuilt package" in said
    assert "cannot import name 'fallback'" in said and "1 failed, 1 passed" in said


def test_rebuild_refuses_to_test_another_package(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "tinymoe").mkdir()
    (other / "tinymoe" / "__init__.py").write_text("")
    forced = (
        f"import os, sys\nif 'rebuilt-' in os.getcwd():\n    sys.path.insert(0, {str(other)!r})\n    import tinymoe"
    )
    (other / "sitecustomize.py").write_text(forced)
    result, said = rebuild(root, PYTHONPATH=str(other))
    assert result == 1 and f"the tests import {other}/tinymoe/__init__.py, not the rebuilt package" in said


def test_run_executes_in_place_and_leaves_nothing_that_changes(say, root):
    pytest.importorskip("ipywidgets")
    source = """import os
for i in range(3):
    print(i, flush=True)
os.listdir(os.environ["TINYMOE_MY"]), os.environ["MPLBACKEND"], os.path.basename(os.getcwd())"""
    widgets = """import ipywidgets as w
display(w.HBox([w.IntSlider(description="a"), w.Label("b")]))
hidden = w.Text()"""
    file = write(
        root, "03_run.ipynb", text("# 03 · Run"), code(source), code(widgets), asks("03"), REFERENCES, run=False
    )
    edit(root, "03_run.ipynb", lambda book: book.metadata.pop("kernelspec"))
    result, said = say("run", "03")
    assert result == 0 and said.startswith("03_run.ipynb  ") and said.endswith(" s\nrun: ok\n")
    first = file.read_text()
    book = nbformat.reads(first, as_version=4)
    assert [output.get("text") or output.data["text/plain"] for output in book.cells[1].outputs] == [
        "0\n1\n2\n", "([], 'module://matplotlib_inline.backend_inline', 'chapters')"
    ]  # fmt: skip
    assert book.metadata.kernelspec.name == "python3" and "version" not in book.metadata.language_info
    assert all("execution" not in cell.metadata for cell in book.cells)
    state = book.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    shown = book.cells[2].outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert shown == f"{1:032x}" and state[shown]["model_name"] == "HBoxModel"
    assert sorted(state) == [f"{n:032x}" for n in range(1, len(state) + 1)]
    assert say("run", "03", "--limit", "0.01")[1].count("expected at most 0.01") == 1
    assert file.read_text() == first, "a second run changes nothing"


def test_run_leaves_a_failing_chapter_as_it_was(say, root):
    file = write(root, "03_run.ipynb", text("# 03 · Run"), code("1 / 0"), run=False)
    before = file.read_bytes()
    result, said = say("run", "03")
    assert result == 1 and "run: 03_run.ipynb: CellExecutionError" in said and "ZeroDivisionError" in said
    assert file.read_bytes() == before


def test_no_chapters(say, root):
    for file in (root / "chapters").glob("*.ipynb"):
        file.unlink()
    assert say("check")[0] == 1 and "there are no notebooks" in say("check")[1]


def test_wrong_words(tool, say, root, capsys):
    assert "chapters: there is no 07; there are 01, 02" in say("check", "07")[1]
    for words, said in [(["chek"], "got 'chek'"), (["01"], "expected a command")]:
        with pytest.raises(SystemExit):
            tool.main(words)
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        tool.main(["--help"])
    assert stop.value.code == 0 and "How to write a chapter" in capsys.readouterr().out
    (root / "tinymoe" / "__init__.py").unlink()
    assert "holds no __init__.py" in say("check")[1]


def test_the_sanitize_rules_hide_times_and_nothing_else(root):
    pytest.importorskip("nbval")
    varying = [
        ("3.2 s, 14 ms and 2 min", "4.75 s, 9 ms and 3 min"),
        ("12,345 tokens/s, 1.2k tok/s", "9 tokens/s, 3.4k tok/s"),
        ("87%|████ | 87/100 [00:03<00:00, 25.61it/s]", "3%|  | 3/100 [00:00<00:09, 1.00it/s]"),
        ("<object at 0x7f00aa11bb22>", "<object at 0x7fffaa11bb00>"),
        ("2024-01-31 12:59", "2025-10-01 09:01"),
        ("3.1× faster", "2.9× faster"),
    ]
    cells = [code(f"print({now!r})", printed(f"{then}\n")) for then, now in varying]
    cells += [code("print('loss 1.71 at step 300')", printed("loss 1.72 at step 300\n"))]
    cells += [code("print('loss 1.7 at step 300')", printed("loss 1.7 at step 200\n"))]
    file = write(root, "01_norm.ipynb", *cells)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "nbval.plugin", str(file)]
    command += ["--nbval-sanitize-with", str(ROOT / "chapters" / "nbval_sanitize.cfg"), "-c", os.devnull]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root, env=env)
    assert f"2 failed, {len(varying)} passed" in done.stdout, done.stdout
    assert "::Cell 6" in done.stdout and "::Cell 7" in done.stdout
