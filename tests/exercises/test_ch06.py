"""Wrong answers to the exercises of chapter 06, each of a kind that people write."""

from __future__ import annotations

import math

import numpy as np

from .runner import exercise_tests

# 06.pool_heads


def takes_the_first_of_each_group(weight, heads, head_dim):
    return weight.reshape(heads, -1, head_dim, weight.shape[-1])[:, 0].reshape(heads * head_dim, -1)


def adds_up(weight, heads, head_dim):
    return weight.reshape(heads, -1, head_dim, weight.shape[-1]).sum(axis=1).reshape(heads * head_dim, -1)


def pools_heads_far_apart(weight, heads, head_dim):
    return weight.reshape(-1, heads, head_dim, weight.shape[-1]).mean(axis=0).reshape(heads * head_dim, -1)


def pools_neighboring_channels(weight, heads, head_dim):
    return weight.reshape(heads * head_dim, -1, weight.shape[-1]).mean(axis=1)


# 06.visible


def _allowed(T, S, window, documents, *, first=None, causal=True, wider=0, texts=True):
    first = S - T if first is None else first
    distance = np.arange(first, first + T)[:, None] - np.arange(S)
    allowed = distance >= 0 if causal else np.ones((T, S), dtype=bool)
    if window is not None:
        allowed &= np.abs(distance) < window + wider
    if documents is not None and texts:
        allowed &= documents[S - T :, None] == documents
    return allowed


def window_without_itself(T, S, window=None, documents=None):
    return _allowed(T, S, window, documents, wider=1)


def queries_come_first(T, S, window=None, documents=None):
    return _allowed(T, S, window, documents, first=0)


def sees_the_future(T, S, window=None, documents=None):
    return _allowed(T, S, window, documents, causal=False)


def forgets_documents(T, S, window=None, documents=None):
    return _allowed(T, S, window, documents, texts=False)


# 06.gelu


def _gelu(ctx, x, *, cube=0.044715, half=0.5, inner=True):
    root = math.sqrt(2 / math.pi)
    bent = ctx.xp.tanh(root * (x + cube * x**3))

    def vjp(g):
        slope = root * (1 + 3 * cube * x * x) if inner else 1.0
        return (g * half * (1 + bent + x * (1 - bent * bent) * slope),)

    return half * x * (1 + bent), vjp


def no_half(ctx, x):
    return _gelu(ctx, x, half=1.0)


def forgets_the_chain_rule(ctx, x):
    return _gelu(ctx, x, inner=False)


def no_cube(ctx, x):
    return _gelu(ctx, x, cube=0.0)


def by_a_sigmoid(ctx, x):
    gate = 1 / (1 + ctx.xp.exp(-1.702 * x))
    return x * gate, lambda g: (g * (gate + 1.702 * x * gate * (1 - gate)),)


# 06.sink_softmax


def _with_sink(scores, sinks):
    wide = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))], axis=-1)
    e = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def keeps_the_sink(scores, sinks):
    return _with_sink(scores, sinks)


def gives_the_rest_back(scores, sinks):
    weights = _with_sink(scores, sinks)[..., :-1]
    return weights / weights.sum(axis=-1, keepdims=True)


def overflows(scores, sinks):
    with np.errstate(all="ignore"):
        e = np.exp(scores)
        return e / (e.sum(axis=-1, keepdims=True) + np.exp(sinks[:, None, None]))


def forgets_the_sink_in_the_maximum(scores, sinks):
    top = scores.max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        e = np.exp(scores - top)
        return e / (e.sum(axis=-1, keepdims=True) + np.exp(sinks[:, None, None] - top))


def takes_the_sink_from_the_scores(scores, sinks):
    scores = scores - sinks[:, None, None]
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def adds_one_as_the_sink(scores, sinks):
    top = np.maximum(scores.max(axis=-1, keepdims=True), 0)
    e = np.exp(scores - top)
    return e / (e.sum(axis=-1, keepdims=True) + np.exp(-top))


# 06.online_attention


def _whole(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[-1])
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e @ v / e.sum(axis=-1, keepdims=True)


def keeps_all_blocks(q, blocks):
    keys, values = zip(*blocks, strict=True)
    return _whole(q, np.concatenate(keys), np.concatenate(values))


def averages_the_blocks(q, blocks):
    return np.mean([_whole(q, k, v) for k, v in blocks], axis=0)


def _running(q, blocks, shrinks=lambda old, new: np.exp(old - new), bound=None):
    top, total, out = np.full((len(q), 1), -np.inf), 0.0, 0.0
    for k, v in blocks:
        scores = q @ k.T / math.sqrt(q.shape[-1])
        higher = np.maximum(top, scores.max(axis=-1, keepdims=True)) if bound is None else bound
        e, shrink = np.exp(scores - higher), shrinks(top, higher)
        total, out, top = total * shrink + e.sum(axis=-1, keepdims=True), out * shrink + e @ v, higher
    return out / total


def never_shrinks(q, blocks):
    return _running(q, blocks, lambda old, new: 1.0)


def without_a_maximum(q, blocks):
    with np.errstate(all="ignore"):
        return _running(q, blocks, lambda old, new: 1.0, bound=0.0)


def only_the_last_block(q, blocks):
    return _running(q, blocks, lambda old, new: 0.0)


# 06.kv_cache_bytes


def _cache(config, length, size, *, heads=None, head_dim=None, both=2, local=True):
    kept = [
        min(length, config.sliding_window) if kind == "sliding_attention" and local else length
        for kind in config.layer_types
    ]
    return both * (heads or config.num_key_value_heads) * (head_dim or config.head_dim) * size * sum(kept)


def counts_query_heads(config, length, bytes_per_number=2):
    return _cache(config, length, bytes_per_number, heads=config.num_attention_heads)


def forgets_the_values(config, length, bytes_per_number=2):
    return _cache(config, length, bytes_per_number, both=1)


def divides_the_width(config, length, bytes_per_number=2):
    head_dim = config.hidden_size // config.num_attention_heads
    return _cache(config, length, bytes_per_number, head_dim=head_dim)


def ignores_windows(config, length, bytes_per_number=2):
    return _cache(config, length, bytes_per_number, local=False)


def puts_the_window_everywhere(config, length, bytes_per_number=2):
    return _cache(config, min(length, config.sliding_window or length), bytes_per_number)


# 06.my_pattern


def all_global(num_layers):
    return ("full_attention",) * num_layers


def all_local(num_layers):
    return ("sliding_attention",) * num_layers


def one_too_few(num_layers):
    return tuple("full_attention" if i % 2 else "sliding_attention" for i in range(num_layers - 1))


def names_of_its_own(num_layers):
    return tuple("global" if i % 2 else "local" for i in range(num_layers))


def global_only_after_six(num_layers):
    return tuple("full_attention" if i % 6 == 5 else "sliding_attention" for i in range(num_layers))


TestExercises = exercise_tests(
    "06",
    {
        "06.pool_heads": [
            takes_the_first_of_each_group, adds_up, pools_heads_far_apart, pools_neighboring_channels,
        ],
        "06.visible": [window_without_itself, queries_come_first, sees_the_future, forgets_documents],
        "06.gelu": [no_half, forgets_the_chain_rule, no_cube, by_a_sigmoid],
        "06.sink_softmax": [
            keeps_the_sink, gives_the_rest_back, overflows, forgets_the_sink_in_the_maximum,
            takes_the_sink_from_the_scores, adds_one_as_the_sink,
        ],
        "06.online_attention": [keeps_all_blocks, averages_the_blocks, never_shrinks, without_a_maximum,
                                only_the_last_block],
        "06.kv_cache_bytes": [
            counts_query_heads, forgets_the_values, divides_the_width, ignores_windows, puts_the_window_everywhere,
        ],
        "06.my_pattern": [all_global, all_local, one_too_few, names_of_its_own, global_only_after_six],
    },
)  # fmt: skip
