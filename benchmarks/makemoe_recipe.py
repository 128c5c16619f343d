"""makeMoE's recipe, from tinymoe's command line: a mixture of experts on Tiny Shakespeare's characters.

    python benchmarks/makemoe_recipe.py [--data tiny-shakespeare|FILE] [--seeds 3] [--out DIR] [--json FILE]

8 layers of 8 experts, two for each character, width 128, 16 x 32 characters a step, 5000 steps (A. Hanna, "makeMoE",
2024, which publishes a validation loss of 1.7508). The model is the zoo's mixtral-makemoe, of Mixtral's parts. The last
tenth of the text is for validation, and the losses shown are over all of it. With `--out` the runs are kept, and those
that were interrupted go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="tiny-shakespeare", help="a text file, or a corpus of tinymoe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs in this folder, one folder a seed")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        print(f"{'seed':>4}  {'loss':>6}  {'seconds':>7}  max violation of the last hundred steps")
        runs = [run(options.data, seed, out.resolve() / f"seed{seed}") for seed in range(options.seeds)]
    mean = statistics.mean(run["loss"] for run in runs)
    print(f"mean  {mean:6.4f}")
    if options.json:
        report = {"published_loss": 1.7508, "mean_loss": round(mean, 4), "runs": runs}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def run(data: str, seed: int, out: Path) -> dict[str, Any]:
    """Train, or finish, one run."""
    command = [sys.executable, "-m", "tinymoe", "train", "--model", "mixtral-makemoe", "--tokenizer", "char", "--quiet"]
    command += ["--data", data, "--seed", str(seed), "--out", str(out), "--resume"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(512 / step["tokens_per_s"] for step in steps)  # of the steps alone
    violation = statistics.mean(statistics.mean(step["max_violation"]) for step in steps[-100:])
    row = {"seed": seed, "loss": round(steps[-1]["val_loss"], 4), "violation": round(violation, 4)}
    print(f"{seed:>4}  {row['loss']:6.4f}  {seconds:7.1f}  {row['violation']:.2f}", flush=True)
    return row


if __name__ == "__main__":
    main()
