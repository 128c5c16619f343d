"""Training speed beside PyTorch's, and the share of the processor's matrix-product rate that becomes training.

    python benchmarks/train_speed.py [--models nano small moe] [--rounds 9] [--threads 2] [--json FILE]
        [--only tinymoe eager compile transformers] [--profile]

Forward pass, backward pass, clipping and AdamW in float32, with equal models, weights and batches. tinymoe's step is
that of its `Trainer`, PyTorch's the shortest loop with fused AdamW and fused attention; of the mixture there are
PyTorch's loop over experts and Transformers' Mixtral with its grouped product. Everybody has a process of its own with
`--threads` threads, and they take turns (`common/turns.py`); so do NumPy and PyTorch with products of 1024³, the better
of which is the rate that everything is a share of. Shares and ratios are medians over the rounds. Counted work: six
operations for each weight that multiplies a token, and 6 x layers x context x width for causal attention.

What torch.compile reads from its cache on disk was seen to run *nano* a third faster than what it has compiled in the
same process: run twice, and believe the second.

`--profile` shows instead where tinymoe's step goes, operation by operation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

from common.turns import Contender, Turn, median_ratio, rounds  # noqa: E402

from tinymoe import bench  # noqa: E402

PEERS = ("eager", "compile", "transformers")
STEPS = {"nano": 10, "small": 2, "moe": 2}  # a turn takes about a second
PRODUCTS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=bench.TRAINING, default=[*bench.TRAINING])
    parser.add_argument("--only", type=names, default=["tinymoe", *PEERS], help="tinymoe,eager,compile,transformers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where tinymoe's step goes")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if options.profile:
        from common.op_times import profile

        reports = [profile(model, options.rounds * STEPS[model], options.threads) for model in options.models]
    else:
        reports = [compare(model, options.only, options.rounds, options.threads) for model in options.models]
    if options.json:
        report = {"benchmark": "train", "threads": options.threads, **bench.machine(), "models": reports}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def names(text: str) -> list[str]:
    """A list written with commas."""
    chosen = text.split(",")
    if unknown := set(chosen) - {"tinymoe", *PEERS}:
        raise argparse.ArgumentTypeError(f"got {unknown.pop()!r}, expected some of tinymoe,{','.join(PEERS)}")
    return chosen


def compare(model: str, chosen: list[str], count: int, threads: int) -> dict[str, Any]:
    """Let the contenders train a model in turns, print a table, and return it."""
    task = bench.TRAINING[model]
    contenders = start(task, chosen, threads)
    try:
        steps = [PRODUCTS if contender.name.endswith("products") else STEPS[model] for contender in contenders]
        for contender in contenders:
            contender.turn(2)  # compiles
        turns = rounds(contenders, steps, count)
    finally:
        for contender in contenders:
            contender.close()
    return show(model, task, turns)


def start(task: bench.TrainingTask, chosen: list[str], threads: int) -> list[Contender]:
    """The processes: those that multiply matrices, and those that train."""
    contender = partial(Contender, threads=threads)
    contenders = [contender("NumPy's products", bench.products)]
    if "tinymoe" in chosen:
        contenders.append(contender("tinymoe", bench.training, task))
    if peers := [name for name in chosen if name in PEERS and (name != "transformers" or task.config.mlp == "moe")]:
        from common import torch_training

        contenders.append(contender("PyTorch's products", torch_training.products, threads))
        contenders += [contender(name, torch_training.training, task, name, threads) for name in peers]
    return contenders


def show(model: str, task: bench.TrainingTask, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """The table of one model, by the clock and by the time of all cores, which a busy machine disturbs less."""
    products = [name for name in turns if name.endswith("products")]
    trainers = [name for name in turns if name not in products]
    rates = {name: round(bench.PRODUCT / median(turns[name], "seconds") / 1e9, 1) for name in products}
    report = {"model": model, "flops_per_token": task.work, "gflops": rates}
    print(f"\n{model}: {task.rows} x {task.context} tokens a step, {task.work / 1e6:.1f} MFLOP each; ", end="")
    print(", ".join(f"{name} {rate} GFLOP/s" for name, rate in rates.items()))
    columns = "".join(f"   by the {clock}: ms  of products  x peer" for clock in ("clock", "cores"))
    print(f"{'':>12}{'tokens/s':>10}{'loss':>8}{columns}")
    rows: list[dict[str, Any]] = [
        {"contender": name, "tokens_per_s": round(task.tokens / median(turns[name], "seconds"))} for name in trainers
    ]
    for row in rows:
        row["loss"] = turns[row["contender"]][-1].value
        row["clock"], row["cores"] = (
            figures(row["contender"], turns, products, clock, task) for clock in ("seconds", "processor_seconds")
        )
        print(f"{row['contender']:>12}{row['tokens_per_s']:>10,}{row['loss']:>8.4f}", end="")
        for clock in (row["clock"], row["cores"]):
            print(f"{clock['milliseconds']:>19.2f}{clock['of_products']:>13.1%}", end="")
            print(f"{clock['times_fastest_peer']:>8.2f}" if clock["times_fastest_peer"] else f"{'':8}", end="")
        print(flush=True)
    return {**report, "rows": rows}


def figures(
    name: str, turns: dict[str, list[Turn]], products: list[str], clock: str, task: bench.TrainingTask
) -> dict[str, float | None]:
    """Milliseconds of a step by one of the two clocks; what share of it products of its work take; the peers' time."""
    mine = [getattr(turn, clock) for turn in turns[name]]
    best = min(products, key=lambda product: median(turns[product], clock))
    peers = [other for other in turns if other in PEERS]
    fastest = min(peers, key=lambda peer: median(turns[peer], clock), default=None)
    share = median_ratio([getattr(turn, clock) for turn in turns[best]], mine) * task.tokens * task.work / bench.PRODUCT
    ratio = median_ratio([getattr(turn, clock) for turn in turns[fastest]], mine) if fastest else None
    return {
        "milliseconds": round(median(turns[name], clock) * 1e3, 2),
        "of_products": round(share, 3),
        "times_fastest_peer": ratio and round(ratio, 3),
    }


def median(turns: list[Turn], clock: str) -> float:
    """The middle one of the turns' seconds a step."""
    return statistics.median(getattr(turn, clock) for turn in turns)


if __name__ == "__main__":
    main()
