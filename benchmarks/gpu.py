"""Training speed on a GPU beside PyTorch's: tokens a second in float32, TF32 and bfloat16.

    python benchmarks/gpu.py [--models small moe gpt2] [--precisions float32 tf32 bfloat16] [--rounds 7] [--json FILE]

Forward pass, backward pass, clipping and AdamW, with equal models, first weights and batches. tinymoe's step is that of
its `Trainer` on the CuPy backend, captured as a CUDA graph; PyTorch's the shortest loop with fused AdamW and fused
attention, eager and compiled. Weights and the optimizer's state are float32 everywhere. In bfloat16 both round the
factors of products only (autocast, in PyTorch); TF32 is on for both or off for both. Everybody has a process of its
own, and they take turns (`common/turns.py`); ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

from common.turns import Contender, Turn, median_ratio, rounds  # noqa: E402

from tinymoe import bench  # noqa: E402
from tinymoe.backend import current, use  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.nn import Config  # noqa: E402
from tinymoe.train import Trainer  # noqa: E402

PRECISIONS = ("float32", "tf32", "bfloat16")
PEERS = ("eager", "compile")
_GPT2 = Config(  # 124 million parameters, as GPT-2 has, in the layout of a Llama
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    vocab_size=50257,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
)
TASKS = {
    "small": bench.TRAINING["small"],
    "moe": bench.TRAINING["moe"],
    "gpt2": bench.TrainingTask(_GPT2, rows=16, context=1024),
}
STEPS = {"small": 50, "moe": 50, "gpt2": 5}  # a turn takes about a second

Step = Callable[[], tuple[float, int]]  # makes a step; returns its loss, and the bytes of the GPU that are taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    options = parser.parse_args()
    machine = gpu()
    if machine is None:
        print("There is no NVIDIA GPU here: nothing to measure.")
        return
    print(machine)
    models = [compare(model, precision, options.rounds) for model in options.models for precision in options.precisions]
    report = {"benchmark": "gpu", "gpu": machine, **bench.machine(), "rounds": options.rounds, "models": models}
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def gpu() -> str | None:
    """Name, driver and memory of the first GPU, or None."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def compare(model: str, precision: str, count: int) -> dict[str, Any]:
    """Let the contenders train a model in turns, print a table, and return it."""
    contenders = [Contender("tinymoe", tinymoe_training, model, precision, threads=2)]
    contenders += [Contender(how, torch_training, model, precision, how, threads=2) for how in PEERS]
    try:
        for contender in contenders:
            contender.turn(3)  # compiles, and captures
        turns = rounds(contenders, [STEPS[model]] * len(contenders), count)
    finally:
        for contender in contenders:
            contender.close()
    return show(model, precision, turns)


def show(model: str, precision: str, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """The table of one model in one precision."""
    task, seconds = TASKS[model], {name: [turn.seconds for turn in its] for name, its in turns.items()}
    print(f"\n{model}, {precision}: {task.rows} x {task.context} tokens a step")
    print(f"{'':>12}{'ms':>10}{'tokens/s':>12}{'TFLOP/s':>9}{'loss':>9}{'MB':>9}{'tinymoe is x':>14}")
    rows = []
    for name, its in turns.items():
        middle, (loss, taken) = statistics.median(seconds[name]), its[-1].value
        row = {
            "contender": name,
            "milliseconds": round(1e3 * middle, 3),
            "tokens_per_s": round(task.tokens / middle),
            "tflops": round(task.tokens * task.work / middle / 1e12, 2),
            "loss": round(loss, 5),
            "megabytes": round(taken / 1e6),
            "tinymoe_times": round(median_ratio(seconds[name], seconds["tinymoe"]), 3),
        }
        rows.append(row)
        print(f"{name:>12}{row['milliseconds']:10.2f}{row['tokens_per_s']:12,}{row['tflops']:9.2f}{loss:9.4f}", end="")
        print(f"{row['megabytes']:9,}{row['tinymoe_times']:14.2f}", flush=True)
    return {"model": model, "precision": precision, "parameters": parameters(task.config), "rows": rows}


def parameters(config: Config) -> int:
    """How many numbers are trained."""
    from tinymoe.models.size import measure

    return measure(config, 1).parameters


def tinymoe_training(model: str, precision: str) -> Step:
    """A training step on the CuPy backend."""
    use("cupy")
    backend: Any = current()
    backend.precision = precision
    task = TASKS[model]
    free = backend.xp.cuda.runtime.memGetInfo
    before = free()[0]
    trainer = Trainer(CausalLM(task.config), task.data, dataclasses.replace(task.settings, cuda_graph=True))

    def step() -> tuple[float, int]:
        return trainer.step()["loss"], before - free()[0]

    return step


def torch_training(model: str, precision: str, how: str) -> Step:
    """A training step in PyTorch, eager or compiled."""
    import torch
    from common.torch_training import Llama

    task, settings = TASKS[model], TASKS[model].settings
    before = torch.cuda.mem_get_info()[0]
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    net = Llama(task.config)
    if task.config.tie_word_embeddings:
        net.lm_head.weight = net.model.embed_tokens.weight
    use("numpy")
    weights = {name: torch.from_numpy(p.data.copy()) for name, p in CausalLM(task.config).named_parameters()}
    net.load_state_dict(weights, strict=not task.config.tie_word_embeddings)
    net.cuda()
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)
    loss_of: Any = torch.compile(net) if how == "compile" else net
    made = [task.batch(step) for step in range(64)]
    batches = [[torch.from_numpy(a.astype(np.int64)).cuda() for a in (b.ids, b.targets)] for b in made]
    done = 0

    def step() -> tuple[float, int]:
        nonlocal done
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(*batches[done % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done += 1
        return loss.item(), before - torch.cuda.mem_get_info()[0]

    return step


if __name__ == "__main__":
    main()
