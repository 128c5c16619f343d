"""Peak memory of training beside PyTorch's: weights, gradients, AdamW's moments and everything a step needs.

    python benchmarks/train_memory.py [--models nano small moe] [--threads 2] [--json FILE]

The models, batches and loops of `train_speed.py`. Each side runs in a process of its own, which first trains a tiny
model of the same kind, so that libraries are loaded and kernels compiled, and then notes how much memory it holds. What
is counted is the most that the process holds above that (resident memory, by Linux) while it makes the model and trains
it for four steps. PyTorch's compiled step is left out: the compiler's own memory is in the same process.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

from common.turns import Contender  # noqa: E402

from tinymoe import bench  # noqa: E402

MIB = 2**20
SIDES = ("tinymoe", "eager", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=bench.TRAINING, default=[*bench.TRAINING])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    print(f"{'MiB at the peak':>16}{'held anyway':>13}" + "".join(f"{side:>14}" for side in SIDES) + f"{'x eager':>10}")
    rows = []
    for model in options.models:
        sides = [side for side in SIDES if side != "transformers" or model == "moe"]
        peaks = {side: peak_memory(model, side, options.threads) for side in sides}
        parameters = bench.TRAINING[model].trainer().model.num_parameters()
        held = round(4 * 4 * parameters / MIB, 1)  # weights, gradients and two moments in float32
        ratio = round(peaks["tinymoe"] / peaks["eager"], 3)
        rows.append({"model": model, "held_anyway": held, "peak_mib": peaks, "times_eager": ratio})
        cells = "".join(f"{peaks[side]:14.1f}" if side in peaks else f"{'':14}" for side in SIDES)
        print(f"{model:>16}{held:13.1f}{cells}{ratio:10.2f}", flush=True)
    if options.json:
        report = {"benchmark": "train_memory", "threads": options.threads, **bench.machine(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def peak_memory(model: str, side: str, threads: int) -> float:
    """MiB above what the process holds without the model."""
    contender = Contender(side, measured, model, side, threads, threads=threads)
    peak = contender.turn(1, warm=0).value
    contender.close()
    return round(peak / MIB, 1)


def measured(model: str, side: str, threads: int) -> Callable[[], int]:
    """A function that trains a new model and returns the most memory that this took, in bytes."""
    make = maker(side, threads)
    task = bench.TRAINING[model]
    tiny = dataclasses.replace(
        task.config, hidden_size=64, head_dim=0, num_hidden_layers=1, vocab_size=64, layer_types=(), mlp_types=()
    )

    def train(task: bench.TrainingTask, steps: int) -> None:
        step = make(task)
        for _ in range(steps):
            step()

    def peak() -> int:
        train(dataclasses.replace(task, config=tiny), 2)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
        before = _held("VmRSS")
        train(task, 4)
        return _held("VmHWM") - before

    return peak


def maker(side: str, threads: int) -> Callable[[bench.TrainingTask], Callable[[], Any]]:
    """What makes a training step of one side."""
    if side == "tinymoe":
        return bench.training
    from common import torch_training

    return lambda task: torch_training.training(task, side, threads)


def _held(name: str) -> int:
    """Bytes by a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
