"""What tinymoe does in a second, for `python -m tinymoe bench`.

Each measurement is a function that returns a report for JSON: what was measured, on what, and a list of `rows`. How
tinymoe compares with its peers is measured by the scripts in `benchmarks/`, which take tinymoe's side from here.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from .backend import backend
from .models import CausalLM, zoo
from .models.size import measure
from .nn import Config
from .posttrain.rollout import rollouts
from .text import corpora
from .text.tokenizer import Tokenizer
from .train.data import Batch, TokenData
from .train.trainer import TrainConfig, Trainer


@dataclass(frozen=True)
class TrainingTask:
    """A model, and tokens made up to train it on: `rows` of `context` a step, the same for the same step."""

    config: Config
    rows: int
    context: int

    @property
    def settings(self) -> TrainConfig:
        """Of a run that goes on as long as it is measured."""
        return TrainConfig(
            steps=10**9, batch_size=self.rows, context=self.context, lr=1e-3, schedule="constant", warmup=0
        )

    @cached_property
    def data(self) -> TokenData:
        """Each token is followed by one of the next three numbers: there is something to learn."""
        jumps = np.random.default_rng(0).integers(1, 4, size=16 * self.rows * (self.context + 1))
        return TokenData.from_documents([jumps.cumsum() % self.config.vocab_size], self.context)

    def batch(self, step: int) -> Batch:
        """What step number `step` learns from."""
        return self.data.batch(self.rows, seed=self.settings.seed, step=step)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.context

    @property
    def work(self) -> int:
        """Operations of training on a token: those of `measure`, where a causal query sees half of the context."""
        return 3 * measure(self.config, self.context).flops_per_token

    def trainer(self) -> Trainer:
        """A trainer of a new model."""
        return Trainer(CausalLM(self.config), self.data, self.settings)


_SMALL: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096}
_MOE: dict[str, Any] = {
    "mlp": "moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
}

TRAINING = {
    "nano": TrainingTask(
        Config(hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4, vocab_size=65),
        rows=12,
        context=64,
    ),
    "small": TrainingTask(Config(**_SMALL, intermediate_size=704, num_hidden_layers=8), rows=8, context=256),
    "moe": TrainingTask(Config(**_SMALL, **_MOE, intermediate_size=256, num_hidden_layers=6), rows=8, context=256),
}

PRODUCT = 2 * 1024**3  # operations of a product of `products`


def training(task: TrainingTask) -> Callable[[], float]:
    """A function that makes a training step of a new model and returns its loss."""
    trainer = task.trainer()
    return lambda: trainer.step()["loss"]


def products() -> Callable[[], None]:
    """A function that makes one float32 product of 1024³."""
    a, b = np.random.default_rng(0).standard_normal((2, 1024, 1024), dtype=np.float32)
    out = np.empty_like(a)

    def product() -> None:
        np.matmul(a, b, out=out)

    return product


def train(tasks: Mapping[str, TrainingTask], *, repeats: int = 5) -> dict[str, Any]:
    """Tokens a second of training, and the share of the rate of matrix products that this is.

    Steps and products take turns, `repeats` times; the medians count. ValueError for repeats below 1.
    """
    _check_positive(repeats=repeats)
    product, rows = products(), []
    for name, task in tasks.items():
        step = training(task)
        turns = [(_shortest(product, 8), _shortest(step, 2)) for _ in range(repeats)]
        alone, seconds = (statistics.median(column) for column in zip(*turns, strict=True))
        share = task.tokens * task.work / PRODUCT * alone / seconds
        figures = {"tokens_per_s": round(task.tokens / seconds), "share_of_products": round(share, 3)}
        rows.append({"model": name, **figures, "gflops": round(PRODUCT / alone / 1e9, 1)})
    return {"benchmark": "train", **machine(), "rows": rows}


def decode(
    model: CausalLM | None = None,
    *,
    batches: Sequence[int] = (1, 8, 32),
    prompt_tokens: int = 192,
    new_tokens: int = 64,
    repeats: int = 5,
) -> dict[str, Any]:
    """Tokens a second of `model.generate`, greedy, by the number of texts continued together; the shortest run counts.

    Reading the prompts, of random tokens, is in the time. Without a model it is the llama-small with random weights.
    ValueError for settings that are no whole numbers above 0, or do not fit the model.
    """
    model = zoo.build("llama-small") if model is None else model
    sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats}
    _check_positive(**sizes, batches=min(batches))
    _check_room(model, prompt_tokens, new_tokens)
    prompts, rows = np.random.default_rng(0).integers(model.config.vocab_size, size=(max(batches), prompt_tokens)), []
    for batch in batches:
        work = partial(model.generate, prompts[:batch], max_new_tokens=new_tokens, temperature=0)
        seconds = _shortest(work, repeats)
        rows.append({"texts": batch, "tokens_per_s": round(batch * new_tokens / seconds, 1)})
    return {"benchmark": "decode", **machine(), "parameters": model.num_parameters(), **sizes, "rows": rows}


def tokenizer(
    texts: Sequence[str] | None = None, *, vocab_size: int = 8192, megabytes: float = 4, repeats: int = 3
) -> dict[str, Any]:
    """Megabytes a second of training a byte-level BPE tokenizer on texts, and of encoding them; the best run counts.

    Without texts it is the source code of the standard library, as much as `megabytes`. ValueError for repeats below 1.
    """
    _check_positive(repeats=repeats)
    if texts is None:
        texts = corpora.documents("python-code", limit_chars=round(megabytes * 1e6))
    size = len("".join(texts).encode()) / 1e6
    trained = Tokenizer.train(texts, vocab_size)
    work = {
        "training": lambda: Tokenizer.train(texts, vocab_size),
        "encoding all at once": lambda: trained.encode_batch(texts),
        "encoding one by one": lambda: [trained.encode(text) for text in texts],
    }
    rows = [{"work": name, "megabytes_per_s": round(size / _shortest(do, repeats), 2)} for name, do in work.items()]
    return {"benchmark": "tokenizer", **machine(), "vocab_size": vocab_size, "megabytes": round(size, 2), "rows": rows}


def rollout(
    model: CausalLM | None = None,
    *,
    answers: Sequence[int] = (16, 64, 256),
    group_size: int = 8,
    prompt_tokens: int = 12,
    new_tokens: int = 64,
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Tokens a second of `posttrain.rollouts`, by the number of answers sampled together: the best of `repeats` runs.

    Prompts are random tokens, answered group_size times each, and no token ends an answer, so that all have
    new_tokens. `one_by_one` is what `model.generate` does with one answer at a time. Without a model it is the
    llama-nano with random weights. ValueError for settings that are no whole numbers above 0, or do not fit the model.
    """
    model = zoo.build("llama-nano", vocab_size=256) if model is None else model
    sizes = {"group_size": group_size, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats}
    _check_positive(**sizes, answers=min(answers))
    _check_room(model, prompt_tokens, new_tokens)
    many, rows = -(-max(answers) // group_size), []
    prompts = list(np.random.default_rng(seed).integers(model.config.vocab_size, size=(many, prompt_tokens)))
    alone = _shortest(lambda: model.generate(prompts[0], max_new_tokens=new_tokens, seed=seed), repeats)
    for count in answers:
        asked, group = prompts[: -(-count // group_size)], min(group_size, count)
        work = partial(rollouts, model, asked, group, max_new_tokens=new_tokens, seed=seed)
        rate = len(asked) * group * new_tokens / _shortest(work, repeats)
        figures = {"tokens_per_s": round(rate, 1), "one_by_one": round(new_tokens / alone, 1)}
        rows.append({"answers": len(asked) * group, **figures, "ratio": round(rate * alone / new_tokens, 2)})
    return {"benchmark": "rollout", **machine(), "parameters": model.num_parameters(), **sizes, "rows": rows}


def machine() -> dict[str, str]:
    """What the figures depend on beside the code."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {"backend": backend(), "processor": platform.processor() or platform.machine(), **versions}


def _shortest(work: Callable[[], object], repeats: int) -> float:
    """The shortest time of some work, after a first run that may compile."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected a whole number ≥ 1")


def _check_room(model: CausalLM, prompt_tokens: int, new_tokens: int) -> None:
    if prompt_tokens + new_tokens > model.config.max_position_embeddings:
        raise ValueError(
            f"new_tokens: got {new_tokens} after {prompt_tokens}, expected at most the model's "
            f"max_position_embeddings {model.config.max_position_embeddings} together"
        )
