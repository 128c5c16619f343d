"""Char-level Tiny Shakespeare in the size of nanoGPT's CPU recipe: tinymoe from its command line, against nanoGPT.

    python benchmarks/nanogpt_recipe.py [--data tiny-shakespeare|FILE] [--seeds 3] [--only eager,compile] [--json FILE]

4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps, no dropout; the last tenth of the text is for
validation, and the losses shown are over all of it. The peer is nanoGPT's model and loop (A. Karpathy, 2022,
train_shakespeare_char with the CPU settings of its README), written out below in PyTorch, with fused AdamW: eager, as
its README says for CPUs, and compiled; the faster one counts. All take turns, each in a process of its own. Seconds are
those of the whole process: imports, compiling, and the evaluations, which are the same for all: 20 batches of the
validation text every 250 steps, and at the end all of it. A Llama learns more in a step than nanoGPT's GPT-2 does, so
tinymoe also runs with half and with a third of the steps: time is compared at the same number of steps, and at no
higher a loss. Where PyTorch is not installed the peer is left out. Without a network the text is the `tales` that come
with tinymoe.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from a clone that is not installed

from common.turns import THREADS  # noqa: E402

from tinymoe import bench  # noqa: E402
from tinymoe.text import corpora  # noqa: E402

BATCH, CONTEXT, LAYERS, HEADS, WIDTH = 12, 64, 4, 4, 128
OURS = {"tinymoe": 1.0, "half the steps": 1 / 2, "a third": 1 / 3}  # of the recipe's steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="tiny-shakespeare", help="a text file, or a corpus of tinymoe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", help="of tinymoe; default: its own choice")
    parser.add_argument("--only", default="eager,compile", help="peers with commas between them, or none")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)  # the process that is the peer: how, and the seed
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(train_nanogpt(options.data, options.peer[0], int(options.peer[1]), options.steps)))
        return
    os.environ.update(dict.fromkeys(THREADS, str(options.threads)))
    options.data = available(options.data)
    peers = [name for name in ("eager", "compile") if name in options.only and importlib.util.find_spec("torch")]
    print(f"{options.steps} steps on {Path(options.data).name}, {options.threads} threads: loss, seconds")
    print(
        f"{'seed':>4}" + "".join(f"{name:>20}" for name in (*OURS, *peers)) + ("   of the peer's" if peers else "")
    )
    rows = []
    for seed in range(options.seeds):
        rows.append(run_each(seed, options, peers))
        print_row(f"{seed}", rows[-1])
    mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "seed"}
    print_row("mean", mean)
    if options.json:
        report = {
            "steps": options.steps,
            "threads": options.threads,
            "text": Path(options.data).name,
            **bench.machine(),
        }
        options.json.write_text(json.dumps({**report, "runs": rows, "mean": mean}, indent=1) + "\n")


def available(data: str) -> str:
    """This text, or what comes with tinymoe where it cannot be downloaded."""
    try:
        corpora.text(data)
    except ConnectionError as error:
        print(f"{error}\nusing tales instead")
        return "tales"
    return data


def print_row(name: str, row: dict[str, float]) -> None:
    """One line of the table; last come tinymoe's times as shares of the faster peer's."""
    whose = [key.removesuffix("_seconds") for key in row if key.endswith("_seconds")]
    cells = "".join(f"{row[f'{who}_loss']:11.4f}{row[f'{who}_seconds']:9.1f}" for who in whose)
    shares = "".join(f"{share:8.2f}" for key, share in row.items() if key.endswith("_of_the_peers"))
    print(f"{name:>4}{cells}{shares}", flush=True)


def run_each(seed: int, options: argparse.Namespace, peers: list[str]) -> dict[str, float]:
    """One run of each, one after the other."""
    row: dict[str, float] = {"seed": seed}
    for name, steps in OURS.items():
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "tinymoe", "train", "--model", "llama-nano", "--tokenizer", "char", "--data", options.data]
            command += ["--seed", str(seed), "--out", folder, "--quiet", "--steps", str(round(options.steps * steps))]
            seconds = run([*command, *(["--backend", options.backend] if options.backend else [])])[0]
            metrics = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        row |= {f"{name}_loss": round(metrics[-1]["val_loss"], 4), f"{name}_seconds": round(seconds, 1)}
    for how in peers:
        command = [__file__, "--peer", how, str(seed), "--data", options.data, "--steps", str(options.steps)]
        seconds, output = run(command)
        row |= {f"{how}_loss": round(json.loads(output)["loss"], 4), f"{how}_seconds": round(seconds, 1)}
    if peers:
        faster = min(row[f"{how}_seconds"] for how in peers)
        row |= {f"{name}_of_the_peers": round(row[f"{name}_seconds"] / faster, 3) for name in OURS}
    return row


def run(arguments: list[str]) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def train_nanogpt(data: str, how: str, seed: int, steps: int) -> dict[str, float]:
    """nanoGPT's loop, how: "eager" or "compile". Its evaluations during the run are estimates, as in tinymoe."""
    import torch

    text = corpora.text(data)
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text])
    cut = int(len(tokens) * 0.9)
    parts = {"train": tokens[:cut], "val": tokens[cut:]}
    torch.manual_seed(1337 + seed)
    model = _nanogpt(len(ids))
    loss_of = torch.compile(model) if how == "compile" else model
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def batch(part: str) -> tuple[Any, Any]:
        starts = torch.randint(len(parts[part]) - CONTEXT, (BATCH,))
        x = torch.stack([parts[part][i : i + CONTEXT] for i in starts])
        return x, torch.stack([parts[part][i + 1 : i + 1 + CONTEXT] for i in starts])

    @torch.no_grad()
    def estimate() -> float:
        return statistics.mean(loss_of(*batch("val")).item() for _ in range(20))

    for step in range(steps):
        lr = 1e-3 * (step + 1) / 101
        if step >= 100:
            lr = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = lr
        if step and step % 250 == 0:
            estimate()
        loss = loss_of(*batch("train"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # logged at each step

    rows = parts["val"][: (len(parts["val"]) - 1) // CONTEXT * CONTEXT + 1]
    x, y = rows[:-1].view(-1, CONTEXT), rows[1:].view(-1, CONTEXT)
    with torch.no_grad():
        losses = [model(x[i : i + 64], y[i : i + 64]).item() for i in range(0, len(x), 64)]
    loss = float(np.average(losses, weights=[len(x[i : i + 64]) for i in range(0, len(x), 64)]))
    return {"loss": loss}


def _nanogpt(vocabulary: int) -> Any:
    """GPT-2 as nanoGPT writes it: LayerNorm without bias, GELU, learned positions, tied embeddings."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
            self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.c_proj = nn.Linear(WIDTH, WIDTH, bias=False)
            self.c_fc = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
            self.mlp_proj = nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x: Any) -> Any:
            B, T, C = x.shape
            q, k, v = (
                part.view(B, T, HEADS, C // HEADS).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
            return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.ln_f = nn.LayerNorm(WIDTH, bias=False)
            for name, p in self.named_parameters():
                if p.dim() >= 2:
                    std = 0.02 / math.sqrt(2 * LAYERS) if name.endswith(("c_proj.weight", "mlp_proj.weight")) else 0.02
                    nn.init.normal_(p, std=std)

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.ln_f(x), self.wte.weight)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    return GPT()


if __name__ == "__main__":
    main()
