"""What a compiled decode step is told about a model: raw arrays and numbers, no modules.

    C hidden_size   H query heads   K key/value heads   D head_dim   I intermediate_size   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .reference import Array, LayerStates


@dataclass(frozen=True)
class LayerWeights:
    """One layer: RMSNorm, attention, RMSNorm, SwiGLU, each added to the residual stream. None for what it lacks.

    q (H D, C), k and v (K D, C), o (C, H D), gate and up (I, C), down (C, I), their biases, norms (C,) and, head by
    head, q_norm and k_norm (D,). turn numbers the cosines and sines of queries and keys; -1 for no turning.
    """

    input_norm: Array
    q: Array
    k: Array
    v: Array
    o: Array
    post_norm: Array
    gate: Array
    up: Array
    down: Array
    q_bias: Array | None = None
    k_bias: Array | None = None
    v_bias: Array | None = None
    o_bias: Array | None = None
    gate_bias: Array | None = None
    up_bias: Array | None = None
    down_bias: Array | None = None
    q_norm: Array | None = None
    k_norm: Array | None = None
    scale: float = 1.0
    softcap: float = 0.0
    turn: int = 0


@dataclass(frozen=True)
class DecoderWeights:
    """A whole model: embedding (V, C), layers, the last norm (C,), and the output layer (V, C) with its bias (V,).

    Norms multiply by their weight plus `norm_offset`, and divide by a root to which `eps` was added.
    """

    embedding: Array
    layers: tuple[LayerWeights, ...]
    norm: Array
    output: Array
    output_bias: Array | None
    head_dim: int
    eps: float
    norm_offset: float = 0.0


# A layer's keys and values, (B, capacity, K, D) each, and which of their places are looked at; the last is the new
# token's, which the step fills.
Place = tuple[Array, Array, slice]


# The cosines and sines (n, kinds, 2, R / 2) with which the tokens from number `first` to `stop` - 1 are computed.
Turns = Callable[[int, int], Array]


class Prompts(NamedTuple):
    """What one layer's cache holds of P prompts: keys and values (P, capacity, K, D). Those of prompt p begin at place
    starts[p], (P,), and all end before `stop`. A token sees at most the `window` tokens that end with itself."""

    keys: Array
    values: Array
    starts: Array
    stop: int
    window: int


@dataclass
class Answers:
    """B texts that answer P prompts, of which the first of n tokens is there, and what the others are drawn with.

    prompts (B,) are the numbers of the prompts, draws (B, n) uniform numbers. tokens and logps (B, n), lengths and
    finished (B,) are what is found: log-probabilities at the temperature, how many tokens there are, and whether the
    last one is among `stop`, which end a text. Temperature 0 takes the likeliest token. softcap 0 is for none.
    top_k, top_p and min_p are those of `generate`: log-probabilities do not know of them. states, if there are any, a
    layer each, are filled in for all tokens but the last, which no layer has read.
    """

    prompts: Array
    draws: Array
    tokens: Array
    logps: Array
    lengths: Array
    finished: Array
    stop: Array
    temperature: float
    softcap: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    states: Sequence[LayerStates] = ()

    def part(self, rows: slice) -> Answers:
        """Some of the texts; what is found for them is found here too."""
        names = ("prompts", "draws", "tokens", "logps", "lengths", "finished")
        states = [LayerStates(*(array[rows] for array in layer)) for layer in self.states]
        return replace(self, states=states, **{name: getattr(self, name)[rows] for name in names})
