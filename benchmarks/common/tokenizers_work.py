"""What the two tokenizer libraries are asked to do, for the processes that take turns (`turns.py`)."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
WORKS = ("train", "encode", "encode one text", "encode_batch")


def standard_library(megabytes: float) -> list[str]:
    """The sources of Python's standard library, tests and all, sorted by path: so many million bytes, or all."""
    folder, texts, size = Path(sysconfig.get_path("stdlib")), [], 0
    for path in sorted(folder.rglob("*.py"), key=Path.as_posix):
        if size >= megabytes * 1e6:
            break
        content = path.read_bytes()
        if "-packages" not in path.as_posix() and _is_utf8(content):
            texts.append(content.decode())
            size += len(content)
    return texts


def ours(work: str, megabytes: float, vocab_size: int, file: str) -> Work:
    """What tinymoe does for a kind of work. The tokenizer that encodes is that of `file`."""
    from tinymoe.text.tokenizer import Tokenizer

    texts = standard_library(megabytes)
    whole = "\n".join(texts)
    tok = None if work == "train" else Tokenizer.load(file)
    return {
        "train": lambda: Tokenizer.train(texts, vocab_size).vocab_size,
        "encode": lambda: sum(len(tok.encode(text)) for text in texts),
        "encode one text": lambda: len(tok.encode(whole)),
        "encode_batch": lambda: sum(map(len, tok.encode_batch(texts))),
    }[work]


def theirs(work: str, megabytes: float, vocab_size: int, file: str) -> Work:
    """The same by Hugging Face `tokenizers`, down to lists of ids."""
    import tokenizers

    texts = standard_library(megabytes)
    whole = "\n".join(texts)
    tok = None if work == "train" else tokenizers.Tokenizer.from_file(file)
    return {
        "train": lambda: train(texts, vocab_size).get_vocab_size(),
        "encode": lambda: sum(len(tok.encode(text).ids) for text in texts),
        "encode one text": lambda: len(tok.encode(whole).ids),
        "encode_batch": lambda: sum([len(encoding.ids) for encoding in tok.encode_batch(texts)]),
        "encode_batch_fast": lambda: sum([len(encoding.ids) for encoding in tok.encode_batch_fast(texts)]),
    }[work]


def train(texts: list[str], vocab_size: int) -> Any:
    """A tokenizer of `tokenizers`, trained on the texts: byte-level BPE with GPT-2's pattern."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    return tok


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
