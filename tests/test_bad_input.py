"""Bad input through the command line: one clear line, one clear exception, and nothing lost."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from training import read_metrics, snapshot

from tinymoe import cli
from tinymoe.backend import using
from tinymoe.models import from_pretrained, zoo
from tinymoe.text.tokenizer import CharTokenizer
from tinymoe.train import checkpoint

TEXT = "the quick brown fox jumps over the lazy dog; " * 40
FLAGS = ["--steps", "4", "--batch-size", "2", "--context", "8", "--warmup", "1", "--checkpoint-every", "2", "--quiet"]


@pytest.fixture(autouse=True)
def numpy_backend(monkeypatch):
    monkeypatch.delenv("TINYMOE_DEBUG", raising=False)
    with using("numpy"):
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A text, a tiny model, and a finished run of it."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(TEXT)
    save_model(folder / "start")
    with using("numpy"):
        assert cli.main([*train(folder), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def place(original, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "place"))


def save_model(folder, tokenizer=None, **shape):
    tokenizer = tokenizer or CharTokenizer.train([TEXT])
    tiny = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {"vocab_size": tokenizer.vocab_size, "num_key_value_heads": 2, **tiny, **shape}
    with using("numpy"):
        model = zoo.build("llama-pico", **settings)
        model.tokenizer = tokenizer
        model.save_pretrained(folder)


def train(place, model="start", data="text.txt", *flags):
    model = model if model in zoo.list() or model == "no-such-model" else place / model
    return ["train", "--model", str(model), "--data", str(place / data), *FLAGS, *flags]


def resume(place, *flags, **changes):
    return [*train(place, **changes), "--out", str(place / "run"), "--resume", *flags]


def fresh(place, *flags, **changes):
    return [*train(place, **changes), "--out", str(place / "new"), *flags]


def generate(place, *flags, model="start", prompt="the "):
    return ["generate", "--model", str(place / model), "--prompt", prompt, "--max-new-tokens", "3", *flags]


def write(file, content):
    file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)


def truncate(file, size=100):
    file.write_bytes(file.read_bytes()[:size])


def reshape(file):
    """Give one tensor of a safetensors file another shape."""
    from safetensors.numpy import load, save

    tensors = load(file.read_bytes())
    tensors["model.norm.weight"] = np.zeros(17, np.float32)
    file.write_bytes(save(tensors))


def broken_weight(file):
    from safetensors.numpy import load, save

    tensors = load(file.read_bytes())
    tensors["model.layers.0.mlp.gate_proj.weight"][0, 0] = np.nan
    file.write_bytes(save(tensors))


# name: (what is damaged, the command, the exception, what its message says)
CASES = {
    "no data file": (None, lambda p: fresh(p, data="missing.txt"), (OSError, ValueError), "missing.txt"),
    "empty data file": (lambda p: write(p / "text.txt", ""), fresh, ValueError, "text"),
    "documents without a character": (
        lambda p: write(p / "text.jsonl", '{"text": ""}\n'), lambda p: fresh(p, data="text.jsonl"), ValueError,
        "--data: .*text.jsonl holds no text",
    ),
    "data that is no text": (lambda p: write(p / "text.txt", b"\xff\xfe\x00\x9f" * 50), fresh, ValueError, "text.txt"),
    "data shorter than the context": (
        lambda p: write(p / "text.txt", TEXT[:80]), fresh, ValueError,
        "data: too short for a validation part; the text has 8 tokens, but a context of 8 needs at least 9",
    ),
    "a character the tokenizer does not know": (
        lambda p: write(p / "text.txt", TEXT + "Ж"), fresh, ValueError, "the character 'Ж' .* vocabulary",
    ),
    "unknown model": (
        None, lambda p: fresh(p, model="no-such-model"), ValueError, "model: got 'no-such-model', .* not in the zoo",
    ),
    "unknown backend": (
        None, lambda p: fresh(p, "--backend", "abacus"), ValueError, "backend: got 'abacus', expected one of numpy",
    ),
    "unknown corpus": (
        None, lambda p: ["train", "--model", "llama-pico", "--data", "no-such-corpus", "--out", str(p / "new")],
        (OSError, ValueError), "no-such-corpus",
    ),
    "unknown tokenizer": (
        None, lambda p: fresh(p, "--tokenizer", "words"), FileNotFoundError, "--tokenizer: got 'words', expected char",
    ),
    "a vocabulary that is no number": (
        None, lambda p: fresh(p, "--tokenizer", "bpe:many", model="llama-pico"), ValueError, "'bpe:many', expected",
    ),
    "a vocabulary below the 256 bytes": (
        None, lambda p: fresh(p, "--tokenizer", "bpe:100", model="llama-pico"), ValueError,
        "vocab_size must be at least",
    ),
    "vocabulary larger than the tokenizer": (
        lambda p: save_model(p / "start", vocab_size=500), lambda p: fresh(p, "--tokenizer", "char"), ValueError,
        "--tokenizer: it has 28 tokens and the model's vocabulary 500, expected the same",
    ),
    "token id out of range": (
        lambda p: save_model(p / "start", vocab_size=20), fresh, ValueError,
        "data: holds token id 27, expected ids below the model's vocabulary size 20",
    ),
    "context beyond the model's": (
        lambda p: save_model(p / "start", max_position_embeddings=4), fresh, ValueError,
        "context: got 8, expected at most the model's max_position_embeddings 4",
    ),
    "no steps": (None, lambda p: fresh(p, "--steps", "0"), ValueError, "steps: got 0, expected a whole number ≥ 1"),
    "unknown schedule": (
        None, lambda p: fresh(p, "--schedule", "linear"), ValueError, "schedule: got 'linear', expected cosine, wsd",
    ),
    "truncated weights": (
        lambda p: truncate(p / "start/model.safetensors"), fresh, ValueError, "model.safetensors: it is damaged",
    ),
    "weights of another shape": (
        lambda p: reshape(p / "start/model.safetensors"), fresh, ValueError,
        r"model.norm.weight has shape \(17,\), expected \(16,\)",
    ),
    "no weights": (lambda p: (p / "start/model.safetensors").unlink(), fresh, FileNotFoundError, "no .*safetensors"),
    "no tokenizer": (
        lambda p: (p / "start/tokenizer.json").unlink(), fresh, FileNotFoundError, "start has no tokenizer.json",
    ),
    "damaged tokenizer": (lambda p: truncate(p / "start/tokenizer.json"), fresh, ValueError, "tokenizer"),
    "a folder that holds a run": (
        None, lambda p: [*train(p), "--out", str(p / "run")], FileExistsError, "run already holds a run; add --resume",
    ),
    "a file in place of the folder": (
        None, lambda p: [*train(p), "--out", str(p / "text.txt")], OSError, "text.txt",
    ),
    "a checkpoint of another model": (
        lambda p: save_model(p / "other", intermediate_size=32), lambda p: resume(p, model="other"), ValueError,
        "model intermediate_size: the checkpoint .*step-000004 has 24, this run 32",
    ),
    "a checkpoint of other data": (
        lambda p: write(p / "text.txt", TEXT.replace("fox", "ox")), resume, ValueError,
        "data: the checkpoint .*other tokens",
    ),
    "a checkpoint of another rate": (
        None, lambda p: resume(p, "--lr", "0.5"), ValueError, "config lr: the checkpoint .* has 0.001, this run 0.5",
    ),
    "a damaged checkpoint": (
        lambda p: truncate(p / "run/checkpoints/step-000004/trainer/optimizer.safetensors"), resume, ValueError,
        "step-000004/trainer/optimizer.safetensors: it is damaged",
    ),
    "damaged metrics": (
        lambda p: write(p / "run/metrics.jsonl", '{"step": 1\n{"step": 2}\n'), resume, ValueError,
        "metrics.jsonl: it is damaged",
    ),
    "weights that are not numbers": (
        lambda p: broken_weight(p / "start/model.safetensors"), fresh, FloatingPointError,
        "step 1: the loss is nan; first not finite: the value of model.layers.0.mlp.gate_proj.weight",
    ),
    "a rate at which the loss overflows": (
        None, lambda p: fresh(p, "--lr", "1e38", "--warmup", "0"), FloatingPointError, "step 2: .* not finite: ",
    ),
    "generate: no such folder": (
        None, lambda p: generate(p, model="x"), FileNotFoundError, "--model: .*x is no folder",
    ),
    "generate: a folder without a model": (
        lambda p: (p / "empty").mkdir(), lambda p: generate(p, model="empty"), FileNotFoundError, "config.json",
    ),
    "generate: no tokenizer": (
        lambda p: (p / "start/tokenizer.json").unlink(), generate, FileNotFoundError, "has no tokenizer.json",
    ),
    "generate: temperature": (
        None, lambda p: generate(p, "--temperature", "-1"), ValueError, "temperature: got -1.0, expected 0 or more",
    ),
    "generate: top-p": (None, lambda p: generate(p, "--top-p", "1.5"), ValueError, "top_p: got 1.5, expected above 0"),
    "generate: a character it does not know": (
        None, lambda p: generate(p, prompt="Ж"), ValueError, "the character 'Ж' .* vocabulary",
    ),
    "generate: empty prompt": (None, lambda p: generate(p, prompt=""), ValueError, "--prompt: got an empty text"),
    "info: no config": (
        lambda p: (p / "empty").mkdir(), lambda p: ["info", str(p / "empty")], FileNotFoundError, "config.json",
    ),
    "info: config that is no JSON": (
        lambda p: truncate(p / "start/config.json"), lambda p: ["info", str(p / "start")], ValueError, "config.json",
    ),
    "info: a family that is not known": (
        lambda p: write(p / "start/config.json", json.dumps({"model_type": "eliza"})),
        lambda p: ["info", str(p / "start")], ValueError, "model_type: got 'eliza', expected one of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error_and_nothing_lost(case, place, capsys, monkeypatch):
    damage, command, kind, message = CASES[case]
    if damage is not None:
        damage(place)
    before = snapshot(place)
    assert cli.main(command(place)) == 2
    refused(capsys, message)
    after = snapshot(place)
    assert before.items() <= after.items()
    assert not [name for name in after if name.rsplit("/")[-1].startswith(".")]
    monkeypatch.setenv("TINYMOE_DEBUG", "1")
    shutil.rmtree(place / "new", ignore_errors=True)
    with pytest.raises(kind):
        cli.main(command(place))


def refused(capsys, message):
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("tinymoe: error: ")]
    assert errors == lines[-1:], lines
    assert re.search(message, errors[0]), errors[0]
    assert not any("Traceback" in line or "Warning" in line for line in lines)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 400 kB; `options` can be changed later with `remount`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        return done.returncode == 0

    if not shutil.which("mount") or not mount("size=400k"):
        pytest.skip("a small file system cannot be mounted here (not root, or no tmpfs)")
    folder_and_remount = folder, lambda options: mount(f"remount,{options}")
    yield folder_and_remount
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_no_checkpoint_and_the_run_goes_on_when_there_is_room(original, small_disk, capsys):
    disk, remount = small_disk
    save_model(disk.parent / "model", hidden_size=64)  # about 60 kB, and twice that for the optimizer
    command = ["train", "--model", str(disk.parent / "model"), "--data", str(original / "text.txt"), *FLAGS]
    assert cli.main([*command, "--out", str(disk.parent / "unbroken")]) == 0
    capsys.readouterr()

    command += ["--out", str(disk / "run")]
    assert cli.main(command) == 2
    refused(capsys, r"the checkpoint of step 4 could not be written \(No space left on device\)")
    assert [f.name for f in (disk / "run/checkpoints").iterdir()] == ["step-000002"]
    assert from_pretrained(checkpoint.latest(disk / "run")).tokenizer is not None

    assert cli.main([*command, "--resume"]) == 2  # still full: the same again
    refused(capsys, "No space left on device")
    assert [f.name for f in (disk / "run/checkpoints").iterdir()] == ["step-000002"]

    assert remount("size=4m")
    assert cli.main([*command, "--resume"]) == 0
    assert read_metrics(disk / "run") == read_metrics(disk.parent / "unbroken")
    weights = [(run / "model.safetensors").read_bytes() for run in (disk / "run", disk.parent / "unbroken")]
    assert weights[0] == weights[1]


def test_a_disk_too_full_to_begin_is_said_at_once(original, small_disk, capsys):
    disk, _ = small_disk
    with pytest.raises(OSError), open(disk / "filler", "wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    assert cli.main([*train(original), "--out", str(disk / "run")]) == 2
    refused(capsys, "No space left on device")
    assert not [f for f in disk.rglob("*") if f.name.startswith(".")]


def test_a_read_only_disk(original, small_disk, capsys, monkeypatch):
    disk, remount = small_disk
    shutil.copytree(original / "run", disk / "run")
    assert remount("ro")
    before = snapshot(disk)
    for command in ([*train(original), "--out", str(disk / "new")], resume_there(original, disk / "run")):
        assert cli.main(command) == 2
        refused(capsys, os.strerror(errno.EROFS))
    assert snapshot(disk) == before


def resume_there(original, run):
    return [*train(original), "--out", str(run), "--resume"]


def test_a_folder_without_write_permission(original, tmp_path, capsys):
    if os.name == "nt":
        pytest.skip("permissions of folders mean something else on Windows")
    closed = tmp_path / "closed"
    shutil.copytree(original / "run", closed / "run")
    assert cli.main([*train(original), "--out", str(tmp_path / "warm-up")]) == 0  # imports what it needs
    before = snapshot(closed)
    capsys.readouterr()
    for folder in (original, original.parent, *tmp_path.parents[:2], tmp_path):
        folder.chmod(0o755)
    for folder in (closed, closed / "run"):
        folder.chmod(0o555)
    root = getattr(os, "geteuid", lambda: None)() == 0  # nothing is closed to root; a browser has no users
    if root:
        os.seteuid(65534)
    try:
        codes = [
            cli.main([*train(original), "--out", str(closed / "new")]),
            cli.main(resume_there(original, closed / "run")),
        ]
        with pytest.raises(PermissionError):
            (closed / "probe").write_text("")
    finally:
        if root:
            os.seteuid(0)
        for folder in (closed, closed / "run"):
            folder.chmod(0o755)
    assert codes == [2, 2]
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("tinymoe: error: ")]
    assert len(errors) == 2 and all("Permission denied" in line for line in errors)
    assert snapshot(closed) == before
