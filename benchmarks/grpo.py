"""Chapter 17's runs, longer and over four seeds: GRPO's variants, with and without KL, and PPO at equal rollouts.

    python benchmarks/grpo.py [--task arithmetic] [--only NAME ...] [--seeds 0 1 2 3] [--steps N] [--json FILE]

All start from the checkpoints of `tools/checkpoints.py`, and each step samples 128 answers: 8 to each of 16 problems,
or, for PPO, one to each of 128. The seed decides which problems come and what is sampled. Held-out accuracy is of 200
problems of the test split, every 10 steps: of the likeliest answer (greedy), and of one answer sampled at temperature
1. Seconds are of training alone: `seconds` by the clock, `cpu_seconds` of one thread. Runs that the JSON file holds
already are kept, and not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.files import write_atomically  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.posttrain import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, rewards, rollouts, tasks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "grpo.json"
EVERY = 10  # steps between evaluations
SHOWN = 12  # likeliest answers kept, of the start and of the end
LENGTH = {"arithmetic": 48, "countdown": 128}  # tokens of an answer at most
LEVEL = {"arithmetic": 2, "countdown": 2}  # countdown: three numbers
COUNT = {"arithmetic": 4500, "countdown": 1600}  # of all that there are, 1,679, for countdown
STEPS = {"arithmetic": 100, "countdown": 100}
LONG = 500  # of R1 on arithmetic
WARMUP = {"arithmetic": 0, "countdown": 5}

GRPO: dict[str, dict[str, Any]] = {
    "R1": {"loss_type": "grpo"},
    "R1, KL": {"loss_type": "grpo", "beta": 0.04},
    "DAPO": {"loss_type": "dapo", "epsilon_high": 0.28},
    "DAPO, KL": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.04},
    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": False},
    "Dr. GRPO, KL": {"loss_type": "dr_grpo", "scale_rewards": False, "beta": 0.04},
    "GSPO": {  # its ratios are of whole answers, so its limits are small; with one update they would never be met
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "num_iterations": 2,
    },
    "too fast": {"loss_type": "dr_grpo", "scale_rewards": False, "learning_rate": 2e-3},
}
# As many answers, each to a problem of its own: a critic needs no group. Its head is new, so it has to learn faster.
PPO: dict[str, dict[str, Any]] = {
    "PPO": {
        "generation_batch_size": 128,
        "critic_learning_rate": 1e-3,
        "critic_warmup": 5,
        "num_ppo_epochs": 1,
        "lam": 1.0,
        "vf_coef": 1.0,
        "kl_coef": 0.0,
    }
}
KEPT = ("reward", "entropy", "kl", "grad_norm", "completions/mean_length", "frac_reward_zero_std", "objective/kl")


def correct(prompts: list[str], completions: list[str], problems: list[tasks.Problem]) -> list[float]:
    return [rewards.correct(text, problem) for text, problem in zip(completions, problems, strict=True)]


def well_formed(prompts: list[str], completions: list[str], problems: list[tasks.Problem]) -> list[float]:
    return [0.1 * rewards.format_reward(text, "tags") for text in completions]


# Points for the form alone, where few answers are right, are all that a model would go for.
REWARDS = {"arithmetic": [correct, well_formed], "countdown": [correct]}


def answers(model: CausalLM, problems: list[tasks.Problem], length: int, temperature: float) -> list[str]:
    """What the model writes, one text to each problem."""
    tokenizer, end = model.tokenizer, model.config.eos_token_id
    prompts = tokenizer.encode_batch([problem.prompt for problem in problems])
    batch = rollouts(model, prompts, max_new_tokens=length, temperature=temperature, stop=end, seed=7)
    ended = zip(batch.completions(), batch.finished, strict=True)
    return [tokenizer.decode(ids[:-1] if finished else ids) for ids, finished in ended]


def trainer(task: str, name: str, seed: int, steps: int) -> GRPOTrainer | PPOTrainer:
    """A trainer of one of the variants, at the checkpoint that all start from."""
    model = tm.from_pretrained(ROOT / "data" / "checkpoints" / f"{task}-sft")
    problems = tasks.problems(task, "train", seed=0, count=COUNT[task], level=LEVEL[task])
    common = {"steps": steps, "max_completion_length": LENGTH[task], "seed": seed, "learning_rate": 2e-4}
    common["warmup"] = WARMUP[task]
    if name in PPO:
        return PPOTrainer(model, problems, REWARDS[task], PPOConfig(**common | PPO[name]))
    sizes = {"num_generations": 8, "generation_batch_size": 128}
    return GRPOTrainer(model, problems, REWARDS[task], GRPOConfig(**common | sizes | GRPO[name]))


def run(task: str, name: str, seed: int, steps: int) -> dict[str, Any]:
    """Train, and look at held-out problems on the way: curves with a list for each figure, and some texts."""
    learner = trainer(task, name, seed, steps)
    test = tasks.problems(task, "test", seed=100, count=200, level=LEVEL[task])
    curves: dict[str, list[Any]] = {"step": [], "greedy": [], "sampled": [], "texts": []}
    history, seconds, cpu_seconds = [], 0.0, 0.0
    while True:
        if learner.steps_done % EVERY == 0:
            curves["step"].append(learner.steps_done)
            for column, temperature in (("sampled", 1.0), ("greedy", 0.0)):
                texts = answers(learner.model, test, LENGTH[task], temperature)
                right = [rewards.correct(text, problem) for text, problem in zip(texts, test, strict=True)]
                curves[column].append(round(statistics.fmean(right), 4))
            if learner.steps_done in (0, steps):
                curves["texts"].append(texts[:SHOWN])
        if learner.steps_done == steps:
            break
        clock, cpu = time.perf_counter(), time.process_time()
        history.append(learner.step())
        seconds, cpu_seconds = seconds + time.perf_counter() - clock, cpu_seconds + time.process_time() - cpu
    for figure in (figure for figure in KEPT if figure in history[0]):
        curves[figure] = [round(metrics[figure], 5) for metrics in history]
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), **curves}


def table(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Held-out accuracy before and after, the range of the seeds in parentheses, and what it took."""
    print(f"{'':28} {'greedy':>22} {'sampled':>22}   length       steps  CPU s")
    for task, variants in found.items():
        for name, seeds in variants.items():
            runs = list(seeds.values())
            ends = {
                figure: [runs[0][figure][0], *sorted(run[figure][-1] for run in runs)]
                for figure in ("greedy", "sampled")
            }
            texts = [
                f"{start:.2f} → {statistics.fmean(last):.2f} ({last[0]:.2f}–{last[-1]:.2f})"
                for start, *last in ends.values()
            ]
            first, last = (statistics.fmean(run["completions/mean_length"][i] for run in runs) for i in (0, -1))
            cost = statistics.fmean(run["cpu_seconds"] for run in runs)
            steps = runs[0]["step"][-1]
            tail = f"{first:.0f} → {last:.0f} {steps:8} {cost:6.0f}"
            print(f"{task + ', ' + name:28} {texts[0]:>22} {texts[1]:>22}   {tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=list(STEPS), nargs="*", default=["arithmetic"])
    parser.add_argument("--only", nargs="*", choices=[*GRPO, *PPO], default=[*GRPO, *PPO])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.task:
            for name in options.only:
                found = json.loads(options.json.read_text("utf-8")) if options.json.exists() else {}
                seeds = found.setdefault(task, {}).setdefault(name, {})
                if str(seed) in seeds:
                    continue
                steps = LONG if (task, name) == ("arithmetic", "R1") else STEPS[task]
                result = run(task, name, seed, options.steps or steps)
                print(f"{task}, {name}, seed {seed}: {result['greedy'][0]} → {result['greedy'][-1]}", flush=True)
                # Read again: another process may have written meanwhile.
                found = json.loads(options.json.read_text("utf-8")) if options.json.exists() else {}
                found.setdefault(task, {}).setdefault(name, {})[str(seed)] = result
                write_atomically(options.json, json.dumps(found).encode())
    if options.json.exists():
        table(json.loads(options.json.read_text("utf-8")))


if __name__ == "__main__":
    main()
