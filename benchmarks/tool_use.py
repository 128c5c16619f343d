"""Chapter 14's tool calls and agents over several seeds: how many calls are right, and what a judge is worth.

    python benchmarks/tool_use.py [--seeds 0 1 2] [--parts tools shop] [--json FILE]

Model, data and training are those of the chapter, taken from its cells; tool calls are learned from chat-base in more
steps. Calls are of held-out problems: the share that is well formed, and that is the right call (of calls too many,
each counts as wrong); and the share of problems answered right. The shop's figures are shares of new users
served without a complaint, by students that start from chat-tools.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from instruct import add, chapter

STEPS = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=["tools", "shop"], default=["tools", "shop"])
    parser.add_argument("--json", type=Path, help="put the results into this file")
    options = parser.parse_args()
    file = options.json and options.json.resolve()
    names = chapter("def teach_tools", "def tool_exam", "def shop_exam")
    for seed in options.seeds:
        if "tools" in options.parts:
            assistant = names["base"]()
            names["teach_tools"](assistant, STEPS, seed=seed)
            add(file, {"tools": tool_figures(names, assistant, seed)}, seed, steps=STEPS)
        if "shop" in options.parts:
            assistant = names["tm"].from_pretrained("../data/checkpoints/chat-tools")
            names["teach_tools"](assistant, 100, seed=1, lr=1.5e-3)  # as in the chapter
            add(file, {"shop": shop_figures(names, assistant, seed)}, seed, steps=STEPS)


def tool_figures(names: dict[str, Any], model: Any, seed: int) -> dict[str, dict[str, float]]:
    """For each level the shares of calls well formed and right, and of right answers."""
    figures = {}
    for level in names["LEVELS"]:
        formed, right, answers, _ = names["tool_exam"](model, level, count=100)
        figures[str(level)] = {"well_formed": round(formed, 4), "right": round(right, 4), "answers": round(answers, 4)}
        print(
            f"seed {seed}  level {level}  well formed {formed:.3f}  right {right:.3f}  answers {answers:.3f}",
            flush=True,
        )
    return figures


def shop_figures(names: dict[str, Any], assistant: Any, seed: int) -> dict[str, dict[str, float]]:
    """For each student the share of new users served, by the likeliest tokens and sampled."""
    figures = {}
    for student, share in names["students"](assistant, seed=seed).items():
        figures[student] = {way: round(value, 4) for way, value in share.items()}
        print(
            f"seed {seed}  {student:20} " + "  ".join(f"{way} {value:.3f}" for way, value in share.items()), flush=True
        )
    return figures


if __name__ == "__main__":
    main()
