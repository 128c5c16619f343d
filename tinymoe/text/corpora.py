"""Text to train on: built in, downloaded, or your own.

    from tinymoe.text import corpora
    corpora.names()                                   # what there is
    corpora.text("tales", limit_chars=1_000_000)      # one long string
    corpora.documents("my/notes")                     # any text file, or a folder of them

The built-in corpora need no network. A download is kept in the folder that the environment variable TINYMOE_DATA
names, else in the user's cache folder; its SHA-256 has to be the known one, or, where none is published, the one
recorded at the first download. TINYMOE_MIRROR names the URL of a folder to fetch from instead, for a class room with
one copy of the files. Licences stand in `data/README.md`.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import json
import os
import random
import sysconfig
import tempfile
import tokenize
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from ..files import write_atomically
from . import arithmetic, tales
from .grammar import parse, write

SUFFIXES = (".txt", ".md", ".py", ".jsonl")  # what is read of a folder

_BABEL_VARIATIONS = 80
_END_OF_TEXT = "<|endoftext|>"
_NOT_LIBRARY = {
    "__pycache__",
    "dist-packages",
    "encodings",
    "idle_test",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}


@dataclass(frozen=True)
class Corpus:
    """What is told of a corpus, and its documents: `read(seed)` yields them in order, without end if `stop` is given.

    `stop` is the number of documents at which an endless corpus ends when nobody sets a limit.
    """

    about: str
    licence: str
    read: Callable[[int], Iterable[str]]
    stop: int | None = None


@dataclass(frozen=True)
class Download:
    """A file on the web. Without a published sum, the one of the first download is recorded beside the file."""

    file: str
    url: str
    sha256: str | None = None


def names() -> list[str]:
    """The names of all corpora: first those that are built in, then those that have to be downloaded.

    >>> names()[:3]
    ['tales', 'babel', 'arithmetic']
    """
    return list(_CORPORA)


def describe(name: str) -> str:
    """One line about a corpus, and its licence. ValueError for an unknown name."""
    corpus = _CORPORA.get(name)
    if corpus is None:
        raise ValueError(_unknown(name))
    return f"{corpus.about} Licence: {corpus.licence}."


def documents(name_or_path: str | os.PathLike[str], *, limit_chars: int | None = None, seed: int = 0) -> list[str]:
    """The documents of a corpus, a text file or a folder, always in the same order.

    A string without a path separator is first taken for a corpus's name: say `./tales` for a file called tales.
    A file is one document, but a `.jsonl` file is one document a line, its "text" field. A folder is read with all
    its subfolders, sorted, leaving out hidden files and whatever does not end in .txt, .md, .py or .jsonl.

    `limit_chars` stops after so many characters, cutting the last document. `tales` and `arithmetic` are endless;
    `seed` chooses among their collections, and without a limit they stop at 5,000 tales (about 5 MB) and 20,000
    problems (about 3 MB).

    ValueError: an unknown name, a text that is empty or is not UTF-8, a folder without text, a limit below 1.
    FileNotFoundError, PermissionError: as the system says. ConnectionError: a download that did not come.
    """
    if limit_chars is not None and limit_chars < 1:
        raise ValueError(f"limit_chars is {limit_chars}; it has to be at least 1")
    name = os.fspath(name_or_path)
    if name in _CORPORA and isinstance(name_or_path, str):
        corpus = _CORPORA[name]
        texts = itertools.islice(corpus.read(seed), corpus.stop if limit_chars is None else None)
    elif name == os.path.basename(name) and not Path(name).suffix and not Path(name).exists():
        raise ValueError(_unknown(name))  # a bare word is rather a name misspelled than a path
    else:
        texts = _read_path(Path(name))
    return list(_limited(texts, limit_chars))


def text(name_or_path: str | os.PathLike[str], *, limit_chars: int | None = None, seed: int = 0) -> str:
    """The documents of `documents(...)` as one string, with a blank line between them."""
    whole = "\n\n".join(documents(name_or_path, limit_chars=limit_chars, seed=seed))
    return whole if limit_chars is None else whole[:limit_chars]


def babel() -> dict[str, list[str]]:
    """The documents of `babel` by language: the same little texts in each, then variations on simple sentences.

    >>> len(babel()) >= 12
    True
    """
    return {language: list(texts) for language, texts in _babel().items()}


def fetch(name: str) -> Path:
    """The file of a downloaded corpus, fetching it first if it is not there yet or not what it should be.

    ConnectionError when it cannot be fetched. ValueError when `name` is not a corpus to download, and when the file
    that came is another than the known one; whatever is there then stays as it was.
    """
    download = _DOWNLOADS.get(name)
    if download is None:
        raise ValueError(f"{name!r} is not a corpus that is downloaded; these are: {', '.join(_DOWNLOADS)}")
    target = data_folder() / download.file
    record = target.with_name(target.name + ".sha256")
    known = download.sha256 or (record.read_text(encoding="ascii").strip() if record.exists() else None)
    if not target.exists() or (known and _sha256(target) != known):
        _retrieve(name, download, known, target)
    if known is None:
        write_atomically(record, f"{_sha256(target)}\n".encode())
    return target


def data_folder() -> Path:
    """Where downloads are kept: $TINYMOE_DATA, or else the user's cache folder."""
    if folder := os.environ.get("TINYMOE_DATA"):
        return Path(folder)
    try:
        import pooch
    except ImportError:
        return Path.home() / ".cache" / "tinymoe"
    return Path(pooch.os_cache("tinymoe"))


def _retrieve(name: str, download: Download, known: str | None, target: Path) -> None:
    """Fetch one file with a progress bar. It is moved into place only when it is complete and its sum is right."""
    mirror = os.environ.get("TINYMOE_MIRROR")
    url = f"{mirror.rstrip('/')}/{download.file}" if mirror else download.url
    instead = f"These corpora need no network: {', '.join(_BUILT_IN)}."
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ConnectionError(
            f"{name!r} has to be downloaded, and {error.name} for that is missing: pip install pooch tqdm. {instead}"
        ) from None
    pooch.get_logger().setLevel("ERROR")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            fetcher = pooch.HTTPDownloader(progressbar=True, timeout=30)
            # By pooch's annotations, its own downloaders do not fit.
            came = pooch.retrieve(url, None, download.file, folder, downloader=fetcher)  # pyright: ignore[reportArgumentType]
        except requests.RequestException as error:
            reason = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
            raise ConnectionError(f"{name!r} could not be downloaded from {url} ({reason}). {instead}") from None
        if known and _sha256(Path(came)) != known:
            raise ValueError(
                f"{url} is not the file that {name!r} should be: its SHA-256 is {_sha256(Path(came))}, expected {known}"
            )
        os.replace(came, target)


def _limited(texts: Iterable[str], limit: int | None) -> Iterator[str]:
    if limit is None:
        yield from texts
        return
    for document in texts:
        yield document[:limit]
        limit -= len(document)
        if limit <= 0:
            return


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _CORPORA, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no corpus or file called {name!r}.{guess} The corpora are: {', '.join(_CORPORA)}."


def _read_path(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield from _read_folder(path)
    elif path.exists():
        if not (content := _decode(path)).strip():
            raise ValueError(f"the file {str(path)!r} is empty")
        yield from _split(path, content)
    else:
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")


def _read_folder(folder: Path) -> Iterator[str]:
    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, children, entries in os.walk(folder, onerror=stop):
        children[:] = [child for child in children if not child.startswith(".")]
        found += [Path(parent, entry) for entry in entries if not entry.startswith(".")]
    some = False
    for path in sorted((path for path in found if path.suffix in SUFFIXES), key=Path.as_posix):
        if (content := _decode(path)).strip():
            some = True
            yield from _split(path, content)
    if not some:
        raise ValueError(f"the folder {str(folder)!r} has no text in files that end in {', '.join(SUFFIXES)}")


def _split(path: Path, content: str) -> Iterator[str]:
    """The documents in one file's text: each line's of a .jsonl file, else the whole."""
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield _jsonl_text(line, f"line {number} of {str(path)!r}")


def _jsonl_text(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f'{where} has no field "text" with a string')
    return record["text"]


def _decode(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark, and with one line feed at the end of each line."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the file {str(path)!r} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x} "
            f"({error.reason})"
        ) from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arithmetic(seed: int) -> Iterator[str]:
    return (problem.text for problem in arithmetic.problems(seed))


@cache
def _babel() -> dict[str, tuple[str, ...]]:
    folder = files("tinymoe") / "data" / "babel"
    languages = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        language = entry.name.removesuffix(".txt")
        texts = []
        for paragraph in entry.read_text(encoding="utf-8").strip().split("\n\n"):
            if "[" not in paragraph:
                texts.append(paragraph)
                continue
            rng = random.Random(f"babel/{language}")
            texts += [write(parse(paragraph), rng) for _ in range(_BABEL_VARIATIONS)]
        languages[language] = tuple(texts)
    return languages


def _babel_mixed(seed: int) -> Iterator[str]:
    """One document of each language in turn, so that every part of the corpus speaks all of them."""
    for row in itertools.zip_longest(*_babel().values()):
        yield from (document for document in row if document is not None)


def _python_docs(seed: int) -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:  # in a browser
        raise FileNotFoundError("this Python carries no help texts: its library is without pydoc_data") from None
    return (topics[topic].strip() for topic in sorted(topics))


def _python_code(seed: int) -> Iterator[str]:
    """The standard library's modules, sorted by path. Where the library is a zip file (in a browser), that is read."""
    folder = Path(sysconfig.get_path("stdlib"))
    archive = folder.with_name(f"python{sysconfig.get_python_version().replace('.', '')}.zip")
    library: Path | zipfile.Path = zipfile.Path(archive) if archive.exists() else folder
    some = False
    for module in _modules(library):
        source = module.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        if content := source.decode(encoding).replace("\r\n", "\n").strip():
            some = True
            yield content
    if not some:
        raise FileNotFoundError(f"this Python carries no source code of its standard library in {str(library)!r}")


def _modules(folder: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            if entry.name not in _NOT_LIBRARY and "." not in entry.name:
                yield from _modules(entry)
        elif entry.name.endswith(".py"):
            yield entry


def _shakespeare(seed: int) -> Iterator[str]:
    yield _decode(fetch("tiny-shakespeare"))


def _tinystories(seed: int) -> Iterator[str]:
    stories = _decode(fetch("tinystories")).split(_END_OF_TEXT)
    return (story.strip() for story in stories if story.strip())


def _gsm8k(seed: int) -> Iterator[str]:
    for line in _decode(fetch("gsm8k")).splitlines():
        record = json.loads(line)
        yield f"Question: {record['question']}\nAnswer: {record['answer']}"


_BUILT_IN = {
    "tales": Corpus(
        "Short stories from a grammar of our own, endless: simple words, real plots.",
        "MIT, as tinymoe",
        tales.tales,
        stop=5_000,
    ),
    "babel": Corpus(
        "Little texts of our own, the same ones in 14 languages and 9 scripts.", "MIT, as tinymoe", _babel_mixed
    ),
    "arithmetic": Corpus(
        "Problems in arithmetic with their steps written out, endless.", "MIT, as tinymoe", _arithmetic, stop=20_000
    ),
    "python-docs": Corpus(
        "The language reference that every Python carries (pydoc_data).", "PSF License Version 2", _python_docs
    ),
    "python-code": Corpus(
        "The source code of the Python standard library, without its tests.", "PSF License Version 2", _python_code
    ),
}
_DOWNLOADS = {
    "tiny-shakespeare": Download(
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
        "/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "tinystories": Download(
        "TinyStories-valid.txt",
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories-valid.txt",
    ),
    "gsm8k": Download(
        "gsm8k-test.jsonl",
        "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
        "/grade_school_math/data/test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    ),
}
_CORPORA = {
    **_BUILT_IN,
    "tiny-shakespeare": Corpus("Scenes of Shakespeare, 1.1 MB, a download.", "public domain", _shakespeare),
    "tinystories": Corpus(
        "Stories written by GPT-3.5 and GPT-4 in simple words (the validation split), 20 MB, a download.",
        "CDLA-Sharing-1.0",
        _tinystories,
    ),
    "gsm8k": Corpus("Grade school math word problems (the test split), 0.7 MB, a download.", "MIT", _gsm8k),
}
