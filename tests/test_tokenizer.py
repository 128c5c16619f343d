"""The tokenizers: splitting, learning, encoding, special tokens, files, and every error."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.text import bpe, pipeline, tokenizer_json, unicode_classes
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog doesn't mind; the fox does it 1234 times.\n" * 3,
    "def train(model, data):\n    for step in range(1000):\n        loss = model.loss(data)\n\n",
    "Köln ist schön. Привет, мир! 你好，世界。 مرحبا بالعالم שלום नमस्ते 👩‍👩‍👧 e\u0301\r\n",
]
PATTERNS = ["gpt2", "llama3", "qwen2"]
valid_text = st.text(st.characters(exclude_categories=["Cs"]))
tricky_text = st.lists(
    valid_text
    | st.sampled_from(["the", " dog", "'ll", "'T", "  ", "\n", "\r\n", "\x1c", "12345", "e\u0301", "👍🏽", "ש", "<e>"])
).map("".join)


@pytest.fixture(scope="module", params=PATTERNS)
def tok(request):
    return Tokenizer.train(TEXTS, 400, request.param, special_tokens=["<e>", "<e><e>", "(.*)"])


def spec_with(path, value):
    """Return the spec of a small tokenizer with one field changed; the name is dotted, numbers index lists."""
    spec = json.loads(json.dumps(Tokenizer.train(TEXTS, 300, "llama3", special_tokens=["<e>"]).spec))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = spec
    for key in parents:
        place = place[key]
    place[last] = value
    return spec


# Splitting


def test_the_byte_alphabet_is_gpt2s():
    alphabet = bpe.byte_alphabet()
    assert len(set(alphabet)) == 256
    assert all(symbol.isprintable() and not symbol.isspace() for symbol in alphabet)
    assert [alphabet[byte] for byte in b" \n\t\x00a~\x7f\xa1\xad\xff"] == list("ĠĊĉĀa~ġ¡Ńÿ")
    assert bpe.symbol_bytes("".join(alphabet)) == bytes(range(256))
    assert bpe.symbol_bytes("a b") == b"a b"


SPLITS = {
    "Hello, World's 1234567 things!!\n\n  We'LL see…": {
        "gpt2": "Hello|,| World|'s| 1234567| things|!!|\n\n | We|'|LL| see|…",
        "llama3": "Hello|,| World|'s| |123|456|7| things|!!\n\n| | We|'LL| see|…",
        "qwen2": "Hello|,| World|'s| |1|2|3|4|5|6|7| things|!!\n\n| | We|'LL| see|…",
    },
    "a\x1cb \xa0c\t\td   e \r\n\r\n": {
        "gpt2": "a|\x1c|b| |\xa0|c|\t|\t|d|  | e| \r\n\r\n",
        "llama3": "a|\x1cb| |\xa0c|\t|\td|  | e| \r\n\r\n",
        "qwen2": "a|\x1cb| |\xa0c|\t|\td|  | e| \r\n\r\n",
    },
    "don't DON'T naïve² x_y 漢字123 مرحبا ": {
        "gpt2": "don|'t| DON|'|T| naïve|²| x|_|y| 漢字|123| مرحبا| ",
        "llama3": "don|'t| DON|'T| naïve|²| x|_y| 漢字|123| مرحبا| ",
        "qwen2": "don|'t| DON|'T| naïve|²| x|_y| 漢字|1|2|3| مرحبا| ",
    },
    "a𝒳𝒴! 𝟙𝟚𝟛𝟜": {
        "gpt2": "a𝒳𝒴|!| 𝟙𝟚𝟛𝟜",
        "llama3": "a𝒳𝒴|!| |𝟙𝟚𝟛|𝟜",
        "qwen2": "a𝒳𝒴|!| |𝟙|𝟚|𝟛|𝟜",
    },
    "e\u0301 👍🏽! 𝒳𝒴": dict.fromkeys(PATTERNS, "e|\u0301| 👍🏽!| 𝒳𝒴"),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("text", SPLITS)
def test_the_three_patterns_split_as_published(text, name):
    splitter = pipeline.Splitter(pipeline.split_pattern(name))
    assert splitter(text) == SPLITS[text][name].split("|")
    # One character above U+FFFF anywhere makes the splitter use its other expression.
    assert splitter(text + "\n𝒳")[: len(splitter(text)) - 1] == splitter(text)[:-1]


@pytest.mark.parametrize(
    ("pattern", "text", "pieces"),
    [
        (r"\w+", "ab, c²Ⓐ", ["ab", ", ", "c²Ⓐ"]),
        (r"\p{^L}{2}", "ab12cd3", ["ab", "12", "cd3"]),
        (r"\P{^L}{2}", "ab12cd3", ["ab", "12", "cd", "3"]),
        (r"[\w-]+", "a-b²", ["a-b", "²"]),
        (r"\W+", "ab, c", ["ab", ", ", "c"]),
        (r"(?=[A-Z])", "abCdE", ["ab", "Cd", "E"]),
        (r"\bfoo\b", "a foo foot", ["a ", "foo", " foot"]),
        (r"o\B", "foo foo", ["f", "o", "o f", "o", "o"]),
        (r"^a|b$", "ab\nab", ["a", "b", "\n", "a", "b"]),
        (r"\Aa|b\z|c\Z", "aabbc\n", ["a", "abb", "c", "\n"]),
        (r"[[a-c]&&[^b]]+|[]x]", "abc]x", ["a", "b", "c", "]", "x"]),
        (r"[^[ab]c]+", "xycab", ["xy", "cab"]),
        (r"[x[^a-z]]+", "x1a", ["x1", "a"]),
        (r"(?<name>a)(b)?", "abca", ["ab", "c", "a"]),
        (r"\x41|\x{1F600}|\u00e9|\h", "A😀éfg", ["A", "😀", "é", "f", "g"]),
        (r"\p{^L}|\P{Ll}|\p{lu}", "aB1", ["a", "B", "1"]),
        (r"[\S&&\D]+", "ab1 c", ["ab", "1 ", "c"]),
        (r"(?#note)(?>a+)(?i:B)|\.", "aab.aB", ["aab", ".", "aB"]),
        (r"[a-]+|[\t-\r]", "a-\n", ["a-", "\n"]),
        (r"\p{So}", "a☃", ["a", "☃"]),
        (r"[\x{10000}-\x{10FFFF}]", "ab", ["ab"]),
        (r"[^\x{10000}-\x{10FFFF}]", "ab", ["a", "b"]),
        ("", "ab", ["a", "b"]),
    ],
)
def test_patterns_of_ones_own(pattern, text, pieces):
    assert pipeline.Splitter(pattern)(text) == pieces


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("gpt4", "unknown split pattern 'gpt4'.*gpt2, llama3, qwen2"),
        (r"\p{Han}", "Han"),
        (r"[[:alpha:]]", "POSIX"),
        (r"a{1,2}+", r"'}\+' at position 5"),
        (r"\X", r"\\\\X"),
        (r"(a)\1", r"\\\\1"),
        (r"(?m:a)", r"\(\?m:"),
        ("[a", "position 0"),
        ("[z-a]", "z-a"),
        (r"[\p{L}-x]", "range"),
        ("(a", "not a regular expression"),
        ("a\\", "backslash"),
    ],
)
def test_patterns_that_cannot_be_followed(pattern, says):
    with pytest.raises(ValueError, match=says):
        Tokenizer.train(["a"], 256, pattern)


def test_a_pattern_must_be_text():
    with pytest.raises(TypeError, match="pattern must be a str, got int"):
        Tokenizer.train(["a"], 256, 3)  # pyright: ignore[reportArgumentType]


def test_categories_cover_every_code_point_as_unicodedata_says():
    ranges = unicode_classes.category_ranges()
    assert sum(high - low + 1 for found in ranges.values() for low, high in found) == 0x110000
    for code in [*range(0x3000), *range(0x3000, 0x110000, 97)]:
        assert any(low <= code <= high for low, high in ranges[unicodedata.category(chr(code))])


def test_white_space_is_that_of_unicode():
    spaces = {code for low, high in unicode_classes.class_ranges("s") for code in range(low, high + 1)}
    assert spaces == {code for code in range(0x110000) if unicode_classes.is_space(chr(code))}
    assert len(spaces) == 25 and 0x1C not in spaces


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple)))
def test_sets_of_code_points(ranges):
    members = {code for low, high in ranges for code in range(low, high + 1)}
    joined = unicode_classes.union(ranges)
    assert {code for low, high in joined for code in range(low, high + 1)} == members
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(joined))
    rest = unicode_classes.complement(joined)
    assert {code for low, high in rest for code in range(low, min(high, 200) + 1)} == set(range(201)) - members
    assert unicode_classes.complement(rest) == joined


# Learning


def naive_merges(words, vocab_size):
    """Byte-pair encoding by its definition: recount everything after each merge."""
    vocab = {symbol: index for index, symbol in enumerate(sorted(bpe.byte_alphabet()))}
    symbols = {word: [bpe.byte_alphabet()[byte] for byte in word.encode()] for word in words}
    merges = []
    while len(vocab) < vocab_size:
        totals = Counter()
        for word, count in words.items():
            for pair in pairwise(symbols[word]):
                totals[pair] += count
        if not totals:
            break
        best = min(totals, key=lambda pair: (-totals[pair], vocab[pair[0]], vocab[pair[1]]))
        merges.append(best)
        vocab["".join(best)] = len(vocab)
        for word in words:
            symbols[word] = naive_replace(symbols[word], best, "".join(best))
    return merges


def naive_replace(symbols, pair, new):
    out, at = [], 0
    while at < len(symbols):
        found = tuple(symbols[at : at + 2]) == pair
        out.append(new if found else symbols[at])
        at += 2 if found else 1
    return out


@settings(max_examples=150)
@given(st.dictionaries(st.text("aab é", min_size=1, max_size=14), st.integers(1, 9), max_size=12), st.integers(0, 30))
def test_merges_are_those_of_the_definition(words, steps):
    vocab = {symbol: index for index, symbol in enumerate(sorted(bpe.byte_alphabet()))}
    merges = bpe.train_merges(words, vocab, 256 + steps)
    assert merges == naive_merges(words, 256 + steps)
    assert list(vocab)[256:] == ["".join(merge) for merge in merges]
    assert list(vocab.values()) == list(range(len(vocab)))


def test_merges_of_real_text_are_those_of_the_definition(tok):
    words = pipeline.count_words(TEXTS, tok.pipeline.stages[0])
    assert naive_merges(words, 397) == [tuple(merge) for merge in tok.spec["model"]["merges"]]


def test_ids_are_special_tokens_then_bytes_then_merges(tok):
    assert [tok.id_to_token(index) for index in range(5)] == ["<e>", "<e><e>", "(.*)", "!", '"']
    assert [tok.id_to_token(index) for index in range(3, 259)] == sorted(bpe.byte_alphabet())
    assert tok.id_to_token(259) == "".join(tok.spec["model"]["merges"][0])
    assert tok.vocab_size == len(tok) == 400
    assert all(tok.token_to_id(tok.id_to_token(index)) == index for index in range(400))
    assert tok.id_to_token(400) is None and tok.token_to_id("nothing of this kind") is None


def test_counting_pairs_and_replacing_one():
    totals, places = bpe.count_pairs([[1, 1, 1], [1, 2]], [2, 5])
    assert totals == {(1, 1): 4, (1, 2): 5}
    assert places == {(1, 1): {0}, (1, 2): {1}}
    merged, changes = bpe.merge_pair([7, 1, 2, 1, 2, 8], (1, 2), 3)
    assert merged == [7, 3, 3, 8]
    net = Counter()
    for pair, change in changes:
        net[pair] += change
    assert {pair: change for pair, change in net.items() if change} == {
        (7, 1): -1, (2, 1): -1, (2, 8): -1, (7, 3): 1, (3, 3): 1, (3, 8): 1,
    }  # fmt: skip


def test_training_stops_when_no_pair_is_left_and_takes_any_iterable():
    tok = Tokenizer.train(iter(["abab"]), 5000)
    assert tok.spec["model"]["merges"] == [["a", "b"], ["ab", "ab"]]
    assert tok.vocab_size == 258
    assert Tokenizer.train([], 300).vocab_size == 256
    assert Tokenizer.train(["", "abab"], 256).spec["model"]["merges"] == []


def test_a_special_token_that_reads_as_a_byte_or_a_merge_keeps_its_id():
    tok = Tokenizer.train(["abcabc"], 262, special_tokens=["ab", "c"])
    assert tok.token_to_id("ab") == 0 and tok.token_to_id("c") == 1
    assert len(tok.vocab) == tok.vocab_size
    assert tok.spec["model"]["merges"][0] == ["a", "b"]
    assert tok.decode(tok.encode("abcabc")) == "abcabc"
    assert tok.encode("abc") == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"vocab_size": 255}, ValueError, "vocab_size must be at least 256 .* got 255"),
        ({"vocab_size": 257, "special_tokens": ["<a>", "<b>"]}, ValueError, "at least 258 .* got 257"),
        ({"special_tokens": "<a>"}, TypeError, "special_tokens must be a list of str"),
        ({"special_tokens": [""]}, ValueError, "special_tokens must be different and not empty"),
        ({"special_tokens": ["a", "a"]}, ValueError, "special_tokens must be different and not empty"),
        ({"special_tokens": [3]}, TypeError, "must be a str, got int"),
        ({"texts": "one text"}, TypeError, "texts must be an iterable of str"),
        ({"texts": ["a", b"b"]}, TypeError, "text must be a str, got bytes"),
        ({"texts": ["abc\udc80"]}, ValueError, r"U\+DC80, at position 3"),
    ],
)
def test_bad_arguments_of_train(arguments, error, says):
    with pytest.raises(error, match=says):
        Tokenizer.train(**{"texts": ["a"], "vocab_size": 300} | arguments)


# Encoding and decoding


@given(text=valid_text | tricky_text)
def test_round_trip(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert b"".join(tok.tokens(ids)) == text.encode()
    assert all(0 <= index < tok.vocab_size for index in ids)
    plain = tok.encode(text, special=False)
    assert tok.decode(plain) == text
    assert not set(plain) & set(tok.special_tokens.values())


@settings(max_examples=300)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 99), max_size=20), st.booleans())
def test_merging_a_word_is_applying_every_merge_in_its_turn(word, choices, twice):
    ranks, expected = {}, word * 2 if twice else word
    for choice in choices:
        if len(expected) > 1:
            at = choice % (len(expected) - 1)
            pair, new = tuple(expected[at : at + 2]), 3 + len(ranks)
            ranks[pair] = (len(ranks), new)
            expected = naive_replace(expected, pair, new)
    assert bpe.merge_word(word * 2 if twice else word, ranks) == expected


def test_a_pair_that_has_changed_waits_for_the_rank_of_what_it_has_become():
    ranks = {(1, 2): (0, 10), (0, 1): (1, 11), (10, 3): (2, 12), (0, 10): (3, 13)}
    assert bpe.merge_word([0, 1, 2, 3], ranks) == [0, 12]
    assert bpe.merge_word([0, 1, 2], ranks) == [13]


class CountingDict(dict):
    """A dictionary that counts how often something is looked up in it."""

    lookups = 0

    def __getitem__(self, key):
        self.lookups += 1
        return super().__getitem__(key)

    def __contains__(self, key):
        self.lookups += 1
        return super().__contains__(key)

    def get(self, key, default=None):
        self.lookups += 1
        return super().get(key, default)


@pytest.mark.parametrize("length", [500, 8000])
def test_a_long_run_takes_work_in_proportion_to_its_length(length):
    ranks = CountingDict({(level, level): (level, level + 1) for level in range(20)})
    merged = bpe.merge_word([0] * length, ranks)
    assert sum(2**level for level in merged) == length
    assert ranks.lookups <= 12 * length


def test_a_long_run_is_encoded():
    tok = Tokenizer.train(["a" * 64 + " " * 64], 268)
    assert tok.decode(tok.encode("a" * 100_000 + " " * 100_001)) == "a" * 100_000 + " " * 100_001


def test_the_cache_is_bounded_and_changes_nothing(monkeypatch):
    texts = [f"word{number} and some more" for number in range(50)] + ["x" * 500]
    tok = Tokenizer.train(TEXTS, 350)
    expected = tok.encode_batch(texts)
    monkeypatch.setattr(Tokenizer, "_cached_words", 8)
    small = Tokenizer(tok.spec)
    assert small.encode_batch(texts) == small.encode_batch(texts) == expected
    assert 0 < len(small._cache) <= 8
    assert max(map(len, tok._cache)) <= tok._cached_length


def test_ids_given_out_are_ones_own():
    tok = Tokenizer.train(["aaaa"], 258)
    tok.encode("aa").append(7)
    assert tok.encode("aa") == [256]


def test_the_empty_text(tok):
    assert tok.encode("") == [] and tok.decode([]) == "" and tok.encode_batch(["", "a"])[0] == []


def test_invalid_utf8_decodes_with_replacement_characters():
    tok = Tokenizer.train([], 256)
    ids = [tok.token_to_id(bpe.byte_alphabet()[byte]) for byte in b"\xe2\x82a\xff\xf0\x9f\x91\x8d\x80"]
    assert tok.decode(ids) == "\ufffda\ufffd👍\ufffd"
    assert tok.tokens(ids)[:3] == [b"\xe2", b"\x82", b"a"]


def test_ids_may_be_numpy_integers(tok):
    ids = np.array(tok.encode("The dog"))
    assert tok.decode(ids) == "The dog"
    assert tok.tokens(ids) == tok.tokens(ids.tolist())


@pytest.mark.parametrize("bad", [-1, 400, 10**9])
def test_an_id_that_does_not_exist(tok, bad):
    with pytest.raises(ValueError, match=f"token id {bad} is not in the vocabulary, 0 to 399"):
        tok.decode([5, bad])


def test_bad_arguments_of_encode_and_decode(tok):
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D83D, at position 7"):
        tok.encode("smile: \ud83d!")
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        tok.encode(b"abc")
    with pytest.raises(TypeError, match="use encode"):
        tok.encode_batch("abc")
    for ids in ([[1, 2], [3, 4]], np.zeros((2, 2), int), 3):
        with pytest.raises(TypeError, match="flat sequence of integers"):
            tok.decode(ids)


# Special and other added tokens


def test_special_tokens_are_found_the_longest_first(tok):
    assert tok.special_tokens == {"<e>": 0, "<e><e>": 1, "(.*)": 2}
    assert tok.encode("<e><e><e>(.*)") == [1, 0, 2]
    ids = tok.encode("The<e> dog")
    assert ids == [*tok.encode("The"), 0, *tok.encode(" dog")]
    assert tok.decode(ids) == "The<e> dog"
    assert tok.decode(ids, skip_special_tokens=True) == "The dog"
    assert 0 not in tok.encode("The<e> dog", special=False)


def with_added(**flags):
    """Return a tokenizer with one more added token, "@@", that has these flags."""
    spec = json.loads(json.dumps(Tokenizer.train(TEXTS, 300, special_tokens=["<e>"]).spec))
    token = pipeline.AddedToken(300, "@@", **{"special": False} | flags)
    spec["added_tokens"].append(vars(token))
    return Tokenizer(spec)


@pytest.mark.parametrize(
    ("flags", "text", "found"),
    [
        ({}, "a @@ b@@", "a [] b[]"),
        ({"lstrip": True}, "a \n\u3000@@ b", "a[] b"),
        ({"rstrip": True}, "a @@ \n\u3000b", "a []b"),
        ({"lstrip": True, "rstrip": True}, " @@ @@ ", "[][]"),
        ({"lstrip": True}, "a\x1c@@", "a\x1c[]"),
        ({"single_word": True}, "@@ a@@ @@b (@@)", "[] a@@ @@b ([])"),
        ({"single_word": True}, "_@@-@@\u200d1@@²@@", "_@@-@@\u200d1@@²[]"),
        ({"normalized": True}, "a@@", "a[]"),
    ],
)
def test_added_tokens_strip_and_stand_alone_as_their_flags_say(flags, text, found):
    tok = with_added(**flags)
    pieces = [b"[]" if index == 300 else tok.tokens([index])[0] for index in tok.encode(text)]
    assert b"".join(pieces).decode() == found
    assert tok.encode("@@", special=False) == [300]
    assert "@@" not in tok.special_tokens and tok.vocab_size == 301


def test_a_normalizer_rewrites_the_text_but_not_what_is_found_before_it():
    spec = spec_with("normalizer", {"type": "NFC"})
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    spec["added_tokens"] += [
        {"id": 300, "content": "e\u0301!", "normalized": False, **flags},
        {"id": 301, "content": "o\u0308!", "normalized": True, **flags},
    ]
    tok = Tokenizer(spec)
    assert tok.decode(tok.encode("e\u0301")) == "é"
    assert tok.encode("e\u0301!") == [300] and 300 not in tok.encode("é!")
    assert tok.encode("o\u0308!") == tok.encode("ö!") == [301]
    assert tok.decode([300, 301]) == "e\u0301!ö!"
    spec["normalizer"] = {"type": "Sequence", "normalizers": []}
    assert Tokenizer(spec).decode(tok.encode("é")) == "é"


# Files


def test_saved_and_loaded(tok, tmp_path):
    path = tok.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tokenizer.json"
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    for source in (path, path.parent, str(path)):
        loaded = Tokenizer.load(source)
        assert type(loaded) is Tokenizer
        assert loaded.spec == tok.spec
        assert loaded.encode(TEXTS[2] + "<e>") == tok.encode(TEXTS[2] + "<e>")
    assert repr(loaded) == "Tokenizer(vocab_size=400, special_tokens=['<e>', '<e><e>', '(.*)'])"


def test_a_failed_save_leaves_the_old_file(tok, tmp_path, monkeypatch):
    path = tok.save(tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Tokenizer.train(["a"], 256).save(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        Tokenizer.load(tmp_path / "nothing.json")


def test_a_file_cut_off_anywhere_or_not_json(tok, tmp_path):
    path = tok.save(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"tokenizer\.json is not valid JSON"):
            Tokenizer.load(path)
    for content, says in ((b"\xff\xfe\x00", "not valid JSON"), (b"[1, 2]", "must hold a JSON object, got list")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says):
            Tokenizer.load(path)


SPLIT = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", None, "model must be a dict, got nothing"),
        ("model.type", "Unigram", "model.type is 'Unigram'"),
        ("model.vocab", None, "model.vocab must be a dict, got nothing"),
        ("model.vocab", {"a": "1"}, "model.vocab must map each token to an id"),
        ("model.vocab", {"a": -1}, "model.vocab must map each token to an id"),
        ("model.vocab", {"a": 1, "b": 1}, "model.vocab gives one id to two tokens"),
        ("model.merges", {}, "model.merges must be a list, got dict"),
        ("model.merges", [["a", "b", "c"]], r"model.merges\[0\] must be two tokens"),
        ("model.merges", ["ab"], r"model.merges\[0\] must be two tokens"),
        ("model.merges", ["a b", 3], r"model.merges\[0\] needs the token 'ab'"),
        ("model.merges", [["a", "漢"]], r"model.merges\[0\] needs the token '漢'"),
        ("model.dropout", 0.1, "model.dropout is 0.1"),
        ("model.byte_fallback", True, "model.byte_fallback"),
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix is '</w>'"),
        ("model.continuing_subword_prefix", "##", "model.continuing_subword_prefix"),
        ("truncation", {"max_length": 5}, "truncation is set"),
        ("padding", {}, "padding is set"),
        ("normalizer", {"type": "Lowercase"}, "normalizer is Lowercase"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFC"}]}, r"NFD \+ NFC"),
        ("normalizer", "NFC", "normalizer.type must be a str"),
        ("pre_tokenizer", None, "pre_tokenizer is null"),
        ("pre_tokenizer", {"type": "Metaspace"}, "pre_tokenizer is Metaspace"),
        ("pre_tokenizer", SPLIT, "pre_tokenizer is Split"),
        ("pre_tokenizer.pretokenizers", [BYTE_LEVEL, SPLIT], r"ByteLevel \+ Split"),
        ("pre_tokenizer.pretokenizers", [BYTE_LEVEL, BYTE_LEVEL], r"ByteLevel \+ ByteLevel"),
        ("pre_tokenizer.pretokenizers.0", {"type": "Punctuation"}, r"pretokenizers\[0\].type is 'Punctuation'"),
        ("pre_tokenizer.pretokenizers.0.behavior", "MergedWithNext", r"behavior is 'MergedWithNext'"),
        ("pre_tokenizer.pretokenizers.0.invert", None, r"pretokenizers\[0\].invert must be a bool"),
        ("pre_tokenizer.pretokenizers.0.pattern", {}, r"pretokenizers\[0\].pattern.Regex must be a str"),
        ("pre_tokenizer.pretokenizers.0.pattern.Regex", r"\p{Han}", r"pretokenizers\[0\].pattern cannot be read.*Han"),
        ("pre_tokenizer.pretokenizers.1.add_prefix_space", 1, r"pretokenizers\[1\].add_prefix_space must be a bool"),
        ("decoder", None, "decoder is None; expected 'ByteLevel'"),
        ("decoder", {"type": "WordPiece"}, "decoder is 'WordPiece'"),
        ("added_tokens", {}, "added_tokens must be a list"),
        ("added_tokens.0.special", "yes", r"added_tokens\[0\].special must be a bool"),
        ("added_tokens.0.content", None, r"added_tokens\[0\].content must be a str"),
        ("added_tokens.0.id", 7, r"added_tokens\[0\].id is 7 for '<e>'; `tokenizers` would give it 0"),
        ("added_tokens.0.content", "<new>", r"added_tokens\[0\].id is 0 for '<new>'; .* 300"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_field(field, value, says, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec_with(field, value)), encoding="utf-8")
    with pytest.raises(ValueError, match=f"cannot read the tokenizer at .*: .*({says})"):
        Tokenizer.load(tmp_path)


def test_an_added_token_may_not_take_the_id_of_another():
    spec = spec_with("added_tokens.0.content", "<new>")
    spec["model"] |= {"vocab": {"a": 0, "b": 2}, "merges": []}
    spec["added_tokens"][0]["id"] = 2
    with pytest.raises(ValueError, match=r"added_tokens\[0\].id is 2 for '<new>'"):
        Tokenizer(spec)
    spec["model"]["vocab"]["b"] = 1
    assert Tokenizer(spec).encode("ab<new>") == [0, 1, 2]


def test_a_vocabulary_without_some_bytes_says_so_when_it_meets_one():
    spec = spec_with("model.merges", [])
    spec["model"]["vocab"] = {"<e>": 0, "a": 1}
    tok = Tokenizer(spec)
    assert tok.encode("aa") == [1, 1]
    with pytest.raises(ValueError, match="no token for the byte 'b' in 'ab'"):
        tok.encode("ab")
    spec["model"]["unk_token"] = "<e>"
    with pytest.raises(ValueError, match=r"model\.unk_token is '<e>', but model\.vocab lacks some of the 256 bytes"):
        Tokenizer(spec)


def test_merges_may_be_written_as_text():
    spec = spec_with("truncation", None)
    old = spec_with("model.merges", ["#version: 0.2", *(f"{a} {b}" for a, b in spec["model"]["merges"])])
    assert Tokenizer(old).ranks == Tokenizer(spec).ranks


def test_ignore_merges_takes_a_known_word_whole():
    spec = spec_with("model.merges", [])
    assert "Ġthe" in spec["model"]["vocab"]
    assert len(Tokenizer(spec).encode(" the")) == 4
    spec["model"]["ignore_merges"] = True
    tok = Tokenizer(spec)
    assert tok.encode(" the") == [tok.token_to_id("Ġthe")]
    assert len(tok.encode(" thx")) == 4


@pytest.mark.parametrize(
    ("parts", "text", "words"),
    [
        ([BYTE_LEVEL | {"add_prefix_space": True}], "a b", [" a", " b"]),
        ([BYTE_LEVEL | {"add_prefix_space": True}], " a", [" a"]),
        ([BYTE_LEVEL | {"use_regex": False}], "a b", ["a b"]),
        ([{"type": "ByteLevel", "add_prefix_space": False}], "a b", ["a", " b"]),
        ([{"type": "Digits", "individual_digits": True}, BYTE_LEVEL], "a 12b", ["a", " ", "1", "2", "b"]),
        ([{"type": "Digits", "individual_digits": False}, BYTE_LEVEL], "a 12b", ["a", " ", "12", "b"]),
        ([SPLIT, BYTE_LEVEL | {"add_prefix_space": True}], "a b", [" a", " ", " b"]),
        ([SPLIT | {"invert": True}, BYTE_LEVEL | {"use_regex": False}], "a  b", ["a", "  ", "b"]),
        ([SPLIT | {"behavior": "Removed", "invert": True}, BYTE_LEVEL], "a  b", [" ", " "]),
        ([SPLIT | {"pattern": {"String": "a."}}, BYTE_LEVEL | {"use_regex": False}], "xabca.", ["xabc", "a."]),
        ([{"type": "Sequence", "pretokenizers": [SPLIT]}, BYTE_LEVEL], "a  b", ["a", "  ", "b"]),
    ],
)
def test_pre_tokenizers_of_files(parts, text, words):
    tok = Tokenizer(spec_with("pre_tokenizer.pretokenizers", parts))
    if parts[0].get("behavior") == "Removed":
        words = ["  "]
    assert list(tok.pipeline(text)) == [words]


# Characters


def test_characters_are_numbered_in_their_order(tmp_path):
    tok = CharTokenizer.train(["hello\n", "wörld 👍"])
    assert "".join(tok.vocab) == "\n dehlorwö👍"
    assert tok.encode("hello") == [4, 3, 5, 5, 6]
    assert tok.decode(tok.encode("wörld 👍\n")) == "wörld 👍\n"
    assert tok.tokens([9, 10]) == ["ö".encode(), "👍".encode()]
    assert tok.vocab_size == len(tok) == 11
    loaded = Tokenizer.load(tok.save(tmp_path))
    assert type(loaded) is CharTokenizer and loaded.spec == tok.spec
    assert loaded.encode("hello") == [4, 3, 5, 5, 6]
    assert tok.encode("") == []


def test_characters_with_special_tokens():
    tok = CharTokenizer.train(["abc"], special_tokens=["<e>", "b"])
    assert tok.vocab == {"<e>": 0, "b": 1, "a": 2, "c": 3}
    assert tok.encode("ab<e>c") == [2, 1, 0, 3]
    assert tok.decode([2, 0, 3], skip_special_tokens=True) == "ac"
    with pytest.raises(ValueError, match="the character '<' is not among the 4 of the vocabulary"):
        tok.encode("<e>", special=False)


def test_errors_of_characters():
    tok = CharTokenizer.train(["abc"])
    with pytest.raises(ValueError, match="the character 'x' is not among the 3"):
        tok.encode("abx")
    with pytest.raises(ValueError, match="token id 3 is not in the vocabulary, 0 to 2"):
        tok.decode([3])
    with pytest.raises(ValueError, match="position 1"):
        CharTokenizer.train(["a\ud800"])
    with pytest.raises(TypeError, match="texts must be an iterable"):
        CharTokenizer.train("abc")


def test_a_character_file_must_join_its_tokens():
    spec = tokenizer_json.character_spec({"a": 0}, [])
    assert tokenizer_json.is_character_level(spec)
    with pytest.raises(ValueError, match="decoder is None; expected 'Fuse'"):
        CharTokenizer(spec | {"decoder": None})
