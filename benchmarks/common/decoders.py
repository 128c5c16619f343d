"""Generation by tinymoe, Transformers and llama.cpp from the same weights: functions that time the tokens after the
first, so that reading the prompt is not in it. Each is made in a process of its own (see `turns`).

They return seconds by the clock, seconds of all cores, and the tokens (B, prompt + n) of the longer text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Timed = tuple[float, float, list[list[int]]]
SAMPLED = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}


def tinymoe_decoder(folder: str, prompts: list[list[int]], tokens: int, sampled: bool) -> Callable[[], Timed]:
    """tinymoe's `generate`."""
    import tinymoe as tm

    model = tm.from_pretrained(folder)
    options: dict[str, Any] = {**SAMPLED, "seed": 0} if sampled else {"temperature": 0.0}
    return lambda: _after_first(lambda n: model.generate(np.array(prompts), max_new_tokens=n, **options), tokens)


def transformers_decoder(
    folder: str, prompts: list[list[int]], tokens: int, sampled: bool, threads: int
) -> Callable[[], Timed]:
    """Transformers' `generate`."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model, ids = transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor(prompts)
    options: dict[str, Any] = {"do_sample": True, **SAMPLED} if sampled else {"do_sample": False}
    fixed = {"attention_mask": torch.ones_like(ids), "eos_token_id": None, "pad_token_id": 0}
    return lambda: _after_first(lambda n: model.generate(ids, max_new_tokens=n, **fixed, **options).numpy(), tokens)


def llama_cpp_decoder(
    file: str, prompts: list[list[int]], tokens: int, installed: str | None, threads: int
) -> Callable[[], Timed]:
    """llama.cpp, through llama-cpp-python, on one text; `installed`: the folder it is in, if not on the path."""
    sys.path += [installed] if installed else []
    import llama_cpp  # pyright: ignore[reportMissingImports]

    threads_used = {"n_threads": threads, "n_threads_batch": threads}
    model = llama_cpp.Llama(file, n_ctx=len(prompts[0]) + tokens + 1, verbose=False, **threads_used)

    def generate(n: int) -> np.ndarray:
        model.reset()
        made = model.generate(prompts[0], temp=0.0, repeat_penalty=1.0, reset=False)
        return np.array([prompts[0] + [next(made) for _ in range(n)]])

    return lambda: _after_first(generate, tokens)


def _after_first(generate: Callable[[int], np.ndarray], tokens: int) -> Timed:
    wall, cores = time.perf_counter(), time.process_time()
    generate(1)
    first = time.perf_counter() - wall, time.process_time() - cores
    wall, cores = time.perf_counter(), time.process_time()
    text = generate(1 + tokens)
    return time.perf_counter() - wall - first[0], time.process_time() - cores - first[1], text.tolist()
