"""From documents to batches: packed rows that know where a document ends, and random windows of one long text.

Documents are of all lengths and rows of a batch are of one. Padding every document to the longest wastes most of
the work; so documents are laid end to end and cut into rows (GPT-3, Brown et al., 2020, arXiv:2005.14165, appendix
B). Each token keeps the number of its document, so that attention can stay inside it, as Llama 3 does (Llama team,
2024, arXiv:2407.21783, section 3.2), and no token is trained to predict the beginning of another document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

IGNORE = -100  # the target that the loss leaves out, as in PyTorch and Transformers
PADDING = -1  # the document number of what fills up the last row


@dataclass(frozen=True)
class Packed:
    """Documents in rows of context + 1 tokens. Both arrays are int32 and have the shape (rows, context + 1).

    `ids` are the tokens; `documents` says of each which document it is from, counted from 0 in the order they were
    given, and -1 for the padding at the end of the last row.
    """

    ids: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def context(self) -> int:
        """The number of tokens that a model sees of each row."""
        return self.ids.shape[1] - 1

    def batch(self, rows: slice | Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, targets, documents), each (rows, context), of the chosen rows.

        A target is the token that comes next, or -100 where that is padding or another document's.
        """
        ids, documents = self.ids[rows], self.documents[rows]
        return ids[:, :-1], next_tokens(ids, documents), documents[:, :-1]


def next_tokens(ids: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """What each token of packed rows should predict: ids and documents (rows, tokens) -> (rows, tokens - 1).

    It is the token that comes next, or -100 where that one is padding or belongs to another document.
    """
    same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != PADDING)
    return np.where(same, ids[:, 1:], IGNORE)


def pack(documents: Iterable[Sequence[int] | np.ndarray], context: int, *, eos: int | None) -> Packed:
    """Lay tokenized documents end to end and cut them into rows of context + 1 tokens.

    With `eos`, each document is closed by that token, which the model then learns to predict. No token is lost or
    doubled; a document that does not fit goes on in the next row. The last row is filled up with `eos` (or 0).
    ValueError when there is no token at all, or the context is less than 1; TypeError for tokens that are no integers.
    """
    if context < 1:
        raise ValueError(f"context is {context}; it has to be at least 1")
    end = np.array([] if eos is None else [eos], dtype=np.int32)
    pieces = [_tokens(f"document {number}", document) for number, document in enumerate(documents)]
    lengths = [len(piece) + len(end) for piece in pieces]
    total = sum(lengths)
    if total == 0:
        raise ValueError("documents has no tokens to pack")
    width = context + 1
    rows = -(-total // width)
    ids = np.full(rows * width, 0 if eos is None else eos, dtype=np.int32)
    numbers = np.full(rows * width, PADDING, dtype=np.int32)
    ids[:total] = np.concatenate([part for piece in pieces for part in (piece, end)])
    numbers[:total] = np.repeat(np.arange(len(pieces), dtype=np.int32), lengths)
    return Packed(ids.reshape(rows, width), numbers.reshape(rows, width))


class TokenStream:
    """One long text as tokens: random windows to train on, and windows side by side to evaluate on.

    `ids` (tokens,) may be any sequence of integers, or an array, a memory-mapped one too. ValueError when there are
    not more tokens than `context`, since every window needs its context and the token that comes after it.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray, context: int) -> None:
        if context < 1:
            raise ValueError(f"context is {context}; it has to be at least 1")
        self.ids = _tokens("ids", ids)
        self.context = context
        if len(self.ids) <= context:
            raise ValueError(
                f"the text has {len(self.ids)} tokens, but a context of {context} needs at least {context + 1}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rng: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets), both int32 (batch, context): windows that begin anywhere, as nanoGPT draws them."""
        starts = rng.integers(len(self.ids) - self.context, size=batch_size)
        windows = self.ids[starts[:, None] + np.arange(self.context + 1)].astype(np.int32)  # (batch, context + 1)
        return windows[:, :-1], windows[:, 1:]

    def windows(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids, targets), both int32 (up to batch, context): every token but the first is a target exactly once.

        The windows do not overlap. The last one is filled up with zeros, whose targets are -100.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1")
        last = len(self.ids) - 1  # so many targets
        step = batch_size * self.context
        for start in range(0, last, step):
            size = min(step, last - start)
            rows = -(-size // self.context)
            ids = np.zeros(rows * self.context, dtype=np.int32)
            targets = np.full(rows * self.context, IGNORE, dtype=np.int32)
            ids[:size] = self.ids[start : start + size]
            targets[:size] = self.ids[start + 1 : start + 1 + size]
            yield ids.reshape(rows, self.context), targets.reshape(rows, self.context)


def _tokens(name: str, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(tokens)
    if array.ndim != 1:
        raise ValueError(f"{name} has the shape {array.shape}; it has to be one row of tokens")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} has tokens of type {array.dtype}; they have to be integers")
    return array if isinstance(tokens, np.ndarray) and array.size else array.astype(np.int32)
