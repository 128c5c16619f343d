"""Decoding one more token after growing texts: latent attention over all of them beside sparse attention.

    python benchmarks/sparse_decode.py [--lengths 1024 … 32768] [--shrink 4] [--rounds 25] [--json FILE]

One layer of DeepSeek-V3.2's attention, made `--shrink` times smaller in every dimension, index_topk included. Both
layers have the same weights and caches filled with the same random numbers; they take turns, so that other work on the
machine disturbs both alike, and the quickest round counts, since such work only ever adds. Times are of the attention
part alone, from the layer's input to its output, on one thread. Operations are counted from the shapes, two to a
multiply-add, in the absorbed form, which is the one that decoding uses.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe.models import Config  # noqa: E402
from tinymoe.nn.attention import Places  # noqa: E402
from tinymoe.nn.cache import LayerCache  # noqa: E402
from tinymoe.nn.latent import LatentAttention  # noqa: E402
from tinymoe.nn.module import make  # noqa: E402
from tinymoe.nn.sparse import IndexedRules, SparseLatentAttention  # noqa: E402
from tinymoe.tensor import Tensor, no_grad  # noqa: E402

PUBLISHED = {
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--shrink", type=int, default=4, help="how many times smaller than the published layer")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    config = shrunken(options.shrink)
    dense, sparse = layers(config)

    print(f"one new token, index_topk {config.index_topk}, {tm.backend()} on one thread: ms and million operations")
    head = ("tokens", "dense", "sparse", "ratio", "of it choosing", "dense Mops", "sparse Mops", "ratio")
    print(f"{head[0]:>7}" + "".join(f"{name:>15}" for name in head[1:]))
    rows = []
    for length in options.lengths:
        times = measure(dense, sparse, config, length, options.rounds)
        row: dict[str, Any] = {"tokens": length, **times, **operations(dense, sparse, config, length)}
        rows.append(row)
        ratios = (row["dense_ms"] / row["sparse_ms"], row["dense_ops"] / row["sparse_ops"])
        print(
            f"{length:>7}{row['dense_ms']:>15.2f}{row['sparse_ms']:>15.2f}{ratios[0]:>15.1f}"
            f"{row['choosing_ms']:>15.2f}{row['dense_ops'] / 1e6:>15.1f}{row['sparse_ops'] / 1e6:>15.1f}"
            f"{ratios[1]:>15.1f}",
            flush=True,
        )
    if options.json:
        sizes = {name: getattr(config, name) for name in PUBLISHED}
        report = {**sizes, "backend": tm.backend(), "processor": processor(), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def shrunken(factor: int) -> Config:
    """The published layer, with every dimension divided by `factor`."""
    sizes: dict[str, Any] = {name: size // factor for name, size in PUBLISHED.items()}
    return Config(attention="sparse", vocab_size=1, intermediate_size=1, num_hidden_layers=1, **sizes)


def layers(config: Config) -> tuple[LatentAttention, SparseLatentAttention]:
    """A dense and a sparse layer with the same weights."""
    dense = make("attention", "latent", dataclasses.replace(config, attention="latent"), 0, np.random.default_rng(0))
    sparse = make("attention", "sparse", config, 0, np.random.default_rng(0))
    own = dict(sparse.named_parameters())
    for name, p in dense.named_parameters():
        own[name].data = p.data
    return dense, sparse


def measure(
    dense: LatentAttention, sparse: SparseLatentAttention, config: Config, length: int, rounds: int
) -> dict[str, float]:
    """Milliseconds for a token after `length` others: dense, sparse, and the sparse layer's choosing of keys alone."""
    rng = np.random.default_rng(length)
    x = Tensor(rng.standard_normal((1, 1, config.hidden_size), dtype=np.float32))
    turn = np.ones((1, 1, config.qk_rope_head_dim // 2), dtype=np.float32)
    places = Places(turn, 0 * turn, None, None)
    filled = {name: filled_cache(layer, config, length) for name, layer in (("dense", dense), ("sparse", sparse))}

    def choosing() -> IndexedRules:
        _, q_latent = sparse.queries(x, places)
        return sparse.rules(x, q_latent, places, filled["sparse"])  # pyright: ignore[reportArgumentType]

    jobs: dict[str, Callable[[], Any]] = {
        "dense_ms": lambda: dense(x, places, filled["dense"]),
        "sparse_ms": lambda: sparse(x, places, filled["sparse"]),
        "choosing_ms": choosing,
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    with no_grad():
        for turn_number in range(rounds + 2):
            for name, job in jobs.items():
                for cache in caches(filled):
                    cache.length = length  # forget the token of the round before
                start = time.perf_counter()
                job()
                if turn_number >= 2:  # the first rounds warm up
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: round(min(values), 3) for name, values in times.items()}


def filled_cache(layer: Any, config: Config, length: int) -> LayerCache:
    """A layer's cache after `length` tokens of noise, with room for one more."""
    rng, cache = np.random.default_rng(length), layer.new_cache()
    width = config.qk_rope_head_dim + config.kv_lora_rank  # pyright: ignore[reportOptionalOperand]
    for part, shape in ((cache, (1, width)), (getattr(cache, "index", None), (config.index_head_dim,))):
        if part is not None:
            noise = rng.standard_normal((1, length + 1, *shape), dtype=np.float32)
            part.append(noise, noise[..., :0])
    return cache


def caches(filled: dict[str, Any]) -> Iterator[LayerCache]:
    """All caches, those of index keys included."""
    for cache in filled.values():
        yield cache
        if hasattr(cache, "index"):
            yield cache.index


def operations(dense: LatentAttention, sparse: SparseLatentAttention, config: Config, length: int) -> dict[str, int]:
    """Operations for a token after `length` others: of the dense layer, the sparse one, and its indexer's scores."""
    seen, topk = length + 1, config.index_topk or 0
    a_key = 2 * dense.num_heads * (dense.rope_dim + dense.rank + dense.rank)  # compared, then mixed
    scores = 2 * sparse.indexer.heads * (sparse.indexer.head_dim + 1) * seen if seen > topk else 0
    weights = {name: 2 * sum(p.size for p in layer.parameters()) for name, layer in (("d", dense), ("s", sparse))}
    return {
        "dense_ops": weights["d"] + a_key * seen,
        "sparse_ops": weights["s"] + a_key * min(seen, topk) + scores,
        "scores_ops": scores,
    }


def processor() -> str:
    """The name of the processor, as far as it is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
