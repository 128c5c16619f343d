"""What happens to a text before byte-pair encoding sees it.

Added tokens (such as "<|endoftext|>") are cut out, a normalizer may rewrite the rest, and split patterns cut it into
words, which merges never cross. Names and behavior follow the parts of a tokenizer.json file.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from .unicode_classes import is_space, is_word, translate

SPLIT_PATTERNS = {
    # Radford et al. 2019: contractions, words, numbers and other signs, each with the space before it.
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Grattafiori et al. 2024 (arXiv 2407.21783): at most three digits, any sign may lead a word, line ends apart.
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Yang et al. 2024 (arXiv 2407.10671): as Llama 3, but each digit alone.
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def split_pattern(name: str) -> str:
    """Return the regular expression of "gpt2", "llama3" or "qwen2"; any other text is taken as one itself.

    A plain word is surely a misspelled name: ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"pattern must be a str, got {type(name).__name__}")
    if name.isidentifier() and name not in SPLIT_PATTERNS:
        known = ", ".join(SPLIT_PATTERNS)
        raise ValueError(f"unknown split pattern {name!r}; expected one of {known}, or a regular expression")
    return SPLIT_PATTERNS.get(name, name)


class Splitter:
    """Cuts a text into the matches of a pattern and what lies between them: `splitter(text) -> list[str]`.

    The pattern is in the dialect of tokenizer.json files (see `unicode_classes`). With `gaps=False` what lies between
    the matches is dropped. Raises ValueError for a pattern that `re` cannot express.
    """

    def __init__(self, pattern: str, gaps: bool = True) -> None:
        self.pattern, self.gaps = pattern, gaps
        self._common = self._compile(0xFFFF)

    def _compile(self, highest: int) -> re.Pattern[str]:
        try:
            return re.compile(translate(self.pattern, highest))
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None

    @cached_property
    def _full(self) -> re.Pattern[str]:
        return self._compile(sys.maxunicode)

    def __call__(self, text: str) -> list[str]:
        # `re` looks up characters below U+10000 in a table and tries the ranges above one by one, five times slower.
        regex = self._common if len(text.encode("utf-16-le")) == 2 * len(text) else self._full
        pieces = regex.findall(text)
        if self.gaps and sum(map(len, pieces)) < len(text):
            bounds = [0, *(bound for match in regex.finditer(text) for bound in match.span()), len(text)]
            pieces = [text[start:end] for start, end in pairwise(bounds)]
        return [piece for piece in pieces if piece]


def add_prefix_space(text: str) -> list[str]:
    """Put a space before a text that has none, so that its first word looks like any other."""
    return [text if text.startswith(" ") else " " + text]


def count_words(texts: Iterable[str], splitter: Callable[[str], list[str]]) -> Counter[str]:
    """Count the words that `splitter` cuts the texts into. Raises as `check_text` does."""
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of str, got one str; pass [text]")
    words: Counter[str] = Counter()
    for text in texts:
        check_text(text)
        words.update(splitter(text))
    return words


def check_text(text: str) -> None:
    """Raise TypeError for what is no str, and ValueError for a lone surrogate, which no UTF-8 bytes stand for."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"text has a lone surrogate, U+{code:04X}, at position {error.start}; expected valid Unicode"
        ) from None


@dataclass(frozen=True)
class AddedToken:
    """A token found in the text as it stands, before any splitting; the fields of tokenizer.json's `added_tokens`.

    `special`: a control token rather than text. `single_word`: not inside a word. `lstrip`, `rstrip`: takes the white
    space to its left or right with it. `normalized`: looked for after the normalizer, not before.
    """

    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


class AddedTokenFinder:
    """Finds added tokens in a text: the leftmost first, the longest of those that begin at one place."""

    def __init__(self, tokens: Sequence[AddedToken], normalize: Callable[[str], str] = str) -> None:
        self._tokens = {normalize(token.content): token for token in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._regex = re.compile("|".join(map(re.escape, longest_first)))

    def split(self, text: str, special: bool = True) -> Iterator[str | AddedToken]:
        """Yield the added tokens and the texts between them; special tokens count as text if `special` is False."""
        done = 0
        for match in self._regex.finditer(text) if self._tokens else ():
            start, end = match.span()
            token = self._tokens[match[0]]
            if token.special and not special:
                continue
            if token.single_word and (is_word(text[start - 1 : start]) or is_word(text[end : end + 1])):
                continue
            while token.lstrip and start > done and is_space(text[start - 1]):
                start -= 1
            while token.rstrip and end < len(text) and is_space(text[end]):
                end += 1
            if done < start:
                yield text[done:start]
            yield token
            done = end
        if done < len(text):
            yield text[done:]


Form = Literal["NFC", "NFD", "NFKC", "NFKD"]


class Pipeline:
    """From a text to words and added tokens.

    `stages` cut the text one after the other; `form` is a Unicode normalization form or None.
    """

    def __init__(
        self,
        stages: Sequence[Callable[[str], list[str]]],
        added_tokens: Sequence[AddedToken] = (),
        form: Form | None = None,
    ) -> None:
        self.stages, self.added_tokens = tuple(stages), tuple(added_tokens)
        self.form: Form | None = form
        self._raw = AddedTokenFinder([token for token in added_tokens if not token.normalized])
        self._normalized = AddedTokenFinder(
            [token for token in added_tokens if token.normalized], self.normalize
        )

    def normalize(self, text: str) -> str:
        """Return the text in the pipeline's normalization form."""
        return unicodedata.normalize(self.form, text) if self.form else text

    def __call__(self, text: str, special: bool = True) -> Iterator[int | list[str]]:
        """Yield, in their order, ids of added tokens and lists of words. Raises as `check_text` does."""
        for part in self.parts(text, special):
            yield part if isinstance(part, int) else self._words(part)

    def parts(self, text: str, special: bool = True) -> Iterator[int | str]:
        """Yield the ids of added tokens, and the texts between them before they are split."""
        check_text(text)
        for part in self._raw.split(text, special):
            if isinstance(part, AddedToken):
                yield part.id
                continue
            for piece in self._normalized.split(self.normalize(part), special):
                yield piece.id if isinstance(piece, AddedToken) else piece

    def _words(self, text: str) -> list[str]:
        words = [text]
        for stage in self.stages:
            words = [word for piece in words for word in stage(piece)]
        return words
