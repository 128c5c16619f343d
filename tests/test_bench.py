"""What is measured, and how it is asked for: no time is asserted."""

import itertools
import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from training import tiny_model

from tinymoe import bench, cli
from tinymoe.backend import using
from tinymoe.models import CausalLM


@pytest.fixture(autouse=True)
def numpy_backend():
    with using("numpy"):
        yield


@pytest.fixture
def one_second_each(monkeypatch):
    """Whatever is timed takes a second."""
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))


def tiny_task(**fields):
    return bench.TrainingTask(tiny_model(**fields).config, rows=2, context=8)


def test_rollouts_are_counted(one_second_each):
    report = bench.rollout(tiny_model(), answers=[3, 8], group_size=4, prompt_tokens=2, new_tokens=5, repeats=2)
    assert report["rows"] == [
        {"answers": 3, "tokens_per_s": 15.0, "one_by_one": 5.0, "ratio": 3.0},
        {"answers": 8, "tokens_per_s": 40.0, "one_by_one": 5.0, "ratio": 8.0},
    ]
    assert report["benchmark"] == "rollout" and report["backend"] == "numpy"
    assert report["parameters"] == tiny_model().num_parameters()


def test_training_is_counted(one_second_each, monkeypatch):
    task = tiny_task()
    weights = 4 * 16 * 16 + 3 * 16 * 24  # of the attention and of the feed-forward block of a layer
    layers, vocabulary = task.config.num_hidden_layers, task.config.vocab_size
    assert task.work == 6 * (layers * weights + vocabulary * 16) + 6 * layers * 8 * 16
    monkeypatch.setattr(bench, "training", lambda task: lambda: 0.0)
    monkeypatch.setattr(bench, "products", lambda: lambda: None)
    monkeypatch.setattr(bench, "PRODUCT", 32 * task.work)
    gflops = round(32 * task.work / 1e9, 1)
    report = bench.train({"tiny": task}, repeats=3)
    assert report["rows"] == [{"model": "tiny", "tokens_per_s": 16, "share_of_products": 0.5, "gflops": gflops}]


def test_only_the_experts_a_token_is_sent_to_are_work():
    few, many = (tiny_task(mlp="moe", num_experts=count, num_experts_per_tok=2) for count in (2, 8))
    assert many.work - few.work == 6 * 6 * 16 * few.config.num_hidden_layers  # six more rows in the routers


def test_what_is_trained_can_be_learned_and_is_the_same_each_time():
    first, second = bench.training(tiny_task()), bench.training(tiny_task())
    losses = [first() for _ in range(60)]
    assert losses[-1] < losses[0] - 0.5
    assert [second() for _ in range(3)] == losses[:3]


def test_the_models_of_the_benchmark_have_the_published_sizes():
    sizes = {name: CausalLM(task.config).num_parameters() for name, task in bench.TRAINING.items()}
    assert sizes == {"nano": 808_320, "small": 7_999_744, "moe": 22_179_072}
    assert {name: task.tokens for name, task in bench.TRAINING.items()} == {"nano": 768, "small": 2048, "moe": 2048}


def test_decoding_is_counted(one_second_each):
    report = bench.decode(tiny_model(), batches=[1, 3], prompt_tokens=4, new_tokens=5, repeats=1)
    assert report["rows"] == [{"texts": 1, "tokens_per_s": 5.0}, {"texts": 3, "tokens_per_s": 15.0}]


def test_tokenizing_is_counted(one_second_each):
    texts = ["one two " * 50_000, "two three " * 60_000]
    report = bench.tokenizer(texts, vocab_size=300, repeats=1)
    assert [row["megabytes_per_s"] for row in report["rows"]] == [1.0, 1.0, 1.0]
    assert [row["work"] for row in report["rows"]] == ["training", "encoding all at once", "encoding one by one"]
    assert bench.tokenizer(vocab_size=260, megabytes=0.01, repeats=1)["megabytes"] == pytest.approx(0.01, abs=0.005)


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


@pytest.mark.parametrize("measure", [bench.decode, bench.tokenizer, partial(bench.train, {})])
def test_every_measurement_wants_runs(measure):
    with pytest.raises(ValueError, match="repeats: got 0, expected a whole number"):
        measure(repeats=0)


def test_decoding_wants_room_in_the_model():
    with pytest.raises(ValueError, match="new_tokens: got 64 after 192, expected at most the model's"):
        bench.decode(tiny_model())


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


def test_each_measurement_has_its_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(bench.TRAINING, "nano", tiny_task())
    monkeypatch.setitem(bench.TRAINING, "small", tiny_task())
    monkeypatch.setitem(bench.TRAINING, "moe", tiny_task(mlp="moe", num_experts=4, num_experts_per_tok=2))
    monkeypatch.setattr("tinymoe.text.corpora.documents", lambda *_, **__: ["a few words, " * 100])
    tiny_model().save_pretrained(tmp_path)
    heads = {}
    for measure in ("train", "moe", "tokenizer"):
        assert cli.main(["bench", measure, "--repeats", "1"]) == 0
        heads[measure] = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert heads == {
        "train": ["model", "nano", "small"],
        "moe": ["model", "moe"],
        "tokenizer": ["work", "training", "encoding", "encoding"],
    }
    assert cli.main(["bench", "decode", "--repeats", "1", "--model", str(tmp_path), "--new-tokens", "1"]) == 2
    assert "new_tokens: got 1 after 192" in capsys.readouterr().err


def test_peers_are_run_by_their_program(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(
        "subprocess.run", lambda command: ran.append(command) or subprocess.CompletedProcess(command, 3)
    )
    assert cli.main(["bench", "moe", "--against", "torch", "--json", str(tmp_path / "x.json")]) == 3
    program, *arguments = ran[0][1:]
    assert Path(program).is_file()
    assert arguments == ["--models", "moe", "--json", str(tmp_path / "x.json")]


def test_peers_that_are_not_there_are_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench", "train", "--against", "torch"]) == 2
    assert "torch is not installed here; pip install torch" in capsys.readouterr().err
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    assert cli.main(["bench", "train", "--against", "torch"]) == 2
    assert "benchmarks/train_speed.py comes with a clone" in capsys.readouterr().err
