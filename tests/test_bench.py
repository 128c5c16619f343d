"""What is measured, and how it is asked for: no time is asserted."""

import json

import pytest
from training import tiny_model

from tinymoe import bench, cli
from tinymoe.backend import using


@pytest.fixture(autouse=True)
def numpy_backend():
    with using("numpy"):
        yield


def test_rollouts_are_counted(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # whatever is done takes a second
    report = bench.rollout(tiny_model(), answers=[3, 8], group_size=4, prompt_tokens=2, new_tokens=5, repeats=2)
    assert report["rows"] == [
        {"answers": 3, "tokens_per_s": 15.0, "one_by_one": 5.0, "ratio": 3.0},
        {"answers": 8, "tokens_per_s": 40.0, "one_by_one": 5.0, "ratio": 8.0},
    ]
    assert report["benchmark"] == "rollout" and report["backend"] == "numpy"
    assert report["parameters"] == tiny_model().num_parameters()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": [0]}, "answers: got 0, expected a whole number"),
        ({"repeats": 0}, "repeats: got 0"),
        ({"new_tokens": 15, "prompt_tokens": 2}, "new_tokens: got 15 after 2, expected at most the model's"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        bench.rollout(tiny_model(), **settings)


def test_the_command_prints_a_table_and_writes_the_report(tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--answers", "2", "--new-tokens", "2", "--repeats", "1"]
    file = tmp_path / "report.json"
    assert cli.main(["bench", "rollout", *arguments, "--json", str(file)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["answers", "tokens_per_s", "one_by_one", "ratio"]
    report = json.loads(file.read_text())
    assert [float(cell.replace(",", "")) for cell in row.split()] == list(report["rows"][0].values())
    assert cli.main(["bench", "rollout", *arguments, "--answers", "0"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["bench", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
