"""Training step by step beside PyTorch: from the same weights, on the same batches, the same losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tinymoe import bench

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common import torch_training


@pytest.mark.parametrize(("model", "steps"), [("nano", 50), ("small", 3), ("moe", 3)])
def test_the_losses_of_the_first_steps(model, steps, backend):
    """The models that `benchmarks/train_speed.py` compares are the same models, trained in the same way."""
    if backend == "numpy" and model != "nano":
        pytest.skip("the reference takes ten seconds a step; its kernels are compared one by one in test_ops.py")
    task = bench.TRAINING[model]
    ours, theirs = bench.training(task), torch_training.training(task, "eager", threads=1)
    for step in range(steps):
        assert ours() == pytest.approx(theirs(), abs=1e-3), f"step {step}"
