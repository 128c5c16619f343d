"""How fast a tokenizer is trained and encodes, beside Hugging Face `tokenizers`: the same merges, the same ids.

    python benchmarks/tokenizer.py [--megabytes 20] [--vocab 8192] [--rounds 3] [--threads 2] [--json FILE]

Byte-level BPE with GPT-2's pattern on the sources of Python's standard library. First both are trained and encode
everything here, and the files and ids have to be equal. Then each library has a process of its own for each kind of
work, with `--threads` threads, and they take turns (`common/turns.py`): training; encoding file by file; all files as
one text; and a list of all files. `encode_batch_fast` is theirs without the places of the tokens in the text, which
tinymoe does not tell either. A ratio is the median over the rounds of their time divided by ours, by the clock and by
the time of all cores, which a busy machine disturbs less. Compiling, once after installation, is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

import tokenizers  # noqa: E402
from common import tokenizers_work as work  # noqa: E402
from common.turns import Contender, median_ratio  # noqa: E402

from tinymoe.bench import machine  # noqa: E402
from tinymoe.text.tokenizer import Tokenizer  # noqa: E402

CLOCKS = {"clock": "seconds", "cores": "processor_seconds"}
COMPILE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tinymoe.text.tokenizer import Tokenizer
import tinymoe.text.bpe_numba
words = " ".join(f"w{number}" for number in range(1 << 19))
began = time.process_time()
Tokenizer.train([words], 260).encode(words)
print(time.process_time() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # the threads of `tokenizers`
    with tempfile.TemporaryDirectory() as folder:
        sizes = check(options.megabytes, options.vocab, Path(folder))
        print(f"{sizes['bytes'] / 1e6:.1f} MB in {sizes['files']} files, {sizes['tokens']:,} tokens: merges, ids equal")
        file = str(Path(folder, "tokenizer.json"))
        print(f"\n{'':>18}{'tinymoe':>14}{'tokenizers':>16}{'ratio':>8}{'by cores':>10}   (seconds)")
        pairs = [*((name, name) for name in work.WORKS), ("encode_batch", "encode_batch_fast")]
        shape = options.megabytes, options.vocab, file
        rows = [compare(*pair, shape, options.rounds, options.threads, sizes["bytes"]) for pair in pairs]
    compiling = compile_seconds()
    print(f"\nthe first large text takes {compiling['first']} s once, to compile, and {compiling['later']} s later")
    if options.json:
        report = {"benchmark": "tokenizer", **machine(), "tokenizers": tokenizers.__version__}
        report |= {"threads": options.threads, "vocab_size": options.vocab, **sizes, "first_text_seconds": compiling}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n")


def check(megabytes: float, vocab_size: int, folder: Path) -> dict[str, int]:
    """Train both, encode with both, and save the tokenizer. RuntimeError if they differ anywhere."""
    texts = work.standard_library(megabytes)
    mine, peer = Tokenizer.train(texts, vocab_size), work.train(texts, vocab_size)
    if mine.spec != json.loads(peer.to_str()):
        raise RuntimeError("the trained tokenizers differ")
    ids, whole = mine.encode_batch(texts), "\n".join(texts)
    if ids != [encoding.ids for encoding in peer.encode_batch(texts)] or ids != [mine.encode(text) for text in texts]:
        raise RuntimeError("the ids differ")
    if mine.encode(whole) != peer.encode(whole).ids:
        raise RuntimeError("the ids of all files as one text differ")
    mine.save(folder)
    return {"files": len(texts), "bytes": sum(len(text.encode()) for text in texts), "tokens": sum(map(len, ids))}


def compare(
    name: str, peer: str, shape: tuple[float, int, str], rounds: int, threads: int, size: int
) -> dict[str, Any]:
    """Let both do one kind of work in turns, print a line, and return it."""
    makers = {"tinymoe": (work.ours, name), "tokenizers": (work.theirs, peer)}
    contenders = [Contender(who, make, what, *shape, threads=threads) for who, (make, what) in makers.items()]
    turns: dict[str, list[Any]] = {contender.name: [] for contender in contenders}
    try:
        contenders[0].turn(1, warm=0)  # compiles
        for start in range(rounds):
            for place in range(2):
                contender = contenders[(start + place) % 2]
                turns[contender.name].append(contender.turn(1, warm=0))
    finally:
        for contender in contenders:
            contender.close()
    if len({turn.value for some in turns.values() for turn in some}) > 1:
        raise RuntimeError(f"{name}: not everybody came to the same number of tokens")
    row: dict[str, Any] = {"work": name, "peer": peer}
    for clock, field in CLOCKS.items():
        times = {who: [getattr(turn, field) for turn in some] for who, some in turns.items()}
        row[clock] = {who: [round(seconds, 3) for seconds in some] for who, some in times.items()}
        row[f"ratio_{clock}"] = round(median_ratio(times["tokenizers"], times["tinymoe"]), 2)
    best = {who: min(some) for who, some in row["clock"].items()}
    row["megabytes_per_s"] = {who: round(size / 1e6 / seconds, 2) for who, seconds in best.items()}
    figures = (
        f"{best['tinymoe']:>14.2f}{best['tokenizers']:>16.2f}{row['ratio_clock']:>8.2f}{row['ratio_cores']:>10.2f}"
    )
    print(f"{peer:>18}{figures}", flush=True)
    return row


def compile_seconds() -> dict[str, float]:
    """Processor's seconds that a new process takes for its first large text: right after installation, and later."""
    with tempfile.TemporaryDirectory() as cache:
        command, environment = [sys.executable, "-c", COMPILE, str(ROOT)], {**os.environ, "NUMBA_CACHE_DIR": cache}
        first, later = (
            float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout) for _ in range(2)
        )
    return {"first": round(first, 2), "later": round(later, 2)}


if __name__ == "__main__":
    main()
