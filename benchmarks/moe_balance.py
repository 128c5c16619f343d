"""Mixtures of experts against dense models, and each way to balance them, on a mixed corpus of eight domains.

    python benchmarks/moe_balance.py [--seeds 3] [--steps 1200] [--json FILE]

Every model reads the same rows, one of each domain in a step, and is examined on texts it was not trained on. A
mixture has 16 experts, two for each token; the narrow dense model does as much work for a token, the wide one has as
many parameters in all. The narrow one is trained once more for as long as the balanced mixture takes, by processor
time: steps of the models are timed in turn, and the quickest of each counts.

Violations are max / mean - 1 of the experts' load: over all held-out text (Wang et al. 2024, MaxVio global), the mean
over the layers and the worst layer, and in single batches of training, the mean of the last hundred. Information is
how many bits the expert of a token tells about its domain, and what it would tell by chance with domains shuffled
among texts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.models import CausalLM, Config  # noqa: E402
from tinymoe.nn.balance import load_entropy, max_violation  # noqa: E402
from tinymoe.nn.module import part  # noqa: E402
from tinymoe.nn.routers import SigmoidRouter  # noqa: E402
from tinymoe.tensor import Tensor  # noqa: E402
from tinymoe.text import corpora  # noqa: E402
from tinymoe.viz.routes import expert_information, expert_loads  # noqa: E402

LANGUAGES = ("french", "russian", "greek", "japanese", "hindi")
CONTEXT, EXPERTS, WIDTH = 64, 16, 64
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "rope_theta": 1000.0,
    "initializer_range": 0.08,
    "inputs": ("norm",),
    "tie_word_embeddings": True,
}
MIXTURE = {
    "mlp": "moe",
    "intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "dense, as much work": {"intermediate_size": 2 * WIDTH},
    "dense, as many parameters": {"intermediate_size": EXPERTS * WIDTH},
    "softmax, not balanced": MIXTURE,
    "softmax, one loss for all layers": {**MIXTURE, "router_aux_loss_coef": 0.05},
    "softmax, a loss in each layer": {**MIXTURE, "layer_aux_loss_coef": 0.05},
    "softmax, bias without a loss": {**MIXTURE, "router": "softmax_with_bias", "bias_update_speed": 0.0005},
    "sigmoid, not balanced": {**MIXTURE, "router": "sigmoid"},
    "sigmoid, a loss in each layer": {**MIXTURE, "router": "sigmoid", "layer_aux_loss_coef": 0.05},
    "sigmoid, bias without a loss": {**MIXTURE, "router": "sigmoid", "bias_update_speed": 0.003},
}
AS_LONG = "dense, as much time"
PACE = ("dense, as much work", "sigmoid, bias without a loss")  # the models that set how long that is


@part("router", "softmax_with_bias")
class SoftmaxWithBias(SigmoidRouter):
    """The biases of DeepSeek-V3 on Mixtral's probabilities: is it the gate or the balance that makes a difference?"""

    def scores(self, logits: Tensor) -> Tensor:
        """As in `Router`."""
        return tm.ops.softmax(logits)


class Mixed:
    """Eight domains, nine tenths of each to train on."""

    def __init__(self) -> None:
        texts: dict[str, list[str]] = {
            name: list(corpora.documents(name, limit_chars=400_000)) for name in ("tales", "arithmetic", "python-code")
        }
        texts |= {name: corpora.babel()[name] for name in LANGUAGES}
        sample = [text[:1500] for documents in texts.values() for text in documents[:60]]
        self.tokenizer = tm.Tokenizer.train(sample, vocab_size=1024)
        self.names = list(texts)
        ids = [self.tokens(documents) for documents in texts.values()]
        self.training = [domain[: len(domain) * 9 // 10] for domain in ids]
        held_out = [domain[len(domain) * 9 // 10 :] for domain in ids]
        self.exam = rows(np.random.default_rng(99), held_out, each=16)
        self.domain_of_row = np.repeat(np.arange(len(ids)), 16)

    def tokens(self, documents: list[str]) -> np.ndarray:
        """All documents in one chain."""
        return np.concatenate([self.tokenizer.encode(text + "\n\n") for text in documents])


def rows(rng: np.random.Generator, domains: list[np.ndarray], each: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets, `each` rows of every domain: (domains * each, CONTEXT)."""
    starts = [rng.integers(len(ids) - CONTEXT - 1, size=each)[:, None] for ids in domains]
    picked = np.concatenate([ids[start + np.arange(CONTEXT + 1)] for ids, start in zip(domains, starts, strict=True)])
    return picked[:, :-1], picked[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
    parser.add_argument("--bias-update-speed", type=float, help="of the models that have one")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    data = Mixed()
    configs = {name: config_of(data, MODELS[name], options.bias_update_speed) for name in options.only}
    seconds = step_seconds(configs, data)
    steps = dict.fromkeys(configs, options.steps)
    if set(PACE) <= configs.keys():
        configs[AS_LONG], steps[AS_LONG] = configs[PACE[0]], round(options.steps * seconds[PACE[1]] / seconds[PACE[0]])
        seconds[AS_LONG] = seconds[PACE[0]]
    print(f"{'':34} seed  steps    loss   violation: all  worst  batch   entropy   bits (shuffled)")
    results = {}
    for name, config in configs.items():
        runs = []
        for seed in range(options.seeds):
            runs.append({"seed": seed, "steps": steps[name], **train(config, data, steps[name], seed)})
            print_row(name, runs[-1])
        mean = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0] if key != "seed"}
        model = CausalLM(config)
        counts = {"parameters": model.num_parameters(), "active": model.num_parameters(active=True)}
        results[name] = {**counts, "step_ms": round(1000 * seconds[name], 2), "mean": mean, "runs": runs}
    print("\nmean of the seeds, and the processor time of a step")
    for name, result in results.items():
        print_row(name, {"seed": "", **result["mean"]}, f"{result['step_ms']:8.1f} ms")
    if options.json:
        machine = {"machine": platform.machine(), "backend": tm.backend(), "steps": options.steps}
        options.json.write_text(json.dumps({**machine, "models": results}, indent=1) + "\n")


def print_row(name: str, run: dict[str, Any], end: str = "") -> None:
    line = f"{name:34} {run['seed']:>4}  {run['steps']:5.0f}  {run['loss']:6.3f}"
    if "violation" in run:
        line += f"  {run['violation']:14.2f} {run['worst_violation']:6.2f} {run['batch_violation']:6.2f}"
        line += f"   {run['entropy']:7.3f}   {run['bits']:5.2f} ({run['shuffled_bits']:.2f})"
    print(line + end, flush=True)


def config_of(data: Mixed, fields: dict[str, Any], speed: float | None) -> Config:
    changed = {"bias_update_speed": speed} if speed is not None and "bias_update_speed" in fields else {}
    return Config(vocab_size=data.tokenizer.vocab_size, **SHAPE, **{**fields, **changed})


def train(config: Config, data: Mixed, steps: int, seed: int, lr: float = 1e-2) -> dict[str, float]:
    """Train a new model; returns what is measured of it."""
    model, rng = CausalLM(config, seed=seed), np.random.default_rng(seed + 1)
    optimizer = tm.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    violations = []
    for step in range(1, steps + 1):
        fall = max(0.05, (1 + math.cos(math.pi * step / steps)) / 2)
        optimizer.param_groups[0]["lr"] = lr * min(1, step / 20) * fall
        optimizer.zero_grad()
        model.loss(*rows(rng, data.training, each=1)).backward()
        tm.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        reports = [layer.mlp.after_step() for layer in model.model.layers]
        violations.append(np.mean([report.get("max_violation", 0.0) for report in reports]))
    return examine(model, data) | (
        {"batch_violation": rounded(np.mean(violations[-100:]))} if config.num_experts else {}
    )


def examine(model: CausalLM, data: Mixed) -> dict[str, float]:
    """Loss, without what is added for balance, and the load of the experts on the held-out text."""
    ids, targets = data.exam
    with tm.no_grad():
        loss = model.loss(ids, targets).item()
    if not model.config.num_experts:
        return {"loss": rounded(loss)}
    experts = model.trace(ids).experts
    loads = [expert_loads(layer, EXPERTS) for layer in experts]
    told = [expert_information(layer, data.domain_of_row, EXPERTS) for layer in experts]
    return {
        "loss": rounded(loss),
        "violation": rounded(np.mean(max_violation(loads))),
        "worst_violation": rounded(np.max(max_violation(loads))),
        "entropy": rounded(np.mean(load_entropy(loads))),
        "bits": rounded(np.mean([layer.bits for layer in told])),
        "shuffled_bits": rounded(np.mean([layer.shuffled for layer in told])),
    }


def rounded(value: Any) -> float:
    return round(float(value), 4)


def step_seconds(configs: dict[str, Config], data: Mixed, rounds: int = 15) -> dict[str, float]:
    """Processor time of one step of each model: the least of some rounds, in which they take turns."""
    models = {name: CausalLM(config) for name, config in configs.items()}
    idle = {name: tm.AdamW(model.parameters(), lr=0.0, weight_decay=0.0) for name, model in models.items()}
    batch, least = rows(np.random.default_rng(0), data.training, each=1), dict.fromkeys(models, math.inf)
    for _ in range(rounds):
        for name, model in models.items():
            began = time.process_time()
            idle[name].zero_grad()
            model.loss(*batch).backward()
            idle[name].step()
            least[name] = min(least[name], time.process_time() - began)
    return least


if __name__ == "__main__":
    main()
