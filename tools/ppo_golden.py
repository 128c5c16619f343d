"""Make tests/goldens/ppo.npz from the PPO of TRL 0.11.4, the last release in which its terms are methods of their own.

    python -m pip download --no-deps trl==0.11.4
    .venv-conformance/bin/python tools/ppo_golden.py trl-0.11.4-py3-none-any.whl

Later releases have PPO inside one long loop, and the newest none at all. And 0.11.4 imports packages that the newest
does without, so its functions are taken out of the wheel's source, and run.
"""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "ppo.npz"
WANTED = {
    "trl/core.py": (
        "clip_by_value", "entropy_from_logits", "flatten_dict", "masked_mean", "masked_var", "masked_whiten",
    ),
    "trl/trainer/ppo_trainer.py": ("compute_rewards", "_kl_penalty", "compute_advantages", "loss"),
    "trl/trainer/utils.py": ("AdaptiveKLController",),
}


def trl(wheel: Path) -> SimpleNamespace:
    """The wanted definitions of the wheel, functions of functions and methods alike."""
    import torch  # pyright: ignore[reportMissingImports]

    found: list[ast.stmt] = [ast.parse("from __future__ import annotations").body[0]]
    with zipfile.ZipFile(wheel) as archive:
        for file, names in WANTED.items():
            kinds = (ast.FunctionDef, ast.ClassDef)
            tree = ast.walk(ast.parse(archive.read(file)))
            found += [node for node in tree if isinstance(node, kinds) and node.name in names]
    space: dict[str, Any] = {"torch": torch, "np": np, "Mapping": dict}
    exec(compile(ast.Module(found, []), str(wheel), "exec"), space)
    return SimpleNamespace(**space)


def golden(wheel: Path) -> dict[str, np.ndarray]:
    """Five answers of one to eight tokens: what goes in, what comes out, and the gradients of both losses."""
    import torch  # pyright: ignore[reportMissingImports]

    old, rng = trl(wheel), np.random.default_rng(0)
    mask = torch.tensor(np.arange(8) < np.array([8, 5, 1, 7, 3])[:, None])
    names = ("logps", "old_logps", "ref_logps", "values", "old_values")
    drawn = {name: torch.tensor(rng.normal(-1, 0.3, (5, 8))) for name in names}
    given = {name: values.requires_grad_(name in ("logps", "values")) for name, values in drawn.items()}
    scores = torch.tensor(rng.normal(0, 1, 5))
    config = SimpleNamespace(
        kl_penalty="kl", gamma=0.9, lam=0.8, whiten_rewards=False, cliprange=0.2, cliprange_value=0.15, vf_coef=1.0,
        ratio_threshold=1e9,
    )  # fmt: skip
    self = SimpleNamespace(config=config, kl_ctl=SimpleNamespace(value=0.3))
    self._kl_penalty = lambda *arguments: old._kl_penalty(self, *arguments)
    rewards, _, _ = old.compute_rewards(self, scores, given["old_logps"], given["ref_logps"], mask)
    _, advantages, returns = old.compute_advantages(self, given["old_values"], rewards, mask)
    policy, value, figures = old.loss(
        self, given["old_logps"], given["old_values"], torch.zeros(5, 8, 2), given["values"], given["logps"], mask,
        advantages, returns,
    )  # fmt: skip
    (policy + value).backward()
    controller, prices = old.AdaptiveKLController(0.2, 6.0, 100), []
    for kl in (1.0, 6.3, 20.0):
        controller.update(kl, 16)
        prices.append(controller.value)
    out = {**given, "mask": mask, "scores": scores, "rewards": rewards, "advantages": advantages, "returns": returns}
    out |= {"policy_loss": policy, "value_loss": value, "dlogps": given["logps"].grad, "dvalues": given["values"].grad}
    out |= {name.replace("/", "."): figures[name] for name in ("policy/clipfrac", "policy/approxkl")}
    arrays = {name: tensor.detach().numpy() for name, tensor in out.items()}
    return {**arrays, "prices": np.array(prices), "whitened": old.masked_whiten(rewards, mask, False).detach().numpy()}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, allow_pickle=False, **golden(Path(sys.argv[1])))
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1000:.0f} kB")
