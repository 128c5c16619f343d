"""A small student learns from a stronger teacher, beside the same student without it, over several seeds.

    python benchmarks/distill.py [--seeds 0 1 2] [--only NAME ...] [--steps 150] [--teacher DIR] [--json FILE]

The problems are sums of three digits, 7-2+5=?, and what there is to learn from is careless: it works them out in any
order, though every equation in it is true. All students, two layers 64 wide, begin after the same short training on
such demonstrations, and then make equally many steps with equally many texts in each, from the same problems:

    alone               the demonstrations go on; no teacher
    forward, reverse KL the same texts again, but each token's lesson is the teacher's distribution
    sampled traces      the teacher writes the texts, and the student learns what they say (R1-Distill)
    on-policy           the student writes the texts, the teacher corrects each token of them (reverse KL)
    GRPO                the student writes as many texts, 8 to a problem, and is told which are right; no teacher
    right solutions     the demonstrations, had they not been careless; no teacher

The teacher, two layers 128 wide, is made first: it has been shown right solutions, and more such sums whose first
number has two digits. With `--teacher DIR` it is kept there, and read from there the next time. Accuracy is of the
likeliest answers to 120 problems of the test split, which no training text has. Tokens are those learned from,
`cpu_seconds` those of one thread, evaluations left out. Runs that the JSON file holds already are kept, and not made
again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.files import write_atomically  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.posttrain import (  # noqa: E402
    DistillConfig,
    DistillTrainer,
    GRPOConfig,
    GRPOTrainer,
    demonstrations,
    rewards,
    rollouts,
    sft_loss,
    tasks,
)
from tinymoe.posttrain.distill_trainer import Texts  # noqa: E402
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "distill.json"
TEST = tasks.problems("arithmetic", "test", seed=0, count=120, level=1)
TRAIN = tasks.problems("arithmetic", "train", seed=0, count=460, level=1)
ANSWER = 32  # tokens at most
BATCH, EVERY = 64, 25  # texts a step, steps between evaluations
START, TEACHER = 160, 300  # steps of the common start, and of each half of the teacher's training
RATE, GRPO_RATE = 2e-3, 1e-4  # with 5e-4, GRPO forgets more than it learns

DISTILLED: dict[str, dict[str, Any]] = {
    "forward KL": {"lmbda": 0.0, "beta": 0.0},
    "reverse KL": {"lmbda": 0.0, "beta": 1.0},
    "sampled traces": {"lmbda": 0.0, "seq_kd": True},
    "on-policy": {"lmbda": 1.0, "beta": 1.0},
}
METHODS = ("alone", *DISTILLED, "GRPO", "right solutions")


class Alone(DistillTrainer):
    """The same run, batch by batch, without the teacher: it learns what the texts say."""

    def loss(self, texts: Texts) -> float:
        """Their cross-entropy."""
        loss = sft_loss(self.model, texts.ids, texts.mask)
        loss.backward()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS, metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="keep the teacher here")
    parser.add_argument("--json", type=Path, default=RESULTS, help="read and write the results here")
    options = parser.parse_args()
    report = json.loads(options.json.read_text()) if options.json.exists() else {"runs": {}}
    if options.teacher and options.teacher.exists():
        teacher = tm.from_pretrained(options.teacher)
    else:
        teacher = made_teacher()
        if options.teacher:
            teacher.save_pretrained(options.teacher)
    report["settings"] = {"steps": options.steps, "texts_a_step": BATCH, "start_steps": START, "problems": len(TRAIN)}
    report["teacher"] = {"parameters": teacher.num_parameters(), "accuracy": accuracy(teacher)}
    print(f"the teacher, {teacher.num_parameters():,} parameters: {report['teacher']['accuracy']:.1%}", flush=True)
    for seed in options.seeds:
        start = made_start(teacher, seed)
        report["student"] = {"parameters": start.num_parameters()}
        for method in options.only:
            runs = report["runs"].setdefault(method, {})
            if str(seed) not in runs:
                runs[str(seed)] = one_run(method, start, teacher, seed, options.steps)
                print(f"seed {seed}, {method}: {runs[str(seed)]['curve'][-1][1]:.1%}", flush=True)
                report["summary"] = {name: summary(found) for name, found in report["runs"].items()}
                write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    print(f"\n{'':16}{'greedy':>8}  of the seeds         sampled  million tokens  CPU seconds")
    for method, row in report["summary"].items():
        seeds = " ".join(f"{value:.3f}" for value in row["seeds"])
        print(
            f"{method:16}{row['greedy']:>8.3f}  {seeds:20}{row['sampled']:>8.3f}{row['tokens'] / 1e6:>16.2f}"
            f"{row['cpu_seconds']:>13.1f}"
        )


def made_teacher() -> CausalLM:
    """A model that has learned from right solutions."""
    tokenizer = CharTokenizer.train(
        ["0123456789+-*/=?\n"], special_tokens=["<|endoftext|>", "<think>", "</think>", "<answer>", "</answer>"]
    )
    teacher = student(tokenizer, seed=100, width=128)
    texts, nobody = shown(careless=False) + larger_sums(), student(tokenizer, seed=101)
    for seed, rate in enumerate((2e-3, 4e-4)):
        run(Alone(teacher, nobody, texts, configured(TEACHER, seed, learning_rate=rate)), TEACHER, TEACHER)
    return teacher


def made_start(teacher: CausalLM, seed: int) -> CausalLM:
    """The student that all methods begin with: it has learned the form, and to calculate a little."""
    start = student(teacher.tokenizer, seed)
    run(Alone(start, teacher, shown(careless=True), configured(START, seed=seed + 1000)), START, START)
    return start


def one_run(method: str, start: CausalLM, teacher: CausalLM, seed: int, steps: int) -> dict[str, Any]:
    """What a method makes of a copy of the start: the curve of (step, accuracy), and what it cost."""
    model = student(teacher.tokenizer, seed)
    for mine, theirs in zip(model.parameters(), start.parameters(), strict=True):
        mine.data = theirs.data.copy()
    if method == "GRPO":
        sizes = {"num_generations": 8, "generation_batch_size": BATCH, "max_completion_length": ANSWER}
        config = GRPOConfig(steps=steps, seed=seed, learning_rate=GRPO_RATE, **sizes)
        trainer: Any = GRPOTrainer(model, shown(careless=True), [right], config)
    else:
        kind = DistillTrainer if method in DISTILLED else Alone
        config = configured(steps, seed, **DISTILLED.get(method, {"lmbda": 0.0}))
        trainer = kind(model, teacher, shown(careless=method != "right solutions"), config)
    return run(trainer, steps, EVERY)


def run(trainer: Any, steps: int, every: int) -> dict[str, Any]:
    """Make the steps, and measure now and then."""
    curve, seconds, tokens = [(0, accuracy(trainer.model))], 0.0, 0
    for step in range(1, steps + 1):
        began = time.process_time()
        metrics = trainer.step()
        seconds += time.process_time() - began
        tokens += round(metrics["completions/mean_length"] * BATCH)
        if step % every == 0 or step == steps:
            curve.append((step, accuracy(trainer.model)))
    sampled = accuracy(trainer.model, temperature=1.0, samples=4)
    return {"curve": curve, "sampled": sampled, "tokens": tokens, "cpu_seconds": round(seconds, 2)}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the last greedy accuracy of each."""
    seeds = [found["curve"][-1][1] for found in runs.values()]
    means = {name: statistics.fmean(r[name] for r in runs.values()) for name in ("sampled", "tokens", "cpu_seconds")}
    return {"greedy": round(statistics.fmean(seeds), 4), "seeds": seeds, **{k: round(v, 4) for k, v in means.items()}}


def student(tokenizer: Tokenizer | None, seed: int, width: int = 64) -> CausalLM:
    """A Llama of two layers with random weights and tied embeddings."""
    if tokenizer is None:
        raise ValueError("tokenizer: got None")
    shape = {"hidden_size": width, "num_hidden_layers": 2, "intermediate_size": width * 8 // 24 * 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    ends = {"eos_token_id": tokenizer.special_tokens["<|endoftext|>"], "tie_word_embeddings": True}
    model = tm.zoo.build("llama-nano", tokenizer.vocab_size, seed, **shape, **heads, **ends)
    model.tokenizer = tokenizer
    return model


def shown(careless: bool) -> list[dict[str, Any]]:
    """Four demonstrations for each problem, careless ones or right ones."""
    rng = random.Random(0)
    write: Callable[[tasks.Problem], str] = lambda p: demonstrations.careless(p, rng) if careless else p.tagged  # noqa: E731
    return [{"prompt": p.prompt, "tagged": write(p), "problem": p} for _ in range(4) for p in TRAIN]


def larger_sums() -> list[dict[str, Any]]:
    """Problems with right solutions that begin with a number from 10 to 18, so that none of them is a test problem."""
    sums = [
        (f"{a}{s}{b}{t}{c}=?", f"{a}{s}{b}={x}\n{x}{t}{c}={y}", y)
        for a, b, c in itertools.product(range(10, 19), range(1, 10), range(1, 10))
        for s, t in itertools.product("+-", "+-")
        if (y := (x := a + int(f"{s}{b}")) + int(f"{t}{c}")) >= 0
    ]
    return [{"prompt": q, "tagged": f"<think>{steps}</think><answer>{y}</answer>"} for q, steps, y in sums]


def configured(steps: int, seed: int, **changes: Any) -> DistillConfig:
    settings = {"lmbda": 0.0, "learning_rate": RATE, "warmup": 10, "batch_size": BATCH, "max_new_tokens": ANSWER}
    return DistillConfig(steps=steps, seed=seed, **{**settings, **changes})


def right(prompts: list[str], completions: list[str], problems: list[dict[str, Any]]) -> list[float]:
    """The reward of GRPO."""
    return [rewards.correct(text, given["problem"]) for text, given in zip(completions, problems, strict=True)]


def accuracy(model: CausalLM, temperature: float = 0.0, samples: int = 1, problems: Sequence[Any] = TEST) -> float:
    """The share of right answers to the test problems."""
    tokenizer, end = model.tokenizer, model.config.eos_token_id
    prompts = tokenizer.encode_batch([problem.prompt for problem in problems])
    batch = rollouts(model, prompts, samples, max_new_tokens=ANSWER, temperature=temperature, stop=end)
    texts = [tokenizer.decode(ids) for ids in batch.completions()]
    every = np.repeat(np.arange(len(problems)), samples)
    return round(statistics.fmean(rewards.correct(text, problems[i]) for text, i in zip(texts, every, strict=True)), 4)


if __name__ == "__main__":
    main()
