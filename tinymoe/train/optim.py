"""AdamW and gradient clipping."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ..backend import current
from ..backend.reference import Array
from ..lanes import at_once, split_evenly
from ..nn.module import Module
from ..tensor import Tensor

Numbered = tuple[int, Tensor, dict[str, Any]]  # a parameter, its number and group


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).

    `params` are tensors, or groups as in PyTorch: dicts with "params" and any of lr, betas, eps and weight_decay
    that differ from the defaults. A parameter without a gradient is left alone. `param_groups` may be changed
    between steps, which is how a schedule sets the rate. Values equal those of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.param_groups = _groups(params, defaults)
        self.state: dict[int, dict[str, Any]] = {}  # number of the parameter → step, exp_avg (m), exp_avg_sq (v)

    def step(self, grad_scale: float = 1.0) -> None:
        """Update every parameter in place. `grad_scale` multiplies the gradients first: clipping for free."""
        found = [(number, p, group) for number, p, group in self._numbered() if p.grad is not None]
        shares = split_evenly(found, [4 * p.size for _, p, _ in found])  # p, its gradient and moments
        memos = _memos.setdefault(self, defaultdict(dict))
        at_once([
            partial(self._update, share, grad_scale, memos[lane])
            for lane, share in enumerate(shares)
        ])  # fmt: skip

    def _update(self, found: Sequence[Numbered], grad_scale: float, memo: dict[str, Any]) -> None:
        updates, settings = [], []
        for number, p, group in found:
            if number not in self.state:
                self.state[number] = _fresh_state(p)
            state, (beta1, beta2) = self.state[number], group["betas"]
            state["step"] += 1
            updates.append((p.data, p.grad, state["exp_avg"], state["exp_avg_sq"]))
            rates = {name: group[name] for name in ("lr", "eps", "weight_decay")}
            settings.append({"beta1": beta1, "beta2": beta2, "step": state["step"], **rates})
        current().adamw_all(updates, settings, grad_scale, memo)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for _, p, _ in self._numbered():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's layout: {"state": {number: {step, exp_avg, exp_avg_sq}}, "param_groups": […]}, NumPy copies."""
        state = {
            number: {"step": s["step"], "exp_avg": _copy(s["exp_avg"]), "exp_avg_sq": _copy(s["exp_avg_sq"])}
            for number, s in self.state.items()
        }
        numbers = iter(range(sum(len(group["params"]) for group in self.param_groups)))
        groups = [{**group, "params": [next(numbers) for _ in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` returned. ValueError, and nothing changed, where it does not fit."""
        _check_fits(saved, self)
        for group, settings in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in settings.items() if key != "params"})
            group["betas"] = tuple(group["betas"])
        self.state = {
            number: {"step": int(s["step"]), **{k: _onto_device(s[k]) for k in ("exp_avg", "exp_avg_sq")}}
            for number, s in saved["state"].items()
        }

    def _numbered(self) -> Iterator[Numbered]:
        pairs = ((p, group) for group in self.param_groups for p in group["params"])
        for number, (p, group) in enumerate(pairs):
            yield number, p, group


# What backends know of an optimizer's arrays, for each thread; a copy of the optimizer has others.
_memos: weakref.WeakKeyDictionary[AdamW, dict[int, dict[str, Any]]] = weakref.WeakKeyDictionary()


def decay_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for `AdamW`: matrices decay; vectors (norm weights and biases) do not, as in GPT-2 and Llama."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def grad_norm(params: Iterable[Tensor]) -> float:
    """The Euclidean norm of all gradients taken as one long vector."""
    grads = [p.grad for p in params if p.grad is not None]
    shares = split_evenly(grads, [g.size for g in grads])
    return math.sqrt(sum(at_once([partial(_sum_of_squares, share) for share in shares])))


def clip_factor(norm: float, max_norm: float) -> float:
    """What gradients of this norm are multiplied by so that their norm is at most `max_norm` (≤ 1)."""
    return min(1.0, max_norm / (norm + 1e-6))


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients in place so that their joint norm is at most `max_norm`; returns the norm before.

    Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1. Equals `torch.nn.utils.clip_grad_norm_`.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: got {max_norm}, expected a positive number")
    params = list(params)
    norm = grad_norm(params)
    factor = clip_factor(norm, max_norm)
    if factor < 1:
        for p in params:
            if p.grad is not None:
                p.grad *= factor
    return norm


def _sum_of_squares(grads: Sequence[Array]) -> float:
    return sum(current().sum_of_squares(g) for g in grads)


def _groups(params: Iterable[Any], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    params = [params] if isinstance(params, Tensor | dict) else list(params)
    if not params:
        raise ValueError("params: got no parameters, expected at least one")
    if not isinstance(params[0], dict):
        params = [{"params": params}]
    groups = [{**defaults, **group, "params": list(group["params"])} for group in params]
    for group in groups:
        _check_settings(group, defaults)
    every = [id(p) for group in groups for p in group["params"]]
    if len(set(every)) < len(every):
        raise ValueError("params: a parameter is listed twice, expected each once")
    return groups


def _check_settings(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    if unknown := group.keys() - defaults.keys() - {"params"}:
        raise ValueError(f"params: unknown setting {sorted(unknown)[0]!r}, expected {', '.join(defaults)}")
    for p in group["params"]:
        if not isinstance(p, Tensor):
            raise TypeError(f"params: got {type(p).__name__}, expected Tensor")
    for name in ("lr", "eps", "weight_decay"):
        if not group[name] >= 0:
            raise ValueError(f"{name}: got {group[name]}, expected a number ≥ 0")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas: got {group['betas']}, expected two numbers in [0, 1)")


def _check_fits(saved: dict[str, Any], optimizer: AdamW) -> None:
    here = [len(group["params"]) for group in optimizer.param_groups]
    got = [len(group["params"]) for group in saved["param_groups"]]
    if here != got:
        raise ValueError(f"param_groups: got groups of {got} parameters, expected {here}")
    shapes = {number: tuple(p.shape) for number, p, _ in optimizer._numbered()}
    for number, state in saved["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            if state[key].shape != shapes.get(number):
                raise ValueError(f"state {number} {key}: got shape {state[key].shape}, expected {shapes.get(number)}")


def _fresh_state(p: Tensor) -> dict[str, Any]:
    zeros = current().xp.zeros_like
    return {"step": 0, "exp_avg": zeros(p.data), "exp_avg_sq": zeros(p.data)}


def _copy(array: Any) -> Any:
    return current().to_numpy(array).copy()


def _onto_device(array: Any) -> Any:
    return current().asarray(array.copy())
