"""One table of calls for every operation: shapes that broadcast, repeat, tie and split, as float64 arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe import ops
from tinymoe.backend import current
from tinymoe.backend.reference import AttentionRules, LayerRules, LayerStates
from tinymoe.nn import sparse
from tinymoe.posttrain import functional, logps, nf4
from tinymoe.posttrain.states import recalled_layer
from tinymoe.tensor import Tensor, no_grad

_rng = np.random.default_rng(0)


def r(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape)


def positive(*shape: int) -> np.ndarray:
    return np.abs(r(*shape)) + 0.5


def on_backend(array: np.ndarray) -> Any:
    return current().asarray(array)


_angles = r(1, 5, 3)
_cos, _sin = np.cos(_angles), np.sin(_angles)
_targets = np.array([[1, -100, 3], [0, 4, -100]])
_documents = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
_ids = np.array([[0, 2, 2], [5, 0, 2]])
_choices = np.array([[3, 0], [1, 3], [0, 1], [3, 1]])  # of experts: nobody chose number 2
_pairs = np.array([1, 4, 2, 5, 7, 0, 3, 6])  # token * 2 + choice, sorted by expert
_kept = _pairs[[0, 2, 3, 5]]  # some pairs dropped: tokens with both, with one and with none of their experts
_offsets = (0, 2, 5, 5, 8)
_target = positive(2, 3, 5)
_target[0, :, 3] = 0
_target /= _target.sum(axis=-1, keepdims=True)
_queries, _keys = r(2, 5, 4, 3), r(2, 5, 2, 3)
_matrix = np.linspace(-1, 1, 20).reshape(5, 4)


def _attend(q: Any, k: Any, v: Any, documents: bool = False) -> Any:
    d = on_backend(_documents) if documents else None
    return ops.attention(q, k, v, scale=0.4, q_documents=d if d is None else d[:, -q.shape[1] :], k_documents=d)


def _turn(dtype: Any) -> dict[str, Any]:
    return {"cos": on_backend(_cos.astype(dtype)), "sin": on_backend(_sin.astype(dtype))}


def _qkv_rope(x: Any, *weights: Any, head_dim: int = 6, some: Any = (0, 1, 2)) -> Any:
    results = ops.qkv_rope(x, *weights, **_turn(x.dtype), head_dim=head_dim)
    return ops.concatenate(*(results[i] for i in some), axis=2)


def _layer_rules(x: Any) -> LayerRules:
    return LayerRules(**_turn(x.dtype), head_dim=6, scale=0.4, eps=(1e-5, 1e-6))


def _recalled(x: Any, keys: Any, values: Any, *weights: Any) -> Any:
    """The layer once by small operations, and once more as one that knows what they have found."""
    norm, next_norm, *qkv, output, gate, up, down = weights
    rows, turn, rules = on_backend(np.array([0, 0, 1])), _turn(x.dtype), AttentionRules(0.4)
    with no_grad():
        q, *own = ops.qkv_rope(ops.rms_norm(x, norm, eps=1e-5), *qkv, **turn, head_dim=6)
        seen = [ops.concatenate(its[rows], new, axis=1).data for its, new in zip((keys, values), own, strict=True)]
        mixed, lse = current().attention(q.data, *seen, None, rules)
        middle = x + ops.linear(Tensor(mixed).reshape(*x.shape[:2], -1), output)
        factors = ops.linears(ops.rms_norm(middle, next_norm, eps=1e-6), gate, up)
        end = middle + ops.linear(ops.swiglu(*factors), down)
        lse = lse.reshape(len(x), -1, x.shape[1]).transpose(0, 2, 1)  # (B, T, H)
    both = ops.concatenate(*factors, axis=2)
    states = LayerStates(q.data, own[0].data, own[1].data, mixed, lse, middle.data, both.data, end.data)
    return recalled_layer(x, keys, values, *weights, states=states, rows=rows, rules=_layer_rules(x))


def _rule(q: Any, k: Any, v: Any, sinks: Any, **options: Any) -> Any:
    arrays = {name: on_backend(value) for name, value in options.items() if isinstance(value, np.ndarray)}
    rules = AttentionRules(0.4, **{**options, **arrays})
    return ops.ruled_attention(q, k, v, sinks, rules=rules)


def _index(q: Any, k: Any, weights: Any, **options: Any) -> Any:
    arrays = {name: on_backend(value) for name, value in options.items()}
    queries, keys = (on_backend(array.astype(q.dtype)) for array in (_queries[:, -q.shape[1] :], _keys))
    return sparse.indexer_loss(q, k, weights, queries=queries, keys=keys, rules=AttentionRules(0.4, **arrays))


def _side_by_side(results: Any) -> Any:
    return ops.concatenate(*results, axis=-1)


RULES: dict[str, dict[str, Any]] = {
    "window": {"window": 2},
    "softcap": {"softcap": 0.7},
    "slopes": {"slopes": np.array([0.5, 0.25, 0.125, 0.0])},
    "selected": {
        "selected": np.array([[[0, 0], [1, 4], [0, 2], [3, 1], [1, 4]], [[0, 1], [0, 3], [2, 1], [3, 4], [0, 1]]])
    },
    "everything": {
        "window": 3,
        "softcap": 2.0,
        "slopes": np.array([0.5, 0.25, 0.125, 0.1]),
        "q_documents": _documents,
        "k_documents": _documents,
    },
}

CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "add": (ops.add, (r(3, 4), r(3, 4))),
    "add broadcast": (ops.add, (r(2, 1, 4), r(3, 1))),
    "add itself": (lambda a: a + a, (r(3),)),
    "sub broadcast": (ops.sub, (r(3, 4), r(4))),
    "sub from number": (lambda a: 2.0 - a, (r(3),)),
    "mul broadcast": (ops.mul, (r(3, 4), r(3, 1))),
    "mul number": (lambda a: 3.0 * a, (r(3),)),
    "div broadcast": (ops.div, (r(3, 4), positive(4))),
    "div number by": (lambda a: 2.0 / a, (positive(3),)),
    "neg": (ops.neg, (r(3),)),
    "power": (lambda a: a**3, (r(3, 2),)),
    "power root": (lambda a: a.sqrt(), (positive(3, 2),)),
    "exp": (ops.exp, (r(3, 2),)),
    "log": (ops.log, (positive(3, 2),)),
    "tanh": (ops.tanh, (r(3, 2),)),
    "sigmoid": (ops.sigmoid, (3 * r(3, 2),)),
    "relu": (ops.relu, (r(3, 5),)),
    "clip": (lambda a: ops.clip(a, low=-0.5, high=0.7), (r(3, 5),)),
    "silu": (ops.silu, (r(3, 5),)),
    "sum": (ops.sum, (r(3, 4),)),
    "sum axis": (lambda a: a.sum(axis=1), (r(3, 4, 2),)),
    "sum axes keepdims": (lambda a: a.sum(axis=(0, 2), keepdims=True), (r(3, 4, 2),)),
    "mean": (ops.mean, (r(3, 4),)),
    "mean axis": (lambda a: a.mean(axis=-1), (r(3, 4),)),
    "max": (ops.max, (r(3, 4),)),
    "max axis": (lambda a: a.max(axis=0), (r(3, 4),)),
    "max keepdims": (lambda a: a.max(axis=1, keepdims=True), (r(3, 4),)),
    "reshape": (lambda a: a.reshape(4, -1), (r(3, 4),)),
    "transpose": (lambda a: a.transpose(2, 0, 1), (r(3, 4, 2),)),
    "transpose all": (lambda a: a.T, (r(3, 4, 2),)),
    "getitem slice": (lambda a: a[1:, ::2], (r(3, 4),)),
    "getitem repeated": (lambda a: a[on_backend(np.array([0, 2, 2, 0]))], (r(3, 4),)),
    "concatenate": (lambda a, b: ops.concatenate(a, b, axis=1), (r(3, 2), r(3, 4))),
    "matmul": (ops.matmul, (r(3, 4), r(4, 2))),
    "matmul batched": (ops.matmul, (r(2, 3, 4), r(2, 4, 2))),
    "matmul broadcast": (ops.matmul, (r(2, 1, 3, 4), r(5, 4, 2))),
    "linear": (ops.linear, (r(2, 3, 4), r(5, 4))),
    "linears": (lambda x, *w: _side_by_side(ops.linears(x, *w)), (r(2, 3, 4), r(5, 4), r(2, 4), r(5, 4))),
    "linear bias": (ops.linear, (r(2, 3, 4), r(5, 4), r(5))),
    "softmax": (ops.softmax, (r(3, 5),)),
    "log_softmax": (ops.log_softmax, (r(3, 5),)),
    "embedding repeated": (lambda table: ops.embedding(table, ids=on_backend(_ids)), (r(6, 4),)),
    "rms_norm": (lambda x, w: ops.rms_norm(x, w, eps=1e-5), (r(2, 3, 8), r(8))),
    "rms_norm many rows": (lambda x, w: ops.rms_norm(x, w, eps=1e-5), (r(40, 3), r(3))),
    "rope": (lambda x: ops.rope(x, **_turn(x.dtype)), (r(2, 5, 3, 6),)),
    "rope partial": (lambda x: ops.rope(x, **_turn(x.dtype)), (r(2, 5, 3, 9),)),
    "add_rms_norm": (lambda *a: _side_by_side(ops.add_rms_norm(*a, eps=1e-5)), (r(2, 3, 8), r(2, 3, 8), r(8))),
    "add_rms_norm sum alone": (lambda x, y, w: ops.add_rms_norm(x, y, w, eps=1e-5)[0], (r(3, 8), r(3, 8), r(8))),
    "add_rms_norm norm alone": (lambda x, y, w: ops.add_rms_norm(x, y, w, eps=1e-5)[1], (r(3, 8), r(3, 8), r(8))),
    "qkv_rope": (_qkv_rope, (r(2, 5, 4), r(12, 4), r(6, 4), r(6, 4))),
    "qkv_rope partial": (lambda *arrays: _qkv_rope(*arrays, head_dim=9), (r(2, 5, 4), r(18, 4), r(9, 4), r(9, 4))),
    "qkv_rope keys alone": (lambda *arrays: _qkv_rope(*arrays, some=[1]), (r(2, 5, 4), r(12, 4), r(6, 4), r(6, 4))),
    "recalled_layer": (
        _recalled,
        (r(3, 5, 4), r(2, 2, 1, 6), r(2, 2, 1, 6), r(4), r(4), r(12, 4), r(6, 4), r(6, 4), r(4, 12),
         r(6, 4), r(6, 4), r(4, 6)),
    ),
    "llama_layer": (
        lambda x, *weights: ops.llama_layer(x, *weights, rules=_layer_rules(x)),
        (r(3, 5, 4), r(4), r(4), r(12, 4), r(6, 4), r(6, 4), r(4, 12), r(6, 4), r(6, 4), r(4, 6)),
    ),
    "layer_norm": (lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-5), (r(2, 3, 8), r(8), r(8))),
    "gelu": (ops.gelu, (np.concatenate([3 * r(3, 5), [[-9.0, -0.3, 0.0, 0.5, 7.0]]]),)),
    "gelu_tanh": (ops.gelu_tanh, (3 * r(3, 5),)),
    "swiglu": (ops.swiglu, (r(2, 3, 4), r(2, 3, 4))),
    "swiglu_mlp": (ops.swiglu_mlp, (r(2, 3, 4), r(6, 4), r(6, 4), r(4, 6))),
    "swiglu_mlp other width": (ops.swiglu_mlp, (r(2, 3, 4), r(6, 4), r(6, 4), r(3, 6))),
    "attention": (_attend, (r(2, 5, 4, 3), r(2, 5, 4, 3), r(2, 5, 4, 3))),
    "attention grouped": (_attend, (r(2, 5, 4, 3), r(2, 5, 2, 3), r(2, 5, 2, 3))),
    "attention one key head": (_attend, (r(2, 5, 4, 3), r(2, 5, 1, 3), r(2, 5, 1, 3))),
    "attention late queries": (_attend, (r(2, 2, 4, 3), r(2, 5, 2, 3), r(2, 5, 2, 3))),
    "attention one token": (_attend, (r(1, 1, 2, 3), r(1, 1, 2, 3), r(1, 1, 2, 3))),
    "attention documents": (
        lambda q, k, v: _attend(q, k, v, documents=True),
        (r(2, 5, 4, 3), r(2, 5, 2, 3), r(2, 5, 2, 3)),
    ),
    **{
        f"ruled_attention {name}": (
            lambda q, k, v, sinks, options=options: _rule(q, k, v, sinks, **options),
            (r(2, 5, 4, 3), r(2, 5, 2, 3), r(2, 5, 2, 4), r(4)),
        )
        for name, options in RULES.items()
    },
    "ruled_attention without sinks": (
        lambda q, k, v: _rule(q, k, v, None, window=2),
        (r(2, 3, 4, 3), r(2, 5, 1, 3), r(2, 5, 1, 2)),
    ),
    "take_along_axis": (lambda a: ops.take_along_axis(a, indices=on_backend(_choices)), (r(4, 4),)),
    "dispatch": (lambda x: ops.dispatch(x, pairs=on_backend(_pairs), k=2), (r(4, 3),)),
    "dispatch dropped": (lambda x: ops.dispatch(x, pairs=on_backend(_kept), k=2), (r(4, 3),)),
    "grouped_linear": (lambda x, w: ops.grouped_linear(x, w, offsets=_offsets), (r(8, 3), r(4, 5, 3))),
    "grouped_linears": (
        lambda x, *w: _side_by_side(ops.grouped_linears(x, *w, offsets=_offsets)),
        (r(8, 3), r(4, 5, 3), r(4, 2, 3)),
    ),
    "grouped_linear one takes all": (
        lambda x, w: ops.grouped_linear(x, w, offsets=(0, 0, 8, 8)),
        (r(8, 3), r(3, 5, 3)),
    ),
    "grouped_swiglu_mlp": (
        lambda x, *w: ops.grouped_swiglu_mlp(x, *w, offsets=_offsets),
        (r(8, 3), r(4, 5, 3), r(4, 5, 3), r(4, 3, 5)),
    ),
    "combine": (lambda rows, w: ops.combine(rows, w, pairs=on_backend(_pairs)), (r(8, 3), r(4, 2))),
    "combine dropped": (lambda rows, w: ops.combine(rows, w, pairs=on_backend(_kept)), (r(4, 3), r(4, 2))),
    "index_scores": (sparse.index_scores, (r(2, 3, 4, 5), r(2, 6, 5), r(2, 3, 4))),
    "index_kl": (
        lambda scores: sparse.index_kl(scores, target=on_backend(_target.astype(scores.dtype))),
        (r(2, 3, 5),),
    ),
    "indexer_loss": (_index, (r(2, 5, 3, 4), r(2, 5, 4), r(2, 5, 3))),
    "indexer_loss late queries": (_index, (r(2, 2, 3, 4), r(2, 5, 4), r(2, 2, 3))),
    "indexer_loss selected": (
        lambda q, k, weights: _index(q, k, weights, **RULES["selected"]),
        (r(2, 5, 3, 4), r(2, 5, 4), r(2, 5, 3)),
    ),
    "linear_cross_entropy softcap": (
        lambda x, w: ops.linear_cross_entropy(x, w, targets=on_backend(_targets), softcap=0.8),
        (r(2, 3, 4), r(5, 4)),
    ),
    "linear_cross_entropy bias": (
        lambda x, w, b: ops.linear_cross_entropy(x, w, b, targets=on_backend(_targets), softcap=3.0),
        (r(2, 3, 4), r(5, 4), r(5)),
    ),
    "linear_cross_entropy": (
        lambda x, w: ops.linear_cross_entropy(x, w, targets=on_backend(_targets)),
        (r(2, 3, 4), r(5, 4)),
    ),
    "nf4_linear": (lambda x: nf4.nf4_linear(x, weight=nf4.quantize(_matrix)), (r(2, 3, 4),)),
    "nf4_linear bias": (lambda x, b: nf4.nf4_linear(x, b, weight=nf4.quantize(_matrix)), (r(2, 3, 4), r(5))),
    "minimum": (functional.minimum, (r(3, 4), r(3, 4))),
    "minimum broadcast": (functional.minimum, (r(3, 4), r(3, 1))),
    "log_sigmoid": (functional.log_sigmoid, (20 * r(3, 4),)),
    "keep": (lambda a: functional.keep(a, mask=on_backend(np.eye(3, 4) > 0)), (r(3, 4),)),
    "keep broadcast": (lambda a: functional.keep(a, mask=on_backend(np.eye(3, 4) > 0)), (r(3, 1),)),
    "linear_log_probs": (
        lambda x, w: logps.linear_log_probs(x, w, targets=on_backend(_targets), temperature=0.7),
        (r(2, 3, 4), r(5, 4)),
    ),
    "linear_log_probs bias softcap": (
        lambda x, w, b: logps.linear_log_probs(x, w, b, targets=on_backend(_targets), softcap=0.8, temperature=1.3),
        (r(2, 3, 4), r(5, 4), r(5)),
    ),
    "linear_log_probs nothing scored": (
        lambda x, w: logps.linear_log_probs(x, w, targets=on_backend(np.full((2, 3), -1))),
        (r(2, 3, 4), r(5, 4)),
    ),
}
