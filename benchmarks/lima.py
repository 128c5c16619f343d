"""Few good examples or many noisy ones? LIMA's experiment (Zhou et al. 2023) at the size of chapter 14, over seeds.

    python benchmarks/lima.py [--seeds 0 1 2] [--json FILE]

The base model, the data and the training are those of the chapter, taken from its cells; every run takes as many
steps. A seed draws the few examples, the noise and the order of the batches. Figures are shares of questions about
animals that were not in the training, answered exactly right: by the likeliest tokens, and sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from instruct import add, chapter

Arms = dict[str, list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="put the results into this file")
    options = parser.parse_args()
    file = options.json and options.json.resolve()
    names = chapter("LESSONS =", "def noisy_answer")
    for seed in options.seeds:
        results = {}
        for arm, talks in arms(names, seed).items():
            model = names["base"]()
            names["fine_tune"](model, names["encoded"](talks), names["STEPS"], seed=seed)
            results[arm] = {"greedy": round(names["exam"](model), 4), "sampled": round(names["exam"](model, 1.0), 4)}
            print(
                f"seed {seed}  {arm:12}", *(f"{way} {share:6.1%}  " for way, share in results[arm].items()), flush=True
            )
        add(file, results, seed, steps=names["STEPS"])


def arms(names: dict[str, Any], seed: int) -> Arms:
    """The conversations of each arm: on 8 animals or on 36, right or noisy, each question once or eight times."""
    animals = random.Random(seed).sample(names["TUNED"], 8)
    few = [names["talk_of"](*pair) for name in animals for pair in names["QUESTIONS"][name]]
    noisy = names["noisy_lessons"](8, seed)
    asked = {talk[0]["content"] for talk in few}
    return {
        "32 good": few,
        "32 noisy": [talk for talk in noisy[:144] if talk[0]["content"] in asked],
        "144 good": names["LESSONS"],
        "1,152 noisy": noisy,
    }


if __name__ == "__main__":
    main()
