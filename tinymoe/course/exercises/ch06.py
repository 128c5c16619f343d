"""Exercises of chapter 06: shared key/value heads, windows, sinks, attention in blocks, and what a cache holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinymoe.nn.config import Config

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def pool_heads(weight: np.ndarray, heads: int, head_dim: int) -> np.ndarray:
    """Key (or value) matrices of neighboring heads averaged until `heads` are left: (K * D, C) -> (heads * D, C)."""
    groups = weight.reshape(heads, -1, head_dim, weight.shape[-1])  # (heads, group, D, C)
    return groups.mean(axis=1).reshape(heads * head_dim, -1)


def _random_heads(rng: np.random.Generator, size: int) -> Case:
    heads, group, head_dim, width = (int(n) for n in rng.integers(1, 4, size=4))
    return case(rng.normal(size=(heads * group * head_dim, width)).round(2), heads, head_dim)


def visible(T: int, S: int, window: int | None = None, documents: np.ndarray | None = None) -> np.ndarray:
    """Which of S keys each of the last T tokens may see, (T, S) of booleans."""
    keys = np.arange(S)
    distance = keys[S - T :, None] - keys  # (T, S): how far back each key stands
    allowed = distance >= 0
    if window is not None:
        allowed &= distance < window
    if documents is not None:
        allowed &= documents[S - T :, None] == documents
    return allowed


def _random_mask(rng: np.random.Generator, size: int) -> Case:
    T, old = int(rng.integers(1, size + 1)), int(rng.integers(0, 4))
    window = None if size % 3 == 0 else int(rng.integers(1, size + 2))
    documents = None if size % 2 else np.sort(rng.integers(0, 3, size=T + old))
    return case(T, T + old, window, documents)


def sink_softmax(scores: np.ndarray, sinks: np.ndarray) -> np.ndarray:
    """Weights of attention where each head has one more score, whose share goes to nobody.

    scores (H, T, S), -inf where a key is hidden; sinks (H,). Returns (H, T, S).
    """
    sinks = sinks[:, None, None]
    top = np.maximum(scores.max(axis=-1, keepdims=True), sinks)
    e = np.exp(scores - top)
    return e / (e.sum(axis=-1, keepdims=True) + np.exp(sinks - top))


def _random_sinks(rng: np.random.Generator, size: int) -> Case:
    heads, tokens = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    scores = rng.normal(size=(heads, tokens, size)).round(2)
    scores[..., 1:][rng.random((heads, tokens, size - 1)) < 0.3] = -np.inf
    return case(scores, rng.normal(size=heads).round(2))


def online_attention(q: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Attention over keys and values that arrive in blocks (s, D) and (s, E), each seen once: q (T, D) -> (T, E)."""
    top = np.full((len(q), 1), -np.inf)  # the largest score so far
    total: Any = 0.0  # the sum of exp(score - top)
    out: Any = 0.0  # the values, weighted by exp(score - top)
    for k, v in blocks:
        scores = q @ k.T / math.sqrt(q.shape[-1])  # (T, s)
        higher = np.maximum(top, scores.max(axis=-1, keepdims=True))
        e, shrink = np.exp(scores - higher), np.exp(top - higher)
        total = total * shrink + e.sum(axis=-1, keepdims=True)
        out = out * shrink + e @ v
        top = higher
    return out / total


def _one_buffer(k: np.ndarray, v: np.ndarray, sizes: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of these sizes, all in the same piece of memory: who keeps one finds other numbers there later."""
    keys, values = np.empty((max(sizes), k.shape[1])), np.empty((max(sizes), v.shape[1]))
    start = 0
    for size in sizes:
        keys[:size], values[:size] = k[start : start + size], v[start : start + size]
        yield keys[:size], values[:size]
        start += size
    keys[:], values[:] = np.nan, np.nan


def _equals_the_whole(sizes: Sequence[int], T: int = 2, grow: float = 1.0) -> Any:
    def test(function: Any) -> None:
        rng = np.random.default_rng(len(sizes))
        S = sum(sizes)
        q, k, v = rng.normal(size=(T, 3)), rng.normal(size=(S, 3)), rng.normal(size=(S, 2))
        q, k, v = q.round(1) * grow, k.round(1), v.round(1)
        scores = q @ k.T / math.sqrt(3)
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
        expected = e / e.sum(axis=-1, keepdims=True) @ v
        got = np.asarray(function(q.copy(), _one_buffer(k, v, sizes)))
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-6, atol=1e-8):
            given = f"q = {q.tolist()}\nall keys = {k.tolist()}\nall values = {v.tolist()}\nin blocks of {sizes}"
            wrong("not what attention over all keys at once gives", given=given, expected=expected, got=got)

    return test


def kv_cache_bytes(config: Config, length: int, bytes_per_number: int = 2) -> int:
    """Memory of the KV cache for one text of `length` tokens; a layer with a window keeps no more than that."""
    a_token = 2 * config.num_key_value_heads * config.head_dim * bytes_per_number
    kept = [
        min(length, config.sliding_window or length) if layer_type == "sliding_attention" else length
        for layer_type in config.layer_types
    ]
    return sum(kept) * a_token


def _shape(**changes: Any) -> Config:
    small = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return Config(**{**small, "num_attention_heads": 4, **changes})


def _local(*kinds: str, window: int = 8) -> dict[str, Any]:
    names = {"L": "sliding_attention", "G": "full_attention"}
    return {
        "num_hidden_layers": len(kinds), "layer_types": tuple(names[kind] for kind in kinds), "sliding_window": window,
    }  # fmt: skip


def my_pattern(num_layers: int) -> tuple[str, ...]:
    """Every second layer sees everything, the last one among them, as in Gemma 2."""
    return tuple(
        "full_attention" if (num_layers - 1 - i) % 2 == 0 and num_layers > 1 else "sliding_attention"
        for i in range(num_layers)
    )


_WINDOW, _TEXT, _BUDGET = 1024, 32_768, 0.7


def _names_layers(function: Any) -> None:
    for layers in (2, 3, 4, 7, 24, 61):
        got = function(layers)
        given = f"num_layers = {layers}"
        if not isinstance(got, (list, tuple)) or len(got) != layers:
            wrong("one name for each layer is needed", given=given, expected=f"{layers} names", got=got)
        if strange := [name for name in got if name not in ("sliding_attention", "full_attention")]:
            wrong("there is no such layer type", given=given, expected="sliding_attention, full_attention",
                  got=strange[0])  # fmt: skip


def _sees_everything(function: Any) -> None:
    for layers in (2, 3, 4, 7, 24, 61):
        if "full_attention" not in function(layers):
            reach = layers * (_WINDOW - 1)
            wrong(
                "the last token has to be able to know of the first: at least one layer must see everything",
                given=f"num_layers = {layers}, a window of {_WINDOW:,}, a text of {_TEXT:,} tokens",
                got=f"information comes at most {reach:,} tokens far",
            )


def _saves_memory(function: Any) -> None:
    for layers in (2, 3, 4, 7, 24, 61):
        kept = [_TEXT if name == "full_attention" else _WINDOW for name in function(layers)]
        share = sum(kept) / (layers * _TEXT)
        if share > _BUDGET:
            wrong(
                "too little is saved",
                given=f"num_layers = {layers}, a window of {_WINDOW:,}, a text of {_TEXT:,} tokens",
                expected=f"at most {_BUDGET:.0%} of the cache that global layers would need",
                got=f"{share:.0%}",
            )


EXERCISES = [
    Exercise(
        id="06.pool_heads",
        title="From many key/value heads to few",
        reference=pool_heads,
        checks=[
            matches("two heads of one channel become one", [case(np.array([[1.0, 2.0], [3.0, 6.0]]), 1, 1)]),
            matches("two heads of two channels", [case(np.array([[1.0], [2.0], [5.0], [10.0]]), 1, 2)]),
            matches("four heads become two", [case(np.arange(8.0)[:, None] ** 2, 2, 2)]),
            matches("nothing to do", [case(np.arange(6.0).reshape(3, 2), 3, 1)]),
            matches("any", _random_heads, count=12),
        ],
        hints=[
            "The rows of the matrix are head 0's channels, then head 1's, and so on. Neighboring heads form a group: "
            "with 4 heads and 2 to be left, heads 0 and 1, and heads 2 and 3.",
            "`weight.reshape(heads, -1, head_dim, C)` has the axes (new head, member of its group, channel, input).",
            "Take the mean over axis 1 and put it back into the shape (heads * head_dim, C).",
        ],
    ),
    Exercise(
        id="06.visible",
        title="Who may see whom",
        reference=visible,
        checks=[
            matches("causal", [case(1, 1), case(3, 3)]),
            matches("a window of 2", [case(4, 4, 2)]),
            matches("a window of 1: only itself", [case(3, 3, 1)]),
            matches("one new token after four old ones", [case(1, 5), case(1, 5, 3)]),
            matches("a window larger than the text", [case(3, 3, 9)]),
            matches("two texts in one row", [case(4, 4, None, np.array([7, 7, 8, 8]))]),
            matches("any", _random_mask, count=16),
        ],
        hints=[
            "Number the keys 0 to S - 1. The queries are the last T of them: S - T to S - 1. Make the table of "
            "distances, a column of queries minus a row of keys.",
            "Causal: distance >= 0. A window of w sees the token itself and the w - 1 before it: distance < w.",
            "Documents: a column of the queries' numbers, documents[S - T:, None], compared with the row of all "
            "numbers. Join the three with &.",
        ],
    ),
    Exercise(
        id="06.my_pattern",
        title="A pattern of local and global layers",
        reference=my_pattern,
        checks=[
            holds("a name for each layer", _names_layers),
            holds("the last token can know of the first", _sees_everything),
            holds("it saves memory", _saves_memory),
        ],
        hints=[
            "Mistral: all local. Gemma 2 and GPT-OSS: local, global, local, global. Gemma 3: five local, one global.",
            "Count from the end if the last layer is to be global: (num_layers - 1 - i) % period == 0.",
            'tuple("full_attention" if (num_layers - 1 - i) % 2 == 0 else "sliding_attention" '
            "for i in range(num_layers))",
        ],
    ),
    Exercise(
        id="06.sink_softmax",
        title="A softmax that may look at nobody",
        reference=sink_softmax,
        checks=[
            matches("a sink as strong as the only key", [case(np.zeros((1, 1, 1)), np.zeros(1))]),
            matches("a strong sink", [case(np.array([[[1.0, 2.0]]]), np.array([4.0]))]),
            matches("each head has its own", [case(np.zeros((2, 2, 2)), np.array([0.0, 3.0]))]),
            matches("hidden keys", [case(np.array([[[1.0, -np.inf], [0.0, 1.0]]]), np.array([0.5]))]),
            matches("scores of a thousand", [case(np.array([[[1000.0, 999.0]]]), np.array([1000.0]))]),
            matches("a query that may see no key", [case(np.array([[[-np.inf, -np.inf]]]), np.array([0.5]))]),
            matches("a sink of a thousand", [case(np.array([[[1.0, -5.0]]]), np.array([1000.0]))]),
            matches("any", _random_sinks, count=12),
        ],
        hints=[
            "Think of one more column of scores, the sink's. Take the softmax of the wider table, and throw that "
            "column away. The rows then add up to less than 1.",
            "sinks[:, None, None] lines up with (H, T, S). The largest number, taken out before exp, is the larger of "
            "the row's maximum and the sink.",
            "e = np.exp(scores - top);   e / (e.sum(axis=-1, keepdims=True) + np.exp(sinks[:, None, None] - top))",
        ],
    ),
    Exercise(
        id="06.online_attention",
        title="Attention without the whole row",
        reference=online_attention,
        checks=[
            holds("one block", _equals_the_whole([3])),
            holds("two blocks", _equals_the_whole([2, 2])),
            holds("many blocks of different sizes", _equals_the_whole([1, 3, 2, 5], T=3)),
            holds("large scores", _equals_the_whole([2, 2, 2], grow=2000.0)),
        ],
        hints=[
            "Keep three things for each query: the largest score so far, the sum of exp(score - largest), and the "
            "values weighted by the same exp. At the end divide the last by the second.",
            "When a block brings a larger score, all that was summed so far was measured against the old one. "
            "Multiply it by exp(old - new): that is what was missing in the exponent.",
            "higher = np.maximum(top, scores.max(axis=-1, keepdims=True));   e = np.exp(scores - higher);   "
            "shrink = np.exp(top - higher);   total = total * shrink + e.sum(axis=-1, keepdims=True);   "
            "out = out * shrink + e @ v;   top = higher",
        ],
    ),
    Exercise(
        id="06.gelu",
        title="GELU, as GPT-2 computes it",
        target="ops.py::gelu_tanh",
        checks=[
            matches("zero and one", [case(np.array([0.0, 1.0]))]),
            matches("negative numbers", [case(np.array([-0.5, -2.0, -10.0]))]),
            matches("a table", [case(np.linspace(-4, 4, 12).reshape(3, 4))]),
            gradients("its vjp", [case(np.array([-1.5, -0.2, 0.0, 0.7, 2.0]))]),
        ],
        hints=[
            "x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 * x**3).",
            "The vjp by the product rule: (1 + tanh(u)) / 2, plus x / 2 times the slope of tanh(u).",
            "The slope of tanh(u) is (1 - tanh(u)**2) times the slope of u, which is "
            "sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2).",
        ],
    ),
    Exercise(
        id="06.kv_cache_bytes",
        title="What a text costs in memory",
        reference=kv_cache_bytes,
        checks=[
            matches("multi-head", [case(_shape(), 1), case(_shape(), 100)]),
            matches("fewer key/value heads", [case(_shape(num_key_value_heads=1), 10)]),
            matches("heads of another width", [case(_shape(head_dim=16), 10)]),
            matches("one byte a number", [case(_shape(), 10, 1)]),
            matches("a window", [case(_shape(**_local("L", "L")), 5), case(_shape(**_local("L", "L")), 50)]),
            matches("local and global layers", [case(_shape(**_local("L", "L", "G"), num_key_value_heads=2), 50)]),
            matches("a window that no layer uses", [case(_shape(sliding_window=8), 50)]),
        ],
        hints=[
            "A layer keeps, for each token, a key and a value for every key/value head: "
            "2 * num_key_value_heads * head_dim numbers.",
            'config.layer_types has a name for each layer. A "sliding_attention" layer keeps '
            'min(length, config.sliding_window) tokens, a "full_attention" layer all.',
            "Add up the tokens kept by all layers, then multiply by the numbers a token and by bytes_per_number.",
        ],
    ),
]
