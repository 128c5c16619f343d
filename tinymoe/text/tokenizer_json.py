"""The tokenizer.json file of Hugging Face `tokenizers`: what is read from it, and what is written.

What could not be followed exactly is refused with a ValueError that names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from .bpe import byte_alphabet
from .pipeline import SPLIT_PATTERNS, AddedToken, Form, Pipeline, Splitter, add_prefix_space, split_pattern

Spec = dict[str, Any]
_REQUIRED = object()
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_spec(path: str | Path) -> Spec:
    """Return the parsed tokenizer.json at `path`, a file or the folder that holds it.

    Raises FileNotFoundError, or ValueError for a file that is cut off or is no JSON object.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"no tokenizer at {file}")
    try:
        spec = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON, perhaps cut off: {error}") from None
    if not isinstance(spec, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(spec).__name__}")
    return spec


def byte_level_spec(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], pattern: str, special_tokens: Sequence[str]
) -> Spec:
    """Return the tokenizer.json of a byte-level BPE, as `tokenizers` itself would write it."""
    regex = split_pattern(pattern)
    builtin = regex == SPLIT_PATTERNS["gpt2"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": builtin}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    sequence = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return _spec(vocab, merges, special_tokens, byte_level if builtin else sequence, decoder)


def character_spec(vocab: Mapping[str, int], special_tokens: Sequence[str]) -> Spec:
    """Return the tokenizer.json of a vocabulary of characters: a BPE without merges, not on bytes."""
    return _spec(vocab, [], special_tokens, None, {"type": "Fuse"})


def _spec(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special_tokens: Sequence[str],
    pre_tokenizer: Spec | None,
    decoder: Spec,
) -> Spec:
    options = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [asdict(AddedToken(vocab[token], token)) for token in special_tokens],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {"type": "BPE", **options, **flags, "vocab": dict(vocab), "merges": list(map(list, merges))},
    }


def is_character_level(spec: Spec) -> bool:
    """Say whether a tokenizer.json is one of characters, as `character_spec` makes it."""
    model = _field(spec, "model", dict)
    return spec.get("pre_tokenizer") is None and not model.get("merges") and not model.get("byte_fallback")


def read_vocabulary(spec: Spec) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary (token → id) and the merges, the first learned first."""
    _check_model(spec)
    vocab = _field(spec, "model.vocab", dict)
    if any(type(index) is not int or index < 0 for index in vocab.values()):
        raise ValueError("model.vocab must map each token to an id, an int from 0")
    if len(set(vocab.values())) < len(vocab):
        raise ValueError("model.vocab gives one id to two tokens")
    merges = []
    for index, merge in enumerate(_field(spec, "model.merges", list)):
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or [type(token) for token in pair] != [str, str]:
            raise ValueError(f"model.merges[{index}] must be two tokens, got {merge!r}")
        for token in (*pair, "".join(pair)):
            if token not in vocab:
                raise ValueError(f"model.merges[{index}] needs the token {token!r}, which model.vocab lacks")
        merges.append((pair[0], pair[1]))
    return vocab, merges


def _check_model(spec: Spec) -> None:
    model = _field(spec, "model", dict)
    kind = _field(model, "type", str, "BPE", where="model")
    if kind != "BPE":
        raise ValueError(f"model.type is {kind!r}; expected 'BPE', at byte level")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if value := model.get(name):
            raise ValueError(f"model.{name} is {value!r}, which is not supported; expected none")
    for name in ("truncation", "padding"):
        if spec.get(name) is not None:
            raise ValueError(f"{name} is set, which is not supported; expected null")
    unknown = model.get("unk_token")
    if unknown is not None and not set(byte_alphabet()) <= set(_field(spec, "model.vocab", dict)):
        raise ValueError(f"model.unk_token is {unknown!r}, but model.vocab lacks some of the 256 bytes")


def read_pipeline(spec: Spec, vocab: Mapping[str, int]) -> Pipeline:
    """Return the added tokens, the normalizer and the pre-tokenizer of a tokenizer.json."""
    character_level = is_character_level(spec)
    decoder = _field(spec, "decoder.type", str, None)
    expected = "Fuse" if character_level else "ByteLevel"
    if decoder != expected:
        raise ValueError(f"decoder is {decoder!r}; expected {expected!r}")
    stages = [] if character_level else _read_stages(spec.get("pre_tokenizer"))
    return Pipeline(stages, _read_added_tokens(spec, vocab), _read_form(spec.get("normalizer")))


def _read_stages(pre_tokenizer: Spec | None) -> list[Callable[[str], list[str]]]:
    parts = _flatten(pre_tokenizer, "pre_tokenizer", "pretokenizers")
    kinds = [_field(part, "type", str, where=where) for where, part in parts]
    if kinds[-1:] != ["ByteLevel"] or kinds.count("ByteLevel") > 1:
        raise ValueError(f"pre_tokenizer is {' + '.join(kinds) or 'null'}; expected ByteLevel, alone or at the end")
    stages: list[Callable[[str], list[str]]] = []
    for (where, part), kind in zip(parts, kinds, strict=True):
        if kind == "Split":
            stages.append(_read_split(part, where))
        elif kind == "Digits":
            single = _field(part, "individual_digits", bool, where=where)
            stages.append(Splitter(r"\p{N}" if single else r"\p{N}+"))
        elif kind == "ByteLevel":
            if _field(part, "add_prefix_space", bool, where=where):
                stages.append(add_prefix_space)
            if _field(part, "use_regex", bool, True, where=where):
                stages.append(Splitter(SPLIT_PATTERNS["gpt2"]))
        else:
            raise ValueError(f"{where}.type is {kind!r}; expected ByteLevel, Split, Digits or Sequence")
    return stages


def _read_split(part: Spec, where: str) -> Splitter:
    behavior = (_field(part, "behavior", str, where=where), _field(part, "invert", bool, where=where))
    if behavior not in (("Isolated", False), ("Isolated", True), ("Removed", True)):
        raise ValueError(f"{where}.behavior is {behavior[0]!r} with invert {behavior[1]}; expected 'Isolated'")
    if literal := _field(part, "pattern.String", str, None, where=where):
        regex = re.sub(r"\W", r"\\\g<0>", literal)
    else:
        regex = _field(part, "pattern.Regex", str, where=where)
    try:
        return Splitter(regex, gaps=behavior[0] == "Isolated")
    except ValueError as error:
        raise ValueError(f"{where}.pattern cannot be read: {error}") from None


def _read_form(normalizer: Spec | None) -> Form | None:
    parts = _flatten(normalizer, "normalizer", "normalizers")
    forms = [_field(part, "type", str, where=where) for where, part in parts]
    if len(forms) > 1 or not set(forms) <= set(get_args(Form)):
        raise ValueError(f"normalizer is {' + '.join(forms)}; expected null, NFC, NFD, NFKC or NFKD")
    return forms[0] if forms else None


def _read_added_tokens(spec: Spec, vocab: Mapping[str, int]) -> list[AddedToken]:
    """Return the added tokens. `tokenizers` numbers those that the vocabulary lacks anew; a file must agree."""
    numbers, tokens = dict(vocab), []
    taken = set(vocab.values())
    for index, entry in enumerate(_field(spec, "added_tokens", list, [])):
        where = f"added_tokens[{index}]"
        fields = {name: _field(entry, name, bool, where=where) for name in _FLAGS}
        token = AddedToken(
            _field(entry, "id", int, where=where), _field(entry, "content", str, where=where), **fields
        )
        expected = numbers.setdefault(token.content, len(numbers))
        if token.id != expected or (token.content not in vocab and token.id in taken):
            raise ValueError(
                f"{where}.id is {token.id} for {token.content!r}; `tokenizers` would give it {expected}, "
                f"the model's vocabulary having {len(vocab)} tokens"
            )
        tokens.append(token)
    return tokens


def _flatten(part: Spec | None, where: str, children: str) -> list[tuple[str, Spec]]:
    """Return the leaves of nested Sequences, each with its place in the file."""
    if part is None:
        return []
    if _field(part, "type", str, where=where) != "Sequence":
        return [(where, part)]
    inner = _field(part, children, list, where=where)
    return [leaf for i, child in enumerate(inner) for leaf in _flatten(child, f"{where}.{children}[{i}]", children)]


def _field(spec: Any, name: str, kind: type, default: Any = _REQUIRED, *, where: str = "") -> Any:
    """Return the field of a dotted name, or `default` if it is missing or null. Raises ValueError naming it."""
    value = spec
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None and default is not _REQUIRED:
        return default
    if not isinstance(value, kind):
        got = "nothing" if value is None else type(value).__name__
        place = f"{where}.{name}" if where else name
        raise ValueError(f"{place} must be a {kind.__name__}, got {got}")
    return value
