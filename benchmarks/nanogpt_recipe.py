"""Char-level Tiny Shakespeare in the size of nanoGPT's CPU recipe: tinymoe from its command line, against nanoGPT.

    python benchmarks/nanogpt_recipe.py [--data tiny-shakespeare|FILE] [--seeds 3] [--json FILE]

4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps, no dropout; the last tenth of the text is for
validation, and the losses shown are over all of it. The peer is nanoGPT's model and loop (A. Karpathy, 2022,
train_shakespeare_char with the CPU settings of its README), written out below in PyTorch; the two take turns, each
in a process of its own. Seconds are those of the whole process: imports, the evaluations during the run, and at its
end the one of all the validation text, which both make. Where PyTorch is
not installed the peer is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed
BATCH, CONTEXT, LAYERS, HEADS, WIDTH = 12, 64, 4, 4, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="tiny-shakespeare", help="a text file, or a corpus of tinymoe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--backend", help="of tinymoe; default: its own choice")
    parser.add_argument("--no-peer", action="store_true", help="leave nanoGPT out")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--nanogpt-seed", type=int, help=argparse.SUPPRESS)  # the process that is the peer
    options = parser.parse_args()
    if options.nanogpt_seed is not None:
        print(json.dumps(train_nanogpt(options.data, options.nanogpt_seed, options.steps)))
        return
    with_peer = not options.no_peer and importlib.util.find_spec("torch") is not None
    rows = []
    peer_titles = f"  {'nanoGPT':>8}  {'seconds':>7}  {'ratio':>5}" if with_peer else ""
    print(f"{'seed':>4}  {'tinymoe':>8}  {'seconds':>7}{peer_titles}")
    for seed in range(options.seeds):
        rows.append(run_pair(seed, options, with_peer))
        print_row(f"{seed}", rows[-1])
    mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "seed"}
    print_row("mean", mean)
    if not with_peer:
        print("nanoGPT was left out" + (": PyTorch is not installed" if not options.no_peer else ""))
    if options.json:
        report = {"steps": options.steps, "backend": options.backend or "default", "runs": rows, "mean": mean}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def print_row(name: str, row: dict[str, float]) -> None:
    line = f"{name:>4}  {row['tinymoe_loss']:8.4f}  {row['tinymoe_seconds']:7.1f}"
    if "nanogpt_loss" in row:
        ratio = row["nanogpt_seconds"] / row["tinymoe_seconds"]
        line += f"  {row['nanogpt_loss']:8.4f}  {row['nanogpt_seconds']:7.1f}  {ratio:5.2f}"
    print(line, flush=True)


def run_pair(seed: int, options: argparse.Namespace, with_peer: bool) -> dict[str, float]:
    """One run of each, one after the other."""
    row: dict[str, float] = {"seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "tinymoe", "train", "--model", "llama-nano", "--tokenizer", "char", "--data", options.data]
        command += ["--seed", str(seed), "--out", folder, "--quiet", "--steps", str(options.steps)]
        row["tinymoe_seconds"] = run([*command, *(["--backend", options.backend] if options.backend else [])])[0]
        metrics = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        row["tinymoe_loss"] = metrics[-1]["val_loss"]
    if with_peer:
        command = [__file__, "--nanogpt-seed", str(seed), "--data", options.data, "--steps", str(options.steps)]
        row["nanogpt_seconds"], output = run(command)
        result = json.loads(output)
        row["nanogpt_loss"] = result["loss"]
    return row


def run(arguments: list[str]) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def train_nanogpt(data: str, seed: int, steps: int) -> dict[str, float]:
    """nanoGPT's loop. Its own evaluations are estimates; at the end comes the whole validation text, as in tinymoe."""
    import torch

    from tinymoe.text import corpora

    text = corpora.text(data)
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text])
    cut = int(len(tokens) * 0.9)
    parts = {"train": tokens[:cut], "val": tokens[cut:]}
    torch.manual_seed(1337 + seed)
    model = _nanogpt(len(ids))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def batch(part: str) -> tuple[Any, Any]:
        starts = torch.randint(len(parts[part]) - CONTEXT, (BATCH,))
        x = torch.stack([parts[part][i : i + CONTEXT] for i in starts])
        return x, torch.stack([parts[part][i + 1 : i + 1 + CONTEXT] for i in starts])

    @torch.no_grad()
    def estimate() -> None:
        model.eval()
        for part in parts:
            torch.tensor([model(*batch(part)).item() for _ in range(20)]).mean()
        model.train()

    for step in range(steps + 1):  # nanoGPT too makes one step more than it says
        lr = 1e-3 * (step + 1) / 101
        if step >= 100:
            lr = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = lr
        if step % 250 == 0:
            estimate()
        loss = model(*batch("train"))
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
