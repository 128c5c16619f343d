"""The compiled tokenizer against Hugging Face `tokenizers`: the same merges and ids, of texts of any size and kind."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer import BUILT_IN, PIECES, SPECIAL, documents_of, hf_ids, hf_train, samples, strings

from tinymoe.text import compiled
from tinymoe.text.pipeline import SPLIT_PATTERNS
from tinymoe.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(compiled, "LARGE", 1)
    monkeypatch.setattr(compiled, "LARGE_LIST", 1)


@pytest.fixture(scope="module", params=SPLIT_PATTERNS)
def pair(request):
    """Our tokenizer and theirs, trained apart on the same texts."""
    documents = [text for name in BUILT_IN for text in documents_of(name, limit_chars=200_000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LARGE", 1)
        patch.setattr(compiled, "LARGE_LIST", 1)
        ours = Tokenizer.train(documents, 3000, request.param, SPECIAL)
    return ours, hf_train(documents, 3000, request.param, SPECIAL)


def test_training_gives_the_same_file(pair):
    ours, theirs = pair
    assert len(ours.spec["model"]["merges"]) > 2700
    assert ours.spec == json.loads(theirs.to_str())


def test_ids_of_many_strings(pair):
    ours, theirs = pair

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(strings, max_size=25), st.booleans())
    def check(batch, special):
        assert ours.encode_batch(batch, special) == hf_ids(theirs, batch, special)

    check()
    assert ours._large_texts is not None


@pytest.mark.parametrize("corpus", BUILT_IN)
def test_ids_of_the_built_in_corpora(pair, corpus):
    ours, theirs = pair
    documents = documents_of(corpus, limit_chars=1_500_000)
    assert ours.encode_batch(documents) == hf_ids(theirs, documents)


def test_long_runs(pair):
    ours, theirs = pair
    texts = [part * count for part in (" ", "\n", "a", "ab ", "!", "7", "\u3000", "👍") for count in (1000, 30_001)]
    assert ours.encode_batch(texts) == hf_ids(theirs, texts)


def test_ignoring_merges(pair):
    ours, theirs = pair
    spec = json.loads(json.dumps(ours.spec))
    spec["model"] |= {"ignore_merges": True, "merges": spec["model"]["merges"][::2]}
    batch = samples(pieces=[*PIECES, " the", "ing", "<|end|>"])
    assert Tokenizer(spec).encode_batch(batch) == hf_ids(type(theirs).from_str(json.dumps(spec)), batch)
