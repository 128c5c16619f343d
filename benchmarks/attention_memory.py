"""Peak extra memory of attention at growing lengths, the plain formula beside the kernel, and of a training step.

    python benchmarks/attention_memory.py [--tokens 1024 4096 16384] [--window 1024] [--json FILE]

One text in float32, grouped-query attention. What is counted is the most that was in use at one time beyond queries,
keys, values and the incoming gradient, so the output and the gradients are in it. NumPy's arrays report to tracemalloc,
and no other process disturbs the count: the numbers are the same on every run and machine. The plain formula keeps its
table of tokens x tokens for the backward pass; it is left out where its arrays would take more than --limit GiB. The
last column is a whole step of the `Trainer`, on one text of that length, of a Llama of two layers with such attention.
"""

from __future__ import annotations

import argparse
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

import tinymoe as tm  # noqa: E402
from tinymoe import bench  # noqa: E402
from tinymoe.backend import current  # noqa: E402
from tinymoe.backend.reference import AttentionRules  # noqa: E402
from tinymoe.nn import Config  # noqa: E402

MIB = 2**20
TABLES = 2  # arrays of heads x T x T that the plain formula holds at its peak: weights and their gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--backend", help="of tinymoe; default: its own choice")
    parser.add_argument("--limit", type=float, default=2.0, help="GiB that the plain formula may take")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if options.backend:
        tm.use(options.backend)
    window = f"window {options.window}"
    columns = {"plain formula": plain, "kernel": kernel(None), f"kernel, {window}": kernel(options.window)}
    for tokens in (64, 4096):  # compiles the kernels, for short texts on one thread and for long ones on all
        kernel(None)(*make_case(tokens, options))

    print(f"peak extra memory in MiB, and its growth; {options.heads} heads of {options.head_dim}, {tm.backend()}")
    print(f"{'tokens':>7}" + "".join(f"{name:>26}" for name in (*columns, "training step")))
    rows: list[dict[str, Any]] = []
    for tokens in options.tokens:
        case = make_case(tokens, options)
        too_large = TABLES * options.heads * tokens**2 * 4 > options.limit * 2**30
        peaks = {
            name: None if attend is plain and too_large else peak_memory(attend, case)
            for name, attend in columns.items()
        }
        step = training_step(tokens, options)
        step()  # the optimizer's state is made once
        peaks["training step"] = peak_memory(step, [])
        before = rows[-1]["peak_mib"] if rows else {}
        rows.append({"tokens": tokens, "peak_mib": peaks})
        cells = (f"{shown(peak, before.get(name)):>26}" for name, peak in peaks.items())
        print(f"{tokens:>7}" + "".join(cells), flush=True)
    if options.json:
        settings = {name: getattr(options, name) for name in ("heads", "kv_heads", "head_dim", "window")}
        report = {**settings, "backend": tm.backend(), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def make_case(tokens: int, options: argparse.Namespace) -> list[np.ndarray]:
    """Queries, keys, values and the output's gradient: (1, T, heads, head_dim); keys and values have fewer heads."""
    rng = np.random.default_rng(0)
    heads = (options.heads, options.kv_heads, options.kv_heads, options.heads)
    return [rng.standard_normal((1, tokens, count, options.head_dim), dtype=np.float32) for count in heads]


def kernel(window: int | None) -> Callable[..., Any]:
    """The backend's attention, forward and backward."""

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray) -> Any:
        rules = AttentionRules(q.shape[-1] ** -0.5, window=window)
        out, lse = current().attention(q, k, v, None, rules)
        return out, current().attention_backward(g, q, k, v, None, rules, out, lse)

    return attend


def training_step(tokens: int, options: argparse.Namespace) -> Callable[[], float]:
    """A step of a small model on one text."""
    width = options.heads * options.head_dim
    config = Config(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=2,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        vocab_size=256,
        max_position_embeddings=tokens,
    )
    return bench.training(bench.TrainingTask(config, rows=1, context=tokens))


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray) -> Any:
    """The formula with the whole table, and its vjp: no array is kept that it can do without."""
    _, T, H, D = q.shape
    group = H // k.shape[2]
    queries, dout = q[0].transpose(1, 0, 2), g[0].transpose(1, 0, 2)  # (H, T, D)
    keys, values = (np.repeat(x[0], group, axis=1).transpose(1, 0, 2) for x in (k, v))
    weights = queries @ keys.transpose(0, 2, 1)  # (H, T, T)
    weights *= D**-0.5
    weights[:, np.triu(np.ones((T, T), dtype=bool), k=1)] = -np.inf
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    out = weights @ values
    dscores = dout @ values.transpose(0, 2, 1)
    dscores -= (dout * out).sum(axis=-1, keepdims=True)
    dscores *= weights
    dscores *= D**-0.5
    dkeys, dvalues = (
        (table.transpose(0, 2, 1) @ x).reshape(-1, group, T, D).sum(axis=1)
        for table, x in ((dscores, queries), (weights, dout))
    )
    return out, (dscores @ keys, dkeys, dvalues)


def peak_memory(attend: Callable[..., Any], case: list[np.ndarray]) -> float:
    """MiB in use at the fullest moment of a call, beyond what was in use before."""
    tracemalloc.start()
    attend(*case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / MIB, 1)


def shown(peak: float | None, before: float | None) -> str:
    """One cell of the table."""
    if peak is None:
        return "left out"
    return f"{peak:,.1f}" + ("" if before is None else f"  (x {peak / before:.1f})")


if __name__ == "__main__":
    main()
