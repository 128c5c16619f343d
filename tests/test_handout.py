"""tools/handout.py: chapters to hand out, and grades for what comes back."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import handout  # noqa: E402

sys.path.remove(str(ROOT / "tools"))

RIGHT = """import numpy as np

def top_k_routing(logits, k):
    choices = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(logits, choices, axis=-1)
    e = np.exp(chosen - chosen[:, :1])
    return choices, e / e.sum(axis=-1, keepdims=True)
"""
ID = "09.top_k_routing"


def test_a_handout_has_no_outputs_and_all_exercises(tmp_path):
    (file,) = handout.make(["09"], [], tmp_path / "out")
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "widgets" not in notebook.metadata
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    asked = [cell.source for cell in code if cell.source.startswith("@exercise(")]
    assert len(asked) >= 3 and all("..." in source for source in asked)


def test_a_handout_with_one_exercise(tmp_path):
    (file,) = handout.make(["09"], [ID], tmp_path)
    sources = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert sum("@exercise(" in source for source in sources) == 1
    assert [source for source in sources if source.startswith("hint(")] == [f'hint("{ID}")']
    assert any("the course's own answer\ndef " in source for source in sources)


def test_what_cannot_be_handed_out(tmp_path):
    with pytest.raises(ValueError, match="there is no 99"):
        handout.make(["99"], [], tmp_path)
    with pytest.raises(ValueError, match="expected exercises of the chapters 03"):
        handout.make(["03"], [ID], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_grades(tmp_path, capsys):
    for name, text in {
        "ada": RIGHT,
        "bob": RIGHT.replace("-logits", "logits"),
        "eve": "import os\nprint('RIGHT')\nos._exit(0)",
    }.items():
        folder = tmp_path / "in" / name / ("my_tinymoe" if name == "ada" else ".")
        folder.mkdir(parents=True)
        (folder / f"{ID}.py").write_text(text)
    (tmp_path / "in" / "late").mkdir()
    assert handout.main(["grade", str(tmp_path / "in"), "--out", str(tmp_path / "grades.csv")]) == 0
    rows = list(csv.reader((tmp_path / "grades.csv").read_text("utf-8").splitlines()))
    assert rows == [["name", ID, "right"], ["ada", "1", "1"], ["bob", "0", "0"], ["eve", "0", "0"], ["late", "0", "0"]]
    said = capsys.readouterr().out
    assert "ada: 1 of 1" in said and "late: 0 of 1" in said and "missing" in said


def test_what_cannot_be_graded(tmp_path):
    with pytest.raises(ValueError, match="a folder for each learner"):
        handout.grade(tmp_path / "nowhere", [])
    (tmp_path / "ada").mkdir()
    with pytest.raises(ValueError, match=r"'09\.nothing'"):
        handout.grade(tmp_path, ["09.nothing"])
