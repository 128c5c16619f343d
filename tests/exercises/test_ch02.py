"""Wrong answers to the exercises of chapter 02, each of a kind that people write."""

from __future__ import annotations

import numpy as np

from tinymoe.course import registry

from .runner import exercise_tests


def one_sided(f, x, eps=1e-5):
    slope = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up = x.copy()
        up[i] += eps
        slope[i] = (f(up) - f(x)) / eps
    return slope


def half_the_distance(f, x, eps=1e-5):
    slope = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += eps
        down[i] -= eps
        slope[i] = (f(up) - f(down)) / eps
    return slope


def nudges_the_original(f, x, eps=1e-5):
    slope = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        x[i] += eps
        above = f(x)
        x[i] -= 2 * eps
        slope[i] = (above - f(x)) / (2 * eps)
    return slope


def all_at_once(f, x, eps=1e-5):
    return np.full_like(x, (f(x + eps) - f(x - eps)) / (2 * eps))


def only_one_axis(f, x, eps=1e-5):
    slope = np.zeros_like(x)
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += eps
        down[i] -= eps
        slope[i] = (f(up) - f(down)) / (2 * eps)
    return slope


def every_path(root):
    return [root, *(node for source in root.inputs for node in every_path(source))]


def first_come(root):
    order = []

    def visit(node):
        if node not in order:
            order.append(node)
            for source in node.inputs:
                visit(source)

    visit(root)
    return order


def breadth_first(root):
    order = [root]
    for node in order:
        order += [source for source in dict.fromkeys(node.inputs) if source not in order]
    return order


def not_reversed(root):
    order = []

    def visit(node):
        if node not in order:
            for source in node.inputs:
                visit(source)
            order.append(node)

    visit(root)
    return order


def without_the_root(root):
    return registry.find("02.reverse_order").answer(root)[1:]


def all_paths_then_unique(root):
    seen = {}
    for node in every_path(root)[::-1]:
        seen.setdefault(node)
    return list(seen)[::-1]


def only_new_axes(g, like):
    shape = getattr(like, "shape", ())
    return g.sum(axis=tuple(range(g.ndim - len(shape))))


def loses_the_ones(g, like):
    shape = getattr(like, "shape", ())
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1))


def mean_of_the_copies(g, like):
    shape = getattr(like, "shape", ())
    g = g.mean(axis=tuple(range(g.ndim - len(shape))))
    return g.mean(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def first_copy_only(g, like):
    shape = getattr(like, "shape", ())
    while g.ndim > len(shape):
        g = g[0]
    return g[tuple(slice(n) for n in shape)]


def no_python_numbers(g, like):
    shape = like.shape
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def half_of_the_product_rule(ctx, a):
    s = ctx.backend.sigmoid(a)
    return a * s, lambda g: (g * s,)


def slope_of_the_sigmoid_halved(ctx, a):
    s = ctx.backend.sigmoid(a)
    return a * s, lambda g: (g * (s + a * (1 - s)),)


def forgets_g(ctx, a):
    s = ctx.backend.sigmoid(a)
    return a * s, lambda g: (s * (1 + a * (1 - s)),)


def no_tuple(ctx, a):
    s = ctx.backend.sigmoid(a)
    return a * s, lambda g: g * s * (1 + a * (1 - s))


def overflowing_sigmoid(ctx, a):
    s = np.exp(a) / (1 + np.exp(a))
    return a * s, lambda g: (g * s * (1 + a * (1 - s)),)


def returns_the_sigmoid(ctx, a):
    s = ctx.backend.sigmoid(a)
    return s, lambda g: (g * s * (1 - s),)


def without_the_sum(ctx, a):
    y = ctx.backend.log_softmax(a)
    return y, lambda g: (g - ctx.xp.exp(y) * g,)


def sum_over_everything(ctx, a):
    y = ctx.backend.log_softmax(a)
    return y, lambda g: (g - ctx.xp.exp(y) * g.sum(),)


def log_probabilities_for_probabilities(ctx, a):
    y = ctx.backend.log_softmax(a)
    return y, lambda g: (g - y * g.sum(axis=-1, keepdims=True),)


def vjp_of_softmax(ctx, a):
    y = ctx.backend.log_softmax(a)
    p = np.exp(y)
    return y, lambda g: (p * (g - (g * p).sum(axis=-1, keepdims=True)),)


def overflows(ctx, a):
    y = np.log(np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True))
    return y, lambda g: (g - np.exp(y) * g.sum(axis=-1, keepdims=True),)


def tanh_again(ctx, a):
    y = np.tanh(a)
    return y, lambda g: (g * (1 - y * y),)


def straight_line(ctx, a):
    return 2 * a + 1, lambda g: (2 * g,)


def overflowing_softplus(ctx, a):
    return np.log(1 + np.exp(a)), lambda g: (g / (1 + np.exp(-a)),)


def wrong_slope(ctx, a):
    return np.sin(a), lambda g: (-g * np.cos(a),)


def needs_more_digits(ctx, a):
    return np.sin(a).astype(np.float64), lambda g: (g * np.cos(a),)


def result_only(ctx, a):
    return np.sin(a)


def gradient_not_in_a_tuple(ctx, a):
    return np.sin(a), lambda g: g * np.cos(a)


def works_in_place(ctx, a):
    before = a.copy()
    np.sin(a, out=a)
    return a.copy(), lambda g: (g * np.cos(before),)


def slope_explodes(ctx, a):
    return np.logaddexp(0, a), lambda g: (g * np.exp(a) / (1 + np.exp(a)),)


TestExercises = exercise_tests(
    "02",
    {
        "02.numerical_gradient": [one_sided, half_the_distance, nudges_the_original, all_at_once, only_one_axis],
        "02.reverse_order": [
            every_path, first_come, breadth_first, not_reversed, without_the_root, all_paths_then_unique,
        ],
        "02.unbroadcast": [only_new_axes, loses_the_ones, mean_of_the_copies, first_copy_only, no_python_numbers],
        "02.silu": [
            half_of_the_product_rule, slope_of_the_sigmoid_halved, forgets_g, no_tuple, overflowing_sigmoid,
            returns_the_sigmoid,
        ],
        "02.log_softmax": [
            without_the_sum, sum_over_everything, log_probabilities_for_probabilities, vjp_of_softmax, overflows,
        ],
        "02.my_activation": [
            tanh_again, straight_line, overflowing_softplus, wrong_slope, needs_more_digits, result_only,
            gradient_not_in_a_tuple, works_in_place, slope_explodes,
        ],
    },
)  # fmt: skip


def softplus(ctx, a):
    return ctx.xp.logaddexp(0, a), lambda g: (g * ctx.backend.sigmoid(a),)


def leaky_relu(ctx, a):
    slope = ctx.xp.where(a > 0, 1, 0.1).astype(a.dtype)
    return a * slope, lambda g: (g * slope,)


def layer_norm(ctx, a):
    """Not entry by entry: every entry of a row reaches every result of it."""
    centered = a - a.mean(axis=-1, keepdims=True)
    inverse = 1 / ctx.xp.sqrt((centered * centered).mean(axis=-1, keepdims=True) + a.dtype.type(1e-5))
    y = centered * inverse

    def vjp(g):
        return (inverse * (g - g.mean(axis=-1, keepdims=True) - y * (g * y).mean(axis=-1, keepdims=True)),)

    return y, vjp


def sine(ctx, a):
    return ctx.xp.sin(a), lambda g: (g * ctx.xp.cos(a),)


def test_many_activations_are_right():
    for answer in (softplus, leaky_relu, layer_norm, sine):
        assert registry.find("02.my_activation").failure(answer) is None, answer.__name__


def test_any_right_order_passes():
    def by_counting_users(root):
        nodes, order = every_node(root), []
        users = {node: 0 for node in nodes}
        for node in nodes:
            for source in node.inputs:
                users[source] += 1
        ready = [root]
        while ready:
            order.append(node := ready.pop(0))
            for source in node.inputs:
                users[source] -= 1
                if not users[source]:
                    ready.append(source)
        return order

    def every_node(root):
        nodes = [root]
        for node in nodes:
            nodes += [source for source in dict.fromkeys(node.inputs) if source not in nodes]
        return nodes

    def tuple_of_recursion(root):
        return tuple(not_reversed(root)[::-1])

    for answer in (by_counting_users, tuple_of_recursion):
        assert registry.find("02.reverse_order").failure(answer) is None, answer.__name__
