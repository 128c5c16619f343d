"""Every differentiable operation, its vjp beside it.

An operation is a function of a `Context` and raw arrays that returns its result and its *vjp*: the function that
takes the gradient of a loss with respect to the result and returns those with respect to each array input, in order.
`@op` puts it in the table `OPS` under its name and makes of it a function of Tensors. Options (axes, shapes, scales)
are keywords and have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from .backend.reference import Array, AttentionRules, LayerRules
from .tensor import OPS, Context, Tensor, Vjp, apply, apply_several

Result = tuple[Array, Vjp]
Results = tuple[Sequence[Array], Callable[[Sequence[Array | None]], Sequence[Array | None]]]


def op(forward: Callable[..., Result]) -> Callable[..., Tensor]:
    """Enter an operation in the table, and return the function of Tensors that records it on the tape."""
    name = forward.__name__
    OPS[name] = forward

    @wraps(forward)
    def recorded(*inputs: Any, **options: Any) -> Tensor:
        return apply(name, *inputs, **options)

    return recorded


def op_several(forward: Callable[..., Results]) -> Callable[..., tuple[Tensor, ...]]:
    """As `op`, for an operation with several results; its vjp gets None for those that have no gradient."""
    op(forward)  # pyright: ignore[reportArgumentType]

    @wraps(forward)
    def recorded(*inputs: Any, **options: Any) -> tuple[Tensor, ...]:
        return apply_several(forward.__name__, *inputs, **options)

    return recorded


def unbroadcast(g: Array, like: Any) -> Array:
    """Sum g over the axes along which `like` was broadcast: a value used many times gets the sum of its gradients."""
    shape = getattr(like, "shape", ())
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g


@op
def add(ctx: Context, a: Array, b: Array) -> Result:
    """a + b."""
    return a + b, lambda g: (unbroadcast(g, a), unbroadcast(g, b))


@op
def sub(ctx: Context, a: Array, b: Array) -> Result:
    """a - b."""
    return a - b, lambda g: (unbroadcast(g, a), unbroadcast(-g, b))


@op
def mul(ctx: Context, a: Array, b: Array) -> Result:
    """a * b, element by element."""
    return a * b, lambda g: (unbroadcast(g * b, a), unbroadcast(g * a, b))


@op
def div(ctx: Context, a: Array, b: Array) -> Result:
    """a / b, element by element."""
    return a / b, lambda g: (unbroadcast(g / b, a), unbroadcast(-g * a / (b * b), b))


@op
def neg(ctx: Context, a: Array) -> Result:
    """-a."""
    return -a, lambda g: (-g,)


@op
def power(ctx: Context, a: Array, *, exponent: float) -> Result:
    """a ** exponent, for a constant exponent."""
    return a**exponent, lambda g: (g * exponent * a ** (exponent - 1),)


@op
def exp(ctx: Context, a: Array) -> Result:
    """e to the power a."""
    y = ctx.xp.exp(a)
    return y, lambda g: (g * y,)


@op
def log(ctx: Context, a: Array) -> Result:
    """Natural logarithm."""
    return ctx.xp.log(a), lambda g: (g / a,)


@op
def tanh(ctx: Context, a: Array) -> Result:
    """Hyperbolic tangent."""
    y = ctx.xp.tanh(a)
    return y, lambda g: (g * (1 - y * y),)


@op
def sigmoid(ctx: Context, a: Array) -> Result:
    """1 / (1 + exp(-a))."""
    y = ctx.backend.sigmoid(a)
    return y, lambda g: (g * y * (1 - y),)


@op
def relu(ctx: Context, a: Array) -> Result:
    """max(a, 0); its slope at 0 is taken as 0."""
    return ctx.xp.maximum(a, 0), lambda g: (g * (a > 0),)


@op
def clip(ctx: Context, a: Array, *, low: float = -math.inf, high: float = math.inf) -> Result:
    """a, or the bound it is beyond; there its slope is 0."""
    return ctx.xp.clip(a, low, high), lambda g: (g * ((a >= low) & (a <= high)),)


@op
def silu(ctx: Context, a: Array) -> Result:
    """a * sigmoid(a)."""
    s = ctx.backend.sigmoid(a)
    return a * s, lambda g: (g * s * (1 + a * (1 - s)),)


@op
def sum(ctx: Context, a: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Result:
    """Sum over an axis, several, or all."""

    def vjp(g: Array) -> tuple[Array]:
        if axis is not None and not keepdims:
            g = ctx.xp.expand_dims(g, axis)
        return (ctx.xp.broadcast_to(g, a.shape),)

    return a.sum(axis=axis, keepdims=keepdims), vjp


@op
def mean(ctx: Context, a: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Result:
    """Mean over an axis, several, or all."""
    total, spread = OPS["sum"](ctx, a, axis=axis, keepdims=keepdims)
    share = a.dtype.type(total.size / a.size)
    return total * share, lambda g: spread(g * share)


@op
def max(ctx: Context, a: Array, *, axis: int | None = None, keepdims: bool = False) -> Result:
    """Maximum over one axis or all; where several entries tie, they share the gradient equally."""
    top = a.max(axis=axis, keepdims=True)

    def vjp(g: Array) -> tuple[Array]:
        if not keepdims:
            g = g.reshape(top.shape)
        winners = a == top
        return (g * winners / winners.sum(axis=axis, keepdims=True).astype(a.dtype),)

    return top if keepdims else a.max(axis=axis), vjp


@op
def reshape(ctx: Context, a: Array, *, shape: tuple[int, ...]) -> Result:
    """The same numbers in another shape."""
    return a.reshape(shape), lambda g: (g.reshape(a.shape),)


@op
def transpose(ctx: Context, a: Array, *, axes: tuple[int, ...]) -> Result:
    """The axes in another order."""
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return a.transpose(axes), lambda g: (g.transpose(back),)


@op
def getitem(ctx: Context, a: Array, *, index: Any) -> Result:
    """a[index]; an entry picked several times gets the sum of its gradients."""

    def vjp(g: Array) -> tuple[Array]:
        out = ctx.xp.zeros_like(a)
        ctx.xp.add.at(out, index, g)
        return (out,)

    return a[index], vjp


@op
def concatenate(ctx: Context, *arrays: Array, axis: int = 0) -> Result:
    """Arrays joined along an axis."""
    ends = [0]
    for a in arrays:
        ends.append(ends[-1] + a.shape[axis])

    def vjp(g: Array) -> list[Array]:
        return ctx.xp.split(g, ends[1:-1], axis=axis)

    return ctx.xp.concatenate(arrays, axis=axis), vjp


@op
def matmul(ctx: Context, a: Array, b: Array) -> Result:
    """Matrix product of (..., n, k) and (..., k, m); the leading axes are broadcast."""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul: both operands need two axes or more, got shapes {a.shape} and {b.shape}")
    operand, product = ctx.backend.operand, ctx.backend.matmul
    left, right = operand(a), operand(b)

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        g = operand(g)
        da = unbroadcast(product(g, right.swapaxes(-1, -2)), a) if ctx.needs[0] else None
        db = unbroadcast(product(left.swapaxes(-1, -2), g), b) if ctx.needs[1] else None
        return da, db

    return product(left, right), vjp


@op
def linear(ctx: Context, x: Array, weight: Array, bias: Array | None = None) -> Result:
    """x weight^T + bias: x (..., in), weight (out, in) as Hugging Face stores it, bias (out,)."""
    operand = ctx.backend.operand
    rows, matrix = operand(x.reshape(-1, x.shape[-1])), operand(weight)  # (N, in), (out, in)
    (y,) = ctx.backend.linears(rows, [matrix])
    if bias is not None:
        y += bias

    def vjp(g: Array) -> tuple[Array | None, ...]:
        g = g.reshape(-1, g.shape[-1])  # (N, out)
        dx, (dweight,) = ctx.backend.linears_backward([operand(g)], rows, [matrix], ctx.needs[:2])
        dx = None if dx is None else dx.reshape(x.shape)
        return (dx, dweight, None if bias is None else g.sum(axis=0))[: len(ctx.needs)]

    return y.reshape(*x.shape[:-1], len(weight)), vjp


@op_several
def linears(ctx: Context, x: Array, *weights: Array) -> Results:
    """x weight^T for each weight: x (..., in), weights (out, in). The gradient of x is summed up as it is made."""
    operand, backend = ctx.backend.operand, ctx.backend
    rows, matrices = operand(x.reshape(-1, x.shape[-1])), [operand(weight) for weight in weights]  # (N, in), (out, in)

    def vjp(gs: Sequence[Array | None]) -> list[Array | None]:
        some = [i for i, g in enumerate(gs) if g is not None]
        factors = [operand(g.reshape(-1, g.shape[-1])) for g in gs if g is not None]  # (N, out)
        needs = [ctx.needs[0], *(ctx.needs[1 + i] for i in some)]
        dx, found = backend.linears_backward(factors, rows, [matrices[i] for i in some], needs)
        dweights = dict(zip(some, found, strict=True))
        return [None if dx is None else dx.reshape(x.shape), *map(dweights.get, range(len(gs)))]

    return [y.reshape(*x.shape[:-1], y.shape[-1]) for y in backend.linears(rows, matrices)], vjp


@op
def softmax(ctx: Context, a: Array) -> Result:
    """exp(a) / sum(exp(a)) along the last axis."""
    p = ctx.backend.softmax(a)
    return p, lambda g: (p * (g - (g * p).sum(axis=-1, keepdims=True)),)


@op
def log_softmax(ctx: Context, a: Array) -> Result:
    """log(softmax(a)) along the last axis."""
    y = ctx.backend.log_softmax(a)
    return y, lambda g: (g - ctx.xp.exp(y) * g.sum(axis=-1, keepdims=True),)


@op
def embedding(ctx: Context, table: Array, *, ids: Array) -> Result:
    """Rows of a table (V, C) picked by integer ids (...): (..., C)."""

    def vjp(g: Array) -> tuple[Array]:
        return (ctx.backend.embedding_backward(g.reshape(-1, g.shape[-1]), ids.reshape(-1), len(table)),)

    return table[ids], vjp


@op
def rms_norm(ctx: Context, x: Array, weight: Array, *, eps: float) -> Result:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019)."""
    rows = ctx.xp.ascontiguousarray(x).reshape(-1, x.shape[-1])  # (N, C)
    y, inverse_rms = ctx.backend.rms_norm(rows, weight, eps)

    def vjp(g: Array) -> tuple[Array, Array]:
        dx, dweight = ctx.backend.rms_norm_backward(g.reshape(rows.shape), rows, weight, inverse_rms)
        return dx.reshape(x.shape), dweight

    return y.reshape(x.shape), vjp


@op_several
def add_rms_norm(ctx: Context, x: Array, y: Array, weight: Array, *, eps: float) -> Results:
    """x + y, of one shape (..., C), and the `rms_norm` of the sum."""
    left, right = (ctx.xp.ascontiguousarray(a).reshape(-1, a.shape[-1]) for a in (x, y))  # (N, C)
    total, normed, inverse_rms = ctx.backend.add_rms_norm(left, right, weight, eps)

    def vjp(gs: Sequence[Array | None]) -> tuple[Array, ...]:
        dtotal, dnormed = (ctx.xp.zeros_like(total) if g is None else g.reshape(total.shape) for g in gs)
        dx, dweight = ctx.backend.add_rms_norm_backward(dtotal, dnormed, total, weight, inverse_rms)
        dx = dx.reshape(x.shape)
        return dx, dx[...], dweight  # a view, which no leaf takes for its own memory

    return (total.reshape(x.shape), normed.reshape(x.shape)), vjp


@op
def rope(ctx: Context, x: Array, *, cos: Array, sin: Array) -> Result:
    """Rotary position embedding: x (B, T, H, D), cos and sin (B or 1, T, R/2) for the first R of the D channels.

    A rotation's vjp is its inverse.
    """
    return ctx.backend.rope(x, cos, sin), lambda g: (ctx.backend.rope(g, cos, -sin),)


@op_several
def qkv_rope(
    ctx: Context, x: Array, query: Array, key: Array, value: Array, *, cos: Array, sin: Array, head_dim: int
) -> Results:
    """`linear` by three weights, and `rope` for what the first two make: x (B, T, C) -> (B, T, out / D, D) each."""
    operand, backend = ctx.backend.operand, ctx.backend
    rows = operand(x.reshape(-1, x.shape[-1]))  # (B T, C)
    matrices = [operand(weight) for weight in (query, key, value)]
    results = backend.qkv_rope(rows, matrices, cos, sin, head_dim)

    def vjp(gs: Sequence[Array | None]) -> list[Array | None]:
        given = [ctx.xp.zeros_like(y) if g is None else g for g, y in zip(gs, results, strict=True)]
        dx, dweights = backend.qkv_rope_backward(given, rows, matrices, cos, sin, ctx.needs)
        return [None if dx is None else dx.reshape(x.shape), *dweights]

    return results, vjp


@op
def llama_layer(ctx: Context, x: Array, *weights: Array, rules: LayerRules) -> Result:
    """A layer of Llama as one operation: x (B, T, C) -> the same shape. See `ReferenceBackend.llama_layer`."""
    states = ctx.backend.llama_layer(x, weights, rules)

    def vjp(g: Array) -> list[Array | None]:
        dx, _, dweights = ctx.backend.llama_layer_backward(g, x, weights, rules, states, (), ctx.needs)
        return [dx, *dweights]

    return states.end, vjp


@op
def layer_norm(ctx: Context, x: Array, weight: Array, bias: Array, *, eps: float) -> Result:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016)."""
    rows = ctx.xp.ascontiguousarray(x).reshape(-1, x.shape[-1])  # (N, C)
    centered = rows - rows.mean(axis=-1, keepdims=True)
    y, inverse_std = ctx.backend.rms_norm(centered, weight, eps)

    def vjp(g: Array) -> tuple[Array, Array, Array]:
        g = g.reshape(rows.shape)
        dx, dweight = ctx.backend.rms_norm_backward(g, centered, weight, inverse_std)
        dx -= dx.mean(axis=-1, keepdims=True)  # taking the mean out has itself as its vjp
        return dx.reshape(x.shape), dweight, g.sum(axis=0)

    return (y + bias).reshape(x.shape), vjp


@op
def gelu(ctx: Context, x: Array) -> Result:
    """x * Phi(x), with the normal distribution's own Phi (Hendrycks and Gimpel 2016): half of 1 + erf(x / sqrt 2)."""
    phi = 0.5 * (1 + ctx.backend.erf(x * math.sqrt(0.5)))

    def vjp(g: Array) -> tuple[Array]:
        return (g * (phi + x * ctx.xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)),)

    return x * phi, vjp


@op
def gelu_tanh(ctx: Context, x: Array) -> Result:
    """GELU by the tanh that GPT-2 approximates it with: x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    root = math.sqrt(2 / math.pi)
    bent = ctx.xp.tanh(root * (x + 0.044715 * x**3))

    def vjp(g: Array) -> tuple[Array]:
        slope = root * (1 + 3 * 0.044715 * x * x)
        return (g * 0.5 * (1 + bent + x * (1 - bent * bent) * slope),)

    return 0.5 * x * (1 + bent), vjp


@op
def swiglu(ctx: Context, gate: Array, up: Array) -> Result:
    """silu(gate) * up (Shazeer 2020)."""
    return ctx.backend.swiglu(gate, up), lambda g: ctx.backend.swiglu_backward(g, gate, up)


@op
def attention(
    ctx: Context,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    q_documents: Array | None = None,
    k_documents: Array | None = None,
) -> Result:
    """Causal attention: q (B, T, H, D), k and v (B, S, K, D) -> (B, T, H, D). See `ReferenceBackend.attention`."""
    rules = AttentionRules(scale, q_documents, k_documents)
    out, lse = ctx.backend.attention(q, k, v, None, rules)

    def vjp(g: Array) -> tuple[Array, ...]:
        return ctx.backend.attention_backward(g, q, k, v, None, rules, out, lse)[:3]

    return out, vjp


@op
def ruled_attention(
    ctx: Context, q: Array, k: Array, v: Array, sinks: Array | None, *, rules: AttentionRules
) -> Result:
    """Causal attention by any `AttentionRules`: q (B, T, H, D), k (B, S, K, D), v (B, S, K, E) -> (B, T, H, E).

    sinks (H,) holds one more score a head, which takes attention and gives nothing, or None.
    """
    out, lse = ctx.backend.attention(q, k, v, sinks, rules)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        return ctx.backend.attention_backward(g, q, k, v, sinks, rules, out, lse)

    return out, vjp


@op
def take_along_axis(ctx: Context, a: Array, *, indices: Array) -> Result:
    """Entries picked from each row: a (N, E), indices (N, k), no number twice in a row -> (N, k)."""
    rows = ctx.xp.arange(len(a))[:, None]

    def vjp(g: Array) -> tuple[Array]:
        out = ctx.xp.zeros_like(a)
        out[rows, indices] = g
        return (out,)

    return a[rows, indices], vjp


@op
def dispatch(ctx: Context, x: Array, *, pairs: Array, k: int) -> Result:
    """A copy of its token for each pair: x (N, C), pairs (P,) of numbers token * k + choice -> (P, C)."""

    def vjp(g: Array) -> tuple[Array]:
        return (ctx.backend.combine(g, ctx.xp.ones((len(x), k), dtype=x.dtype), pairs),)

    return x[pairs // k], vjp


@op
def grouped_linear(ctx: Context, x: Array, weight: Array, *, offsets: Sequence[int]) -> Result:
    """`linear` with another matrix for each group of rows: see `ReferenceBackend.grouped_linear`."""

    def vjp(g: Array) -> tuple[Array, Array]:
        dx, (dweight,) = ctx.backend.grouped_linears_backward([g], x, [weight], offsets)
        return dx, dweight

    (y,) = ctx.backend.grouped_linears(x, [weight], offsets)
    return y, vjp


@op_several
def grouped_linears(ctx: Context, x: Array, *weights: Array, offsets: Sequence[int]) -> Results:
    """`linears` with other matrices for each group of rows."""

    def vjp(gs: Sequence[Array | None]) -> list[Array | None]:
        given = [ctx.xp.zeros_like(y) if g is None else g for g, y in zip(gs, ys, strict=True)]
        dx, dweights = ctx.backend.grouped_linears_backward(given, x, weights, offsets)
        return [dx, *dweights]

    ys = ctx.backend.grouped_linears(x, weights, offsets)
    return ys, vjp


@op
def swiglu_mlp(ctx: Context, x: Array, gate: Array, up: Array, down: Array) -> Result:
    """linear(swiglu(linear(x, gate), linear(x, up)), down) as one operation: see `ReferenceBackend.swiglu_mlp`."""
    rows = x.reshape(-1, x.shape[-1])  # (N, C)
    y, saved = ctx.backend.swiglu_mlp(rows, gate, up, down)

    def vjp(g: Array) -> list[Array | None]:
        g = g.reshape(-1, g.shape[-1])
        dx, *dweights = ctx.backend.swiglu_mlp_backward(g, rows, gate, up, down, saved, ctx.needs)
        return [None if dx is None else dx.reshape(x.shape), *dweights]

    return y.reshape(*x.shape[:-1], y.shape[-1]), vjp


@op
def grouped_swiglu_mlp(
    ctx: Context, x: Array, gate: Array, up: Array, down: Array, *, offsets: Sequence[int]
) -> Result:
    """`swiglu_mlp` with matrices of its own for each group of rows."""
    y, saved = ctx.backend.grouped_swiglu_mlp(x, gate, up, down, offsets)
    return y, lambda g: ctx.backend.grouped_swiglu_mlp_backward(g, x, gate, up, down, saved, offsets)


@op
def combine(ctx: Context, rows: Array, weights: Array, *, pairs: Array) -> Result:
    """The weighted sum of what came back for each token, rows (P, C) -> (N, C): see `ReferenceBackend.combine`."""

    def vjp(g: Array) -> tuple[Array, Array]:
        return ctx.backend.combine_backward(g, rows, weights, pairs)

    return ctx.backend.combine(rows, weights, pairs), vjp


@op
def linear_cross_entropy(
    ctx: Context,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    targets: Array,
    softcap: float | None = None,
    count: int | None = None,
) -> Result:
    """Mean next-token loss of the output layer: x (..., C), weight (V, C), targets (...) with -100 for «ignore».

    For a part of a batch, `count` is the number of targets in the whole of it.

    Gemma 2 bends the logits to softcap * tanh(logits / softcap) before the softmax; Phi has a bias (V,).
    Raises ValueError when every target is ignored: the mean of nothing is not a number.
    """
    rows, wanted = x.reshape(-1, x.shape[-1]), targets.reshape(-1)  # (N, C), (N,)
    count = ctx.backend.count(wanted >= 0) if count is None else count
    if ctx.backend.any(count == 0):
        raise ValueError("targets: every target is -100 (ignored), so there is no loss to average")
    losses, *grads = ctx.backend.linear_cross_entropy(rows, weight, bias, wanted, softcap, any(ctx.needs))

    def vjp(g: Array) -> tuple[Array | None, ...]:
        share = g / count
        dx, *others = (None if d is None else d * share for d in grads)
        return (None if dx is None else dx.reshape(x.shape), *others)[: len(ctx.needs)]

    return losses.sum() / count, vjp
