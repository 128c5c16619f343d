"""Chapter 15's comparison over several seeds: full fine-tuning, LoRA of several ranks and layers, DoRA, QLoRA.

    python benchmarks/qlora.py [--seeds 3] [--ways NAME ...] [--json FILE]

Model, tales and training are those of the chapter, taken from its cells: the base learns to tell tales as pirates do.
A seed draws other adapters and other batches. `loss` is on held-out tales in that style, `forgotten` how much the loss
on held-out plain tales has risen. Rates are 1e-3 for full fine-tuning and 5e-3 for adapters unless a name says so.
`longer` is 240 steps in place of 80, with α = 2 r. NF4 has blocks of 64 numbers, or `blocks of 32`, or of 32
whose scales are `fitted`. What QLoRA is compared with has the same adapters, rates, steps and batches; embeddings and
norms are in full precision in both.
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
LONGER = {"r": 16, "lora_alpha": 32, "steps": 240}
WAYS |= {
    "LoRA, r = 16, longer": LONGER,
    "QLoRA, r = 16, longer": {**LONGER, "quantized": True},
    "QLoRA, r = 16, longer, blocks of 32": {**LONGER, "quantized": True, "block_size": 32},
    "QLoRA, r = 16, longer, fitted": {**LONGER, "quantized": True, "block_size": 32, "fit_scales": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="NAME", help="only these")
    parser.add_argument("--json", type=Path, help="put the results into this file, beside other ways there")
    options = parser.parse_args()
    json_file = options.json and options.json.resolve()
    os.chdir(CHAPTER.parent)  # from where the chapter finds its checkpoint
    chapter = chapter_cells("import numpy", "CHECKPOINT =", "PIRATE =", "CONTEXT, STEPS =")
    before = chapter["losses_of"](chapter["base"])
    print(f"\nthe base: {before['pirate']:.3f} on pirates' tales, {before['plain']:.3f} on plain ones")
    print(f"{'':38}trained     loss   forgotten")
    ways = {name: measured(name, WAYS[name], options.seeds, chapter, before["plain"]) for name in options.ways}
    if json_file and json_file.exists():
        ways = {**json.loads(json_file.read_text("utf-8"))["ways"], **ways}
    report_ratios(ways)
    sizes = {block: quantized_bytes(quantize_model(chapter["load_base"](), block_size=block)) for block in (64, 32)}
    for block, (now, in_float32) in sizes.items():
        print(f"quantized matrices take {now / in_float32:.4f} of their memory in float32, with blocks of {block}")
    if json_file:
        memory = {"quantized_bytes": {block: now for block, (now, _) in sizes.items()}, "float32_bytes": sizes[64][1]}
        ways = {name: ways[name] for name in WAYS if name in ways}
        results = {"seeds": options.seeds, "steps": chapter["STEPS"], "base": before, **memory, "ways": ways}
        json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def report_ratios(ways: dict[str, Any]) -> None:
    """How much larger the losses of QLoRA are than those of LoRA with the same settings, seed by seed."""
    for name in ways:
        other = name.removeprefix("Q").removesuffix(", blocks of 32").removesuffix(", fitted")
        if name != other and other in ways:
            ratios = [q["loss"] / full["loss"] for q, full in zip(ways[name]["runs"], ways[other]["runs"], strict=True)]
            print(f"{name:36}{statistics.mean(ratios) - 1:+.2%}  by seed", *(f"{ratio - 1:+.2%}" for ratio in ratios))


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
    print(f"{name:36}{trained:9,}    {mean['loss']:.3f}    {mean['forgotten']:.3f}", flush=True)
    return {"trained": trained, "mean": mean, "std": std, "runs": runs}


def one_run(way: dict[str, Any], seed: int, chapter: dict[str, Any], plain: float) -> dict[str, float]:
    model, settings = chapter["load_base"](), dict(way)
    rate, full, quantized = settings.pop("rate", 5e-3), settings.pop("full", False), settings.pop("quantized", False)
    steps = settings.pop("steps", chapter["STEPS"])
    rounding = {name: settings.pop(name) for name in ("block_size", "fit_scales") if name in settings}
    if quantized:
        quantize_model(model, **rounding)
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
