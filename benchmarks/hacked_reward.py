"""A reward that sounds sensible and is hacked: chapter 17's model is paid for each true equation that it writes.

    python benchmarks/hacked_reward.py [--seeds 0 1 2] [--steps 40] [--json FILE]

The run is that of chapter 17, from the same checkpoint, with another judge. Held-out accuracy is of the likeliest
answers to 200 problems of the test split, every 5 steps; `answers` has one answer of every fifth step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.files import write_atomically  # noqa: E402
from tinymoe.posttrain import GRPOConfig, GRPOTrainer, expressions, rewards, tasks  # noqa: E402

EVERY = 5  # steps between evaluations


def true_equations(prompts: list[str], completions: list[str], problems: list[tasks.Problem]) -> list[float]:
    """One point for each line of the thoughts that is a true equation."""
    thoughts = [text.partition("<think>")[2].partition("</think>")[0] for text in completions]
    return [float(sum(map(is_true, lines.split("\n")))) for lines in thoughts]


def is_true(line: str) -> bool:
    """Whether a line is an equation of two expressions that come to the same."""
    try:
        sides = [expressions.value(expressions.parse(side)) for side in line.split("=")]
    except ValueError:
        return False
    return len(sides) == 2 and sides[0] == sides[1]


def correct(prompts: list[str], completions: list[str], problems: list[tasks.Problem]) -> list[float]:
    return [rewards.correct(text, problem) for text, problem in zip(completions, problems, strict=True)]


def run(seed: int, steps: int) -> dict[str, Any]:
    """Train with the bad judge, and look with the good one."""
    model = tm.from_pretrained(ROOT / "data" / "checkpoints" / "arithmetic-sft")
    train = tasks.problems("arithmetic", "train", seed=0, count=4000, level=2)
    test = tasks.problems("arithmetic", "test", seed=100, count=200, level=2)
    config = GRPOConfig(
        steps=steps, generation_batch_size=128, max_completion_length=64, learning_rate=2e-4, beta=0.001, seed=seed
    )
    trainer = GRPOTrainer(model, train, [true_equations], config)
    honest = GRPOTrainer(model, train, [correct], config, held_out=test)
    found: dict[str, list[Any]] = {name: [] for name in ("reward", "length", "step", "accuracy", "answers")}

    def look(step: int) -> None:
        found["step"].append(step)
        found["accuracy"].append(honest.evaluate())

    look(0)
    for step in range(1, steps + 1):
        metrics = trainer.step()
        found["reward"].append(round(metrics["reward"], 4))
        found["length"].append(round(metrics["completions/mean_length"], 2))
        if step % EVERY == 0:
            look(step)
            found["answers"].append({name: metrics["rollouts"][0][name] for name in ("prompt", "completion", "reward")})
    print(f"seed {seed}: reward {found['reward'][0]:.2f} → {found['reward'][-1]:.2f}, accuracy "
          f"{found['accuracy'][0]:.2f} → {found['accuracy'][-1]:.2f}", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "hacked_reward.json")
    options = parser.parse_args()
    results = {str(seed): run(seed, options.steps) for seed in options.seeds}
    write_atomically(options.json, json.dumps(results).encode())


if __name__ == "__main__":
    main()
