"""What tinymoe does in a second, for `python -m tinymoe bench`.

Each measurement is a function that returns a report for JSON: what was measured, on what, and a list of `rows`. How
tinymoe compares with its peers is measured by the scripts in `benchmarks/`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .backend import backend
from .models import CausalLM, zoo
from .posttrain.rollout import rollouts


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
    for name, size in [*sizes.items(), *(("answers", count) for count in answers)]:
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected a whole number ≥ 1")
    if prompt_tokens + new_tokens > model.config.max_position_embeddings:
        raise ValueError(
            f"new_tokens: got {new_tokens} after {prompt_tokens}, expected at most the model's "
            f"max_position_embeddings {model.config.max_position_embeddings} together"
        )
    many, rows = -(-max(answers) // group_size), []
    prompts = list(np.random.default_rng(seed).integers(model.config.vocab_size, size=(many, prompt_tokens)))
    alone = _seconds(lambda: model.generate(prompts[0], max_new_tokens=new_tokens, seed=seed), repeats)
    for count in answers:
        asked, group = prompts[: -(-count // group_size)], min(group_size, count)
        work = partial(rollouts, model, asked, group, max_new_tokens=new_tokens, seed=seed)
        rate = len(asked) * group * new_tokens / _seconds(work, repeats)
        figures = {"tokens_per_s": round(rate, 1), "one_by_one": round(new_tokens / alone, 1)}
        rows.append({"answers": len(asked) * group, **figures, "ratio": round(rate * alone / new_tokens, 2)})
    return {"benchmark": "rollout", **machine(), "parameters": model.num_parameters(), **sizes, "rows": rows}


def machine() -> dict[str, str]:
    """What the figures depend on beside the code."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {"backend": backend(), "processor": platform.processor() or platform.machine(), **versions}


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The shortest time of some work, after a first run that may compile."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])
