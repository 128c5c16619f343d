"""From documents to the batches of a run: tokens, the part for validation, and the rows of each step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..text.packing import IGNORE, Packed, TokenStream, pack

Tokens = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rows to learn from: ids, and targets the ids that follow, (rows, tokens); documents likewise, or None."""

    ids: np.ndarray
    targets: np.ndarray
    documents: np.ndarray | None = None

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted."""
        return int((self.targets != IGNORE).sum())

    def split(self, parts: int) -> list[Batch]:
        """The same rows as `parts` smaller batches."""
        documents = [None] * parts if self.documents is None else np.split(self.documents, parts)
        columns = np.split(self.ids, parts), np.split(self.targets, parts), documents
        return [Batch(*part) for part in zip(*columns, strict=True)]


@dataclass(frozen=True)
class TokenData:
    """The tokens of a run in rows of `context`: one part to train on, one to validate."""

    train: TokenStream | Packed
    validation: TokenStream | Packed
    context: int

    @classmethod
    def from_documents(
        cls, documents: Sequence[Tokens], context: int, end: int | None = None, packed: bool = False
    ) -> TokenData:
        """Cut tokenized documents into rows: windows over their chain, or `packed`, where each sees only itself.

        A tenth is for validation: every tenth document or, where there are too few, the end of their chain.
        `end` is put behind each document. ValueError where a part is too short for one row.
        """
        if not documents:
            raise ValueError("documents: got none, expected at least one")
        tail = [] if end is None else [end]
        closed = [np.array([*document, *tail], dtype=np.int32) for document in documents]
        if len(closed) < (2 if packed else 10):
            chain = np.concatenate(closed)
            cut = len(chain) * 9 // 10
            train, validation = [chain[:cut]], [chain[cut:]]
        else:
            train, validation = _split_documents(closed)
        return cls(_rows("training", train, context, packed), _rows("validation", validation, context, packed), context)

    @property
    def max_id(self) -> int:
        """The highest token id."""
        return int(max(self.train.ids.max(), self.validation.ids.max()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all tokens and boundaries: what a checkpoint is compared by."""
        digest = hashlib.sha256(f"{self.context}".encode())
        for part in (self.train, self.validation):
            digest.update(part.ids.astype("<i4").tobytes())
            if isinstance(part, Packed):
                digest.update(part.documents.astype("<i4").tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for people."""
        return f"{self.train.ids.size:,} tokens to train on, {self.validation.ids.size:,} to validate"

    def batch(self, rows: int, *, seed: int, step: int) -> Batch:
        """The rows of a training step: random ones, the same for the same seed and step."""
        rng = np.random.default_rng((seed, step))
        if isinstance(self.train, Packed):
            return Batch(*self.train.batch(rng.integers(len(self.train), size=rows)))
        return Batch(*self.train.batch(rng, rows))

    def validation_batches(self, rows: int, batches: int | None = None) -> Iterator[Batch]:
        """The whole validation part in batches of `rows`, or as many of them as said, spread evenly over it."""
        part = self.validation
        if isinstance(part, Packed):
            every = [part.batch(slice(start, start + rows)) for start in range(0, len(part), rows)]
        else:
            every = list(part.windows(rows))
        if batches is not None and batches < len(every):
            every = [every[i] for i in np.linspace(0, len(every) - 1, batches).astype(int)]
        return (Batch(*columns) for columns in every)


def _split_documents(documents: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    # Every tenth, not the last tenth: collections are often sorted, by language or by subject.
    train = [document for i, document in enumerate(documents) if i % 10 != 9]
    validation = documents[9::10]
    return (train, validation) if validation else (documents[:-1], documents[-1:])


def _rows(name: str, documents: list[np.ndarray], context: int, packed: bool) -> TokenStream | Packed:
    try:
        return pack(documents, context, eos=None) if packed else TokenStream(np.concatenate(documents), context)
    except ValueError as error:
        raise ValueError(f"data: too short for a {name} part; {error}") from error
