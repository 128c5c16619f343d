"""Whole answers, compiled: token after token is computed, drawn and fed back without Python in between.

The layers are those of a decode step (`numba_decode`). What differs is what a text looks back at: its prompt, which the
answers to it share, where the model's cache holds it; and its own tokens. Texts that have ended leave the batch.

A text's tokens do not depend on what else is in the batch, to the last bit, so that threads may share the texts in any
way.

    B texts   n tokens of each   H query heads   K key/value heads   D head_dim   V vocabulary
    L texts side by side, a column each: 1, 8, 16, or 32 where registers are wide
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload

from .decoding import Answers, LayerStates, Prompts, Turns
from .numba_cpu import _kernel
from .numba_decode import (
    _CAPACITY,
    _EMBEDDING,
    _KEYS,
    _START,
    _STOP,
    _TURN,
    _VALUES,
    _VECTOR,
    CompiledDecoder,
    _add_mixed,
    _by_channel,
    _by_text,
    _cut_up,
    _embed,
    _give,
    _hand_over,
    _inlined,
    _keep,
    _look,
    _make_ready,
    _narrow,
    _project,
    _score,
    _side_by_side,
    _Tables,
    _take,
    _widen,
    _Work,
)
from .numba_memory import address_of, floats_at
from .numba_product import PANEL
from .numba_sampling import choose, make_choice
from .reference import Array

# Ctrl-C cannot interrupt a compiled call: it finds that many tokens of each text, or fewer that take as many products.
PIECE, PRODUCTS = 64, 1 << 33

# Places in the table of what is kept of a layer: the fields of `LayerStates`.
_QUERIES, _OWN_KEYS, _OWN_VALUES, _MIXED, _LSE, _MIDDLE, _FACTORS, _END = range(8)


class _Texts(NamedTuple):
    """The arrays of `Answers`, and of what they look back at: own keys and values (layers, B, room, K, D), the first
    place of each prompt (layers, P), and how far back each layer's tokens see (layers,). states (layers, 8) are the
    addresses of `LayerStates`; there are no rows where nothing is kept."""

    prompts: Array
    draws: Array
    tokens: Array
    logps: Array
    lengths: Array
    finished: Array
    stop: Array
    keys: Array
    values: Array
    starts: Array
    windows: Array
    states: Array


def sample_answers(decoder: CompiledDecoder, answers: Answers, prompts: Sequence[Prompts], turns: Turns) -> None:
    """Fill in the tokens after the first. prompts are those of each layer. Raises ValueError for cached arrays that are
    not float32 and in one piece."""
    (texts, length), layers, dim = answers.tokens.shape, len(prompts), decoder.held.head_dim
    cached = np.zeros((layers, decoder.cached.shape[1]), dtype=np.int64)
    cached[:, _TURN] = decoder.cached[:, _TURN]
    for row, held in zip(cached, prompts, strict=True):
        row[[_KEYS, _VALUES]] = address_of(held.keys), address_of(held.values)
        row[[_CAPACITY, _START, _STOP]] = held.keys.shape[1], 0, held.stop
    keys, values = (np.empty((layers, texts, 0, *prompts[0].keys.shape[2:]), np.float32) for _ in range(2))
    starts = np.stack([held.starts for held in prompts]).astype(np.int64)
    windows = np.array([held.window for held in prompts], dtype=np.int64)
    found = answers.tokens, answers.logps, answers.lengths, answers.finished
    states = [[address_of(array, write=True) for array in layer] for layer in answers.states]
    addresses = np.array(states, dtype=np.int64).reshape(len(states), len(LayerStates._fields))
    seen = int((cached[:, _STOP] - starts.min(axis=1)).max()) + length
    work, vocab = _memory(decoder, texts, seen), decoder.held.output.shape[0]
    out, choice = np.empty((texts, vocab), dtype=np.float32), make_choice(answers, vocab)
    piece = max(1, min(PIECE, PRODUCTS // (texts * decoder.numbers)))
    for first in range(1, length, piece):
        if answers.finished.all():
            break
        stop = min(first + piece, length)
        keys, values = (_with_room(own, first - 1, stop, length) for own in (keys, values))
        own = keys, values, starts, windows, addresses
        group = _Texts(answers.prompts, answers.draws, *found, answers.stop, *own)
        angles = turns(first, stop)
        tables = _Tables(decoder.table, cached, decoder.rules, angles[0], np.zeros((1, 0), dtype=np.int64))
        _sample(decoder.crew, first, stop, group, tables, angles, work, dim, out, choice)


def _memory(decoder: CompiledDecoder, texts: int, seen: int) -> _Work:
    """Buffers for so many texts, to be cut to the number of those that go on."""
    *sizes, scratch = decoder.sizes(seen)
    columns = -(-texts // PANEL) * PANEL
    # Zeros, since columns that no text uses are computed along.
    return _Work(*[np.zeros(size, np.float32) for size in (*(size * columns for size in sizes), scratch)])


def _with_room(own: Array, filled: int, needed: int, most: int) -> Array:
    """Keys or values of so many tokens, in memory for those that are needed, and for many more if it has to be made."""
    if needed <= own.shape[2]:
        return own
    room = -(-min(max(needed, 2 * own.shape[2], 4 * PIECE), most) // _VECTOR) * _VECTOR
    wider = np.empty((*own.shape[:2], room, *own.shape[3:]), np.float32)
    wider[:, :, :filled] = own[:, :, :filled]
    return wider


@_kernel
def _sample(crew, first, stop, texts, tables, turns, work, dim, out, choice):  # type: ignore[no-untyped-def]
    """Tokens first to stop - 1 of all texts that have not ended."""
    going, ids = np.flatnonzero(~texts.finished), np.empty(len(texts.tokens), dtype=np.int64)
    count, ends = len(going), tables.weights[len(tables.weights) - 1]
    channels = len(work.x) // (len(work.scores) // out.shape[1])
    for n in range(first, stop):
        if count == 0:
            return
        now = _Tables(tables.weights, tables.cached, tables.rules, turns[n - first], tables.documents)
        step = _shaped(work, len(texts.tokens), count, channels)
        for i in range(count):
            ids[i] = texts.tokens[going[i], n - 1]
        _embed(step.x, floats_at(ends[_EMBEDDING], (out.shape[1], channels)), ids[:count])
        for layer in range(len(tables.cached)):
            _project(crew, now, step, layer)
            _look_back(crew, now, step, texts, going[:count], n, layer, dim)
            _add_mixed(crew, now, step, layer)
            _widen(crew, now, step, layer)
            if len(texts.states):
                _keep_streams(step.x, texts, texts.states[layer, _MIDDLE], going[:count], n)
                _keep_factors(step, texts, texts.states[layer, _FACTORS], going[:count], n)
            _narrow(crew, now, step, layer)
            if len(texts.states):
                _keep_streams(step.x, texts, texts.states[layer, _END], going[:count], n)
        _score(crew, now, step)
        _hand_over(step.scores, out[:count])
        count = _draw(texts, going, count, n, out, choice)


@_kernel
def _shaped(work, texts, count, channels):  # type: ignore[no-untyped-def]
    """The memory of a step for `count` texts, all that are left of so many."""
    columns = 1 if texts <= _VECTOR // 2 else _side_by_side(count)
    blocks, most = (count + columns - 1) // columns, len(work.x) // channels
    return _Work(
        _cut(work.x, blocks, columns, most),
        _cut(work.normed, blocks, columns, most),
        _cut(work.q, blocks, columns, most),
        _cut(work.k, blocks, columns, most),
        _cut(work.v, blocks, columns, most),
        _cut(work.mixed, blocks, columns, most),
        _cut(work.gate, blocks, columns, most),
        _cut(work.up, blocks, columns, most),
        _cut(work.scores, blocks, columns, most),
        work.scratch,
    )


@_kernel
def _cut(memory, blocks, columns, most):  # type: ignore[no-untyped-def]
    """(blocks, C, L) of what was made for `most` texts."""
    size = len(memory) // most
    return memory[: blocks * size * columns].reshape(blocks, size, columns)


@_kernel
def _look_back(crew, tables, work, texts, going, n, layer, dim):  # type: ignore[no-untyped-def]
    """Attention to the prompt, and to the text's own tokens, of which the newest, n - 1, is written down first."""
    weights, rules, turns, documents = tables.weights, tables.rules, tables.turns, tables.documents
    all_q, all_k, all_v, cached = _by_text(work.q), _by_text(work.k), _by_text(work.v), tables.cached[layer]
    prompts, own_keys, own_values, starts = texts.prompts, texts.keys[layer], texts.values[layer], texts.starts
    groups = all_k.shape[1] // dim
    stop, turn, own = cached[_STOP], cached[_TURN], min(n, texts.windows[layer])  # of its own tokens
    most = min(stop - starts[layer].min(), texts.windows[layer] - own)  # of the prompt's
    q, k, out, lse, scores = _cut_up(work.scratch, all_q.shape[1] // dim, groups, dim, most + own)
    for place in range(len(going)):
        text, prompt = going[place], prompts[going[place]]
        read = min(stop - starts[layer, prompt], most)
        _take(all_q, place, q)
        _take(all_k, place, k)
        _make_ready(q, k, weights, rules, layer, turns, turn)
        _keep(k, all_v, place, own_keys, own_values, text, n - 1)
        there = cached[_KEYS], cached[_VALUES], cached[_CAPACITY], prompt, stop - read, read
        own_places = np.int64(own_keys.ctypes.data), np.int64(own_values.ctypes.data)
        here = (*own_places, own_keys.shape[1], text, n - own, own)
        _look(crew, q, out, lse, scores, groups, rules[layer], documents, 0, (there, here))
        if len(texts.states):
            _keep_heads(q, k, all_v, place, out, lse, texts, layer, text, n)
        _give(out, all_q, place)
    _by_channel(all_q, work.mixed)


@intrinsic
def _send(typing_context: Any, source: Any, target: Any) -> tuple[Signature, Callable[..., Any]]:
    """Four numbers from one address to another, a multiple of 16, past the caches."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        pointer = ir.VectorType(ir.FloatType(), 4).as_pointer()
        here, there = (builder.inttoptr(address, pointer) for address in arguments)
        sent = builder.store(builder.load(here, align=4), there, align=16)
        sent.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _put(rows, i, kept, line, first):  # type: ignore[no-untyped-def]
    """Row i of rows, to kept[line] from a column on. It is not needed before the way back: the caches are left to what
    is, weights and keys and values."""
    kept[line, first : first + rows.shape[1]] = rows[i]


@overload(_put)
def _put_overload(rows, i, kept, line, first):  # type: ignore[no-untyped-def]
    def put(rows, i, kept, line, first):  # type: ignore[no-untyped-def]
        width, sent = rows.shape[1], 0
        source = rows.ctypes.data + 4 * i * width
        target = kept.ctypes.data + 4 * (line * kept.shape[1] + first)
        if target % 16 == 0:
            sent = width // 4 * 4
            for c in range(0, 4 * sent, 16):
                _send(source + c, target + c)
        for c in range(sent, width):
            kept[line, first + c] = rows[i, c]

    return put


@_inlined
def _lines(texts, address, width):  # type: ignore[no-untyped-def]
    """What is kept of all tokens but the last, (B (n - 1), width)."""
    rows, tokens = texts.tokens.shape
    return floats_at(address, (rows * (tokens - 1), width))


@_inlined
def _line(texts, text, n):  # type: ignore[no-untyped-def]
    """Which of these is a text's token n - 1."""
    return text * (texts.tokens.shape[1] - 1) + n - 1


@_inlined
def _keep_heads(q, k, all_v, place, out, lse, texts, layer, text, n):  # type: ignore[no-untyped-def]
    """A text's queries and keys as they were compared, its values, and what was found, of its token n - 1."""
    states, line, heads = texts.states[layer], _line(texts, text, n), len(q)
    _give(q, _lines(texts, states[_QUERIES], q.size), line)
    _give(k, _lines(texts, states[_OWN_KEYS], k.size), line)
    _give(out, _lines(texts, states[_MIXED], out.size), line)
    _put(all_v, place, _lines(texts, states[_OWN_VALUES], all_v.shape[1]), line, 0)
    sums = _lines(texts, states[_LSE], heads)
    for head in range(heads):
        sums[line, head] = lse[head]


@_kernel
def _keep_streams(x, texts, address, going, n):  # type: ignore[no-untyped-def]
    """x (blocks, C, L) of the tokens n - 1."""
    rows = _by_text(x)
    kept = _lines(texts, address, rows.shape[1])
    for i in range(len(going)):
        _put(rows, i, kept, _line(texts, going[i], n), 0)


@_kernel
def _keep_factors(work, texts, address, going, n):  # type: ignore[no-untyped-def]
    """Gate and up-projection of the tokens n - 1, side by side."""
    gate, up = _by_text(work.gate), _by_text(work.up)
    width = gate.shape[1]
    kept = _lines(texts, address, 2 * width)
    for i in range(len(going)):
        line = _line(texts, going[i], n)
        _put(gate, i, kept, line, 0)
        _put(up, i, kept, line, width)


@_kernel
def _draw(texts, going, count, n, out, choice):  # type: ignore[no-untyped-def]
    """Token n of each text that goes on, from its scores in out; returns how many still go on, first in `going`."""
    left = 0
    for i in range(count):
        row = going[i]
        token, logp = choose(out[i], texts.draws[row, n], choice)
        texts.tokens[row, n], texts.logps[row, n], texts.lengths[row] = token, logp, n + 1
        for end in texts.stop:
            texts.finished[row] |= token == end
        if not texts.finished[row]:
            going[left] = row
            left += 1
    return left
