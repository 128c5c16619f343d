"""Chapter 15's comparison over several seeds: full fine-tuning, LoRA of several ranks and layers, DoRA, QLoRA.

    python benchmarks/qlora.py [--seeds 3] [--json FILE]

Model, tales and training are those of the chapter, taken from its cells: the base learns to tell tales as pirates do.
A seed draws other adapters and other batches. `loss` is on held-out tales in that style, `forgotten` how much the loss
on held-out plain tales has risen. Rates are 1e-3 for full fine-tuning and 5e-3 for adapters unless a name says so.
`longer` is 240 steps in place of 80.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

from tinymoe.posttrain import LoraConfig, add_lora, quantize_model, quantized_bytes  # noqa: E402

CHAPTER = ROOT / "chapters" / "15_lora.ipynb"
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
WAYS: dict[str, dict[str, Any]] = {
    "full": {"full": True, "rate": 1e-3},
    "full, rate 3e-4": {"full": True, "rate": 3e-4},
    "full, rate 3e-3": {"full": True, "rate": 3e-3},
    **{f"LoRA, r = {r}": {"r": r} for r in (1, 2, 4, 8, 16)},
    "LoRA, r = 8, attention": {"target_modules": ATTENTION},
    "LoRA, r = 8, MLP": {"target_modules": MLP},
    "LoRA, r = 8, rate 1e-3": {"rate": 1e-3},
    "DoRA, r = 8": {"use_dora": True},
    "QLoRA, r = 8": {"quantized": True},
    "QLoRA, r = 16": {"r": 16, "quantized": True},
    "LoRA, r = 8, longer": {"steps": 240},
    "QLoRA, r = 8, longer": {"steps": 240, "quantized": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    json_file = options.json and options.json.resolve()
    os.chdir(CHAPTER.parent)  # from where the chapter finds its checkpoint
    chapter = chapter_cells("import numpy", "CHECKPOINT =", "PIRATE =", "CONTEXT, STEPS =")
    before = chapter["losses_of"](chapter["base"])
    print(f"\nthe base: {before['pirate']:.3f} on pirates' tales, {before['plain']:.3f} on plain ones")
    print(f"{'':26}trained     loss   forgotten")
    ways = {name: measured(name, way, options.seeds, chapter, before["plain"]) for name, way in WAYS.items()}
    for name in ("r = 8", "r = 16", "r = 8, longer"):
        ratio = ways[f"QLoRA, {name}"]["mean"]["loss"] / ways[f"LoRA, {name}"]["mean"]["loss"]
        print(f"{name}: QLoRA's loss is {ratio:.4f} of LoRA's")
    now, in_float32 = quantized_bytes(quantize_model(chapter["load_base"]()))
    print(f"quantized matrices take {now / in_float32:.4f} of their memory in float32")
    if json_file:
        memory = {"quantized_bytes": now, "float32_bytes": in_float32}
        results = {"seeds": options.seeds, "steps": chapter["STEPS"], "base": before, **memory, "ways": ways}
        json_file.write_text(json.dumps(results, indent=1) + "\n")


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


def measured(name: str, way: dict[str, Any], seeds: int, chapter: dict[str, Any], plain: float) -> dict[str, Any]:
    """The mean of the seeds, their standard deviation, and the runs."""
    runs = [one_run(way, seed, chapter, plain) for seed in range(seeds)]
    trained = {run.pop("trained") for run in runs}.pop()
    mean = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
    std = {key: round(statistics.stdev(run[key] for run in runs), 4) if seeds > 1 else 0.0 for key in runs[0]}
    print(f"{name:24}{trained:9,}    {mean['loss']:.3f}    {mean['forgotten']:.3f}", flush=True)
    return {"trained": trained, "mean": mean, "std": std, "runs": runs}


def one_run(way: dict[str, Any], seed: int, chapter: dict[str, Any], plain: float) -> dict[str, float]:
    model, settings = chapter["load_base"](), dict(way)
    rate, full, quantized = settings.pop("rate", 5e-3), settings.pop("full", False), settings.pop("quantized", False)
    steps = settings.pop("steps", chapter["STEPS"])
    if quantized:
        quantize_model(model)
    if not full:
        add_lora(model, LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **settings}), seed=seed)
    curve = chapter["tune"](model, chapter["DATA"]["pirate"], rate, steps, seed)
    after = chapter["losses_of"](model)
    return {
        "trained": model.num_parameters(),
        "loss": round(after["pirate"], 4),
        "forgotten": round(after["plain"] - plain, 4),
        "last_batches": round(statistics.mean(curve[-10:]), 4),
    }


if __name__ == "__main__":
    main()
