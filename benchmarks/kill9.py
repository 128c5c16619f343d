"""Kill a training run with SIGKILL at random moments: it must always resume, and end as an unbroken run does.

    python benchmarks/kill9.py [--command train] [--kills 50] [--seed 0] [--backend numpy] [--json FILE]

The run is small and writes a checkpoint every other step, so that many of the kills hit a write. After each kill
the newest checkpoint has to load; after the last one the run goes on to its end, and its metrics and its final
weights have to be those of a run that was never killed, bit by bit. A run that ends before its kill is compared
at once, and a new one is started.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS = 120
_ANSWERS = {"generation_batch_size": 8, "max_completion_length": 8}
COMMANDS: dict[str, dict[str, Any]] = {  # what can be killed, and its settings
    "train": {"batch_size": 4, "context": 32},
    "ppo": _ANSWERS,
    "grpo": {**_ANSWERS, "num_generations": 4, "beta": 0.1},
}
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", default="train", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", help="default: tinymoe's own choice")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_often(
            Path(folder), options.kills, options.seed, options.backend, command=options.command, say=print
        )
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def kill_often(
    folder: Path,
    kills: int,
    seed: int = 0,
    backend: str | None = None,
    steps: int = STEPS,
    command: str = "train",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Do what the module says, in an empty folder. RuntimeError for the first thing that is not as it should be."""
    arguments = _prepare(folder, command, backend, steps)
    process = _train(arguments, folder / "unbroken")
    _wait_for_a_step(process, folder / "unbroken", 0)
    began = time.perf_counter()
    _finish(process)
    seconds = time.perf_counter() - began
    expected = _result(folder / "unbroken")

    chance, run, step = random.Random(seed), folder / "killed", 0
    report = {"kills": 0, "runs": 0, "seconds_of_training": round(seconds, 2), "resumed_from": [], "hit_a_write": 0}
    while report["kills"] < kills:
        before = _half_written(run)
        process = _train(arguments, run)
        if chance.random() < 0.8:  # most kills while it trains, the others while it starts as well
            _wait_for_a_step(process, run, step)
        try:
            process.wait(chance.uniform(0, seconds * max(0.1, (steps - step) / steps)))
        except subprocess.TimeoutExpired:
            process.kill()  # SIGKILL
            process.communicate()
            step = _check_newest(run)
            report["kills"] += 1
            report["hit_a_write"] += not _half_written(run) <= before
            report["resumed_from"].append(step)
            say(f"kill {report['kills']}: the newest checkpoint is that of step {step}")
            continue
        _compare(process, run, expected)
        report["runs"] += 1
        step = 0
        shutil.rmtree(run)
    _compare(_train(arguments, run), run, expected)
    return {"command": command, **report, "runs": report["runs"] + 1, "backend": backend or "default", "equal": True}


def _prepare(folder: Path, command: str, backend: str | None, steps: int) -> list[str]:
    """A text, problems, and a model to start from; returns the command line but for --out."""
    from tinymoe.models import zoo
    from tinymoe.text.tokenizer import CharTokenizer

    text = " ".join(f"{n} and {n + 1} make {2 * n + 1}." for n in range(300))
    (folder / "train.txt").write_text(text)
    problems = [json.dumps({"prompt": f"{n} and {n} make ", "answer": 2 * n}) for n in range(100)]
    (folder / "tune.jsonl").write_text("\n".join(problems))
    tokenizer = CharTokenizer.train([text], special_tokens=["<|endoftext|>"])
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = zoo.build("llama-pico", vocab_size=tokenizer.vocab_size, num_key_value_heads=2, eos_token_id=0, **shape)
    model.tokenizer = tokenizer
    model.save_pretrained(folder / "start")
    settings = {"steps": steps, "eval_every": 10, "checkpoint_every": 2, "warmup": 5, **COMMANDS[command]}
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [
        *(sys.executable, "-m", "tinymoe", command, "--resume", "--quiet", *flags),
        *("--model", str(folder / "start")),
        *("--data", str(folder / ("train.txt" if command == "train" else "tune.jsonl"))),
        *(["--backend", backend] if backend else []),
    ]


def _train(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*arguments, "--out", str(out)], cwd=ROOT, text=True, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the run did not come to its end: {errors}")


def _result(run: Path) -> tuple[list[dict[str, float]], bytes]:
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        line.pop("tokens_per_s")
        line.pop("seconds", None)
    return metrics, (run / "model.safetensors").read_bytes()


def _compare(process: subprocess.Popen[str], run: Path, expected: tuple[list[dict[str, float]], bytes]) -> None:
    _finish(process)
    metrics, weights = _result(run)
    for got, want in zip(metrics, expected[0], strict=True):
        if got != want:
            raise RuntimeError(f"a resumed run reported {got}, the unbroken one {want}")
    if weights != expected[1]:
        raise RuntimeError("the final weights of a resumed run are not those of the unbroken one")


def _wait_for_a_step(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Until a process has made a step beyond those that were done when it began, or has ended."""
    began, metrics = time.time_ns(), run / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.stat().st_mtime_ns > began and metrics.read_bytes().count(b"\n") > steps:
            return
        time.sleep(0.005)


def _half_written(run: Path) -> set[tuple[str, int]]:
    """What lies there under a temporary name."""
    return {(str(path), path.stat().st_mtime_ns) for path in run.rglob(".*")}


def _check_newest(run: Path) -> int:
    """Read the newest checkpoint; returns its step, 0 where there is none yet."""
    from tinymoe.models import from_pretrained
    from tinymoe.train import checkpoint

    newest = checkpoint.latest(run)
    if newest is None:
        return 0
    from_pretrained(newest)
    checkpoint._read_optimizer(newest)
    return checkpoint.read_record(newest)["step"]


if __name__ == "__main__":
    main()
