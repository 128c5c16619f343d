"""The compiled twin of the tokenizer against its definitions, and when it is used at all."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinymoe as tm
import tinymoe.text
from tinymoe.text import bpe, compiled, corpora, pipeline
from tinymoe.text import bpe_numba as kernels
from tinymoe.text.pipeline import SPLIT_PATTERNS, Splitter
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer

PIECES = [
    "the", " dog", "'ll", "'LL", "'T", "'ſ", "'", "' ", " '", "'re", "'v", "  ", " " * 9, "\n", "\n\n", " \n ", "\r\n",
    "\r", "\t", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "0", "12345", "½", "٣٤٥", "_", "!!", "…", "é", "e\u0301",
    "नमस्ते", "你好", "👍🏽", "👩‍👩‍👧", "𝒳", "𝟙𝟚", "\U000e0041", "\U0010ffff", "\x00", "<e>", "<e", "s", "re", "ſ",
]  # fmt: skip
texts_of_any_kind = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(PIECES), max_size=12
).map("".join)
pytestmark = pytest.mark.kernels


@pytest.fixture(autouse=True)
def on_numba():
    with tm.using("numba"):
        yield


@pytest.fixture
def always(monkeypatch):
    """Compiled code for texts of any size."""
    monkeypatch.setattr(compiled, "LARGE", 1)
    monkeypatch.setattr(compiled, "LARGE_LIST", 1)


@pytest.fixture(scope="module")
def texts():
    return [text for name in ("tales", "babel", "python-docs") for text in corpora.documents(name, limit_chars=5_000)]


def cut(text, digits):
    """The pieces of a text, by the compiled scanner."""
    content = text.encode()
    array, classes, at, pieces = np.frombuffer(content, np.uint8), compiled.character_classes(), 0, []
    while at < len(content):
        end = kernels._piece_end(array, at, len(content), classes, digits)
        pieces.append(content[at:end].decode())
        at = end
    return pieces


def in_python(kernel):
    """A kernel's function before it is compiled."""
    return getattr(kernel, "py_func", kernel)


def initial_vocab():
    return {symbol: index for index, symbol in enumerate(sorted(bpe.byte_alphabet()))}


# Splitting


@pytest.mark.parametrize(("pattern", "digits"), compiled._DIGITS.items(), ids=SPLIT_PATTERNS)
def test_pieces_are_those_of_the_splitter(pattern, digits):
    splitter = Splitter(pattern)

    @settings(max_examples=400)
    @given(texts_of_any_kind)
    def check(text):
        assert cut(text, digits) == splitter(text)

    check()


@pytest.mark.parametrize(("pattern", "digits"), compiled._DIGITS.items(), ids=SPLIT_PATTERNS)
def test_two_and_three_of_the_telling_characters_are_cut_alike(pattern, digits):
    splitter, telling = Splitter(pattern), "aE7½'sSlLtrev \n\r\t\u2003!_ſ\u0301漢👍"
    for text in (a + b + c for a in telling for b in telling for c in telling):
        assert cut(text, digits) == splitter(text), repr(text)


def test_the_class_of_every_code_point():
    classes = compiled.character_classes().tolist()
    kinds = {"L": kernels.LETTER, "N": kernels.NUMBER}
    spaces = set("\t\x0b\x0c \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | set(map(chr, range(0x2000, 0x200B)))
    for code, kind in enumerate(classes):
        expected = kinds.get(unicodedata.category(chr(code))[0], kernels.SIGN)
        if code in (0x0A, 0x0D):
            expected = kernels.NEWLINE
        elif chr(code) in spaces:
            expected = kernels.SPACE
        assert kind == expected, hex(code)


# Learning


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_words_are_counted_alike_and_come_in_the_same_order(texts, pattern, always, monkeypatch):
    splitter = Splitter(SPLIT_PATTERNS[pattern])
    expected = pipeline.count_words(texts, splitter)
    for block in (1 << 24, 4_000, 1):
        monkeypatch.setattr(compiled, "BLOCK", block)
        found = compiled.count_words(iter(texts), splitter)
        assert list(found.items()) == list(expected.items())


def test_more_words_than_the_table_has_room_for(always):
    words = {f" w{number}": 1 + number % 3 for number in range(6_000)}
    text = "".join(word * count for word, count in words.items())
    assert compiled.count_words(["", text, ""], Splitter(SPLIT_PATTERNS["gpt2"])) == pipeline.count_words(
        [text], Splitter(SPLIT_PATTERNS["gpt2"])
    )


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.dictionaries(st.text("aab é", min_size=1, max_size=20), st.integers(1, 9), max_size=12),
    special=st.lists(st.sampled_from(["aa", "ab", "aaa", "Ġ", "<é>", "é", "aab"]), unique=True, max_size=3),
    steps=st.integers(0, 60),
)
def test_merges_are_those_of_the_definition(words, special, steps, always):
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*special, *initial_vocab()]))}
    expected_vocab, size = dict(vocab), len(vocab) + steps
    expected = bpe.train_merges(words, expected_vocab, size)
    assert compiled.train_merges(words, vocab, size) == expected
    assert list(vocab.items()) == list(expected_vocab.items())


def test_merges_of_real_texts_and_of_long_words(texts, always):
    words = pipeline.count_words(texts, Splitter(SPLIT_PATTERNS["gpt2"])) | {"ab" * 300 + "a" * 301: 2, "é" * 200: 1}
    vocab, expected_vocab = initial_vocab(), initial_vocab()
    merges = compiled.train_merges(words, vocab, 1500)
    assert len(merges) > 1200
    assert merges == bpe.train_merges(words, expected_vocab, 1500)
    assert vocab == expected_vocab


def test_no_words_give_no_merges(always):
    assert compiled.train_merges({}, initial_vocab(), 300) == []
    assert compiled.train_merges({"a": 3}, initial_vocab(), 300) == []


@pytest.mark.parametrize("pattern", [*SPLIT_PATTERNS, r"\w+|\W"])
def test_a_tokenizer_trained_with_and_without_kernels_is_the_same(texts, pattern, always):
    special = ["<|end|>", "th", "Ġ"]
    large = Tokenizer.train(texts, 700, pattern, special)
    with tm.using("numpy"):
        assert Tokenizer.train(texts, 700, pattern, special).spec == large.spec


# Encoding


@pytest.fixture(scope="module", params=SPLIT_PATTERNS)
def spec(request, texts):
    return Tokenizer.train(texts, 900, request.param, ["<e>", "<e><e>"]).spec


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_ids_are_those_of_the_definition(spec, ignore_merges, always):
    spec = json.loads(json.dumps(spec))
    spec["model"] |= {"ignore_merges": ignore_merges, "merges": spec["model"]["merges"][:: 1 + ignore_merges]}
    tok = Tokenizer(spec)

    @settings(max_examples=150)
    @given(st.lists(texts_of_any_kind, max_size=8), st.booleans())
    def check(batch, special):
        assert tok.encode_batch(batch, special) == [tok._encode_text(text, special) for text in batch]

    check()
    assert "_large_texts" in vars(tok)


def test_ids_of_real_texts_on_several_threads(spec, texts, always, monkeypatch):
    monkeypatch.setattr(kernels, "THREADS", 3)
    batch = [*texts, "", "<e>", *texts[::-1], "the<e><e>dog"]
    tok = Tokenizer(spec)
    ids = tok.encode_batch(iter(batch))
    assert ids == [tok._encode_text(text, True) for text in batch]
    assert tok.encode("".join(batch)) == tok._encode_text("".join(batch), True)
    assert type(ids[0][0]) is int


def test_a_normalizer_comes_before_the_kernels(spec, always):
    tok = Tokenizer(spec | {"normalizer": {"type": "NFC"}})
    assert tok.encode("e\u0301<e>e\u0301") == tok._encode_text("é<e>é", True)


@pytest.mark.parametrize("part", ["a", " ", "\n", "ab", "!", "7", "é", "\u3000", "👍", " a"])
def test_a_long_run_of_one_thing(part):
    tok = Tokenizer.train([part * 64, "a" * 40, " " * 40], 290)
    text = part * (1 << 13)
    assert compiled.large_texts(tok)([text], True, kernels) == [tok._encode_text(text, True)]


@pytest.mark.parametrize("length", [500, 8000])
def test_merging_a_long_run_takes_work_in_proportion_to_its_length(length, monkeypatch):
    levels = 20
    keys, merges = kernels.rank_table(np.array([(level, level, level, level + 1) for level in range(levels)]))
    calls, look_up = 0, kernels._pair_slot

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return look_up(*arguments)

    monkeypatch.setattr(kernels, "_pair_slot", counted)
    tokens = np.zeros(length, np.int32)
    kept = in_python(kernels._merge)(tokens, length, keys, merges)
    assert sum(2**token for token in tokens[:kept].tolist()) == length
    assert length <= calls <= 12 * length


@pytest.mark.parametrize("digits", compiled._DIGITS.values(), ids=SPLIT_PATTERNS)
@pytest.mark.parametrize("part", ["a", " ", "\n", "\n ", "a ", "!", "7", "'x", "é", "\u3000"])
def test_scanning_looks_at_each_character_a_few_times(part, digits, monkeypatch):
    text, classes = np.frombuffer((part * 3000).encode(), np.uint8), compiled.character_classes()
    calls, class_at = 0, kernels._class_at

    def counted(*arguments):
        nonlocal calls
        calls += 1
        return class_at(*arguments)

    monkeypatch.setattr(kernels, "_class_at", counted)
    for name in ("_run_end", "_blank_end"):
        monkeypatch.setattr(kernels, name, in_python(getattr(kernels, name)))
    at = 0
    while at < len(text):
        at = in_python(kernels._piece_end)(text, at, len(text), classes, digits)
    assert 0 < calls <= 4 * 3000 * len(part)


# When they are used


def test_small_texts_load_no_compiler():
    code = (
        "import sys, tinymoe as tm\n"
        "tok = tm.Tokenizer.train(['the dog and the fox'] * 100, 300)\n"
        "assert tok.decode(tok.encode('the fox')) == 'the fox'\n"
        "assert 'numba' not in sys.modules and 'tinymoe.text.bpe_numba' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_texts_are_large_from_two_million_characters():
    half = "a" * (compiled.LARGE // 2)
    assert compiled.kernels_for([half, half], compiled.LARGE) is kernels
    assert compiled.kernels_for([half, half[1:]], compiled.LARGE) is None
    with tm.using("numpy"):
        assert compiled.kernels_for([half, half], compiled.LARGE) is None


def test_without_numba_the_definitions_do_it(always, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinymoe.text.bpe_numba", None)
    monkeypatch.delattr(tinymoe.text, "bpe_numba")
    tok = Tokenizer.train(["the dog and the fox"], 300)
    assert tok.decode(tok.encode("the fox")) == "the fox"
    assert "_large_texts" not in vars(tok)


@pytest.mark.parametrize("pattern", [r"\w+|\W", r"\p{N}"])
def test_other_patterns_have_no_twin(pattern, always):
    tok = Tokenizer.train(["the dog and the fox"] * 3, 270, pattern)
    assert compiled.large_texts(tok) is None
    assert tok.decode(tok.encode("the fox")) == "the fox"


def test_tokenizers_that_the_kernels_cannot_follow_have_no_twin(always):
    characters = CharTokenizer.train(["the dog"])
    assert characters.decode(characters.encode("the god")) == "the god"
    spec = Tokenizer.train(["the dog"], 270).spec
    assert compiled.large_texts(Tokenizer(spec)) is not None
    prefixed = json.loads(json.dumps(spec))
    prefixed["pre_tokenizer"]["add_prefix_space"] = True
    few = json.loads(json.dumps(spec))
    few["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": []}
    huge = json.loads(json.dumps(spec))
    huge["model"]["vocab"]["thedog"] = 1 << 30
    for other in (prefixed, few, huge):
        assert compiled.large_texts(Tokenizer(other)) is None
    assert Tokenizer(few).encode("abba") == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="no token for the byte 'c'"):
        Tokenizer(few).encode("abc")


def test_bad_texts_are_refused_as_ever(always):
    tok = Tokenizer.train(["the dog"], 270)
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D83D, at position 1"):
        tok.encode_batch(["fine", "a\ud83d"])
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        tok.encode_batch(["fine", b"abc"])
    with pytest.raises(TypeError, match="text must be a str, got int"):
        tok.encode_batch(["fine", 3])
    with pytest.raises(TypeError, match="texts must be an iterable of str"):
        Tokenizer.train("one text", 270)
    with pytest.raises(ValueError, match=r"U\+DC80, at position 3"):
        Tokenizer.train(["fine", "abc\udc80"], 270)
    assert Counter(tok.encode_batch([])) == Counter()
