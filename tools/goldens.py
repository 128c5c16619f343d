"""Make the small files that `make test` compares with, from the live oracles. Run it where those are installed:

    make conformance                                     # makes the environment, once
    .venv-conformance/bin/python tools/goldens.py        # writes tests/goldens/*.npz

A golden holds an oracle's inputs and answers, so that the unit tests can hold tinymoe against PyTorch, Transformers and
`tokenizers` without having them. Each is a few kilobytes and is read without pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"
TEXTS = [
    "",
    "Hello, world! It's 2024.",
    "  indented\n\tcode = f(x)\r\n\n",
    "naïve café — «да» 你好 नमस्ते 👩‍🚀",
    "aaaa bbb 12345",
]


def llama() -> dict[str, np.ndarray]:
    """A tiny Llama with grouped heads: config, weights, logits, loss, gradients, and greedy tokens."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=41, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, attention_bias=True, initializer_range=0.2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 41, (2, 12))
    out = model(ids, labels=ids)
    out.loss.backward()
    greedy = model.generate(ids[:, :4], max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    arrays: dict[str, Any] = {"ids": ids, "logits": out.logits.detach(), "loss": out.loss.detach(), "greedy": greedy}
    for name, p in model.named_parameters():
        arrays[f"weight.{name}"], arrays[f"grad.{name}"] = p.detach(), p.grad
    published = np.array(json.dumps(config.to_diff_dict(), default=str))
    return {"config": published, **{name: value.numpy() for name, value in arrays.items()}}


def adamw() -> dict[str, np.ndarray]:
    """Five steps of torch.optim.AdamW with clipping: the parameter after each."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    start, gradients, after = p.detach().clone(), [], []
    for _ in range(5):
        p.grad = torch.randn(3, 4)
        gradients.append(p.grad.clone())
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        optimizer.step()
        after.append(p.detach().clone())
    return {"start": start.numpy(), "gradients": torch.stack(gradients).numpy(), "after": torch.stack(after).numpy()}


def tokenizer() -> dict[str, np.ndarray]:
    """A byte-level BPE that `tokenizers` trained, as its file, and the ids it gives."""
    from tokenizers import (  # pyright: ignore[reportMissingImports]
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    ids = [bpe.encode(text).ids for text in TEXTS]
    return {"json": np.array(bpe.to_str()), "texts": np.array(json.dumps(TEXTS)), "ids": np.array(json.dumps(ids))}


def main() -> None:
    """Write every golden."""
    GOLDENS.mkdir(exist_ok=True)
    for make in (llama, adamw, tokenizer):
        path = GOLDENS / f"{make.__name__}.npz"
        np.savez_compressed(path, allow_pickle=False, **make())
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
