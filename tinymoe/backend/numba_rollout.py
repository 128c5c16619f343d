"""Whole answers, compiled: token after token is computed, drawn and fed back without Python in between.

The layers are those of a decode step (`numba_decode`). What differs is what a text looks back at: its prompt, which the
answers to it share, where the model's cache holds it; and its own tokens, in memory laid out head by head, so that a
head's keys are read in one go. Texts that have ended leave the batch.

A text's tokens do not depend on what else is in the batch, to the last bit, so that threads may share the texts in any
way.

    B texts   n tokens of each   K key/value heads   G queries of a head   D head_dim   V vocabulary
    L texts side by side, a column each: 8 or 16
"""

# Numba itself gives intrinsics their first argument.
# pyright: reportCallIssue=false
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from .decoding import Answers, Prompts
from .numba_cpu import _exp, _from_key, _kernel, _to_key
from .numba_decode import (
    _CAPACITY,
    _EMBEDDING,
    _KEYS,
    _LAST_NORM,
    _OUTPUT,
    _OUTPUT_BIAS,
    _START,
    _STOP,
    _TURN,
    _VALUES,
    _VECTOR,
    CompiledDecoder,
    _address,
    _array,
    _cut_up,
    _embed,
    _feed_forward,
    _fetch,
    _give,
    _hand_over,
    _keep,
    _linear,
    _make_ready,
    _mixed,
    _norm,
    _project,
    _scores,
    _softmax,
    _Tables,
    _take,
    _Work,
)
from .reference import Array

_LINE = 16  # numbers that come near together
_AHEAD = 4096  # numbers of a text's keys to fetch before their turn; memory itself sees that the others follow

PIECE = 64  # tokens of each text in one compiled call, which Ctrl-C cannot interrupt


class _Texts(NamedTuple):
    """The arrays of `Answers`, and of what they look back at: own keys and values (layers, B K, room, 1, D), the first
    place of each prompt (layers, P), and how far back each layer's tokens see (layers,)."""

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


def sample_answers(decoder: CompiledDecoder, answers: Answers, prompts: Sequence[Prompts], turns: Array) -> None:
    """Fill in the tokens after the first. prompts are those of each layer; turns (n, kinds, 2, R / 2) the cosines and
    sines of the tokens' positions. ValueError for cached arrays that are not float32 and in one piece."""
    (texts, length), layers, dim = answers.tokens.shape, len(prompts), decoder.held.head_dim
    cached = np.zeros((layers, decoder.cached.shape[1]), dtype=np.int64)
    cached[:, _TURN] = decoder.cached[:, _TURN]
    for row, held in zip(cached, prompts, strict=True):
        row[[_KEYS, _VALUES]] = _address(held.keys), _address(held.values)
        row[[_CAPACITY, _START, _STOP]] = held.keys.shape[1], 0, held.stop
    heads, room = prompts[0].keys.shape[2], -(-length // _VECTOR) * _VECTOR
    keys, values = (np.empty((layers, texts * heads, room, 1, dim), np.float32) for _ in range(2))
    starts = np.stack([held.starts for held in prompts]).astype(np.int64)
    windows = np.array([held.window for held in prompts], dtype=np.int64)
    found = answers.tokens, answers.logps, answers.lengths, answers.finished
    group = _Texts(answers.prompts, answers.draws, *found, answers.stop, keys, values, starts, windows)
    tables = _Tables(decoder.table, cached, decoder.rules, turns[0], np.zeros((1, 0), dtype=np.int64))
    *sizes, scratch = decoder.sizes(int((cached[:, _STOP] - starts.min(axis=1)).max()) + length)
    columns = -(-texts // (2 * _VECTOR)) * 2 * _VECTOR
    # Zeros, since columns that no text uses are computed along.
    work = _Work(*[np.zeros(size, np.float32) for size in (*(size * columns for size in sizes), scratch)])
    out = np.empty((texts, decoder.held.output.shape[0]), dtype=np.float32)
    settings = np.float32(answers.temperature), np.float32(answers.softcap)
    for first in range(1, length, PIECE):
        if answers.finished.all():
            break
        _sample(first, min(first + PIECE, length), group, tables, turns, work, dim, out, settings)


@_kernel
def _sample(first, last, texts, tables, turns, work, dim, out, settings):  # type: ignore[no-untyped-def]
    """Tokens first to last - 1 of all texts that have not ended."""
    going, ids = np.flatnonzero(~texts.finished), np.empty(len(texts.tokens), dtype=np.int64)
    count, ends = len(going), tables.weights[len(tables.weights) - 1]
    channels = len(work.x) // (len(work.scores) // out.shape[1])
    for n in range(first, last):
        if count == 0:
            return
        now = _Tables(tables.weights, tables.cached, tables.rules, turns[n - 1], tables.documents)
        step = _shaped(work, count, channels)
        for i in range(count):
            ids[i] = texts.tokens[going[i], n - 1]
        _embed(step.x, _array(ends[_EMBEDDING], (out.shape[1], channels)), ids[:count])
        for layer in range(len(tables.cached)):
            _project(now, step, layer)
            _look_back(now, step, texts, going[:count], n, layer, dim)
            _feed_forward(now, step, layer)
        rules = tables.rules[0]
        _norm(step.x, _array(ends[_LAST_NORM], (channels,)), rules[2], rules[3], step.normed)
        _linear(step.scores, ends[_OUTPUT], ends[_OUTPUT_BIAS], step.normed, False)
        _hand_over(step.scores, out[:count])
        count = _draw(texts, going, count, n, out, settings)


@_kernel
def _shaped(work, count, channels):  # type: ignore[no-untyped-def]
    """The memory of a step for so many texts."""
    columns = _VECTOR if count <= _VECTOR else 2 * _VECTOR
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
def _look_back(tables, work, texts, going, n, layer, dim):  # type: ignore[no-untyped-def]
    """Attention to the prompt, and to the text's own tokens, of which the newest, n - 1, is written down first."""
    weights, rules, turns, documents = tables.weights, tables.rules, tables.turns, tables.documents
    all_q, all_k, all_v, mixed, cached = work.q, work.k, work.v, work.mixed, tables.cached[layer]
    prompts, own_keys, own_values, starts = texts.prompts, texts.keys[layer], texts.values[layer], texts.starts
    heads, group, columns = all_k.shape[1] // dim, all_q.shape[1] // all_k.shape[1], all_q.shape[2]
    shape, stop, turn = (starts.shape[1], cached[_CAPACITY], heads, dim), cached[_STOP], cached[_TURN]
    keys, values = _array(cached[_KEYS], shape), _array(cached[_VALUES], shape)
    own = min(n, texts.windows[layer])  # of its own tokens
    most = min(stop - starts[layer].min(), texts.windows[layer] - own)  # of the prompt's
    q, k, out, scores = _cut_up(work.scratch, group, dim, most + own)
    for unit in range(heads * len(all_q)):
        head, first = unit % heads, unit // heads * columns
        for place in range(first, min(first + columns, len(going))):
            prompt, line = prompts[going[place]], going[place] * heads + head
            _take(all_q, place, head * group * dim, q)
            _take(all_k, place, head * dim, k)
            _make_ready(q, k, weights, rules, layer, turns, turn)
            _keep(k, all_v, place, head, own_keys, own_values, line, n - 1, 0)
            read = min(stop - starts[layer, prompt], most)
            if place + 1 < len(going):
                _fetch_rows(own_keys, own_values, going[place + 1] * heads + head, n - own, own)
            _scores(q, keys, prompt, head, stop - read, scores, 0, read)
            _scores(q, own_keys, line, 0, n - own, scores, read, own)
            _softmax(scores, read + own, rules[layer, 0], rules[layer, 1], documents, 0)
            _mixed(scores, 0, read, values, prompt, head, stop - read, out, False)
            _mixed(scores, read, own, own_values, line, 0, n - own, out, True)
            _give(out, mixed, place, head * group * dim)


def _fetch_rows(keys, values, line, place, count):  # type: ignore[no-untyped-def]
    """Bring keys and values of the next text near, while this one is computed; Python has no means to."""


@overload(_fetch_rows, jit_options={"forceinline": True})
def _fetch_rows_overload(keys, values, line, place, count):  # type: ignore[no-untyped-def]
    def fetch_rows(keys, values, line, place, count):  # type: ignore[no-untyped-def]
        _, room, _, dim = keys.shape
        first = (line * room + place) * dim
        for i in range(first, first + min(count * dim, _AHEAD), _LINE):
            _fetch(keys, i)
            _fetch(values, i)

    return fetch_rows


@_kernel
def _draw(texts, going, count, n, out, settings):  # type: ignore[no-untyped-def]
    """Token n of each text that goes on, from its scores in out; returns how many still go on, first in `going`."""
    left = 0
    for i in range(count):
        row, (temperature, softcap) = going[i], settings
        if softcap > 0:
            for j in range(out.shape[1]):
                out[i, j] = softcap * math.tanh(out[i, j] / softcap)
        token, logp = _choose(out[i], texts.draws[row, n], temperature)
        texts.tokens[row, n], texts.logps[row, n], texts.lengths[row] = token, logp, n + 1
        for end in texts.stop:
            texts.finished[row] |= token == end
        if not texts.finished[row]:
            going[left] = row
            left += 1
    return left


@_kernel
def _choose(scores, draw, temperature):  # type: ignore[no-untyped-def]
    """A token, and its log-probability: where a uniform number falls in the cumulative probabilities, which take the
    place of the scores (V,); at temperature 0 the likeliest."""
    highest, total = _to_key(np.float32(-np.inf)), 0.0
    for j in range(len(scores)):
        key = _to_key(scores[j])
        highest = key if key > highest else highest
    top, sharpness = _from_key(highest), np.float32(1) if temperature == 0 else np.float32(1) / temperature
    for j in range(len(scores)):
        scores[j] = _exp((scores[j] - top) * sharpness)
        total += scores[j]
    token = 0
    if temperature == 0:
        while scores[token] < 1:
            token += 1
    else:
        reached, goal = 0.0, draw * total
        for j in range(len(scores)):
            if scores[j] > 0:
                token = j
            reached += scores[j]
            if reached > goal:
                break
    return token, math.log(scores[token] / total)
