"""Large texts, compiled: here it is decided when the kernels of `bpe_numba` do the work, and they are handed arrays.

They come to the same words, merges and ids as the definitions in `pipeline`, `bpe` and `tokenizer`. Those do all else:
texts of less than `LARGE` characters, for which it does not pay to load or compile anything (so that a learner's own
functions run there), split patterns of one's own, and everything on the NumPy backend or without Numba.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, pairwise
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..backend import backend
from . import bpe, pipeline
from .pipeline import SPLIT_PATTERNS, Splitter
from .unicode_classes import class_ranges

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

Array = NDArray[np.integer]

LARGE = 1 << 21  # characters of text: about a second's work for the definitions
LARGE_LIST = LARGE >> 4  # characters of all different words, whose merges take as long
BLOCK = 1 << 24  # characters at most that are read at once, but for a longer text

# The patterns that the kernels know, by the digits that a piece may have; 0 stands for GPT-2's.
_DIGITS = {SPLIT_PATTERNS["gpt2"]: 0, SPLIT_PATTERNS["llama3"]: 3, SPLIT_PATTERNS["qwen2"]: 1}


def kernels_for(texts: Iterable[str], size: int) -> ModuleType | None:
    """Return `bpe_numba` if the texts have at least `size` characters and the backend compiles, else None."""
    if sum(len(text) for text in texts if isinstance(text, str)) < size or backend() == "numpy":
        return None
    try:
        from . import bpe_numba
    except ImportError:  # the backend is CuPy
        return None
    return bpe_numba


def count_words(texts: Iterable[str], splitter: Splitter) -> Counter[str]:
    """`pipeline.count_words`, with the same result."""
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of str, got one str; pass [text]")
    words: Counter[str] = Counter()
    for block in _blocks(texts, BLOCK):
        kernels = kernels_for(block, LARGE) if splitter.pattern in _DIGITS else None
        if kernels is None:
            words.update(pipeline.count_words(block, splitter))
            continue
        text, bounds = _in_a_row([part.encode() for part in block])
        rows = kernels.count_pieces(text, bounds, character_classes(), _DIGITS[splitter.pattern])
        content = text.tobytes()
        words.update({content[start:end].decode(): count for start, end, count in rows.tolist()})
    return words


def train_merges(words: Mapping[str, int], vocab: dict[str, int], vocab_size: int) -> list[tuple[str, str]]:
    """`bpe.train_merges`, with the same result."""
    kernels = kernels_for(words, LARGE_LIST)
    if kernels is None:
        return bpe.train_merges(words, vocab, vocab_size)
    tokens, byte_ids = list(vocab), np.array([vocab[symbol] for symbol in bpe.byte_alphabet()])
    text, bounds = _in_a_row([word.encode() for word in words])
    spelled = _in_a_row([_spelling(token) for token in tokens])
    merges = []
    for left, right in kernels.learn_merges(byte_ids[text], bounds, np.array([*words.values()]), *spelled, vocab_size):
        merges.append((tokens[left], tokens[right]))
        if (token := tokens[left] + tokens[right]) not in vocab:
            vocab[token] = len(tokens)
            tokens.append(token)
    return merges


def large_texts(tokenizer: Tokenizer) -> LargeTexts | None:
    """Return the compiled twin of a tokenizer, or None if it splits in a way, or has ids, that the kernels lack."""
    stages = tokenizer.pipeline.stages
    known = len(stages) == 1 and isinstance(stages[0], Splitter) and stages[0].pattern in _DIGITS
    if not known or not tokenizer.vocab.keys() >= set(bpe.byte_alphabet()) or tokenizer.vocab_size >= 1 << 30:
        return None
    return LargeTexts(tokenizer, _DIGITS[stages[0].pattern])


class LargeTexts:
    """`Tokenizer.encode_batch` with the same result: `twin(texts, special, kernels)`, on all threads that Numba has."""

    def __init__(self, tokenizer: Tokenizer, digits: int) -> None:
        self._parts, self._digits = tokenizer.pipeline.parts, digits
        self._byte_ids = np.array([tokenizer.vocab[symbol] for symbol in bpe.byte_alphabet()])
        rows = [(*pair, *merge) for pair, merge in tokenizer.ranks.items()]
        self._merges = np.array(rows, np.int64).reshape(-1, 4)  # (merges, left · right · rank · merged)
        whole = tokenizer.spec["model"].get("ignore_merges")
        spelled = {_spelling(token): index for token, index in tokenizer.vocab.items()} if whole else {}
        spelled.pop(b"", None)
        self._whole, self._whole_ids = list(spelled), np.array([*spelled.values()], np.int64)

    def __call__(self, texts: Iterable[str], special: bool, kernels: ModuleType) -> list[list[int]]:
        """Return the ids of each text. Raises as `Pipeline.parts` does."""
        parts = [list(self._parts(text, special)) for text in texts]
        strings = [part for some in parts for part in some if isinstance(part, str)]
        share = min(BLOCK, 1 + sum(map(len, strings)) // kernels.THREADS)
        table = kernels.rank_table(self._merges)
        with ThreadPoolExecutor(kernels.THREADS) as pool:
            blocks = pool.map(lambda block: self._encode(block, kernels, table), _blocks(strings, share))
            found = (ids for block in blocks for ids in block)
            return [_chained(next(found) if isinstance(part, str) else [part] for part in some) for some in parts]

    def _encode(self, texts: list[str], kernels: ModuleType, table: tuple[Array, Array]) -> list[list[int]]:
        text, bounds = _in_a_row(self._whole + [part.encode() for part in texts])
        ids, ends = kernels.encode_pieces(
            text, bounds, character_classes(), self._digits, self._byte_ids, *table, self._whole_ids
        )
        return [ids[start:end].tolist() for start, end in pairwise(ends.tolist())]


@cache
def character_classes() -> NDArray[np.uint8]:
    """Return the class of each code point, one of those that the published patterns tell apart."""
    from . import bpe_numba as kernels

    classes = np.full(0x110000, kernels.SIGN, np.uint8)
    for name, kind in (("L", kernels.LETTER), ("N", kernels.NUMBER), ("s", kernels.SPACE)):
        for low, high in class_ranges(name):
            classes[low : high + 1] = kind
    classes[[0x0A, 0x0D]] = kernels.NEWLINE
    return classes


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in lists of at least `size` characters, but for the last. Raises as `check_text` does."""
    block, length = [], 0
    for text in texts:
        pipeline.check_text(text)
        block.append(text)
        length += len(text)
        if length >= size:
            yield block
            block, length = [], 0
    if block:
        yield block


def _chained(parts: Iterable[list[int]]) -> list[int]:
    ids: list[int] = []
    for part in parts:
        ids += part
    return ids


def _in_a_row(parts: Sequence[bytes]) -> tuple[NDArray[np.uint8], Array]:
    """Return all bytes in one array, and where each part begins and ends."""
    bounds = np.array([0, *accumulate(map(len, parts))], np.int64)
    return np.frombuffer(bytearray().join(parts), np.uint8), bounds


def _spelling(token: str) -> bytes:
    """Return the bytes that a token, written in the byte alphabet, stands for; none for another text."""
    alphabet, spelled = bpe.byte_alphabet(), bpe.symbol_bytes(token)
    return spelled if "".join(alphabet[byte] for byte in spelled) == token else b""
