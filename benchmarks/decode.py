"""How fast texts are continued, beside Transformers' `generate` and llama.cpp on the same float32 weights.

    python benchmarks/decode.py [--rounds 5] [--threads 1] [--llama-cpp FOLDER] [--json FILE]

The model is llama-small with random weights, the prompts random tokens, the context 256 at the end. One text is
continued with the likeliest tokens; 32 texts, by tinymoe and Transformers, with sampled ones (temperature, top-k and
top-p). What is timed are the tokens after the first. Each library has a process of its own with `--threads` threads,
and they take turns (`common/turns.py`); ratios are medians over the rounds, by the clock and by the time of all cores,
which a busy machine disturbs less. llama.cpp is left out where llama-cpp-python cannot be imported, from `--llama-cpp`
if given: a folder made by `pip install --target FOLDER llama-cpp-python`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

import numpy as np  # noqa: E402
from common.decoders import SAMPLED, llama_cpp_decoder, tinymoe_decoder, transformers_decoder  # noqa: E402
from common.turns import Contender, median_ratio, rounds  # noqa: E402

import tinymoe as tm  # noqa: E402
from tinymoe.bench import machine  # noqa: E402
from tinymoe.models.gguf_models import save_gguf  # noqa: E402

CONTEXT, BATCH = 256, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="that are timed, of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llama-cpp", help="the folder that llama-cpp-python is installed in")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    model, length = tm.zoo.build("llama-small", seed=0), CONTEXT - options.tokens
    prompts = np.random.default_rng(0).integers(model.config.vocab_size, size=(BATCH, length)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        rows = []
        for texts, sampled in ((1, False), (BATCH, True)):
            task = (prompts[:texts], options.tokens, sampled)
            contenders = [
                Contender("tinymoe", tinymoe_decoder, folder, *task, threads=options.threads),
                Contender(
                    "transformers", transformers_decoder, folder, *task, options.threads, threads=options.threads
                ),
            ]
            if texts == 1 and _has_llama_cpp(options.llama_cpp):
                file = Path(folder, "small.gguf")
                save_gguf(model, file)
                settings = (*task[:2], options.llama_cpp, options.threads)
                contenders.append(
                    Contender("llama.cpp", llama_cpp_decoder, str(file), *settings, threads=options.threads)
                )
            rows.append(compare(contenders, texts, sampled, options.rounds, options.tokens))
    if options.json:
        sizes = {"threads": options.threads, "context": CONTEXT, "tokens": options.tokens, "sampling": SAMPLED}
        report = {"benchmark": "decode", **machine(), **_versions(), "parameters": model.num_parameters(), **sizes}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n")


def compare(contenders: list[Contender], texts: int, sampled: bool, count: int, tokens: int) -> dict[str, Any]:
    """Let them take turns; a row of the report, which is also printed."""
    try:
        taken = rounds(contenders, [1] * len(contenders), count)
    finally:
        for contender in contenders:
            contender.close()
    turns = {name: [turn.value for turn in its] for name, its in taken.items()}
    ours = turns.pop("tinymoe")
    row: dict[str, Any] = {"texts": texts, "sampled": sampled}
    row["tinymoe"] = {"tokens_per_s": round(texts * tokens / statistics.median(clock for clock, _, _ in ours), 1)}
    print(f"{texts} texts, {'sampled' if sampled else 'greedy'}: tinymoe {row['tinymoe']['tokens_per_s']:,} tokens/s")
    for name, theirs in turns.items():
        clock, cores = (median_ratio([t[i] for t in theirs], [t[i] for t in ours]) for i in (0, 1))
        rate = round(texts * tokens / statistics.median(clock for clock, _, _ in theirs), 1)
        row[name] = {"tokens_per_s": rate, "ratio": round(clock, 2), "ratio_by_cores": round(cores, 2)}
        if not sampled:
            row[name]["same_tokens"] = theirs[0][2] == ours[0][2]
        print(f"{name:>16} {rate:>10,} tokens/s   ratio {clock:.2f}, by cores {cores:.2f}", flush=True)
    return row


def _has_llama_cpp(folder: str | None) -> bool:
    return folder is not None or importlib.util.find_spec("llama_cpp") is not None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers")}


if __name__ == "__main__":
    main()
