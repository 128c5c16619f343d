"""How the cost of training grows: tokens a second against width, layers, context, experts and batch, one at a time.

    python benchmarks/growth.py [--repeats 5] [--only width ...] [--json FILE] [--plot FILE.svg]
    python benchmarks/growth.py --from FILE.json --plot FILE.svg

Each panel changes one number of a Llama of 4 layers, width 256 and heads of 32, on 8 rows of 256 tokens. Longer rows
are fewer, so that a step stays at 2,048 tokens; experts are of width 256, and a token is sent to 2 of them whatever
their number. Beside the tokens stands the share of the rate of matrix products, of 1024³ in the same run: it says
whether the time goes into the counted work, which the dotted line shows at the rate of the products.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

from tinymoe import bench  # noqa: E402
from tinymoe.nn import Config  # noqa: E402

TOKENS = 2048  # of a step
SERIES = {
    "width": (64, 128, 256, 512, 1024),
    "layers": (1, 2, 4, 8, 16),
    "context": (64, 256, 1024, 2048),
    "experts": (4, 8, 16, 32, 64),
    "batch": (1, 2, 4, 8, 16, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SERIES, default=[*SERIES])
    parser.add_argument("--from", dest="measured", type=Path, help="draw these results instead of measuring")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw the results into this file")
    options = parser.parse_args()
    report = json.loads(options.measured.read_text()) if options.measured else measure(options.only, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        draw(report, options.plot)


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    """The report: for each name its numbers, with tokens a second and the work of a token."""
    series = {}
    for name in names:
        print(f"{name:>8}{'tokens/s':>10}{'of products':>13}{'MFLOP a token':>15}")
        series[name] = []
        for number in SERIES[name]:
            task = make_task(name, number)
            row = bench.train({name: task}, repeats=repeats)["rows"][0]
            mflop = round(task.work / 1e6, 2)
            del row["model"]
            series[name].append({name: number, **row, "mflop_per_token": mflop})
            print(f"{number:8}{row['tokens_per_s']:10,}{row['share_of_products']:13.1%}{mflop:15.1f}", flush=True)
    return {"benchmark": "growth", **bench.machine(), "series": series}


def make_task(name: str, number: int) -> bench.TrainingTask:
    """The model and the batch in which one number is changed."""
    width = number if name == "width" else 256
    context = number if name == "context" else 256
    experts: dict[str, Any] = {}
    if name == "experts":
        experts = {"mlp": "moe", "num_experts": number, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    config = Config(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=number if name == "layers" else 4,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        vocab_size=4096,
        **experts,
    )
    return bench.TrainingTask(config, rows=number if name == "batch" else TOKENS // context, context=context)


def draw(report: dict[str, Any], file: Path) -> None:
    """A panel for each number that grows: measured, and what the counted work would take at the products' rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    with plt.style.context([str(ROOT / "tinymoe" / "viz" / "tinymoe.mplstyle"), {"svg.hashsalt": "growth"}]):
        figure, panels = plt.subplots(
            1, len(report["series"]), figsize=(2.9 * len(report["series"]), 3.0), sharey=True, layout="constrained"
        )
        for panel, (name, rows) in zip(panels, report["series"].items(), strict=True):
            numbers, rates = [row[name] for row in rows], [row["tokens_per_s"] for row in rows]
            work = [row["gflops"] * 1e3 / row["mflop_per_token"] for row in rows]
            panel.loglog(numbers, work, ":", color="gray", label="counted work at the products' rate")
            panel.loglog(numbers, rates, "o-", label="measured")
            for row in rows:
                panel.annotate(
                    f"{row['share_of_products']:.0%}",
                    (row[name], row["tokens_per_s"]),
                    xytext=(0, -13),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            panel.set(xlabel=name, xticks=numbers, xticklabels=[f"{number:,}" for number in numbers])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.margins(x=0.12, y=0.12)
        panels[0].set_ylabel("tokens a second")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
        panels[0].legend(loc="lower left", fontsize=8)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
