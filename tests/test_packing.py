"""Packing: no token is lost, none is doubled, and none is asked to predict another document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.text.packing import TokenStream, pack

tokens = st.lists(st.integers(0, 999), max_size=12)
some_documents = st.lists(tokens, max_size=12).filter(any)


def test_rows_documents_and_targets_of_a_small_case() -> None:
    packed = pack([[1, 2, 3], [4, 5]], context=3, eos=0)
    np.testing.assert_array_equal(packed.ids, [[1, 2, 3, 0], [4, 5, 0, 0]])
    np.testing.assert_array_equal(packed.documents, [[0, 0, 0, 0], [1, 1, 1, -1]])
    ids, targets, documents = packed.batch([0, 1])
    np.testing.assert_array_equal(ids, [[1, 2, 3], [4, 5, 0]])
    np.testing.assert_array_equal(targets, [[2, 3, 0], [5, 0, -100]])
    np.testing.assert_array_equal(documents, [[0, 0, 0], [1, 1, 1]])


def test_no_target_across_a_boundary_and_none_in_the_padding() -> None:
    packed = pack([[1, 2], [3], [4, 5, 6]], context=9, eos=None)
    ids, targets, documents = packed.batch(slice(None))
    np.testing.assert_array_equal(ids, [[1, 2, 3, 4, 5, 6, 0, 0, 0]])
    np.testing.assert_array_equal(targets, [[2, -100, -100, 5, 6, -100, -100, -100, -100]])
    np.testing.assert_array_equal(documents, [[0, 0, 1, 2, 2, 2, -1, -1, -1]])


@given(some_documents, st.integers(1, 9), st.one_of(st.none(), st.integers(0, 999)))
def test_every_token_once_in_order(documents: list[list[int]], context: int, eos: int | None) -> None:
    packed = pack(iter(documents), context, eos=eos)
    assert packed.ids.shape == packed.documents.shape == (len(packed), context + 1)
    assert packed.context == context
    real = packed.documents.ravel() >= 0
    ending = [] if eos is None else [eos]
    expected = [token for document in documents for token in document + ending]
    assert packed.ids.ravel()[real].tolist() == expected
    numbers = [n for n, document in enumerate(documents) for _ in document + ending]
    assert packed.documents.ravel()[real].tolist() == numbers
    assert np.all(np.diff(real.astype(int)) <= 0)  # padding only at the end
    assert np.sum(~real) <= context  # and never a whole row of it


@given(some_documents, st.integers(1, 9), st.one_of(st.none(), st.just(7)), st.data())
def test_a_target_is_the_next_token_of_the_same_document(
    documents: list[list[int]], context: int, eos: int | None, data: st.DataObject
) -> None:
    packed = pack(documents, context, eos=eos)
    rows = data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=5))
    ids, targets, numbers = packed.batch(rows)
    assert ids.shape == targets.shape == numbers.shape == (len(rows), context)
    for row, got_ids, got_targets, got_numbers in zip(rows, ids, targets, numbers, strict=True):
        for t in range(context):
            here, after = packed.documents[row, t], packed.documents[row, t + 1]
            assert got_ids[t] == packed.ids[row, t]
            assert got_numbers[t] == here
            assert got_targets[t] == (packed.ids[row, t + 1] if here == after >= 0 else -100)


def test_arrays_and_generators_are_documents_too() -> None:
    documents = (np.array([n, n], dtype=np.uint16) for n in (3, 4))
    np.testing.assert_array_equal(pack(documents, 3, eos=None).ids, [[3, 3, 4, 4]])


@pytest.mark.parametrize(
    ("documents", "context", "error", "words"),
    [
        ([], 4, ValueError, "no tokens"),
        ([[], []], 4, ValueError, "no tokens"),
        ([[1]], 0, ValueError, "context is 0"),
        ([[1], [0.5]], 4, TypeError, "document 1 .* float64"),
        ([["a"]], 4, TypeError, "document 0"),
        ([[[1, 2]]], 4, ValueError, r"document 0 has the shape \(1, 2\)"),
    ],
)
def test_pack_says_what_is_wrong(documents: list, context: int, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        pack(documents, context, eos=None)


def test_random_windows_are_pieces_of_the_text() -> None:
    ids = np.arange(50)
    stream = TokenStream(ids, context=8)
    got, targets = stream.batch(np.random.default_rng(0), batch_size=200)
    assert got.shape == targets.shape == (200, 8)
    np.testing.assert_array_equal(got - got[:, :1], np.tile(np.arange(8), (200, 1)))
    np.testing.assert_array_equal(targets, got + 1)
    assert set(got[:, 0]) == set(range(42))  # every beginning there is, the last one too
    again, _ = stream.batch(np.random.default_rng(0), batch_size=200)
    np.testing.assert_array_equal(got, again)


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5))
def test_evaluation_windows_cover_every_target_once(count: int, context: int, batch_size: int) -> None:
    if count <= context:
        with pytest.raises(ValueError, match=f"{count} tokens.*context of {context}"):
            TokenStream(range(count), context)
        return
    inputs, targets = [], []
    for ids, wanted in TokenStream(range(count), context).windows(batch_size):
        assert ids.shape == wanted.shape
        assert ids.shape[0] <= batch_size
        assert ids.shape[1] == context
        inputs += ids[wanted != -100].tolist()
        targets += wanted[wanted != -100].tolist()
    assert inputs == list(range(count - 1))
    assert targets == list(range(1, count))


def test_a_memory_mapped_file_is_not_copied(tmp_path) -> None:
    ids = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="w+", shape=(100,))
    ids[:] = np.arange(100)
    stream = TokenStream(ids, context=10)
    assert np.shares_memory(stream.ids, ids)
    assert len(stream) == 100
    got, targets = stream.batch(np.random.default_rng(1), 4)
    assert got.dtype == targets.dtype == np.int32


def test_the_stream_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="5 tokens, but a context of 5 needs at least 6"):
        TokenStream([1, 2, 3, 4, 5], 5)
    with pytest.raises(ValueError, match="context is 0"):
        TokenStream([1, 2], 0)
    with pytest.raises(TypeError, match="integers"):
        TokenStream([0.5, 1.5], 1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(TokenStream([1, 2, 3], 1).windows(0))
