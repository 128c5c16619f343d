"""The tokenizers against Hugging Face `tokenizers`: splits, merges, ids, decoded text, and files both ways.

`tokenizers` 0.23 knows Unicode 16, Python 3.11 to 3.13 know less: characters not assigned here are left out.
"""

from __future__ import annotations

import json
import random
import sys
import unicodedata

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tinymoe.text.pipeline import SPLIT_PATTERNS, Splitter
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer
from tinymoe.text.unicode_classes import is_space, is_word

SPECIAL = ["<|begin|>", "<|end|>", "<|end|><|end|>"]
BUILT_IN = ["python-docs", "python-code", "tales", "arithmetic", "babel"]
PIECES = [
    "the", " and", "don't", "'LL", "'ſ", "I'm", "'Ve ", "def f(x):\n", "\treturn", "    ",
    " " * 17, "\n", "\n\n\n", "\r\n", "\r", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2003",
    "\u2028", "\u3000", "\u200d", "\ufeff", "\x00", "0", "42", "12345678", "½", "²", "Ⅷ", "٣٤٥",
    "१२", "_", "__init__", "!!", "...", "…", "«»", "$9.99", "a=b", "</s>", "é", "e\u0301",
    "n\u0303\u0327", "שָׁלוֹם", "مرحبا", "בְּרֵאשִׁית ", "नमस्ते", "สวัสดี", "你好，", "世界", "こんにちは",
    "カ\u3099", "안녕", "\u1112\u1161\u11ab", "Привет", "Γειά", "İı", "ß", "ﬁ", "👍", "👍🏽", "👩‍👩‍👧",
    "🇩🇪", "❤️", "𝒳", "𐍈", "\U000e0041", "\ue000", "<|end|>", "<|end", "|>",
]  # fmt: skip
characters = st.characters(exclude_categories=["Cs", "Cn"])
strings = st.lists(st.sampled_from(PIECES) | st.text(characters, max_size=4), max_size=9).map("".join)


def documents_of(corpus, **limits):
    from tinymoe.text import corpora

    return corpora.documents(corpus, **limits)


def hf_pre_tokenizer(pattern):
    if pattern == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERNS.get(pattern, pattern)), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def hf_train(texts, vocab_size, pattern="gpt2", special_tokens=(), normalizer=None):
    """Train with `tokenizers` alone: nothing of tinymoe's goes in but the texts and the pattern."""
    tok = tokenizers.Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = hf_pre_tokenizer(pattern)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    return tok


def hf_ids(tok, texts, special=True):
    tok.encode_special_tokens = not special
    ids = [encoding.ids for encoding in tok.encode_batch(texts, add_special_tokens=False)]
    tok.encode_special_tokens = False
    return ids


def read_back(tok, tmp_path):
    """Save a tokenizer of `tokenizers`, and load the file with ours."""
    tok.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer.load(tmp_path)


def assert_same(ours, theirs, texts):
    """Check ids with and without special tokens, and the decoded texts."""
    for special in (True, False):
        expected = hf_ids(theirs, texts, special)
        for text, ids in zip(texts, expected, strict=True):
            assert ours.encode(text, special) == ids, text
    for ids in expected:
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.fixture(scope="module")
def texts():
    """About a megabyte: prose, code and many languages."""
    return [text for name in BUILT_IN for text in documents_of(name, limit_chars=200_000)]


@pytest.fixture(scope="module")
def trained(texts):
    """For each pattern our tokenizer and theirs, trained apart on the same texts."""
    return {
        name: (Tokenizer.train(texts, 3000, name, SPECIAL), hf_train(texts, 3000, name, SPECIAL))
        for name in SPLIT_PATTERNS
    }


# Learning


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@pytest.mark.parametrize("corpus", ["tales", "babel"])
def test_training_gives_the_same_file(corpus, pattern):
    documents = documents_of(corpus)
    ours = Tokenizer.train(documents, 2000, pattern, special_tokens=["<|end|>"])
    theirs = hf_train(documents, 2000, pattern, ["<|end|>"])
    assert len(ours.spec["model"]["merges"]) > 1700
    assert ours.spec == json.loads(theirs.to_str())


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_training_on_mixed_texts_gives_the_same_file(trained, pattern):
    ours, theirs = trained[pattern]
    assert ours.spec == json.loads(theirs.to_str())


def test_training_breaks_ties_the_same_way():
    rng = random.Random(0)
    for _ in range(150):
        letters = rng.choice(["a", "ab", "aab", "abcd ", "aé", "日本a"])
        documents = ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(rng.randint(1, 20))]
        special = rng.choice([[], ["<e>"], ["ab", "a"], ["Ġ", "aa"]])
        size = 256 + len(special) + rng.randint(0, 80)
        ours = Tokenizer.train(documents, size, special_tokens=special)
        assert ours.spec == json.loads(hf_train(documents, size, "gpt2", special).to_str()), documents


def test_training_with_a_pattern_of_ones_own():
    documents = documents_of("babel", limit_chars=100_000)
    for pattern in (r"\w+|[^\w\s]+", r"(?=[A-Z])", r"[aeiou]+", r"\s+"):
        ours = Tokenizer.train(documents, 500, pattern)
        assert ours.spec == json.loads(hf_train(documents, 500, pattern).to_str())


# Encoding and decoding


def test_ids_of_ten_thousand_strings_under_each_pattern(trained):
    seen = 0

    @settings(max_examples=420, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(strings, min_size=25, max_size=25))
    def check(batch):
        nonlocal seen
        seen += len(batch)
        for ours, theirs in trained.values():
            assert ours.encode_batch(batch) == hf_ids(theirs, batch)
            assert ours.encode_batch(batch, special=False) == hf_ids(theirs, batch, special=False)
            for text in batch:
                assert ours.decode(ours.encode(text)) == text

    check()
    assert seen >= 10_000


@pytest.mark.parametrize("corpus", BUILT_IN)
def test_ids_of_the_built_in_corpora(trained, corpus):
    documents = documents_of(corpus, limit_chars=1_500_000)
    for ours, theirs in trained.values():
        assert ours.encode_batch(documents) == hf_ids(theirs, documents)


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS.values(), ids=SPLIT_PATTERNS)
def test_every_character_of_unicode_is_split_alike(pattern):
    assigned = assigned_characters()
    shuffled = random.Random(0).sample(assigned, len(assigned))
    splitter = Splitter(pattern)
    theirs = pre_tokenizers.Split(Regex(pattern), "isolated")
    for text in ("".join(assigned), " ".join(shuffled), "'".join(shuffled)):
        assert splitter(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)]


def test_long_runs(trained):
    texts = [part * count for part in (" ", "\n", "a", "ab ", "!", "7", "\u3000", "👍") for count in (1000, 30_001)]
    for ours, theirs in trained.values():
        assert ours.encode_batch(texts) == hf_ids(theirs, texts)


def test_decoding_any_ids(trained):
    rng = random.Random(0)
    for ours, theirs in trained.values():
        high = [ours.token_to_id(symbol) for symbol in "âĺŃĢÿðŁĳį¯Ġa"]
        for _ in range(2000):
            ids = rng.choices(high if rng.random() < 0.5 else range(len(ours)), k=rng.randint(0, 12))
            for skip in (True, False):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_written_forms_and_sizes(trained):
    for ours, theirs in trained.values():
        assert ours.vocab_size == theirs.get_vocab_size(with_added_tokens=True)
        for index in range(ours.vocab_size):
            assert ours.id_to_token(index) == theirs.id_to_token(index)
        assert ours.token_to_id("Ġthe") == theirs.token_to_id("Ġthe") is not None


def test_a_lone_surrogate_is_refused_by_both(trained):
    for ours, theirs in trained.values():
        with pytest.raises(ValueError, match="lone surrogate"):
            ours.encode("a\ud800")
        with pytest.raises((UnicodeEncodeError, TypeError, ValueError)):
            theirs.encode("a\ud800")


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+", r"\W", r"[\w-]+", r"[^\W\d]", r"\S+", r"\d{2}", r"\D", r"\h+", r"\p{Lu}\p{Ll}*",
        r"\P{L}", r"\p{^M}+", r"\b", r"o\B", r"[\p{L}&&[^a-z]]", r"[[^a-z]x]+",
        r"[^[a-y]&&\p{Ll}]", r"[\x41-\x{5A}\u00e9]+", "^.", ".$", r"\A.|.\z|.\Z", "x*", "a|",
        "(a)(n)?", "(?<n>d)o", "(?>n+)g?", r"(?i:THE|[a-c]+)", "[]a]", "[a-]", r"a??n",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+", "(?<!o)n", "",
    ],
)  # fmt: skip
def test_patterns_in_the_dialect_of_oniguruma(pattern):
    splitter = Splitter(pattern)
    theirs = pre_tokenizers.Split(Regex(pattern), "isolated")
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 6)))
        assert splitter(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], text


# Files of `tokenizers`, in the shapes of published models


def test_our_file_in_transformers(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    ours, _ = trained["llama3"]
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(ours.save(tmp_path)))
    text = "Hello <|end|> 12345 naïve 👍🏽\n\n  don't"
    assert loaded(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert loaded.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_files_go_both_ways(trained, pattern, tmp_path):
    ours, theirs = trained[pattern]
    assert_same(ours, tokenizers.Tokenizer.from_file(str(ours.save(tmp_path / "a"))), PIECES)
    (tmp_path / "b").mkdir()
    loaded = read_back(theirs, tmp_path / "b")
    assert_same(loaded, theirs, PIECES)
    assert_same(loaded, tokenizers.Tokenizer.from_file(str(loaded.save(tmp_path / "c"))), PIECES)


def assigned_characters():
    everything = map(chr, range(sys.maxunicode + 1))
    return [character for character in everything if unicodedata.category(character) not in ("Cs", "Cn")]


def samples(seed=0, count=400, pieces=PIECES):
    rng = random.Random(seed)
    return ["".join(rng.choices(pieces, k=rng.randint(0, 9))) for _ in range(count)]


def test_a_file_shaped_like_llama_3s(texts, tmp_path):
    tok = hf_train(texts, 1500, "llama3")
    spec = json.loads(tok.to_str())
    spec["model"]["ignore_merges"] = True
    # Half of the merges, in the old way of writing: so many words are reached only by ignoring merges.
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"][::2]]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(spec))
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(248)]
    theirs.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", *reserved, "<|eot_id|>"])
    begin = ("<|begin_of_text|>", theirs.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[begin]
    )
    theirs.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    ours = read_back(theirs, tmp_path)
    assert ours.vocab_size == theirs.get_vocab_size() == 1500 + 251
    assert theirs.encode("a").ids == [begin[1], *ours.encode("a")]
    assert_same(ours, theirs, samples(pieces=[*PIECES, *reserved[:3], "<|eot_id|>", " the", "ing"]))
    again = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path / "again")))
    assert again.encode("a <|eot_id|>").ids == theirs.encode("a <|eot_id|>").ids


def test_a_file_shaped_like_qwen_2s(texts, tmp_path):
    theirs = hf_train(texts, 1500, "qwen2", normalizer=normalizers.NFC())
    theirs.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    theirs.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    theirs.post_processor = processors.ByteLevel(trim_offsets=False)
    ours = read_back(theirs, tmp_path)
    assert list(ours.special_tokens) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert ours.token_to_id("<think>") == 1505
    decomposed = ["e\u0301", "A\u030a", "\u1112\u1161\u11ab", "ก\u0e33", "s\u0323\u0307", "\u2126", "שׁ", "क\u093c"]
    pieces = [*PIECES, *decomposed, "<|im_start|>", "<think>", "</tool_call>"]
    assert ours.decode(ours.encode("e\u0301")) == "é"
    assert_same(ours, theirs, samples(pieces=pieces))


def hf_with(texts, *parts):
    theirs = hf_train(texts, 1000)
    theirs.pre_tokenizer = pre_tokenizers.Sequence(list(parts))
    return theirs


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


BYTES_ONLY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
DEEPSEEK_SIGNS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [split(r"\p{N}{1,3}"), split(r"[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK_SIGNS)]
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([pre_tokenizers.ByteLevel(add_prefix_space=True)], id="RoBERTa"),
        pytest.param([split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), BYTES_ONLY], id="BLOOM"),
        pytest.param([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)], id="StarCoder"),
        pytest.param([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=True)], id="digits"),
        pytest.param([*DEEPSEEK, BYTES_ONLY], id="DeepSeek V3"),
        pytest.param([split(O200K), BYTES_ONLY], id="GPT-OSS"),
        pytest.param([split(SPLIT_PATTERNS["llama3"], "removed", True), BYTES_ONLY], id="converted cl100k"),
        pytest.param([split(r"\w+", "removed", True), BYTES_ONLY], id="words only"),
        pytest.param([pre_tokenizers.Split(". a", "isolated"), BYTES_ONLY], id="literal"),
        pytest.param([split(r"\s"), pre_tokenizers.ByteLevel(add_prefix_space=True)], id="a space before each piece"),
    ],
)  # fmt: skip
def test_files_of_other_shapes(texts, parts, tmp_path):
    theirs = hf_with(texts, *parts)
    theirs.add_special_tokens([AddedToken("<mask>", lstrip=True), "<s>"])
    ours = read_back(theirs, tmp_path)
    pieces = [*PIECES, "<mask>", " <mask>", "<s>", ". a", "e. a.", "日本語と漢字"]
    assert_same(ours, theirs, ["", " ", "<s>", "<mask> x", *samples(pieces=pieces)])


def test_added_tokens_with_any_flags(texts, tmp_path):
    rng = random.Random(0)
    trained = hf_train(texts, 400)
    contents = ["@@", "@@@", "tok", "a b", "é\u0301", "<x>", " the", "##", "e\u0301!", "Å", "日本"]
    pieces = [*PIECES, *contents, *contents, " ", "  ", "\n", "\x1c", "\u3000", "a", "_", "²", "\u200d", "Ⓐ", "A\u030a"]
    for round_ in range(40):
        theirs = tokenizers.Tokenizer.from_str(trained.to_str())
        if round_ % 2:
            theirs.normalizer = rng.choice([normalizers.NFC(), normalizers.Sequence([normalizers.NFD()])])
        for content in rng.sample(contents, 6):
            flags = {name: rng.random() < 0.4 for name in ("single_word", "lstrip", "rstrip", "normalized")}
            token = AddedToken(content, **flags)
            theirs.add_special_tokens([token]) if rng.random() < 0.5 else theirs.add_tokens([token])
        ours = read_back(theirs, tmp_path)
        batch = samples(round_, 120, pieces)
        for special in (True, False):
            assert ours.encode_batch(batch, special) == hf_ids(theirs, batch, special)


def test_white_space_and_words_around_added_tokens():
    assigned = [c for c in assigned_characters() if unicodedata.category(c) not in ("Lo", "Co") or ord(c) % 64 == 0]
    theirs = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    theirs.add_special_tokens([AddedToken("##", rstrip=True), AddedToken("@@", single_word=True)])
    spaces = theirs.encode_batch(["##" + character for character in assigned])
    assert [is_space(character) for character in assigned] == [e.offsets[0][1] == 3 for e in spaces]
    words = theirs.encode_batch(["@@" + character for character in assigned])
    assert [is_word(character) for character in assigned] == [2 not in encoding.ids for encoding in words]


# Characters


def test_characters(texts, tmp_path):
    ours = CharTokenizer.train([*texts, *PIECES], special_tokens=["<|end|>", "a"])
    theirs = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    assert ours.vocab_size == theirs.get_vocab_size()
    assert json.loads(theirs.to_str()) == ours.spec
    batch = [*texts, *samples()]
    assert ours.encode_batch(batch) == hf_ids(theirs, batch)
    for ids in ours.encode_batch(batch):
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    loaded = read_back(theirs, tmp_path)
    assert type(loaded) is CharTokenizer
    assert loaded.encode_batch(batch) == ours.encode_batch(batch)
