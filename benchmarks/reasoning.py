"""Chapter 18's accuracy against tokens, over several seeds: modes, votes, the best of n, budgets.

    python benchmarks/reasoning.py [--seeds 0 1 2] [--problems 150] [--samples 32] [--json FILE]

Each seed fine-tunes the checkpoint `arithmetic-sft` to think or not to think, as `tools/checkpoints.py hybrid` does,
and answers held-out problems: the likeliest answers in both modes, samples at temperature 1 for the rules that choose
among them, and thoughts within budgets. Rules and budgets are those of the chapter, taken from its cells.
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
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # so that it runs from a clone that is not installed

from checkpoints import thinks_or_not  # noqa: E402

import tinymoe as tm  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.posttrain import tasks  # noqa: E402

CHAPTER = ROOT / "chapters" / "18_reasoning.ipynb"
CELLS = (
    "import numpy",
    "class Answer",
    "generate/reasoning.py::pass_at_k",
    "N, SIZES =",
    "generate/reasoning.py::majority_vote",
    "generate/reasoning.py::best_of_n",
    "def verifier",
    "generate/reasoning.py::by_budget",
    "RULES = {",
    "import _think",
    "generate/reasoning.py::Sampler",
    "generate/reasoning.py::Forced",
    "generate/reasoning.py::budget_forcing",
    "OPENED, CLOSE =",
    "FORCING =",
)
SIZES = (1, 2, 4, 8, 16, 32)
BUDGETS, WAITS = (0, 6, 12, 18, 24, 30, 36), (0, 1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--models", type=Path, help="a folder to keep the models in, and to find them again")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.samples]
    runs = [one_run(seed, options, sizes) for seed in options.seeds]
    if options.json:
        facts = {"seeds": options.seeds, "problems": options.problems, "sizes": sizes}
        options.json.write_text(json.dumps(facts | collected(runs), indent=1) + "\n")


def one_run(seed: int, options: argparse.Namespace, sizes: list[int]) -> dict[str, Any]:
    """Everything that is measured with one model."""
    model = the_model(seed, options.models)
    names = chapter_names(model, options.samples, sizes)
    ask = names["ask"]
    problems = {
        level: tasks.problems("arithmetic", "test", seed=100, count=min(options.problems, 50 * 2**level), level=level)
        for level in (1, 2, 3)
    }
    run: dict[str, Any] = {"modes": {}, "rules": {}, "budgets": {}, "waits": {}}
    for name, thinking in (("without thinking", False), ("thinking", True)):
        answers = {f"level {level}": ask(model, some, thinking) for level, some in problems.items()}
        run["modes"][name] = {level: figures(names, some) for level, some in answers.items()}
    hard = problems[3]
    samples = ask(model, hard, True, options.samples, temperature=1.0, seed=seed)
    run["tokens"], run["rules"]["pass@k"] = names["price"](samples), names["pass_curve"](samples)
    for rule in names["RULES"]:
        run["rules"][rule] = names["curve"](rule, samples)
    for kind, numbers in (("budgets", BUDGETS), ("waits", WAITS)):
        for number in numbers:
            forced = names["ask_forced"](hard, *((number,) if kind == "budgets" else (150, number)))
            run[kind][str(number)] = figures(names, forced)
    report(seed, run)
    return run


def the_model(seed: int, folder: Path | None) -> CausalLM:
    """The model of a seed: trained now, or found where an earlier run has left it."""
    if folder is None:
        return thinks_or_not(seed)
    if not (folder / str(seed)).exists():
        thinks_or_not(seed).save_pretrained(folder / str(seed))
    return tm.from_pretrained(folder / str(seed))


def chapter_names(model: CausalLM, samples: int, sizes: list[int]) -> dict[str, Any]:
    """What the chapter's cells define, about this model."""
    sources = [
        "".join(cell["source"]) for cell in json.loads(CHAPTER.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    end = model.tokenizer.special_tokens["<|im_end|>"]
    names = {"__name__": __name__, "hybrid": model, "tokenizer": model.tokenizer, "END_OF_TURN": end}
    for text in CELLS:
        source = next(source for source in sources if text in source)
        exec(compile(source, f"{CHAPTER.name}: {text}", "exec"), names)
    names.update(N=samples, SIZES=sizes)
    return names


def figures(names: dict[str, Any], answers: Any) -> list[float]:
    """Accuracy, and tokens of a problem."""
    return [round(float(names[name](answers)), 4) for name in ("accuracy", "price")]


def report(seed: int, run: dict[str, Any]) -> None:
    """One model's figures, for people."""
    print(f"seed {seed}")
    for name, levels in run["modes"].items():
        print(
            f"  {name:24}",
            *(f"{level}: {right:.1%}, {tokens:.1f} tokens;" for level, (right, tokens) in levels.items()),
        )
    for rule, values in run["rules"].items():
        print(f"  {rule:24}", *(f"{value:.3f}" for value in values))
    for kind in ("budgets", "waits"):
        print(f"  {kind:24}", *(f"{number}: {right:.1%}" for number, (right, _) in run[kind].items()), flush=True)


def collected(runs: list[Any]) -> Any:
    """The same figures with a list, one entry a seed, at each place where a run has one."""
    if isinstance(runs[0], dict):
        return {name: collected([run[name] for run in runs]) for name in runs[0]}
    return np.round(runs, 4).tolist()


if __name__ == "__main__":
    main()
