"""The command line: what it prints, what it writes, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training import read_metrics, snapshot

from tinymoe import cli
from tinymoe.backend import backend, use, using
from tinymoe.cli import inspection
from tinymoe.models import from_pretrained, zoo
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer

ROOT = Path(__file__).resolve().parents[1]
TEXT = "the quick brown fox jumps over the lazy dog; " * 40 + "ÄÖ€😀 " * 20
TINY = ["--steps", "4", "--batch-size", "2", "--context", "8", "--eval-every", "2", "--warmup", "1", "--quiet"]


@pytest.fixture(autouse=True)
def numpy_backend():
    with using("numpy"):
        yield


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, "utf-8")
    return str(file)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model folder so small that training it costs nothing."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = CharTokenizer.train([TEXT])
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    with using("numpy"):
        model = zoo.build("llama-pico", vocab_size=tokenizer.vocab_size, num_key_value_heads=2, **shape)
        model.tokenizer = tokenizer
        model.save_pretrained(folder)
    return str(folder)


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def spawn(*arguments, **options):
    command = [sys.executable, "-m", "tinymoe", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def refused(capsys):
    """The one line of a refusal; it is the last one on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("tinymoe: error: ")]
    assert errors == lines[-1:], lines
    return errors[0].removeprefix("tinymoe: error: ")


def test_training_by_name_uses_the_recipe_and_flags_override_it(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert run("train", "--model", "llama-pico", "--data", text, "--tokenizer", "char", "--out", out, *TINY) == 0
    shown = capsys.readouterr()
    assert "validation loss" in shown.err and str(out) in shown.err and shown.out == ""
    model = from_pretrained(out)
    assert model.config.hidden_size == zoo.config("llama-pico").hidden_size
    assert model.config.vocab_size == model.tokenizer.vocab_size == len(set(TEXT))
    config = json.loads((out / "checkpoints/step-000004/trainer/state.json").read_text())["config"]
    recipe = zoo.recipe("llama-pico")
    assert {name: config[name] for name in recipe if name in ("lr", "min_lr", "schedule", "beta2")} == {
        name: recipe[name] for name in ("lr", "min_lr", "schedule", "beta2")
    }
    assert (config["steps"], config["batch_size"], config["context"]) == (4, 2, 8)
    assert [m["step"] for m in read_metrics(out) if "val_loss" in m] == [2, 4]


def test_a_given_rate_brings_its_own_floor(tmp_path, text, start):
    arguments = ["train", "--model", start, "--data", text, *TINY]
    assert run(*arguments, "--lr", "0.5", "--out", tmp_path / "a") == 0
    assert run(*arguments, "--lr", "0.5", "--min-lr", "0.2", "--out", tmp_path / "b") == 0
    configs = [
        json.loads((tmp_path / name / "checkpoints/step-000004/trainer/state.json").read_text())["config"]
        for name in "ab"
    ]
    assert [config["min_lr"] for config in configs] == [0.05, 0.2]


def test_the_default_tokenizer_is_a_bpe_with_an_end_token(tmp_path, text):
    assert run("train", "--model", "llama-pico", "--data", text, "--out", tmp_path / "run", *TINY) == 0
    model = from_pretrained(tmp_path / "run")
    assert type(model.tokenizer) is Tokenizer
    assert model.config.eos_token_id == model.tokenizer.special_tokens["<|endoftext|>"]
    assert (
        run("train", "--model", "llama-pico", "--data", text, "--tokenizer", "bpe:260", "--out", tmp_path / "b", *TINY)
        == 0
    )
    assert from_pretrained(tmp_path / "b").config.vocab_size == 260


def test_a_tokenizer_from_a_folder(tmp_path, text, start):
    arguments = ["train", "--model", "llama-pico", "--tokenizer", start, "--data", text, "--out", tmp_path / "run"]
    assert run(*arguments, *TINY) == 0
    assert (tmp_path / "run/tokenizer.json").read_bytes() == (Path(start) / "tokenizer.json").read_bytes()


def test_a_model_from_a_folder_goes_on_with_its_weights_and_tokenizer(tmp_path, text, start, capsys):
    assert run("train", "--model", start, "--data", text, "--out", tmp_path / "run", "--lr", "1e-9", *TINY) == 0
    before, after = from_pretrained(start), from_pretrained(tmp_path / "run")
    for p, q in zip(before.parameters(), after.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), atol=1e-7)
    assert after.tokenizer.encode("fox") == before.tokenizer.encode("fox")


def test_packed_documents_from_a_folder(tmp_path, start):
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(20):
        (folder / f"{n:02}.txt").write_text("the quick brown fox; " * 3)
    arguments = ["train", "--model", "llama-pico", "--tokenizer", "char", "--data", folder, "--packed"]
    assert run(*arguments, "--out", tmp_path / "run", *TINY) == 0
    assert "<|endoftext|>" in from_pretrained(tmp_path / "run").tokenizer.special_tokens


def test_resume_goes_on_and_then_has_nothing_to_do(tmp_path, text, start, capsys):
    arguments = ["train", "--model", start, "--data", text, "--checkpoint-every", "2", *TINY]
    assert run(*arguments, "--out", tmp_path / "whole") == 0
    assert run(*arguments, "--out", tmp_path / "parts", "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().err
    for folder in ("checkpoints/step-000004", "model.safetensors", "config.json"):
        path = tmp_path / "parts" / folder
        path.rename(tmp_path / path.name)
    assert run(*arguments, "--out", tmp_path / "parts", "--resume") == 0
    assert "resumed at step 2 of 4" in capsys.readouterr().err
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    before = snapshot(tmp_path / "parts")
    assert run(*arguments, "--out", tmp_path / "parts", "--resume") == 0
    assert snapshot(tmp_path / "parts") == before
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_resume_refuses_another_tokenizer_than_the_run_has(tmp_path, text, start, capsys):
    arguments = ["train", "--model", "llama-pico", "--data", text, "--out", tmp_path / "run", *TINY]
    assert run(*arguments, "--tokenizer", "char") == 0
    capsys.readouterr()
    before = snapshot(tmp_path / "run")
    assert run(*arguments, "--tokenizer", "bpe:300", "--resume") == 2
    assert "was started with 'char', got 'bpe:300'" in refused(capsys)
    assert snapshot(tmp_path / "run") == before


def test_the_backend_is_chosen_by_a_flag(tmp_path, text, start):
    assert run("train", "--model", start, "--data", text, "--out", tmp_path / "r", "--backend", "numpy", *TINY) == 0
    assert backend() == "numpy"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child process")
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(tmp_path, text, start):
    arguments = ["train", "--model", start, "--data", text, "--out", tmp_path / "run", "--backend", "numpy", *TINY]
    arguments[arguments.index("--steps") + 1] = "100000"
    process = spawn(*arguments)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "add --resume to go on" in errors and "Traceback" not in errors
    done = read_metrics(tmp_path / "run")[-1]["step"]
    assert (tmp_path / f"run/checkpoints/step-{done:06d}").is_dir()


def test_generate_prints_the_prompt_and_what_follows(start, capsys):
    arguments = ["generate", "--model", start, "--prompt", "the fox ", "--max-new-tokens", 12, "--temperature", 0]
    assert run(*arguments) == 0
    shown = capsys.readouterr().out
    model = from_pretrained(start)
    ids = model.generate([model.tokenizer.encode("the fox ")], max_new_tokens=12, temperature=0)
    assert shown == model.tokenizer.decode(ids[0]) + "\n"


def test_generate_repeats_itself_with_a_seed(start, capsys):
    arguments = [
        "generate",
        "--model",
        start,
        "--prompt",
        "a",
        "--top-k",
        9,
        "--top-p",
        0.9,
        "--min-p",
        0.001,
        "--repetition-penalty",
        1.1,
        "--max-new-tokens",
        30,
    ]
    texts = []
    for seed in (1, 1, 2):
        assert run(*arguments, "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


class Scripted:
    """Stands for a model: says the given tokens, one after the other."""

    def __init__(self, tokenizer, says):
        self.tokenizer, self.says = tokenizer, list(says)
        self.config = zoo.config("llama-pico", vocab_size=tokenizer.vocab_size)

    def new_cache(self):
        return None

    def __call__(self, ids, *, cache=None, attention_mask=None):
        logits = np.full((1, len(ids[0]), self.tokenizer.vocab_size), -50.0)
        logits[:, -1, self.says.pop(0)] = 50.0
        return type("Logits", (), {"numpy": lambda self: logits})()


def test_characters_that_span_tokens_are_printed_whole(monkeypatch, capsys, tmp_path):
    tokenizer = Tokenizer.train([], vocab_size=257, special_tokens=("<|endoftext|>",))
    says = tokenizer.encode("€ 😀!")
    assert len(says) == 9  # single bytes
    monkeypatch.setattr("tinymoe.models.from_pretrained", lambda folder: Scripted(tokenizer, says))
    written = []
    monkeypatch.setattr(sys, "stdout", type("Out", (), {"write": written.append, "flush": lambda self: None})())
    assert run("generate", "--model", tmp_path, "--prompt", "a", "--max-new-tokens", 9, "--temperature", 0) == 0
    assert "".join(written) == "a€ 😀!\n"
    assert [piece for piece in written if piece][:5] == ["a", "€", " ", "😀", "!"]


def test_half_a_character_at_the_end_is_shown_as_such(monkeypatch, capsys, tmp_path):
    tokenizer = Tokenizer.train([], vocab_size=256)
    monkeypatch.setattr("tinymoe.models.from_pretrained", lambda folder: Scripted(tokenizer, tokenizer.encode("é")))
    assert run("generate", "--model", tmp_path, "--prompt", "a", "--max-new-tokens", 1, "--temperature", 0) == 0
    assert capsys.readouterr().out == "a\ufffd\n"


def test_the_end_token_ends_the_text_and_begins_an_empty_prompt(monkeypatch, capsys, tmp_path):
    tokenizer = Tokenizer.train([], vocab_size=257, special_tokens=("<|endoftext|>",))
    says = [*tokenizer.encode("hi"), tokenizer.special_tokens["<|endoftext|>"], *tokenizer.encode("not this")]
    monkeypatch.setattr("tinymoe.models.from_pretrained", lambda folder: Scripted(tokenizer, says))
    assert run("generate", "--model", tmp_path, "--prompt", "", "--temperature", 0) == 0
    assert capsys.readouterr().out == "hi\n"


def test_an_unfinished_run_generates_from_its_newest_checkpoint(tmp_path, text, start, capsys):
    out = tmp_path / "run"
    assert run("train", "--model", start, "--data", text, "--out", out, *TINY) == 0
    for name in ("model.safetensors", "config.json"):
        (out / name).unlink()
    capsys.readouterr()
    assert run("generate", "--model", out, "--prompt", "the", "--max-new-tokens", 2) == 0
    shown = capsys.readouterr()
    assert "unfinished; using step-000004" in shown.err and shown.out.startswith("the")
    assert run("info", out) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
def test_a_reader_that_leaves_ends_it_quietly(start):
    process = spawn("generate", "--model", start, "--prompt", "a", "--max-new-tokens", 100000, "--backend", "numpy")
    assert process.stdout.read(1) == "a"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    process.stderr.close()


def table(text):
    rows = [line.split("  ") for line in text.splitlines()]
    return {row[0].strip(): next(cell.strip() for cell in row[1:] if cell.strip()) for row in rows if row[0].strip()}


def test_info_of_a_published_model(capsys):
    assert run("info", "llama-3-8b") == 0
    shown = capsys.readouterr().out
    values = table(shown)
    assert values["parameters, total"] == values["parameters, active"] == "8,030,261,248"  # as Meta publishes it
    assert values["KV cache per token"] == "262,144"  # 2 x 32 layers x 8 heads x 128 x 4 bytes
    matrices = 8030261248 - 128256 * 4096 - (2 * 32 + 1) * 4096  # a table is looked up, norms are no matrices
    assert values["FLOPs per token"] == f"{2 * matrices + 4 * 32 * 32 * 128:,}"
    assert values["published as"] == "8.03 B"
    assert (
        len(
            {
                len(line[: line.index(value)]) + len(value)
                for line, value in zip(shown.splitlines(), values.values(), strict=False)
            }
        )
        == 1
    )  # right-aligned


def test_info_of_a_folder_agrees_with_the_model(start, capsys):
    assert run("info", start) == 0
    assert table(capsys.readouterr().out)["parameters, total"] == f"{from_pretrained(start).num_parameters():,}"


def test_tied_embeddings_are_multiplied_once():
    untied, tied = (
        {name: value for name, value, _ in inspection._costs(zoo.config("llama-pico", tie_word_embeddings=tie))}
        for tie in (False, True)
    )
    assert untied["FLOPs per token"] == tied["FLOPs per token"]
    assert untied["parameters, total"] != tied["parameters, total"]


def test_export_writes_a_model_folder_and_overwrites_nothing(tmp_path, start, capsys):
    assert run("export", start, "--to", "hf", "--out", tmp_path / "hf") == 0
    assert snapshot(tmp_path / "hf") == snapshot(Path(start))
    capsys.readouterr()
    assert run("export", start, "--to", "hf", "--out", tmp_path / "hf") == 2
    assert "already holds a run or a model" in refused(capsys)
    assert run("export", start, "--to", "onnx", "--out", tmp_path / "x") == 2
    assert refused(capsys) == (
        "--to: got 'onnx', expected hf (Hugging Face: config.json, *.safetensors) or gguf (llama.cpp: one file)"
    )
    assert run("export", start, "--to", "hf", "--dtype", "float16", "--out", tmp_path / "x") == 2
    assert refused(capsys) == "--dtype: got 'float16', expected float32; others go with --to gguf"
    assert not (tmp_path / "x").exists()


def test_export_to_gguf(tmp_path, start, capsys):
    model, out = from_pretrained(start), tmp_path / "new" / "model.gguf"
    assert run("export", start, "--to", "gguf", "--out", out) == 2
    assert "tokenizer: got one of characters, with 'Ä', expected ASCII only" in refused(capsys) and not out.exists()
    model.tokenizer = CharTokenizer.train(["abc"])
    model.save_pretrained(tmp_path / "plain")
    assert run("export", tmp_path / "plain", "--to", "gguf", "--dtype", "bfloat16", "--out", out) == 0
    written = out.read_bytes()
    assert written.startswith(b"GGUF") and capsys.readouterr().err.endswith(f"wrote {out}\n")
    assert run("export", tmp_path / "plain", "--to", "gguf", "--out", out) == 2
    assert refused(capsys) == f"--out: {out} is already there; choose another file"
    assert out.read_bytes() == written and list(out.parent.iterdir()) == [out]
    assert run("export", tmp_path / "plain", "--to", "gguf", "--dtype", "int4", "--out", tmp_path / "x") == 2
    assert refused(capsys) == "dtype: got 'int4', expected one of float32, float16, bfloat16"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: train | "),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--data", "x", "--out", "y"], "required: --model"),
        (["train", "--model", "llama-pico", "--data", "x", "--out", "y", "--steps", "many"], "invalid int value"),
        (["info"], "required: NAME|DIR"),
        (["info", "llama-pico", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert message in refused(capsys)


def test_the_traceback_is_shown_on_demand(monkeypatch, capsys):
    assert run("info", "no-such-model") == 2
    assert "got 'no-such-model'" in refused(capsys)
    monkeypatch.setenv("TINYMOE_DEBUG", "1")
    with pytest.raises(ValueError, match="no-such-model"):
        run("info", "no-such-model")


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(monkeypatch):
    monkeypatch.setattr(inspection, "_config", lambda model: {}["bug"])
    with pytest.raises(KeyError):
        run("info", "llama-pico")


def test_as_a_module_it_helps_and_lists_the_commands():
    process = spawn("--help")
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    for command in ("train", "generate", "info", "export"):
        assert command in shown
    process = spawn("train", "--help")
    assert "--eval-batches" in process.communicate(timeout=60)[0]


def test_a_missing_backend_is_refused_with_the_command_that_installs_it(capsys):
    pytest.importorskip("numba")
    if "cupy" in __import__("tinymoe.backend", fromlist=["available"]).available():
        pytest.skip("CuPy is installed here")
    assert run("info", "llama-pico", "--backend", "cupy") == 2
    assert "pip install cupy" in refused(capsys)
    use("numpy")
