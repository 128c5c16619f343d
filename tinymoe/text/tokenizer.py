"""Tokenizers: byte-level byte-pair encoding, and one token for each character.

Both keep what they are in one dictionary, `spec`, the content of a tokenizer.json file of Hugging Face `tokenizers`,
which gives the same ids for the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import write_atomically
from . import compiled
from .bpe import byte_alphabet, merge_word, symbol_bytes
from .pipeline import Splitter, check_text, count_words, split_pattern
from .tokenizer_json import (
    byte_level_spec,
    character_spec,
    is_character_level,
    read_pipeline,
    read_spec,
    read_vocabulary,
)


def initial_vocab(special_tokens: Sequence[str], alphabet: Iterable[str]) -> dict[str, int]:
    """Return the ids of the special tokens and, after them, of the alphabet.

    Raises ValueError for special tokens that are empty or alike.
    """
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens must be a list of str, got one str: {special_tokens!r}")
    for token in special_tokens:
        check_text(token)
        if not token or list(special_tokens).count(token) > 1:
            raise ValueError(f"special_tokens must be different and not empty, got {list(special_tokens)}")
    return {token: index for index, token in enumerate(dict.fromkeys([*special_tokens, *alphabet]))}


class Tokenizer:
    """Byte-level byte-pair encoding: text → words → bytes → merged tokens → ids, and back.

    `vocab_size`, also `len(tokenizer)`, is the number of embeddings a model needs: the highest id plus one.
    """

    _token_bytes = staticmethod(symbol_bytes)
    _cached_words, _cached_length = 131_072, 64

    def __init__(self, spec: dict[str, Any]) -> None:
        """Build the tokenizer that a parsed tokenizer.json describes. Raises ValueError naming a bad field."""
        self.spec = spec
        self.vocab, merges = read_vocabulary(spec)
        self.ranks = {
            (self.vocab[left], self.vocab[right]): (rank, self.vocab[left + right])
            for rank, (left, right) in enumerate(merges)
        }
        self.pipeline = read_pipeline(spec, self.vocab)
        self.special_tokens = {token.content: token.id for token in self.pipeline.added_tokens if token.special}
        self._ids = self.vocab | {token.content: token.id for token in self.pipeline.added_tokens}
        self._strings = {index: token for token, index in self._ids.items()}
        self._pieces = {index: self._token_bytes(token) for token, index in self.vocab.items()}
        for token in self.pipeline.added_tokens:  # as they stand; `tokenizers` takes "é" for the byte 0xE9
            text = self.pipeline.normalize(token.content) if token.normalized else token.content
            self._pieces[token.id] = text.encode()
        self.vocab_size = max(self._strings, default=-1) + 1
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, pattern: str = "gpt2", special_tokens: Sequence[str] = ()
    ) -> Tokenizer:
        """Learn a vocabulary: the special tokens, the 256 bytes, then merges, with ids in this order.

        `pattern` is "gpt2", "llama3", "qwen2" or a regular expression of your own. Where the texts have too few pairs
        the vocabulary stays smaller. Raises ValueError for a `vocab_size` below 256 plus the special tokens.
        """
        vocab = initial_vocab(special_tokens, sorted(byte_alphabet()))
        if vocab_size < len(vocab):
            raise ValueError(f"vocab_size must be at least {len(vocab)} (special tokens + bytes), got {vocab_size}")
        words = compiled.count_words(texts, Splitter(split_pattern(pattern)))
        merges = compiled.train_merges(words, vocab, vocab_size)
        return cls(byte_level_spec(vocab, merges, pattern, special_tokens))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the ids of `text`. With `special=False` special tokens in it are read as plain text.

        Adds no tokens of its own, such as one for the beginning. Raises ValueError for a lone surrogate.
        """
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Iterable[str], special: bool = True) -> list[list[int]]:
        """Return the ids of each text. Large texts are encoded by compiled code, with the same result."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of str, got one str; use encode")
        texts = list(texts)
        kernels = compiled.kernels_for(texts, compiled.LARGE)
        if kernels and self._large_texts:
            return self._large_texts(texts, special, kernels)
        return [self._encode_text(text, special) for text in texts]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `ids`; bytes that are not valid UTF-8 become U+FFFD. Raises as `tokens` does."""
        if skip_special_tokens:
            hidden = set(self.special_tokens.values())
            ids = [index for index in ids if index not in hidden]
        return b"".join(self.tokens(ids)).decode("utf-8", errors="replace")

    def tokens(self, ids: Iterable[int]) -> list[bytes]:
        """Return the bytes of each id. Raises ValueError for an id that is not in the vocabulary."""
        try:
            return [self._pieces[index] for index in ids]
        except KeyError as error:
            known = f"the vocabulary, 0 to {self.vocab_size - 1}"
            raise ValueError(f"token id {error.args[0]} is not in {known}") from None
        except TypeError:
            raise TypeError("ids must be a flat sequence of integers; decode one row at a time") from None

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token in its written form, such as "Ġthe", or None."""
        return self._ids.get(token)

    def id_to_token(self, index: int) -> str | None:
        """Return the written form of a token, such as "Ġthe", or None."""
        return self._strings.get(index)

    def save(self, folder: str | Path) -> Path:
        """Write `folder`/tokenizer.json, all or nothing, and return its path."""
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(self.spec, ensure_ascii=False, indent=2).encode())
        return path

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """Read a tokenizer.json, or the folder that holds it: a byte-level BPE or a CharTokenizer.

        Raises FileNotFoundError, or ValueError that names the field that is wrong or not supported.
        """
        spec = read_spec(path)
        try:
            return CharTokenizer(spec) if is_character_level(spec) else Tokenizer(spec)
        except ValueError as error:
            raise ValueError(f"cannot read the tokenizer at {path}: {error}") from None

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    @cached_property
    def _large_texts(self) -> compiled.LargeTexts | None:
        return compiled.large_texts(self)

    def _encode_text(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for part in self.pipeline(text, special):
            if isinstance(part, int):
                ids.append(part)
            else:
                for word in part:
                    ids += self._cache.get(word) or self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        symbols = [byte_alphabet()[byte] for byte in word.encode()]
        whole = self.vocab.get("".join(symbols)) if self.spec["model"].get("ignore_merges") else None
        try:
            ids = merge_word([self.vocab[symbol] for symbol in symbols], self.ranks) if whole is None else [whole]
        except KeyError as error:
            raise ValueError(f"the vocabulary has no token for the byte {error.args[0]!r} in {word!r}") from None
        if len(word) <= self._cached_length:
            if len(self._cache) >= self._cached_words:
                self._cache.clear()
            self._cache[word] = ids
        return ids


class CharTokenizer(Tokenizer):
    """One token for each character of the training texts, in the order of their code points."""

    _token_bytes = staticmethod(str.encode)

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """Collect the characters of the texts. Ids: the special tokens first, then the characters in their order."""
        characters = count_words(texts, list)
        vocab = initial_vocab(special_tokens, sorted(characters))
        return cls(character_spec(vocab, special_tokens))

    def _encode_word(self, word: str) -> list[int]:
        try:
            return [self.vocab[character] for character in word]
        except KeyError as error:
            raise ValueError(
                f"the character {error.args[0]!r} is not among the {self.vocab_size} of the vocabulary; "
                "it was not in the training texts"
            ) from None
