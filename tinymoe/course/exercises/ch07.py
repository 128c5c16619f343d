"""Exercises of chapter 07: what a cache costs, where a ring keeps its tokens, how a query meets a latent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinymoe.models.decoder import CausalLM
from tinymoe.nn.config import Config
from tinymoe.nn.module import shapes_only

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise

# The model that chapter 07 trains, but for its attention.
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "head_dim": 8,
}
_LENGTH = 128  # tokens of the text that a cache is measured with


def bytes_per_token(layers: int, kv_heads: int, head_dim: int, bytes_per_number: int = 2) -> int:
    """Bytes that one token leaves in the cache: a key and a value for each key/value head of each layer."""
    return 2 * layers * kv_heads * head_dim * bytes_per_number


def _random_model(rng: np.random.Generator, size: int) -> Case:
    layers, kv_heads, head_dim = (int(n) for n in rng.integers(1, 4 + size, size=3))
    return case(layers, kv_heads, head_dim, int(rng.choice([1, 2, 4])))


def ring_places(length: int, window: int) -> np.ndarray:
    """The number of the token in each of a ring's `window` slots after `length` tokens; -1 where a slot is empty.

    Token t is written to slot t % window.
    """
    slots = np.full(window, -1)
    last = np.arange(max(0, length - window), length)
    slots[last % window] = last
    return slots


def _random_ring(rng: np.random.Generator, size: int) -> Case:
    return case(int(rng.integers(0, 4 * size)), int(rng.integers(1, 2 + size)))


def absorb(q: np.ndarray, to_keys: np.ndarray) -> np.ndarray:
    """Queries that can be compared with latents: q (T, H, N), to_keys (H, N, R) -> (T, H, R).

    Head h's key for a latent c is to_keys[h] @ c.
    """
    return np.einsum("thn,hnr->thr", q, to_keys)


def _random_queries(rng: np.random.Generator, size: int) -> Case:
    T, H, N, R = (int(n) for n in rng.integers(1, 3 + size // 3, size=4))
    return case(rng.normal(size=(T, H, N)).round(2), rng.normal(size=(H, N, R)).round(2))


def _queries(T: int, H: int, N: int, R: int) -> Case:
    rng = np.random.default_rng(T + H)
    return case(rng.integers(-3, 4, (T, H, N)).astype(float), rng.integers(-3, 4, (H, N, R)).astype(float))


def _scores_stay(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    rng = np.random.default_rng(5)
    q, to_keys, latents = rng.normal(size=(4, 3, 6)), rng.normal(size=(3, 6, 5)), rng.normal(size=(7, 5))
    keys = np.einsum("hnr,sr->shn", to_keys, latents)
    expected = np.einsum("thn,shn->hts", q, keys)
    got = np.einsum("thr,sr->hts", function(q, to_keys), latents)
    if not np.allclose(got, expected):
        wrong("scores of your queries with latents are not those of queries with keys", expected=expected, got=got)


def my_attention(budget: int) -> dict[str, Any]:
    """Latent attention: a quarter of the budget for the rope key that all heads share, the rest for the latent."""
    rope = max(2, budget // 4 // 2 * 2)
    return {
        "attention": "latent",
        "kv_lora_rank": budget - rope,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }


def numbers_cached(fields: Mapping[str, Any]) -> float:
    """Numbers that a token leaves in each layer's cache, on average over a text of 128 tokens and all layers."""
    with shapes_only():
        model = CausalLM(Config(**{**SHAPE, **fields}))
    layers = [layer.self_attn for layer in model.model.layers]
    return sum(layer.cached(_LENGTH) for layer in layers) / _LENGTH / len(layers)


def _fits(budget: int) -> Callable[[Any], None]:
    def test(function: Any) -> None:
        given, fields = f"budget = {budget}", function(budget)
        if not isinstance(fields, Mapping):
            wrong("expected a dict of fields of Config", given=given, got=fields)
        if fixed := sorted(fields.keys() & {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"}):
            wrong(f"{fixed[0]} is the same for all who take part", given=given, got=fields)
        try:
            numbers = numbers_cached(fields)
        except (ValueError, TypeError) as error:
            wrong(f"no model can be made of this: {error}", given=given, got=fields)
        if numbers > budget:
            wrong("the cache is over the budget", given=given, expected=f"at most {budget}", got=f"{numbers:g} numbers")
        if numbers < budget / 4:
            wrong("that uses less than a quarter of the budget: spend it", given=given, got=f"{numbers:g} numbers")

    return test


EXERCISES = [
    Exercise(
        id="07.bytes_per_token",
        title="What a token leaves behind",
        reference=bytes_per_token,
        checks=[
            matches("one head in one layer", [case(1, 1, 1, 1)]),
            matches("two bytes unless told", [case(1, 1, 4)]),
            matches("layers, heads and channels", [case(2, 3, 5, 4)]),
            matches("Llama 3 70B", [case(80, 8, 128)]),
            matches("any model", _random_model, count=10),
        ],
        hints=[
            "Count numbers first, bytes last. One key/value head of one layer keeps a key and a value, each of "
            "`head_dim` numbers.",
            "2 · layers · kv_heads · head_dim numbers, and each takes `bytes_per_number`.",
        ],
    ),
    Exercise(
        id="07.ring_places",
        title="Who stands in the ring",
        reference=ring_places,
        checks=[
            matches("an empty ring", [case(0, 3)]),
            matches("half full", [case(2, 4)]),
            matches("just full", [case(3, 3)]),
            matches("the first is overwritten", [case(4, 3)]),
            matches("a ring of one", [case(5, 1)]),
            matches("any length", _random_ring, count=20),
        ],
        hints=[
            "After `length` tokens the newest is number length - 1. A full ring holds the last `window` tokens, "
            "each in the slot of its number % window.",
            "A plain loop will do: start with `np.full(window, -1)`, and write t into slot t % window for every t "
            "below length. Later tokens overwrite earlier ones.",
            "The tokens that are left: `last = np.arange(max(0, length - window), length)`;   "
            "`slots = np.full(window, -1)`;   `slots[last % window] = last`",
        ],
    ),
    Exercise(
        id="07.absorb",
        title="Moving a matrix to the other side",
        reference=absorb,
        checks=[
            matches("one head", [_queries(1, 1, 2, 2)]),
            matches("a latent shorter than the key", [_queries(1, 1, 3, 2)]),
            matches("two tokens, two heads", [_queries(2, 2, 2, 3)]),
            matches("any sizes", _random_queries, count=10),
            holds("scores stay what they were", _scores_stay),
        ],
        hints=[
            "For one head: the score is q · (W c) = (Wᵀ q) · c. So the new query is Wᵀ q.",
            "For one head and all tokens: the rows of `q[:, h]` are queries (T, N), and `q[:, h] @ to_keys[h]` is "
            "(T, R): a row times W is Wᵀ times the column.",
            "All heads at once: np.einsum('thn,hnr->thr', q, to_keys)",
        ],
    ),
    Exercise(
        id="07.my_attention",
        title="The best attention for its cache",
        reference=my_attention,
        checks=[
            holds("16 numbers a token and layer", _fits(16)),
            holds("32 numbers a token and layer", _fits(32)),
        ],
        hints=[
            "Fields that change the cache: num_key_value_heads and head_dim; or attention='latent' with kv_lora_rank, "
            "qk_rope_head_dim, qk_nope_head_dim and v_head_dim; or attention='variant' with layer_types and "
            "sliding_window.",
            "With 16 numbers: one key/value head of 8 channels (2 · 8), two of 4 channels (head_dim=4, which must be "
            "even), a latent of 10 with a rope key of 6, …",
            "A window of 32 keeps 32 of 128 tokens, so a layer that slides may keep four times as much of each: "
            "{'attention': 'variant', 'layer_types': ('sliding_attention',) * 2, 'sliding_window': 32, "
            "'num_key_value_heads': 4}.",
        ],
    ),
]
