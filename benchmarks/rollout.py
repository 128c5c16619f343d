"""How fast answers are sampled: all together, one after the other, and by Transformers.

    python benchmarks/rollout.py [--answers 16 64] [--tokens 64] [--rounds 3] [--json FILE]

A Llama of 0.8 million parameters answers 8 prompts of 12 characters several times each, at temperature 1, with a fixed
number of tokens. `rollouts` samples all answers together and reads each prompt once; `generate` makes one after the
other; Transformers, where it is installed, reads the same weights and makes all together. They take turns, and what
counts is the processor's time of the quickest round, so that other work on the machine counts for none of them: with
one thread that is what they take on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
for name in THREADS:  # before NumPy is imported: OpenBLAS looks at them then
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 336, "max_position_embeddings": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
PROMPTS, LENGTH, VOCABULARY = 8, 12, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, nargs="+", default=[16, 64, 128], help="in all; a multiple of 8")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    report = measure(options.answers, options.tokens, options.rounds)
    print(f"{report['backend']}, tokens/s of {report['threads']} thread(s)")
    names = list(report["rows"][0]["tokens_per_s"])
    print(f"{'answers':>8}" + "".join(f"{name:>16}" for name in names) + "   rollouts are faster than")
    for row in report["rows"]:
        ratios = ", ".join(f"{name} {ratio:.1f} x" for name, ratio in row["ratios"].items())
        print(
            f"{row['answers']:>8}" + "".join(f"{row['tokens_per_s'][name]:>16,.0f}" for name in names) + f"   {ratios}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(answers: Sequence[int] = (64,), tokens: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Tokens a second of each way, and how many times as many `rollouts` makes.

    Raises ValueError for a number of answers that is no multiple of 8.
    """
    import tinymoe as tm

    rows = []
    model = tm.zoo.build("llama-nano", vocab_size=VOCABULARY, seed=0, **SHAPE, **HEADS)
    prompts = np.random.default_rng(0).integers(VOCABULARY, size=(PROMPTS, LENGTH))
    for count in answers:
        if count < PROMPTS or count % PROMPTS:
            raise ValueError(f"answers: got {count}, expected a multiple of {PROMPTS}")
        speeds = {name: count * tokens / s for name, s in _seconds(model, prompts, count, tokens, rounds).items()}
        ratios = {name: round(speeds["rollouts"] / speed, 2) for name, speed in speeds.items() if name != "rollouts"}
        speeds = {name: round(speed, 1) for name, speed in speeds.items()}
        rows.append({"answers": count, "tokens": tokens, "tokens_per_s": speeds, "ratios": ratios})
    sizes = {**SHAPE, **HEADS, "vocab_size": VOCABULARY, "prompts": PROMPTS, "prompt_tokens": LENGTH}
    return {**sizes, "backend": tm.backend(), "threads": _threads(), "processor": processor(), "rows": rows}


def _seconds(model: Any, prompts: np.ndarray, answers: int, tokens: int, rounds: int) -> dict[str, float]:
    """Processor seconds of the quickest round of each way; the first warms up."""
    from tinymoe.posttrain import rollouts

    size = answers // PROMPTS
    repeated = np.repeat(prompts, size, axis=0)
    ways: dict[str, Callable[[], Any]] = {
        "rollouts": lambda: rollouts(model, prompts, size, max_new_tokens=tokens),
        "generate": lambda: [model.generate(prompt, max_new_tokens=tokens, seed=0) for prompt in repeated],
    }
    theirs = _transformers(model, repeated, tokens)
    if theirs is not None:
        ways["Transformers"] = theirs
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if number:
                times[name].append(time.process_time() - began)
    return {name: min(values) for name, values in times.items()}


def _transformers(model: Any, prompts: np.ndarray, tokens: int) -> Callable[[], Any] | None:
    """Transformers' `generate` on the same weights; None where it is not installed."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    torch.set_num_threads(_threads())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(prompts)
    options = {"max_new_tokens": tokens, "do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}

    def run() -> Any:
        with torch.no_grad():
            made = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert made.shape[1] == LENGTH + tokens
        return made

    return run


def _threads() -> int:
    return int(os.environ[THREADS[0]])


def processor() -> str:
    """The name of the processor, as far as it is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
