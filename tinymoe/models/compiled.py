"""The short way through a decoder: one more token for each text in a single compiled call, or all of them.

A backend that has such a call (`ReferenceBackend.compile_decoder`) is told what the model is made of, if it is made of
nothing but parts that the call knows: Llama's, with the biases, norms and windows of its relatives. Any other model,
and whatever is not one token a text after others in a cache, takes the ordinary way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from operator import is_not
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..backend import current
from ..backend.decoding import Answers, DecoderWeights, LayerWeights, Prompts
from ..backend.reference import Array, ReferenceBackend
from ..generate import engine, sampling
from ..lanes import at_once, in_lane
from ..nn import recorder
from ..nn.attention import Attention
from ..nn.cache import KVCache, LayerCache
from ..nn.mlp import MLP
from ..nn.module import Embedding, Linear, Parameter
from ..nn.norm import OffsetRMSNorm, RMSNorm
from ..nn.position import NoTurning
from ..nn.variants import VariantAttention
from ..tensor import OPS, Tensor, are_own

if TYPE_CHECKING:
    from .decoder import CausalLM

Result = TypeVar("Result")

_FILTERS = ("temperature", "top_k", "top_p", "min_p")
LANE_TEXTS = 8  # fewer leave a vector of numbers partly empty
LANE_PRODUCTS = 1 << 24  # multiplications of weights; fewer are not worth a thread
# Of a prompt, fewer are left to one thread: BLAS's others would stay awake for a tenth of a second, in everybody's way.
ALONE_PRODUCTS = 1 << 33
HELPERS = 3  # threads beside one's own for a few texts: all read the weights from one memory, which gives no more


@dataclass
class _Held:
    """What belongs to one cache: the compiled steps, the backend they are of, and the arrays that they read.

    There is a step for each lane, with memory of its own; none where the model cannot take the short way.
    """

    backend: ReferenceBackend
    steps: list[Any]
    parameters: list[Parameter]
    arrays: list[Array]
    numbers: int

    def fits(self) -> bool:
        """Whether the model still has the arrays that the step was told of."""
        return self.backend is current() and not any(map(is_not, [p.data for p in self.parameters], self.arrays))

    def worth(self, texts: int, tokens: int) -> int:
        """How many threads so many tokens of so many texts are worth."""
        return 1 if in_lane() else max(1, min(len(self.steps), self.numbers * texts * tokens // LANE_PRODUCTS))

    def lanes(self, texts: int, tokens: int) -> list[slice]:
        """Which texts each thread takes, of those that get so many tokens each."""
        lanes = max(1, min(self.worth(texts, tokens), texts // LANE_TEXTS))
        return [slice(*ends) for ends in pairwise(texts * lane // lanes for lane in range(lanes + 1))]

    def run(self, task: Callable[[Any, slice], Result], texts: int, tokens: int) -> list[Result]:
        """Results of task(step, rows) for all rows of a batch: threads share its texts, or, where they are few, help
        each other with every product."""
        lanes = self.lanes(texts, tokens)
        if len(lanes) > 1:
            return at_once([partial(task, *lane) for lane in zip(self.steps, lanes, strict=False)])
        step, helpers = self.steps[0], min(self.worth(texts, tokens) - 1, HELPERS)

        def lead() -> Result:
            with step.helped(helpers):
                return task(step, lanes[0])

        return at_once([lead, *[step.help] * helpers])[:1]


_held: weakref.WeakKeyDictionary[KVCache, _Held] = weakref.WeakKeyDictionary()


def compiled_logits(model: CausalLM, ids: Array, cache: KVCache | None, documents: Array | None) -> Tensor | None:
    """Scores (B, 1, V) of the tokens after ids (B, 1), before any soft-cap, or None: then take the ordinary way.

    The cache is updated as by the ordinary way, so that the two may follow one another. Weights are read where they
    stand, and so may change from one token to the next.
    """
    if cache is None or documents is not None or ids.shape[1] != 1 or not cache.length or recorder.is_recording():
        return None
    held = _prepared(model, cache)
    if not held.steps or not are_own(*_STEP):
        return None
    every = cache.append_documents(None, len(ids), 1)
    angles = _angles(model, [cache.length])[0]
    places = [layer.reserve(len(ids), 1) for layer in cache.layers]

    def lane(step: Any, rows: slice) -> Array:
        mine = [(keys[rows], values[rows], seen) for keys, values, seen in places]
        return step(ids[rows, 0], mine, angles, None if every is None else every[rows])

    scores = held.run(lane, len(ids), 1)
    return Tensor((scores[0] if len(scores) == 1 else np.concatenate(scores))[:, None])


def compiled_texts(model: CausalLM, ids: Any, *, eos_token_id: int | None = None, **options: Any) -> Array | None:
    """What `generate.generate` returns, or None where it has to do that itself. The random numbers are the same."""
    if not are_own(*_LOOP):
        return None
    options = {**(engine.stream.__kwdefaults__ or {}), **options}
    batch, cache = np.atleast_2d(np.asarray(ids)), model.new_cache()
    lengths = _padded_lengths(batch, options["attention_mask"])
    if lengths is None or not _is_usual(model, options) or not _knows_answers(model, cache):
        return None
    rng, filters = np.random.default_rng(options["seed"]), [options[name] for name in _FILTERS]
    held = _prepared(model, cache)
    parts = held.lanes(*batch.shape)
    caches = [cache, *(model.new_cache() for _ in parts[1:])]
    alone = batch.size * held.numbers < ALONE_PRODUCTS
    with current().one_thread_each() if alone else nullcontext():
        logits = np.concatenate(_read(model, batch, options["attention_mask"], parts, caches))  # (B, V)
    probabilities = engine.next_token_probabilities(logits, *filters)
    tokens = np.full((len(batch), options["max_new_tokens"]), -1 if eos_token_id is None else eos_token_id)
    tokens[:, 0] = probabilities.argmax(axis=-1) if filters[0] == 0 else sampling.sample(probabilities, rng)
    draws = np.zeros(tokens.shape)
    draws[:, 1:] = rng.random(draws[:, 1:].T.shape).T
    answers = Answers(
        prompts=np.concatenate([np.arange(rows.stop - rows.start) for rows in parts]),
        draws=draws,
        tokens=tokens,
        logps=np.zeros(tokens.shape, dtype=np.float32),
        lengths=np.ones(len(batch), dtype=np.int64),
        finished=tokens[:, 0] == eos_token_id,
        stop=np.array([] if eos_token_id is None else [eos_token_id], dtype=np.int64),
        softcap=model.config.final_logit_softcapping or 0.0,
        **dict(zip(_FILTERS, filters, strict=True)),
    )
    at_once([
        partial(compiled_answers, model, cache, lengths[rows], answers.part(rows))
        for rows, cache in zip(parts, caches, strict=True)
    ])  # fmt: skip
    texts = np.concatenate([batch, tokens[:, : answers.lengths.max()]], axis=1)
    return texts[0] if np.ndim(ids) == 1 else texts


def _read(model: CausalLM, ids: Array, mask: Any, parts: list[slice], caches: list[KVCache]) -> list[Array]:
    """Read prompts (B, T), some by each thread into a cache of its own: scores of the tokens after them."""

    def part(rows: slice, cache: KVCache) -> Array:
        its = None if mask is None else np.asarray(mask)[rows]
        return model(ids[rows], cache=cache, attention_mask=its).numpy()[:, -1]

    return at_once([partial(part, *pair) for pair in zip(parts, caches, strict=True)])


def compiled_answers(model: CausalLM, cache: KVCache, lengths: Sequence[int], answers: Answers) -> bool:
    """Find all tokens of answers after the first, or return False where that is not possible: then do it step by step.

    The cache holds what was read of the prompts, which ended together and were padded before their `lengths`. It stays
    as it is.
    """
    (texts, length), prompts = answers.tokens.shape, []
    if length == 1 or not _knows_answers(model, cache):
        return False
    for layer in cache.layers:
        keys, values, seen = layer.reserve(len(lengths), 0)
        starts = seen.stop - np.minimum(lengths, seen.stop - seen.start)
        prompts.append(Prompts(keys, values, starts, seen.stop, getattr(layer, "window", None) or np.iinfo(int).max))

    @lru_cache(maxsize=1)
    def turns(first: int, stop: int) -> Array:
        return _angles(model, range(cache.length + first - 1, cache.length + stop - 1))

    held = _prepared(model, cache)
    held.run(lambda step, rows: step.sample(answers.part(rows), prompts, turns), texts, length)
    return True


def _knows_answers(model: CausalLM, cache: KVCache) -> bool:
    """Whether whole answers of a model can be computed in compiled calls."""
    from .decoder import CausalLM

    # A model with a call of its own wants to be asked.
    asked = type(model).__call__ is not CausalLM.__call__ or recorder.is_recording()
    return not asked and are_own(*_STEP, *_CHOICE) and bool(_prepared(model, cache).steps)


def _is_usual(model: CausalLM, options: dict[str, Any]) -> bool:
    """Whether the options of `generate` are known to compiled code, and are not wrong."""
    try:
        engine._check(**{name: options[name] for name in options.keys() - {"seed", "attention_mask"}})
    except (ValueError, TypeError):  # the loop says what is wrong
        return False
    # A longer text may never be used up, and the loop makes room for it as it grows.
    usual = 0 < options["max_new_tokens"] <= model.config.max_position_embeddings
    return usual and options["repetition_penalty"] == 1


def _padded_lengths(ids: Array, attention_mask: Any) -> Array | None:
    """How many tokens of each prompt (B, T) are no padding, or None where it is not padded on the left."""
    mask = np.ones(ids.shape, dtype=bool) if attention_mask is None else np.asarray(attention_mask) > 0
    if mask.shape != ids.shape or not mask[:, -1:].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        return None
    return mask.sum(axis=1)


def _prepared(model: CausalLM, cache: KVCache) -> _Held:
    """What the cache holds already, as long as it fits."""
    held = _held.get(cache)
    if held is None or not held.fits():
        held = _held[cache] = _prepare(model, cache)
    return held


def _prepare(model: CausalLM, cache: KVCache) -> _Held:
    # A cache with an `append` of its own wants to be asked.
    known = all(type(layer).append is LayerCache.append for layer in cache.layers)
    backend, weights = current(), decoder_weights(model) if known else None
    parameters = model.parameters()
    steps = [] if weights is None else [backend.compile_decoder(weights) for _ in range(backend.threads)]
    steps = [step for step in steps if step is not None]  # None where there is no compiler
    return _Held(backend, steps, parameters, [p.data for p in parameters], sum(p.size for p in parameters))


def _angles(model: CausalLM, positions: Sequence[int]) -> Array:
    """Cosines and sines of each position for all kinds of layers: (positions, kinds, 2, R / 2), zeros for no turning.

    Position by position, since some models turn more slowly the longer a text has become.
    """
    kinds, xp = list(model.model.positions.values()), current().xp
    turns = [[turn(xp.full((1, 1), place)) for turn in kinds] for place in positions]
    turns = [[turn if turn[0] is not None else ([[0]], [[0]]) for turn in row] for row in turns]
    return np.array(turns, dtype=np.float32).reshape(len(turns), len(kinds), 2, -1)


def decoder_weights(model: CausalLM) -> DecoderWeights | None:
    """What a compiled step needs to know of a model, or None where it has a part that such a step does not know."""
    from .decoder import Decoder, DecoderLayer

    decoder = model.model
    norms = {type(module) for module in decoder.modules() if type(module) in (RMSNorm, OffsetRMSNorm)}
    known = {DecoderLayer, Attention, VariantAttention, MLP, Linear, Embedding, Decoder} | norms
    if {type(module) for module in decoder.modules()} - known or len(norms) != 1:
        return None
    attentions = [layer.self_attn for layer in decoder.layers]
    if decoder.inputs or decoder.scale != 1 or any(map(_is_unusual, attentions)):
        return None
    if any(p.data.dtype != np.float32 or not p.data.flags.c_contiguous for p in model.parameters()):
        return None
    turns = {kind: -1 if type(turn) is NoTurning else i for i, (kind, turn) in enumerate(decoder.positions.items())}
    return DecoderWeights(
        embedding=decoder.embed_tokens.weight.data,
        layers=tuple(map(_layer_weights, decoder.layers, (turns[kind] for kind in decoder.layer_types))),
        norm=decoder.norm.weight.data,
        output=model.output_weight.data,
        output_bias=model.lm_head.bias.data if model.config.lm_head_bias else None,
        head_dim=attentions[0].head_dim,
        eps=decoder.norm.eps,
        norm_offset=float(OffsetRMSNorm in norms),
    )


def _layer_weights(layer: Any, turn: int) -> LayerWeights:
    attention, mlp, norms = layer.self_attn, layer.mlp, {}
    linears = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    linears |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    biases = {f"{name}_bias": linear.bias.data for name, linear in linears.items() if hasattr(linear, "bias")}
    if hasattr(attention, "q_norm"):
        norms = {"q_norm": attention.q_norm.weight.data, "k_norm": attention.k_norm.weight.data}
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.data,
        post_norm=layer.post_attention_layernorm.weight.data,
        **{name: linear.weight.data for name, linear in linears.items()},
        **biases,
        **norms,
        scale=attention.scale,
        softcap=getattr(attention, "softcap", None) or 0.0,
        turn=turn if getattr(attention, "turned", True) else -1,
    )


def _is_unusual(attention: Any) -> bool:
    """Whether a layer's attention has something that compiled steps do not know."""
    return hasattr(attention, "sinks") or getattr(attention, "slopes", None) is not None


# Functions that compiled code stands in for, unless a learner's has taken their place.
_STEP = [OPS[name] for name in ("attention", "rms_norm", "rope")]
_CHOICE = [engine.next_token_probabilities, sampling.softmax]
_LOOP = [
    engine.generate, engine.stream, sampling.sample, sampling.top_k_filter, sampling.top_p_filter, sampling.min_p_filter
]  # fmt: skip
