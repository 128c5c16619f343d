"""Chapter 16's comparisons over several seeds: who labels, how it is learned, and what comes of learning too much.

    python benchmarks/preferences.py [--seeds 4] [--processes 1] [--json FILE]

From the checkpoint `notes-sft`, which writes thank-you notes whose gold reward is known by rule. A seed samples pairs
of notes, has them labeled, trains reward models and policies, and measures these on held-out occasions: the gold
reward, that of the reward model, and the KL divergence of an answer from the start, in nats. Curves are in the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.posttrain import (  # noqa: E402
    DPOConfig,
    DPOTrainer,
    Pair,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
    ScalarModel,
    rollouts,
    token_logps,
)
from tinymoe.posttrain.notes import PRINCIPLES, gold, occasions, points  # noqa: E402
from tinymoe.posttrain.preferences import agreement, bradley_terry, constitution, label, likelihood  # noqa: E402
from tinymoe.posttrain.reward import reward_function  # noqa: E402
from tinymoe.tensor import no_grad  # noqa: E402
from tinymoe.train.trainer import Trainer  # noqa: E402

CHECKPOINTS = ROOT / "data" / "checkpoints"
PAIRS, LONGEST, SHOWN = 2000, 48, 4
PPO = {"steps": 50, "generation_batch_size": 64, "max_completion_length": LONGEST, "num_ppo_epochs": 2, "vf_coef": 0.5}
# Labels and settings of DPO; settings of PPO, whose reward model learns from people's labels.
DPO_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPO, beta 0.1": ("people", {"beta": 0.1}),
    "IPO, beta 1": ("people", {"beta": 1.0, "loss_type": "ipo"}),
    "DPO, constitution": ("constitution", {"beta": 0.1}),
    "DPO, model judge": ("model", {"beta": 0.1}),
}
PPO_RUNS: dict[str, dict[str, Any]] = {
    "PPO, KL price 0.05": {"kl_coef": 0.05, "learning_rate": 3e-4},
    "PPO, no KL price": {"kl_coef": 0.0, "learning_rate": 5e-4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(one_seed, range(options.seeds)))
    print("\nagreement with the gold reward, of pairs that it does not find equal")
    for who in runs[0]["agreement"]:
        print(f"  {who:28}", "  ".join(f"{run['agreement'][who]:.3f}" for run in runs))
    print("\ngold reward at the start, at its best, at the end; KL divergence at the end; seeds that end higher")
    for name in runs[0]["curves"]:
        curves = [run["curves"][name] for run in runs]
        ends = [np.array([curve[0]["gold"], max(e["gold"] for e in curve), curve[-1]["gold"]]) for curve in curves]
        mean, spread = np.mean(ends, axis=0), np.std(ends, axis=0)
        higher = sum(end[2] > end[0] for end in ends)
        parts = "  ".join(f"{m:5.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True))
        kl = np.mean([curve[-1]["kl"] for curve in curves])
        print(f"  {name:28} {parts}   {kl:6.1f}   {higher} of {len(runs)}")
    if options.json:
        settings = {"pairs": PAIRS, "longest": LONGEST, "seeds": options.seeds}
        options.json.write_text(json.dumps({**settings, "runs": runs}, ensure_ascii=False) + "\n", "utf-8")


def one_seed(seed: int) -> dict[str, Any]:
    """Everything with one seed."""
    start = fresh()
    assert start.tokenizer is not None
    judges = {
        "people": bradley_terry(gold),
        "constitution": constitution(list(PRINCIPLES.values())),
        "model": bradley_terry(likelihood(tm.from_pretrained(CHECKPOINTS / "notes-judge"))),
    }
    prompts = [occasion.prompt for occasion in (occasions(seed=seed) * 5)[:PAIRS]]
    both, _ = written(start, prompts, 2, seed=seed + 1)
    pool, rng = (prompts, both[::2], both[1::2]), np.random.default_rng(seed)
    truth = gold(prompts, pool[1]) - gold(prompts, pool[2])
    clear = truth != 0
    found: dict[str, Any] = {"seed": seed, "agreement": {}, "curves": {}}
    for who, judge in judges.items():
        opinion = judge(*pool)[clear]
        if who == "people":  # who toss a coin with that probability; the others say what they find likelier
            opinion = (rng.random(len(opinion)) < opinion).astype(float)
        found["agreement"][who] = agreement(opinion, (truth[clear] > 0).astype(float))
    pairs = {who: label(judge, *pool, rng if who == "people" else None) for who, judge in judges.items()}
    judging = reward_model(start, pairs["people"], seed)
    measure = Measure(start, judging, seed)
    found["agreement"]["reward model"] = measure.accuracy
    for name, (who, settings) in DPO_RUNS.items():
        config = DPOConfig(steps=100, learning_rate=3e-4, batch_size=32, seed=seed, **settings)
        found["curves"][name] = curve(DPOTrainer(fresh(), pairs[who], config), measure, every=25, name=name)
    for name, settings in PPO_RUNS.items():
        config = PPOConfig(**PPO, **settings, seed=seed)
        trainer = PPOTrainer(fresh(), occasions(), [reward_function(judging, start.tokenizer)], config)
        found["curves"][name] = curve(trainer, measure, every=10 if settings["kl_coef"] else 5, name=name)
    return found


def fresh() -> CausalLM:
    return tm.from_pretrained(CHECKPOINTS / "notes-sft")


def written(model: CausalLM, prompts: Sequence[str], each: int, seed: int) -> tuple[list[str], Any]:
    """Answers as texts, and their rollouts."""
    assert model.tokenizer is not None
    tokenizer, end = model.tokenizer, model.config.eos_token_id
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    batch = rollouts(model, ids, each, max_new_tokens=LONGEST, stop=end, seed=seed)
    ends = zip(batch.completions(), batch.finished, strict=True)
    return [tokenizer.decode(tokens[:-1] if finished else tokens) for tokens, finished in ends], batch


def reward_model(start: CausalLM, pairs: list[Pair], seed: int) -> ScalarModel:
    """A reward model that has learned from the pairs."""
    assert start.tokenizer is not None
    model = ScalarModel.from_causal_lm(start, seed)
    config = RewardConfig(steps=100, batch_size=32, learning_rate=5e-4, seed=seed)
    RewardTrainer(model, pairs, config, tokenizer=start.tokenizer).run(progress=False)
    return model


class Measure:
    """How good a policy is on held-out occasions."""

    def __init__(self, start: CausalLM, proxy: ScalarModel, seed: int):
        assert start.tokenizer is not None
        self.start, self.seed, self.proxy = start, seed, reward_function(proxy, start.tokenizer)
        self.prompts = [occasion.prompt for occasion in occasions("test")]
        texts, _ = written(start, self.prompts, 2, seed=seed + 100)
        one, other = (self.rewards(self.prompts, side) for side in (texts[::2], texts[1::2]))
        clear = (truth := one["gold"] - other["gold"]) != 0
        self.accuracy = float(((one["proxy"] > other["proxy"]) == (truth > 0))[clear].mean())

    def rewards(self, prompts: list[str], texts: list[str]) -> dict[str, np.ndarray]:
        return {"gold": gold(prompts, texts), "proxy": np.array(self.proxy(prompts, texts, []))}

    def __call__(self, model: CausalLM, step: int) -> dict[str, Any]:
        """Means, and a few notes with what they are worth."""
        texts, batch = written(model, self.prompts, 2, seed=self.seed + 200)
        prompts = [prompt for prompt in self.prompts for _ in range(2)]
        with no_grad():
            before = token_logps(self.start, batch.ids, batch.mask).logps.numpy()
        rewards = self.rewards(prompts, texts)
        shown = [
            {"prompt": prompts[i], "text": texts[i], "points": points(prompts[i], texts[i])}
            | {key: round(float(value[i]), 3) for key, value in rewards.items()}
            for i in range(0, 2 * SHOWN * 7, 14)
        ]
        figures = {"kl": (batch.logps - before).sum(axis=1), "length": batch.lengths, **rewards}
        return {"step": step, **{k: round(float(v.mean()), 4) for k, v in figures.items()}, "notes": shown}


def curve(trainer: Trainer, measure: Callable[[CausalLM, int], dict[str, Any]], every: int, name: str) -> list[Any]:
    """Train to the end and measure on the way. The notes are kept of the first seed only."""
    found = [measure(trainer.model, 0)]
    while trainer.steps_done < trainer.config.steps:
        trainer.step()
        if trainer.steps_done % every == 0:
            found.append(measure(trainer.model, trainer.steps_done))
    seed = trainer.config.seed
    print(f"seed {seed}  {name:28} gold {found[0]['gold']:.2f} -> {found[-1]['gold']:.2f}", flush=True)
    return found if seed == 0 else [{k: v for k, v in entry.items() if k != "notes"} for entry in found]


if __name__ == "__main__":
    main()
