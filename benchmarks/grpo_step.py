"""A step of GRPO beside TRL's: the same Llama, the same prompts, the same numbers of answers and tokens.

    python benchmarks/grpo_step.py [--rounds 9] [--threads 2] [--only 0 1 ...] [--json FILE]

A step samples the answers, rewards them, and updates the weights once. Both begin with the same weights, which TRL
reads as Transformers' LlamaForCausalLM, and work on the processor in float32. The learning rate is next to nothing, so
that all steps are of one kind. Where the weights are random, answers have a fixed length: no token ends them. The two
steps of chapter 17, on arithmetic and countdown, begin with its models, whose answers end of themselves. TRL runs as it
does by default (Transformers' `generate`, AdamW, gradients clipped), but without what would slow it down here: gradient
checkpointing and bfloat16. It has a process for each number of threads from one to `--threads`, and the quicker one
counts: small models are not always faster with more.

Each has a process of its own, and they take turns, a step each round, after one to warm up (`common/turns.py`). TRL's
step begins when its trainer reports that a step begins, and ends when it reports its end: loading, logging and the
reading of the data set are outside. Ratios are medians over the rounds, by the clock and by the time of all cores.

The shapes: the course's tiny and nano models, of 0.1 and 0.8 million parameters, and one of 1.8 million, with short and
long prompts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

from common.grpo_steps import Task, tinymoe_step, trl_step  # noqa: E402
from common.turns import Contender, median_ratio, rounds  # noqa: E402

import tinymoe as tm  # noqa: E402
from tinymoe.bench import machine  # noqa: E402
from tinymoe.posttrain import tasks  # noqa: E402
from tinymoe.text.tokenizer import CharTokenizer  # noqa: E402

LETTERS = "0123456789+-*=? "
GROUP = 8  # answers to a prompt
LENGTH = "completions/mean_length"
COMMON = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "initializer_range": 0.05,
}


class Shape(NamedTuple):
    """Of the model: width and layers. Of a step: answers, tokens of each at most, tokens of a prompt, and the task that
    the model was trained for."""

    width: int
    layers: int
    answers: int
    tokens: int
    prompt: int = 12
    task: str = "none"


SHAPES = (
    Shape(64, 2, 16, 64),
    Shape(64, 2, 64, 32),
    Shape(128, 4, 16, 64),
    Shape(128, 4, 64, 32),
    Shape(128, 4, 64, 64),
    Shape(128, 4, 128, 48, 24),
    Shape(192, 4, 64, 64),
    Shape(128, 4, 128, 48, 9, "arithmetic"),
    Shape(128, 4, 128, 128, 14, "countdown"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of the shapes to measure, from 0 on")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    rows = []
    names = (*Shape._fields, "length")
    print("".join(f"{name:>11}" for name in names) + f"{'tinymoe':>12}{'TRL':>12}{'threads':>9}{'ratio':>8}")
    for number in options.only or range(len(SHAPES)):
        rows.append(compare(SHAPES[number], options.rounds, options.threads))
    if options.json:
        report = {"benchmark": "grpo_step", **about(), "threads": options.threads, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def compare(shape: Shape, count: int, threads: int) -> dict[str, Any]:
    """Let them take turns; a row of the report, which is also printed."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, folder)
        texts, problems = prompts(shape)
        task = Task(texts, shape.answers, shape.tokens, folder, problems)
        contenders = [Contender("tinymoe", tinymoe_step, task, threads=threads)]
        for number in range(1, threads + 1):
            contenders.append(Contender(f"TRL, {number}", trl_step, task, number, threads=number))
        try:
            first = {contender.name: contender.turn(1, warm=0).value[2] for contender in contenders}
            taken = rounds(contenders, [1] * len(contenders), count)
        finally:
            for contender in contenders:
                contender.close()
    steps = {name: [turn.value for turn in its] for name, its in taken.items()}
    row: dict[str, Any] = {**shape._asdict(), "contenders": {}}
    for name, its in steps.items():
        ratio = [median_ratio([step[i] for step in its], [step[i] for step in steps["tinymoe"]]) for i in (0, 1)]
        row["contenders"][name] = {
            "seconds": round(statistics.median(step[0] for step in its), 4),
            "ratio": round(ratio[0], 2),
            "ratio_by_cores": round(ratio[1], 2),
            "first_step": {figure: round(value, 5) for figure, value in first[name].items()},
        }
    show(row)
    return row


def show(row: dict[str, Any]) -> None:
    """The row, with the quicker of TRL's processes, whose ratio is the row's."""
    ours, *others = row["contenders"].items()
    name, best = min(others, key=lambda other: other[1]["seconds"])
    row["ratio"] = best["ratio"]
    sizes = "".join(f"{row[name]:>11}" for name in Shape._fields) + f"{ours[1]['first_step'][LENGTH]:>11.1f}"
    times = "".join(f"{one['seconds'] * 1000:>9.0f} ms" for one in (ours[1], best))
    print(f"{sizes}{times}{name.removeprefix('TRL, '):>9}{best['ratio']:>8.2f}", flush=True)


def save_model(shape: Shape, folder: str) -> None:
    """The Llama that a step begins with, and its tokenizer."""
    if shape.task != "none":
        tm.from_pretrained(ROOT / "data" / "checkpoints" / f"{shape.task}-sft").save_pretrained(folder)
        return
    tokenizer = CharTokenizer.train([LETTERS], special_tokens=["<pad>"])
    sizes = {"hidden_size": shape.width, "num_hidden_layers": shape.layers, "intermediate_size": shape.width * 21 // 8}
    model = tm.zoo.build("llama-nano", vocab_size=len(tokenizer), seed=0, **sizes, **COMMON)
    model.tokenizer = tokenizer
    model.save_pretrained(folder)


def prompts(shape: Shape) -> tuple[list[str], list[tasks.Problem]]:
    """Prompts and problems of the task; without one, sums that are filled up to the length of a prompt."""
    count = shape.answers // GROUP
    if shape.task != "none":
        problems = tasks.problems(shape.task, "train", seed=0, count=count, level=2)
        return [problem.prompt for problem in problems], problems
    return [f"{i + 2}*{i + 3}+{i + 10}=?".rjust(shape.prompt)[: shape.prompt] for i in range(count)], []


def about() -> dict[str, Any]:
    """What was measured, and on what."""
    from importlib.metadata import version

    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    return {**machine(), **versions, **COMMON, "num_generations": GROUP, "vocab_size": len(LETTERS) + 1}


if __name__ == "__main__":
    main()
