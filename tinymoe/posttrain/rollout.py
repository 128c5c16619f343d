"""Rollouts: many answers of a model to many questions, sampled together through the KV cache.

    B rows = prompts x group_size   T tokens of the longest row, prompt and completion   V vocab_size
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import current
from ..backend.decoding import Answers, LayerStates
from ..generate.engine import next_token_probabilities
from ..models.compiled import compiled_answers
from ..models.decoder import CausalLM
from ..nn.cache import KVCache, LayerCache
from .functional import check_between, check_ids
from .states import States, new_states

# Rows are taken out of the caches when as many have finished: copying what is left has to be worth it.
_FINISHED_SHARE = 1 / 8


@dataclass
class Rollouts:
    """Completions of prompts: row i answers prompt i // group_size. NumPy arrays, whatever the backend.

    ids (B, T) are a prompt, its completion and padding behind it, which causal attention never looks at: so a model
    reads them without an attention mask. mask (B, T) is True for the tokens that were sampled, the stop token included.
    logps (B, T - 1) are laid out as those of `token_logps`: entry t is of ids[:, t + 1], and 0 where nothing was
    sampled. prompt_lengths and lengths (B,) count the tokens of prompt and completion. finished (B,) is False for a
    completion that was cut off. states are what layers computed of the completions, where that was kept.
    """

    ids: np.ndarray
    mask: np.ndarray
    logps: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    group_size: int
    states: States | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def completions(self) -> list[list[int]]:
        """The sampled tokens of each row, the stop token included."""
        return [row[mask].tolist() for row, mask in zip(self.ids, self.mask, strict=True)]

    def take(self, rows: Any) -> Rollouts:
        """Some of the rows, in the order given, without the padding that none of them needs."""
        rows = np.asarray(rows)
        width = int((self.prompt_lengths + self.lengths)[rows].max())
        cut = (self.ids[rows, :width], self.mask[rows, :width], self.logps[rows, : width - 1])
        states = None if self.states is None else self.states.take(rows)
        counts = self.prompt_lengths[rows], self.lengths[rows]
        return Rollouts(*cut, *counts, self.finished[rows], self.group_size, states)


def rollouts(
    model: CausalLM,
    prompts: Sequence[Any],
    group_size: int = 1,
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float | None = None,
    stop: int | Collection[int] | None = None,
    seed: int | Sequence[int] = 0,
    keep_states: bool = False,
) -> Rollouts:
    """Sample `group_size` completions of each prompt, a sequence of token ids; prompts may differ in length.

    A prompt is read once, however many answers it gets, and an answer ends with a token of `stop`, or after
    max_new_tokens. Row by row the tokens are those of `model.generate` with the seeds of `rollout_seeds`: they depend
    on the prompt, not on what else is in the batch (but for rounding, and for experts that drop tokens). Temperature 0
    takes the likeliest token.

    The log-probabilities are of the policy that is trained: logits divided by the temperature (by 1 where it is 0),
    before top_p takes tokens out. keep_states is for learning from the rollouts with the weights they were sampled
    with; it does nothing where the model's layers are not Llama's. Raises ValueError for no or empty prompts and
    settings out of their range.
    """
    questions = [check_ids(np.asarray(prompt)[None], model.config.vocab_size)[0] for prompt in prompts]
    questions = [current().to_numpy(question) for question in questions]
    _check_settings(questions, group_size, max_new_tokens, temperature, top_p)
    draws = np.stack(
        [np.random.default_rng(s).random(max_new_tokens) for s in rollout_seeds(questions, group_size, seed)]
    )
    sampler = _Sampler(model, temperature, top_p, _stop_ids(stop))
    tokens = np.zeros(draws.shape, dtype=np.int64)
    logps, lengths = np.zeros(draws.shape, dtype=np.float32), np.zeros(len(draws), dtype=np.int64)
    finished = np.zeros(len(draws), dtype=bool)
    kept = new_states(model, len(draws), max_new_tokens - 1) if keep_states else []
    for together in _batches(model, questions):
        rows = (np.asarray(together)[:, None] * group_size + np.arange(group_size)).ravel()
        parts = sampler.run([questions[i] for i in together], group_size, draws[rows], kept)
        tokens[rows], logps[rows], lengths[rows], finished[rows] = parts
    batch = _laid_out(questions, tokens, logps, lengths, finished, group_size)
    if kept:
        rows, starts = np.arange(len(batch)), batch.prompt_lengths
        batch.states = States(kept, rows, lengths - 1, starts, int(starts.max()))
    return batch


def join(parts: Sequence[Rollouts]) -> Rollouts:
    """Rollouts one under the other; of several, no states. Raises ValueError where their groups differ in size."""
    if len(parts) == 1:
        return parts[0]
    sizes, width = {part.group_size for part in parts}, max(part.ids.shape[1] for part in parts)
    if len(sizes) != 1:
        raise ValueError(f"parts: got groups of {sorted(sizes)} rows, expected one size")
    return Rollouts(
        ids=np.concatenate([_widened(part.ids, width) for part in parts]),
        mask=np.concatenate([_widened(part.mask, width) for part in parts]),
        logps=np.concatenate([_widened(part.logps, width - 1) for part in parts]),
        prompt_lengths=np.concatenate([part.prompt_lengths for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        finished=np.concatenate([part.finished for part in parts]),
        group_size=sizes.pop(),
    )


def rollout_seeds(
    prompts: Sequence[Any], group_size: int, seed: int | Sequence[int] = 0
) -> list[np.random.SeedSequence]:
    """The seed of each row of `rollouts`, made of the seed, the prompt's tokens, and which answer to it this is.

    A prompt that comes several times is answered differently each time, as if its groups were one.
    """
    start = [seed] if isinstance(seed, int | np.integer) else list(seed)
    count: dict[bytes, int] = {}
    seeds = []
    for prompt in prompts:
        name = np.asarray(prompt, dtype="<i8").tobytes()
        number = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
        first = count.get(name, 0)
        count[name] = first + group_size
        seeds += [np.random.SeedSequence([*start, number, first + i]) for i in range(group_size)]
    return seeds


def take_rows(cache: KVCache, rows: Any) -> None:
    """Make row i of a cache what its row rows[i] was, in place: rows are dropped, or repeated."""
    rows = current().asarray(rows)
    for layer in cache.layers:
        _take_layer_rows(layer, rows)
    if cache.documents is not None:
        cache.documents = cache.documents[rows]


def left_padded(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Prompts as one array (prompts, T) in which all end together, and its attention mask; None if nothing is padded.

    That is how `model.generate` takes prompts of different lengths.
    """
    width = max(map(len, prompts))
    ids, mask = np.zeros((len(prompts), width), dtype=np.int64), np.zeros((len(prompts), width), dtype=bool)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :], mask[i, width - len(prompt) :] = prompt, True
    return ids, None if mask.all() else mask


@dataclass
class _Sampler:
    model: CausalLM
    temperature: float
    top_p: float | None
    stop: np.ndarray

    def run(
        self, prompts: list[np.ndarray], group_size: int, draws: np.ndarray, kept: list[LayerStates]
    ) -> tuple[np.ndarray, ...]:
        """Tokens and logps (B, n), lengths and finished (B,), from uniform numbers (B, n) that each row draws with.
        kept is filled in with what layers compute, or emptied where nobody says what that is."""
        cache = self.model.new_cache()
        ids, attention_mask = left_padded(prompts)
        with current().one_thread_each():  # the others would be waiting for more to do while answers are computed
            logits = self.model(ids, cache=cache, attention_mask=attention_mask).numpy()[:, -1]  # (prompts, V)
        copies = np.repeat(np.arange(len(prompts)), group_size)
        tokens, logps = np.zeros(draws.shape, dtype=np.int64), np.zeros(draws.shape, dtype=np.float32)
        tokens[:, 0], logps[:, 0] = self.choose(logits[copies], draws[:, 0])
        lengths, finished = np.ones(len(draws), dtype=np.int64), np.isin(tokens[:, 0], self.stop)
        softcap = self.model.config.final_logit_softcapping or 0.0
        found = tokens, logps, lengths, finished
        answers = Answers(copies, draws, *found, self.stop, self.temperature, softcap, states=kept)
        if self.top_p is not None or not compiled_answers(self.model, cache, [len(p) for p in prompts], answers):
            take_rows(cache, copies)
            self.go_on(cache, answers)
            kept.clear()
        return tokens, logps, lengths, finished

    def go_on(self, cache: KVCache, answers: Answers) -> None:
        """Find the tokens after the first, one for each row at a time."""
        tokens, logps, lengths, finished = answers.tokens, answers.logps, answers.lengths, answers.finished
        held = np.arange(len(tokens))  # which row each row of the cache is
        for n in range(1, tokens.shape[1]):
            going = ~finished[held]
            if not going.any():
                break
            if (~going).sum() >= len(held) * _FINISHED_SHARE:
                take_rows(cache, np.flatnonzero(going))
                held = held[going]
            logits = self.model(tokens[held, n - 1, None], cache=cache).numpy()[:, -1]
            tokens[held, n], logps[held, n] = self.choose(logits, answers.draws[held, n])
            lengths[held[~finished[held]]] = n + 1
            finished[held] |= np.isin(tokens[held, n], self.stop)

    def choose(self, logits: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A token for each row of logits (rows, V), by its own draw, and its log-probability."""
        every = np.arange(len(logits))
        full = next_token_probabilities(logits, self.temperature, None, None, None)
        if self.temperature == 0:
            tokens = full.argmax(axis=-1)
        else:
            kept = full
            if self.top_p is not None:
                kept = next_token_probabilities(logits, self.temperature, None, self.top_p, None)
            cumulative = np.cumsum(kept, axis=-1)
            tokens = (draws[:, None] >= cumulative / cumulative[:, -1:]).sum(axis=-1)  # as `sampling.sample`
        return tokens, np.log(full[every, tokens])


def _batches(model: CausalLM, prompts: list[np.ndarray]) -> list[list[int]]:
    """Which prompts are sampled together: all; but of one length, where padding would shift what a model counts."""
    if "learned_positions" not in model.config.inputs and model.config.attention != "chunked":
        return [list(range(len(prompts)))]
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    return list(by_length.values())


def _laid_out(
    prompts: list[np.ndarray],
    tokens: np.ndarray,
    logps: np.ndarray,
    lengths: np.ndarray,
    finished: np.ndarray,
    group_size: int,
) -> Rollouts:
    starts = np.repeat([len(prompt) for prompt in prompts], group_size)
    shape = len(tokens), int((starts + lengths).max())
    ids, mask, scores = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.float32)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        written = slice(start, start + length)
        ids[row, :start], ids[row, written] = prompts[row // group_size], tokens[row, :length]
        mask[row, written], scores[row, written] = True, logps[row, :length]
    return Rollouts(ids, mask, scores[:, 1:], starts, lengths, finished, group_size)


def _widened(array: np.ndarray, width: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _take_layer_rows(layer: LayerCache, rows: Any) -> None:
    for name, value in list(vars(layer).items()):
        if isinstance(value, LayerCache):  # a cache within a cache: index keys
            _take_layer_rows(value, rows)
        elif name in ("_keys", "_values") and value is not None:
            setattr(layer, name, value[rows])


def _stop_ids(stop: int | Collection[int] | None) -> np.ndarray:
    if stop is None:
        return np.array([], dtype=np.int64)
    return np.atleast_1d(np.asarray(stop if isinstance(stop, int | np.integer) else list(stop), dtype=np.int64))


def _check_settings(
    prompts: list[np.ndarray], group_size: int, max_new_tokens: int, temperature: float, top_p: float | None
) -> None:
    if not prompts:
        raise ValueError("prompts: got none, expected at least one")
    check_between("group_size", group_size, 1, float("inf"))
    check_between("max_new_tokens", max_new_tokens, 1, float("inf"))
    check_between("temperature", temperature, 0, float("inf"))
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, expected above 0 and at most 1")
