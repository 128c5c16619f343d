"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no scheduler state.

Steps count from 0. All begin with a linear warm-up, whose first step already learns a little.
"""

from __future__ import annotations

import math


def constant(step: int, *, lr: float, warmup: int = 0) -> float:
    """The peak rate `lr` after `warmup` steps."""
    return lr * min(1.0, (step + 1) / (warmup + 1))


def cosine(step: int, *, lr: float, steps: int, warmup: int = 0, min_lr: float = 0.0) -> float:
    """Half a cosine from the peak `lr` down to `min_lr`, reached at `steps` and kept afterwards.

    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts: the schedule of GPT-3 and Llama.
    """
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def warmup_stable_decay(
    step: int, *, lr: float, steps: int, decay: int, warmup: int = 0, min_lr: float = 0.0, shape: str = "linear"
) -> float:
    """The peak `lr` until `decay` steps before the end, then down to `min_lr`, linearly or as 1 - sqrt.

    MiniCPM (Hu et al. 2024, arXiv:2404.06395). A run can be prolonged from its stable part, where a cosine has
    to know its end beforehand. DeepSeek V3 keeps its rate for two thirds of the tokens. 1 - sqrt is the better
    decay in Hägele et al. 2024, arXiv:2405.18392.
    """
    if shape not in ("linear", "1-sqrt"):
        raise ValueError(f"shape: got {shape!r}, expected 'linear' or '1-sqrt'")
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = min(1.0, max(0.0, (step - (steps - decay)) / max(1, decay)))
    left = 1 - (math.sqrt(progress) if shape == "1-sqrt" else progress)
    return min_lr + (lr - min_lr) * left
