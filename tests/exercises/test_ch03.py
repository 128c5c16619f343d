"""Wrong answers to the exercises of chapter 03, each of a kind that people write."""

from __future__ import annotations

import numpy as np

from tinymoe import ops
from tinymoe.backend import current
from tinymoe.course import registry

from .runner import exercise_tests


def _weights(q, k, scale, q_documents, k_documents, *, repeat=np.repeat, shift=None, hidden=-np.inf, scaled=True):
    T, S, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    k = repeat(k, group, axis=2)
    scores = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1) * (scale if scaled else 1.0)
    allowed = np.arange(S) <= np.arange(T)[:, None] + (S - T if shift is None else shift)
    if q_documents is not None and k_documents is not None:
        allowed = (allowed & (q_documents[:, :, None] == k_documents[:, None, :]))[:, None]
    return current().softmax(np.where(allowed, scores, hidden))


def no_mask(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, None, None, shift=k.shape[1])


def hides_itself_too(q, k, scale, q_documents=None, k_documents=None):
    weights = _weights(q, k, scale, q_documents, k_documents, shift=k.shape[1] - q.shape[1] - 1, hidden=-1e30)
    return weights


def queries_come_first(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, q_documents, k_documents, shift=0)


def forgets_the_scale(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, q_documents, k_documents, scaled=False)


def zero_instead_of_infinity(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, q_documents, k_documents, hidden=0.0)


def tiles_the_shared_heads(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, q_documents, k_documents, repeat=lambda k, n, axis: np.tile(k, (1, 1, n, 1)))


def masks_after_the_softmax(q, k, scale, q_documents=None, k_documents=None):
    weights = _weights(q, k, scale, None, None, shift=k.shape[1])
    return weights * (_weights(q, k, scale, q_documents, k_documents) > 0)


def overflowing_softmax(q, k, scale, q_documents=None, k_documents=None):
    with np.errstate(all="ignore"):
        keys = np.repeat(k, q.shape[2] // k.shape[2], axis=2).transpose(0, 2, 3, 1)
        e = np.exp(q.transpose(0, 2, 1, 3) @ keys * scale)
        e = e * (_weights(q, k, 0.0, q_documents, k_documents) > 0)
        return e / e.sum(axis=-1, keepdims=True)


def forgets_documents(q, k, scale, q_documents=None, k_documents=None):
    return _weights(q, k, scale, None, None)


def _attention(q, k, v, scale, q_documents, k_documents, change):
    """The right answer with one of its parts changed: `change` maps names to functions of the right part."""
    group = q.shape[2] // k.shape[2]
    weights = _weights(q, k, scale, q_documents, k_documents)
    queries, keys, values = (np.repeat(x, n, axis=2).transpose(0, 2, 1, 3) for x, n in ((q, 1), (k, group), (v, group)))

    def part(name, value, *others):
        return change[name](value, *others) if name in change else value

    def shared(grad):
        B, H, S, D = grad.shape
        heads = grad.reshape(B, H // group, group, S, D)
        return part("shared", heads.sum(axis=2), heads).transpose(0, 2, 1, 3)

    def vjp(g):
        g = g.transpose(0, 2, 1, 3)
        dvalues = part("dvalues", weights.swapaxes(-1, -2) @ g)
        dweights = g @ values.swapaxes(-1, -2)
        right = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * scale
        dscores = part("dscores", right, weights, dweights, scale)
        dqueries, dkeys = dscores @ keys, part("dkeys", dscores.swapaxes(-1, -2) @ queries, dscores, queries)
        return dqueries.transpose(0, 2, 1, 3), shared(dkeys), shared(dvalues)

    return part("out", weights @ values, weights, values).transpose(0, 2, 1, 3), vjp


def adds_a_residual(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    return _attention(q, k, v, scale, q_documents, k_documents, {"out": lambda out, weights, values: out + 1e-3})


def softmax_vjp_without_the_sum(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    change = {"dscores": lambda right, weights, dweights, scale: weights * dweights * scale}
    return _attention(q, k, v, scale, q_documents, k_documents, change)


def scale_lost_on_the_way_back(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    change = {"dscores": lambda right, weights, dweights, scale: right / scale}
    return _attention(q, k, v, scale, q_documents, k_documents, change)


def keys_not_turned_over(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    change = {"dkeys": lambda right, dscores, queries: dscores @ queries}
    return _attention(q, k, v, scale, q_documents, k_documents, change)


def first_of_the_shared_heads(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    return _attention(q, k, v, scale, q_documents, k_documents, {"shared": lambda right, heads: heads[:, :, 0]})


def values_in_their_own_order(ctx, q, k, v, *, scale, q_documents=None, k_documents=None):
    change = {"dvalues": lambda right: right[:, :, ::-1]}
    return _attention(q, k, v, scale, q_documents, k_documents, change)


def _rotate(first, second, cos, sin):
    return first * cos - second * sin, second * cos + first * sin


def _halves(x, cos, sin):
    half = x.shape[-1] // 2
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return np.concatenate(_rotate(x[..., :half], x[..., half:], cos, sin), axis=-1)


def neighbors_as_pairs(ctx, x, *, cos, sin):
    def turn(x, sin):
        out = np.empty_like(x)
        pair = _rotate(x[..., ::2], x[..., 1::2], cos[:, :, None, :], sin[:, :, None, :])
        out[..., ::2], out[..., 1::2] = pair
        return out

    return turn(x, sin), lambda g: (turn(g, -sin),)


def turns_the_other_way(ctx, x, *, cos, sin):
    return _halves(x, cos, -sin), lambda g: (_halves(g, cos, sin),)


def vjp_turns_forward(ctx, x, *, cos, sin):
    return _halves(x, cos, sin), lambda g: (_halves(g, cos, sin),)


def one_position_for_all(ctx, x, *, cos, sin):
    cos, sin = cos[:, :1], sin[:, :1]
    return _halves(x, cos, sin), lambda g: (_halves(g, cos, -sin),)


def mirrors(ctx, x, *, cos, sin):
    def turn(x):
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        c, s = cos[:, :, None, :], sin[:, :, None, :]
        return np.concatenate([first * c + second * s, first * s - second * c], axis=-1)

    return turn(x), lambda g: (turn(g),)


def _norm(x, weight, eps, mean=0.0, axis=-1):
    centered = x - mean
    inverse = 1 / np.sqrt((centered * centered).mean(axis=axis, keepdims=True) + eps)
    normed = centered * inverse

    def vjp(g):
        scaled = g * weight
        dx = inverse * (scaled - normed * (scaled * normed).mean(axis=-1, keepdims=True))
        return dx, (g * normed).sum(axis=tuple(range(x.ndim - 1)))

    return normed * weight, vjp


def layer_norm(ctx, x, weight, *, eps):
    return _norm(x, weight, eps, mean=x.mean(axis=-1, keepdims=True))


def norm_of_everything(ctx, x, weight, *, eps):
    return _norm(x, weight, eps, axis=None)


def sum_for_mean(ctx, x, weight, *, eps):
    out, vjp = _norm(x, weight, eps / x.shape[-1])
    return out / x.shape[-1] ** 0.5, lambda g: tuple(d / x.shape[-1] ** 0.5 for d in vjp(g))


def eps_outside_the_root(ctx, x, weight, *, eps):
    return x / (np.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps) * weight, _norm(x, weight, eps)[1]


def root_taken_for_a_constant(ctx, x, weight, *, eps):
    out, vjp = _norm(x, weight, eps)
    return out, lambda g: (g * weight / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps), vjp(g)[1])


def weight_gradient_not_summed(ctx, x, weight, *, eps):
    out, vjp = _norm(x, weight, eps)
    return out, lambda g: (vjp(g)[0], g * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps))


def _flops(c, context, *, kv=None, width=None, per_weight=2, seen=0.5, tables=1, norms=0):
    width = width or c.num_attention_heads * c.head_dim
    kv = kv or c.num_key_value_heads * c.head_dim
    layer = c.hidden_size * (2 * width + 2 * kv + 3 * c.intermediate_size + norms)
    weights = c.num_hidden_layers * layer + tables * c.vocab_size * c.hidden_size
    return int(per_weight * weights + c.num_hidden_layers * 4 * width * seen * context)


def one_operation_a_weight(config, context):
    return _flops(config, context, per_weight=1)


def counts_the_lookup(config, context):
    return _flops(config, context, tables=2)


def tied_tables_for_nothing(config, context):
    return _flops(config, context, tables=0 if config.tie_word_embeddings else 1)


def without_attention(config, context):
    return _flops(config, context, seen=0)


def sees_the_whole_context(config, context):
    return _flops(config, context, seen=1)


def only_the_scores(config, context):
    return _flops(config, context, seen=0.25)


def all_heads_have_keys(config, context):
    return _flops(config, context, kv=config.num_attention_heads * config.head_dim)


def heads_fill_the_width(config, context):
    return _flops(config, context, width=config.hidden_size)


def counts_the_norms(config, context):
    return _flops(config, context, norms=2)


def _nucleus(logits, inside):
    order = np.argsort(-logits, axis=-1, kind="stable")
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = np.take_along_axis(e / e.sum(axis=-1, keepdims=True), order, axis=-1)
    keep = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(keep, order, inside(p, np.cumsum(p, axis=-1)), axis=-1)
    return np.where(keep, logits, -np.inf)


def stops_before_p(logits, p):
    return _nucleus(logits, lambda own, total: (total <= p) | (np.arange(own.shape[-1]) == 0))


def keeps_one_too_many(logits, p):
    return _nucleus(logits, lambda own, total: total - own <= p + own)


def probability_above_p(logits, p):
    return _nucleus(logits, lambda own, total: (own > p) | (np.arange(own.shape[-1]) == 0))


def from_the_unlikeliest(logits, p):
    return -_nucleus(-logits, lambda own, total: total - own < p)


def forgets_to_sort_back(logits, p):
    e = np.sort(np.exp(logits), axis=-1)[..., ::-1]
    e = e / e.sum(axis=-1, keepdims=True)
    return np.where(np.cumsum(e, axis=-1) - e < p, logits, -np.inf)


def gives_probabilities(logits, p):
    kept = np.exp(_nucleus(logits, lambda own, total: total - own < p))
    return kept / kept.sum(axis=-1, keepdims=True)


def one_cut_for_all_rows(logits, p):
    kept = _nucleus(logits[:1], lambda own, total: total - own < p)
    return np.where(np.isfinite(kept), logits, -np.inf)


def swiglu_again(gate, up):
    return ops.silu(gate) * up


def straight(gate, up):
    return gate


def sum_of_both(gate, up):
    return gate + up


def leaves_the_tape(gate, up):
    return ops.relu(gate.detach()) * up.detach()


def loses_half_of_the_gradient(gate, up):
    return ops.relu(gate) * up.detach()


def plain_arrays(gate, up):
    return np.maximum(gate.numpy(), 0)


TestExercises = exercise_tests(
    "03",
    {
        "03.attention_weights": [
            no_mask, hides_itself_too, queries_come_first, forgets_the_scale, zero_instead_of_infinity,
            tiles_the_shared_heads, masks_after_the_softmax, overflowing_softmax, forgets_documents,
        ],
        "03.attention": [
            adds_a_residual, softmax_vjp_without_the_sum, scale_lost_on_the_way_back, keys_not_turned_over,
            first_of_the_shared_heads, values_in_their_own_order,
        ],
        "03.rope": [neighbors_as_pairs, turns_the_other_way, vjp_turns_forward, one_position_for_all, mirrors],
        "03.rms_norm": [
            layer_norm, norm_of_everything, sum_for_mean, eps_outside_the_root, root_taken_for_a_constant,
            weight_gradient_not_summed,
        ],
        "03.flops_per_token": [
            one_operation_a_weight, counts_the_lookup, tied_tables_for_nothing, without_attention,
            sees_the_whole_context, only_the_scores, all_heads_have_keys, heads_fill_the_width, counts_the_norms,
        ],
        "03.top_p_filter": [
            stops_before_p, keeps_one_too_many, probability_above_p, from_the_unlikeliest, forgets_to_sort_back,
            gives_probabilities, one_cut_for_all_rows,
        ],
        "03.my_gate": [
            swiglu_again, straight, sum_of_both, leaves_the_tape, loses_half_of_the_gradient, plain_arrays,
        ],
    },
)  # fmt: skip


def relu_without_gate(gate, up):
    return ops.relu(gate)


def reglu(gate, up):
    return ops.relu(gate) * up


def squared_relu(gate, up):
    r = ops.relu(gate)
    return r * r


def glu(gate, up):
    return ops.sigmoid(gate) * up


def bilinear(gate, up):
    """No function with a bend, but a product of two layers is no straight line either (Shazeer 2020)."""
    return gate * up


def test_many_gates_are_right():
    for answer in (relu_without_gate, reglu, squared_relu, glu, bilinear):
        assert registry.find("03.my_gate").failure(answer) is None, answer.__name__


def test_the_work_is_what_the_package_measures():
    from tinymoe.models import zoo
    from tinymoe.models.size import measure

    answer = registry.find("03.flops_per_token").answer
    for name in ("llama-pico", "llama-2-70b", "tinyllama-1.1b"):
        size = measure(zoo.config(name))
        assert answer(zoo.config(name), size.context) == size.flops_per_token


def test_the_plain_formulas_are_what_the_package_computes(backend):
    """The references of operations stand beside the package's own, which are fused: both must say the same."""
    from tinymoe.course.exercises import ch03
    from tinymoe.tensor import OPS, Context

    context = Context(current(), current().xp, (True, True, True))
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(2, 5, 4, 6)), rng.normal(size=(2, 5, 2, 6)), rng.normal(size=(2, 5, 2, 6))
    angles = {"cos": np.cos(rng.normal(size=(1, 5, 3))), "sin": np.sin(rng.normal(size=(1, 5, 3)))}
    for name, plain, arrays, options in (
        ("attention", ch03.attention, (q, k, v), {"scale": 0.4}),
        ("rope", ch03.rope, (q,), angles),
        ("rms_norm", ch03.rms_norm, (q, rng.normal(size=6)), {"eps": 1e-3}),
    ):
        wanted, back = OPS[name](context, *arrays, **options)
        got, plain_back = plain(context, *arrays, **options)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
        g = rng.normal(size=wanted.shape)
        for mine, theirs in zip(plain_back(g), back(g), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)
