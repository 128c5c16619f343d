"""How fast answers are sampled, beside Transformers' `generate` on the same weights.

    python benchmarks/rollout.py [--answers 16 64 128] [--tokens 64] [--rounds 5] [--json FILE]

A Llama of 0.8 million parameters answers 8 prompts of 12 tokens several times each, at temperature 1, with a fixed
number of tokens. Both sample all answers together, in float32 and with a cache; `rollouts` reads each prompt once. They
take turns, and what counts is the processor's time of the quickest round, so that other work on the machine counts for
neither: with one thread that is what it takes on an idle machine. How much faster that is than one answer after the
other, `python -m tinymoe bench rollout` tells.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.bench import machine  # noqa: E402
from tinymoe.models import CausalLM  # noqa: E402
from tinymoe.posttrain import rollouts  # noqa: E402

SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 336, "max_position_embeddings": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
PROMPTS, LENGTH, VOCABULARY = 8, 12, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, nargs="+", default=[16, 64, 128], help="in all; multiples of 8")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = tm.zoo.build("llama-nano", vocab_size=VOCABULARY, seed=0, **SHAPE, **HEADS)
    rows = []
    print(f"{'answers':>8}{'tinymoe':>12}{'Transformers':>14}{'ratio':>8}   (tokens/s)")
    for answers in options.answers:
        speeds = measure(model, answers, options.tokens, options.rounds)
        ratio = round(speeds["tinymoe"] / speeds["transformers"], 2)
        rows.append({"answers": answers, "tokens": options.tokens, "tokens_per_s": speeds, "ratio": ratio})
        print(f"{answers:>8}{speeds['tinymoe']:>12,.0f}{speeds['transformers']:>14,.0f}{ratio:>8.2f}", flush=True)
    if options.json:
        sizes = {**SHAPE, **HEADS, "vocab_size": VOCABULARY, "prompts": PROMPTS, "prompt_tokens": LENGTH}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        report = {**machine(), **versions, **sizes, "threads": torch.get_num_threads(), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(model: CausalLM, answers: int, tokens: int, rounds: int) -> dict[str, float]:
    """Tokens a second of each. ValueError for a number of answers that is no multiple of 8."""
    if answers < PROMPTS or answers % PROMPTS:
        raise ValueError(f"answers: got {answers}, expected a multiple of {PROMPTS}")
    prompts, size = np.random.default_rng(0).integers(VOCABULARY, size=(PROMPTS, LENGTH)), answers // PROMPTS
    ways = {
        "tinymoe": lambda: rollouts(model, list(prompts), size, max_new_tokens=tokens).ids,
        "transformers": theirs(model, np.repeat(prompts, size, axis=0), tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            made = way()
            seconds[name].append(time.process_time() - began)
            if made.shape != (answers, LENGTH + tokens):
                raise RuntimeError(f"{name}: made {tuple(made.shape)} tokens, expected {(answers, LENGTH + tokens)}")
    return {name: round(answers * tokens / min(times[1:]), 1) for name, times in seconds.items()}  # the first warms up


def theirs(model: CausalLM, prompts: np.ndarray, tokens: int) -> Callable[[], Any]:
    """Transformers' `generate`, with the weights of a model."""
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        other = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(prompts)
    options = {"max_new_tokens": tokens, "do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    return lambda: other.generate(ids, attention_mask=torch.ones_like(ids), **options)


if __name__ == "__main__":
    main()
