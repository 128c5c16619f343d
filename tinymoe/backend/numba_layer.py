"""A whole layer of Llama in one compiled call, and another for its way back: kernels of `numba_cpu`, one after another.

A small model's layer takes a millisecond, and Python a fourth of that to call its operations one by one; two threads
that each take half of a batch wait for each other in Python besides.

    B batch   T tokens   N = B T   H query heads   K key/value heads   D head_dim   I intermediate_size
    S keys that are seen: those of a prompt, if there is one, and the T tokens' own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .numba_attention import causal_attention, causal_attention_backward
from .numba_cpu import (
    _add_rms_norm,
    _add_rms_norm_backward,
    _kernel,
    _linears_backward,
    _qkv_rope,
    _rms_norm,
    _swiglu_mlp,
    _swiglu_mlp_backward,
    _turn,
)
from .numba_product import multiply
from .reference import Array, LayerRules, LayerStates


def forward(x: Array, weights: Sequence[Array], rules: LayerRules) -> LayerStates:
    """`ReferenceBackend.llama_layer`, for float32 arrays in one piece."""
    (B, T, _), dim = x.shape, rules.head_dim
    heads, groups = (len(weight) // dim for weight in weights[2:4])
    shapes = (B, T, heads, dim), (B, T, groups, dim), (B, T, groups, dim), (B, T, heads, dim), (B, heads, T)
    q, k, v, mixed, lse, middle, end = (np.empty(shape, np.float32) for shape in (*shapes, x.shape, x.shape))
    factors = np.empty((B, T, 2 * len(weights[6])), np.float32)
    _forward(x, tuple(weights), rules.cos, rules.sin, *_numbers(rules), q, k, v, mixed, lse, middle, factors, end)
    return LayerStates(q, k, v, mixed, lse.transpose(0, 2, 1), middle, factors, end)


def backward(
    g: Array, x: Array, weights: Sequence[Array], rules: LayerRules, states: LayerStates, prompts: Sequence[Array]
) -> tuple[Array, Sequence[Array], Sequence[Array]]:
    """`ReferenceBackend.llama_layer_backward`, where all gradients are needed."""
    keys, values = states.keys, states.values
    if prompts:
        keys, values = (np.concatenate(pair, axis=1) for pair in zip(prompts, (keys, values), strict=True))
    dx, dkeys, dvalues = map(np.empty_like, (x, keys, values))
    dweights, lse = tuple(map(np.empty_like, weights)), np.ascontiguousarray(states.lse.transpose(0, 2, 1))
    _backward(
        np.ascontiguousarray(g), x, tuple(weights), rules.cos, -rules.sin, *_numbers(rules),
        states.queries, states.mixed, lse, states.middle, states.factors, keys, values, dx, dkeys, dvalues, dweights,
    )  # fmt: skip
    before = keys.shape[1] - x.shape[1]
    return dx, [dkeys[:, :before], dvalues[:, :before]] if prompts else [], dweights


def _numbers(rules: LayerRules) -> tuple[Any, Any, Any]:
    eps, next_eps = rules.eps
    return np.float32(rules.scale), np.float32(eps), np.float32(next_eps)


@_kernel
def _forward(  # type: ignore[no-untyped-def]
    x, weights, cos, sin, scale, eps, next_eps, q, k, v, mixed, lse, middle, factors, end
):
    norm, next_norm, query, key, value, output, gate, up, down = weights
    rows, middle, end = _flat(x), _flat(middle), _flat(end)  # (N, C)
    normed, added = np.empty_like(rows), np.empty_like(rows)
    inverse_rms = np.empty((len(rows), 1), np.float32)
    _rms_norm(rows, norm, eps, normed, inverse_rms)
    _qkv_rope(normed, (query, key, value), cos, sin, (q, k, v))
    causal_attention(q, k, v, scale, mixed, lse)
    multiply(mixed.reshape(len(rows), output.shape[1]), False, output, True, added, False)
    _add_rms_norm(rows, added, next_norm, next_eps, middle, normed, inverse_rms)
    _swiglu_mlp(normed, _alone(gate, up, down), (0, len(rows)), _flat(factors), added)
    for i in range(len(rows)):
        for j in range(rows.shape[1]):
            end[i, j] = middle[i, j] + added[i, j]


@_kernel
def _backward(  # type: ignore[no-untyped-def]
    g, x, weights, cos, sin, scale, eps, next_eps, q, mixed, lse, middle, factors, k, v, dx, dk, dv, dweights
):
    norm, next_norm, query, key, value, output, gate, up, down = weights
    dnorm, dnext, dquery, dkey, dvalue, doutput, dgate, dup, ddown = dweights
    g, rows, middle, dx = _flat(g), _flat(x), _flat(middle), _flat(dx)  # (N, C)
    tokens, inner = q.shape[1], output.shape[1]
    normed, dnormed, dmiddle = np.empty_like(rows), np.empty_like(rows), np.empty_like(rows)
    inverse_rms = np.empty((len(rows), 1), np.float32)
    dnorm[:], dnext[:] = np.float32(0), np.float32(0)

    _rms_norm(middle, next_norm, next_eps, normed, inverse_rms)
    mlp, dmlp = _alone(gate, up, down), _alone(dgate, dup, ddown)
    _swiglu_mlp_backward(g, normed, mlp, (0, len(rows)), _flat(factors), dnormed, dmlp)
    _add_rms_norm_backward(g, dnormed, middle, next_norm, inverse_rms, dmiddle, dnext)

    dmixed, dq = np.empty_like(mixed), np.empty_like(q)
    found = mixed.reshape(len(rows), inner)
    _linears_backward((dmiddle,), found, (output,), dmixed.reshape(len(rows), inner), (doutput,))
    causal_attention_backward(dmixed, q, k, v, scale, mixed, lse, dq, dk, dv)
    own_dk, own_dv = _last(dk, tokens), _last(dv, tokens)
    _turn(dq, cos, sin)
    _turn(own_dk, cos, sin)

    _rms_norm(rows, norm, eps, normed, inverse_rms)
    width = len(key)
    given = dq.reshape(len(rows), inner), own_dk.reshape(len(rows), width), own_dv.reshape(len(rows), width)
    _linears_backward(given, normed, (query, key, value), dnormed, (dquery, dkey, dvalue))
    _add_rms_norm_backward(dmiddle, dnormed, rows, norm, inverse_rms, dx, dnorm)


@_kernel
def _flat(x):  # type: ignore[no-untyped-def]
    """(B, T, C) -> (N, C)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])


@_kernel
def _alone(gate, up, down):  # type: ignore[no-untyped-def]
    """The matrices of a block as those of one expert."""
    return (
        gate.reshape(1, gate.shape[0], gate.shape[1]),
        up.reshape(1, up.shape[0], up.shape[1]),
        down.reshape(1, down.shape[0], down.shape[1]),
    )


@_kernel
def _last(x, tokens):  # type: ignore[no-untyped-def]
    """The last tokens of x (B, S, K, D), in one piece."""
    return x if x.shape[1] == tokens else x[:, x.shape[1] - tokens :].copy()
