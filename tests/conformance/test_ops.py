"""Every operation, forward and backward, against PyTorch in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from op_cases import (
    CASES,
    RULES,
    _choices,
    _cos,
    _documents,
    _ids,
    _kept,
    _keys,
    _matrix,
    _offsets,
    _pairs,
    _queries,
    _sin,
    _target,
    _targets,
)

from tinymoe.backend import current
from tinymoe.posttrain import nf4
from tinymoe.tensor import Tensor


def _attend(q: Any, k: Any, v: Any, documents: Any = None) -> Any:
    k, v = (torch.repeat_interleave(x, q.shape[2] // x.shape[2], dim=2).transpose(1, 2) for x in (k, v))
    T, S = q.shape[1], k.shape[2]
    allowed = torch.arange(S)[None] <= torch.arange(S - T, S)[:, None]
    if documents is not None:
        d = torch.tensor(documents)
        allowed = (allowed & (d[:, -T:, None] == d[:, None, :]))[:, None]
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=allowed, scale=0.4).transpose(1, 2)


def _rope(x: Any) -> Any:
    cos, sin = (torch.tensor(np.concatenate([a, a], axis=-1))[:, :, None] for a in (_cos, _sin))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _capped_loss(logits: Any, cap: float) -> Any:
    return F.cross_entropy((cap * torch.tanh(logits / cap)).flatten(0, 1), torch.tensor(_targets).flatten())


def _nf4_linear(x: Any, bias: Any = None) -> Any:
    weight = current().to_numpy(nf4.dequantize(nf4.quantize(_matrix)))
    return F.linear(x, torch.tensor(weight, dtype=x.dtype), bias)


def _log_probs(x: Any, weight: Any, bias: Any = None, *, softcap: Any = None, temperature: float) -> Any:
    logits = F.linear(x, weight, bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    log_p, targets = (logits / temperature).log_softmax(-1), torch.tensor(_targets)
    picked = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.stack([picked, -(log_p.exp() * log_p).sum(-1)]) * (targets >= 0)


def _rms_norm(x: Any, w: Any) -> Any:
    return F.rms_norm(x, (x.shape[-1],), w, eps=1e-5)


def _ruled(q: Any, k: Any, v: Any, sinks: Any = None, **options: Any) -> Any:
    """Attention's weights times the values."""
    v = torch.repeat_interleave(v, q.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bhts,bshd->bthd", _weights(q, k, sinks, **options), v)


def _weights(q: Any, k: Any, sinks: Any = None, **options: Any) -> Any:
    """The plain formula, with every score in one (T, S) table and the sink as one more column."""
    k = torch.repeat_interleave(k, q.shape[2] // k.shape[2], dim=2)
    T, S = q.shape[1], k.shape[1]
    scores = torch.einsum("bthd,bshd->bhts", q, k) * 0.4
    distance = torch.arange(S - T, S)[:, None] - torch.arange(S)
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    if options.get("slopes") is not None:
        scores = scores - torch.tensor(options["slopes"])[:, None, None] * distance
    allowed = (distance >= 0)[None, None]
    if options.get("window"):
        allowed = allowed & (distance < options["window"])
    if options.get("q_documents") is not None:
        d = torch.tensor(options["q_documents"])
        allowed = allowed & (d[:, -T:, None] == d[:, None, :])[:, None]
    if options.get("selected") is not None:
        chosen = torch.zeros(len(q), T, S, dtype=torch.bool).scatter(2, torch.tensor(options["selected"]), True)
        allowed = allowed & chosen[:, None]
    scores = scores.masked_fill(~allowed, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], dim=-1)
    return scores.softmax(-1)[..., :S]


def _index_scores(q: Any, k: Any, weights: Any) -> Any:
    return torch.einsum("btj,btjs->bts", weights, torch.einsum("btjd,bsd->btjs", q, k).relu())


def _kl(scores: Any, target: Any) -> Any:
    return F.kl_div(scores.log_softmax(-1), target, reduction="none").masked_fill(target == 0, 0).sum()


def _indexer_loss(q: Any, k: Any, weights: Any, **options: Any) -> Any:
    queries, keys = torch.tensor(_queries[:, -q.shape[1] :]), torch.tensor(_keys)
    target = _weights(queries, keys, **options).mean(1)  # over the heads
    scores = _index_scores(q, k, weights).masked_fill(target == 0, -torch.inf)
    return _kl(scores, target) / target[..., 0].numel()


def _add_rms_norm(x: Any, y: Any, w: Any) -> Any:
    return torch.cat([x + y, _rms_norm(x + y, w)], dim=-1)


def _qkv_rope(x: Any, *weights: Any, head_dim: int = 6, some: Any = (0, 1, 2)) -> Any:
    q, k, v = (F.linear(x, w).unflatten(-1, (-1, head_dim)) for w in weights)
    q, k = (torch.cat([_rope(y[..., :6]), y[..., 6:]], dim=-1) for y in (q, k))
    return torch.cat([(q, k, v)[i] for i in some], dim=2)


def _swiglu_mlp(x: Any, gate: Any, up: Any, down: Any) -> Any:
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _llama_layer(x: Any, norm: Any, next_norm: Any, *weights: Any, prompts: Any = None) -> Any:
    q, k, v = (F.linear(F.rms_norm(x, norm.shape, norm, 1e-5), w).unflatten(-1, (-1, 6)) for w in weights[:3])
    q, k = _rope(q), _rope(k)
    if prompts:  # the first two texts go on from the first of them
        k, v = (torch.cat([prompt[[0, 0, 1]], own], dim=1) for prompt, own in zip(prompts, (k, v), strict=True))
    x = x + F.linear(_attend(q, k, v).flatten(2), weights[3])
    return x + _swiglu_mlp(F.rms_norm(x, next_norm.shape, next_norm, 1e-6), *weights[4:])


def _grouped(x: Any, w: Any, offsets: Any) -> Any:
    return torch.cat([x[a:b] @ w[e].T for e, (a, b) in enumerate(itertools.pairwise(offsets))])


def _combine(rows: Any, w: Any, pairs: Any) -> Any:
    chosen = torch.tensor(pairs)
    return torch.zeros(4, 3, dtype=rows.dtype).index_add(0, chosen // 2, rows * w.flatten()[chosen, None])


THEIRS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "add broadcast": torch.add,
    "add itself": lambda a: a + a,
    "sub broadcast": torch.sub,
    "sub from number": lambda a: 2.0 - a,
    "mul broadcast": torch.mul,
    "mul number": lambda a: 3.0 * a,
    "div broadcast": torch.div,
    "div number by": lambda a: 2.0 / a,
    "neg": torch.neg,
    "power": lambda a: a**3,
    "power root": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "clip": lambda a: a.clamp(-0.5, 0.7),
    "silu": F.silu,
    "sum": torch.sum,
    "sum axis": lambda a: a.sum(1),
    "sum axes keepdims": lambda a: a.sum((0, 2), keepdim=True),
    "mean": torch.mean,
    "mean axis": lambda a: a.mean(-1),
    "max": torch.max,
    "max axis": lambda a: a.amax(0),
    "max keepdims": lambda a: a.amax(1, keepdim=True),
    "reshape": lambda a: a.reshape(4, -1),
    "transpose": lambda a: a.permute(2, 0, 1),
    "transpose all": lambda a: a.permute(2, 1, 0),
    "getitem slice": lambda a: a[1:, ::2],
    "getitem repeated": lambda a: a[torch.tensor([0, 2, 2, 0])],
    "concatenate": lambda a, b: torch.cat([a, b], dim=1),
    "matmul": torch.matmul,
    "matmul batched": torch.matmul,
    "matmul broadcast": torch.matmul,
    "linear": F.linear,
    "linear bias": F.linear,
    "linears": lambda x, *weights: torch.cat([F.linear(x, w) for w in weights], dim=-1),
    "nf4_linear": _nf4_linear,
    "nf4_linear bias": _nf4_linear,
    "minimum": torch.minimum,
    "minimum broadcast": torch.minimum,
    "log_sigmoid": F.logsigmoid,
    "keep": lambda a: torch.where(torch.eye(3, 4) > 0, a, 0),
    "keep broadcast": lambda a: torch.where(torch.eye(3, 4) > 0, a, 0),
    "linear_log_probs": lambda x, w: _log_probs(x, w, temperature=0.7),
    "linear_log_probs bias softcap": lambda x, w, b: _log_probs(x, w, b, softcap=0.8, temperature=1.3),
    "linear_log_probs nothing scored": lambda x, w: torch.zeros(2, 2, 3) * (x @ w.T).sum(),
    "softmax": lambda a: a.softmax(-1),
    "log_softmax": lambda a: a.log_softmax(-1),
    "embedding repeated": lambda table: F.embedding(torch.tensor(_ids), table),
    "rms_norm": _rms_norm,
    "rms_norm many rows": _rms_norm,
    "rope": _rope,
    "rope partial": lambda x: torch.cat([_rope(x[..., :6]), x[..., 6:]], dim=-1),
    "add_rms_norm": _add_rms_norm,
    "add_rms_norm sum alone": lambda x, y, w: x + y + 0 * w,
    "add_rms_norm norm alone": lambda x, y, w: _rms_norm(x + y, w),
    "qkv_rope": _qkv_rope,
    "qkv_rope partial": lambda *arrays: _qkv_rope(*arrays, head_dim=9),
    "qkv_rope keys alone": lambda *arrays: _qkv_rope(*arrays, some=[1]) + 0 * sum(w.sum() for w in arrays),
    "recalled_layer": lambda x, keys, values, *weights: _llama_layer(x, *weights, prompts=(keys, values)),
    "llama_layer": _llama_layer,
    "layer_norm": lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b, eps=1e-5),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "swiglu_mlp": _swiglu_mlp,
    "swiglu_mlp other width": _swiglu_mlp,
    "attention": _attend,
    "attention grouped": _attend,
    "attention one key head": _attend,
    "attention late queries": _attend,
    "attention one token": _attend,
    "attention documents": lambda q, k, v: _attend(q, k, v, _documents),
    **{
        f"ruled_attention {name}": lambda q, k, v, sinks, options=options: _ruled(q, k, v, sinks, **options)
        for name, options in RULES.items()
    },
    "ruled_attention without sinks": lambda q, k, v: _ruled(q, k, v, window=2),
    "take_along_axis": lambda a: a.gather(1, torch.tensor(_choices)),
    "dispatch": lambda x: x[torch.tensor(_pairs // 2)],
    "dispatch dropped": lambda x: x[torch.tensor(_kept // 2)],
    "grouped_linear": lambda x, w: _grouped(x, w, _offsets),
    "grouped_linears": lambda x, *weights: torch.cat([_grouped(x, w, _offsets) for w in weights], dim=-1),
    "grouped_linear one takes all": lambda x, w: _grouped(x, w, (0, 0, 8, 8)),
    "grouped_swiglu_mlp": lambda x, gate, up, down: _grouped(
        F.silu(_grouped(x, gate, _offsets)) * _grouped(x, up, _offsets), down, _offsets
    ),
    "combine": lambda rows, w: _combine(rows, w, _pairs),
    "combine dropped": lambda rows, w: _combine(rows, w, _kept),
    "index_scores": _index_scores,
    "index_kl": lambda scores: _kl(scores, torch.tensor(_target)),
    "indexer_loss": _indexer_loss,
    "indexer_loss late queries": _indexer_loss,
    "indexer_loss selected": lambda q, k, weights: _indexer_loss(q, k, weights, **RULES["selected"]),
    "linear_cross_entropy softcap": lambda x, w: _capped_loss(x @ w.T, 0.8),
    "linear_cross_entropy bias": lambda x, w, b: _capped_loss(x @ w.T + b, 3.0),
    "linear_cross_entropy": lambda x, w: F.cross_entropy((x @ w.T).flatten(0, 1), torch.tensor(_targets).flatten()),
}


def test_every_case_has_its_counterpart():
    assert THEIRS.keys() == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(case, backend):
    ours, arrays = CASES[case]
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    out, expected = ours(*leaves), THEIRS[case](*theirs)
    np.testing.assert_allclose(out.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-11)
    mix = np.random.default_rng(0).standard_normal(out.shape)
    out.backward(mix)
    expected.backward(torch.tensor(mix))
    for leaf, other in zip(leaves, theirs, strict=True):
        np.testing.assert_allclose(current().to_numpy(leaf.grad), other.grad.numpy(), rtol=1e-9, atol=1e-11)
