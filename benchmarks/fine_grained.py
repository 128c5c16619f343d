"""Chapter 10's comparisons over several seeds: granularity, shared experts, ways to balance.

    python benchmarks/fine_grained.py [--seeds 3] [--json FILE]

Corpus, model and training are those of the chapter, taken from its cells. Violations, max / mean - 1 of the experts'
load, are of both layers: on held-out text their mean and the worst of any seed, and the mean of single batches of the
last 50. Bits are what the expert of a token tells about its domain, in the second layer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

from tinymoe.backend.reference import Array  # noqa: E402
from tinymoe.models import CausalLM, Config  # noqa: E402
from tinymoe.nn.balance import bias_step, max_violation  # noqa: E402
from tinymoe.nn.module import part  # noqa: E402
from tinymoe.nn.routers import SigmoidRouter  # noqa: E402
from tinymoe.viz.routes import expert_information, expert_loads  # noqa: E402

CHAPTER = ROOT / "chapters" / "10_fine_grained_experts.ipynb"
SHORT, LONG = 240, 400  # steps


def experts(count: int, width: int, k: int, weights: float, shared: int | None = None, **others: Any) -> dict[str, Any]:
    shape = {"num_experts": count, "intermediate_size": width, "num_experts_per_tok": k}
    return {**shape, "routed_scaling_factor": weights, "shared_expert_intermediate_size": shared, **others}


CUT: dict[str, dict[str, Any]] = {
    "8 of 128, top 2": experts(8, 128, 2, 1.0),
    "16 of 64, top 4": experts(16, 64, 4, 2.0),
    "32 of 32, top 8": experts(32, 32, 8, 4.0),
    "16 of 64, top 4, weights of 1": experts(16, 64, 4, 1.0),
    "32 of 32, top 8, weights of 1": experts(32, 32, 8, 1.0),
    "15 of 64, top 3, 64 shared": experts(15, 64, 3, 1.0, 64),
    "15 of 64, top 3, 64 shared, gate": experts(15, 64, 3, 1.0, 64, shared_expert_gate=True),
}
BALANCED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "loss x 0.05 in each layer": {"layer_aux_loss_coef": 0.05},
    "biases, 0.01 fading": {"router": "fading"},
    "biases, 0.01 steady": {"bias_update_speed": 0.01},
    "biases, 0.0003": {"bias_update_speed": 0.0003},
    "biases, 0.1": {"bias_update_speed": 0.1},
    "fading, and 0.001 within texts": {"router": "fading", "sequence_loss_coef": 0.001},
}


@part("router", "fading")
class Fading(SigmoidRouter):
    """Biases that move by 0.01 at first, and at the end of LONG steps not at all."""

    steps = 0

    def rebalance(self, load: Array) -> None:
        """As in `SigmoidRouter`."""
        bias, speed = self.e_score_correction_bias, 0.01 * (1 - self.steps / LONG)
        bias.data = bias.data + bias_step(load, speed).astype(bias.dtype)
        self.steps += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    chapter = chapter_cells("import numpy", "DOMAIN_OF_ROW =", "BASE = dict")
    base = {**chapter["BASE"], "mlp": "moe", "norm_topk_prob": True}
    cut = {name: {**base, "layer_aux_loss_coef": 0.02, **fields} for name, fields in CUT.items()}
    deep = {**base, "router": "sigmoid", **experts(15, 64, 3, 1.0, 64)}
    balanced = {name: {**deep, **fields} for name, fields in BALANCED.items()}
    results = {}
    for title, models, steps in (("granularity", cut, SHORT), ("balance", balanced, LONG)):
        print(f"\n{title}, {steps} steps          loss    violation: mean  worst  batch    bits")
        results[title] = {
            name: measured(name, fields, steps, options.seeds, chapter) for name, fields in models.items()
        }
    if options.json:
        options.json.write_text(
            json.dumps({"seeds": options.seeds, "steps": [SHORT, LONG], **results}, indent=1) + "\n"
        )


def chapter_cells(*wanted: str) -> dict[str, Any]:
    """What the chapter's code cells define that contain one of these texts, the first of each."""
    sources = [
        "".join(cell["source"]) for cell in json.loads(CHAPTER.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    names: dict[str, Any] = {"__name__": "chapter"}
    for text in wanted:
        source = next(source for source in sources if text in source)
        exec(compile(source, f"{CHAPTER.name}: {text}", "exec"), names)
    return names


def measured(name: str, fields: dict[str, Any], steps: int, seeds: int, chapter: dict[str, Any]) -> dict[str, Any]:
    """The mean of the seeds, and the runs."""
    runs = [one_run(Config(**fields), steps, seed, chapter) for seed in range(seeds)]
    mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
    mean["worst_violation"] = max(run["worst_violation"] for run in runs)
    mean = {key: round(value, 4) for key, value in mean.items()}
    violations = f"{mean['violation']:.2f}   {mean['worst_violation']:.2f}   {mean['batch_violation']:.2f}"
    print(f"{name:34} {mean['loss']:.3f}              {violations}    {mean['bits']:.2f}", flush=True)
    return {"mean": mean, "runs": runs}


def one_run(config: Config, steps: int, seed: int, chapter: dict[str, Any]) -> dict[str, float]:
    model = CausalLM(config, seed=seed)
    history = chapter["train"](model, steps, seed=seed + 1)
    routes = model.trace(chapter["EXAM"][0]).experts
    violations = max_violation([expert_loads(layer, config.num_experts or 0) for layer in routes])
    batches = max_violation([metrics["expert_load"] for metrics in history[-50:]])
    figures = {
        "loss": chapter["exam"](model),
        "violation": np.mean(violations),
        "worst_violation": np.max(violations),
        "batch_violation": np.mean(batches),
        "bits": expert_information(routes[1], chapter["DOMAIN_OF_ROW"], config.num_experts or 0).bits,
    }
    return {key: round(float(value), 4) for key, value in figures.items()}


if __name__ == "__main__":
    main()
