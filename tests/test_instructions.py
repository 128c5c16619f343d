"""Collections of instructions: records of each form, what is wrong with others, and masked rows."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymoe as tm
from tinymoe import Tokenizer
from tinymoe.text import chat, instructions
from tinymoe.text.packing import IGNORE, next_tokens, pack
from tinymoe.train.data import Batch, TokenData

TALK = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
RECORDS = [
    ({"instruction": "2 + 2?", "input": "", "output": "4"}, TALK),
    ({"instruction": "2 + 2?", "output": "4"}, TALK),
    ({"instruction": "Add.", "input": "2, 2", "output": "4"}, [{"role": "user", "content": "Add.\n\n2, 2"}, TALK[1]]),
    ({"question": "2 + 2?", "response": "4", "system_prompt": "", "id": "flan.1"}, TALK),
    ({"question": "2 + 2?", "response": "4", "system_prompt": "Add."}, [{"role": "system", "content": "Add."}, *TALK]),
    ({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}, TALK),
    ({"id": 1, "conversations": [{"from": "user", "value": "2 + 2?"}, {"from": "assistant", "value": "4"}]}, TALK),
    ({"messages": TALK}, TALK),
]


def write(path, records):
    if path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_every_form(tmp_path, name):
    path = write(tmp_path / name, [record for record, _ in RECORDS])
    assert list(instructions.conversations(path)) == [messages for _, messages in RECORDS]
    for messages in instructions.conversations(str(path)):
        assert chat.render(messages, "qwen3")


def test_a_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    line = json.dumps(RECORDS[0][0], ensure_ascii=False).encode()
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n \r\n" + line)
    assert list(instructions.conversations(path)) == [TALK, TALK]


def test_lines_are_read_one_at_a_time(tmp_path):
    """A line that is wrong is met only when it is its turn, so the file is not read as a whole."""
    path = write(tmp_path / "data.jsonl", [RECORDS[0][0]] * 3)
    with open(path, "ab") as file:
        file.write(b"{broken")
    reader = instructions.conversations(path)
    assert list(itertools.islice(reader, 3)) == [TALK] * 3
    with pytest.raises(ValueError, match=r"data\.jsonl, line 5 is not JSON: Expecting property name"):
        next(reader)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (4, "is of type int, expected an object"),
        ({}, "has the fields none; expected messages, conversations, instruction or question among them"),
        ({"text": "", "id": 1}, "has the fields text, id; expected messages"),
        ({"instruction": "a"}, "the field 'output' is missing, expected a text"),
        ({"instruction": ["a"], "output": "b"}, "the field 'instruction' is of type list, expected a text"),
        ({"instruction": "a", "input": 1, "output": "b"}, "the field 'input' is of type int"),
        ({"question": "a"}, "the field 'response' is missing"),
        ({"conversations": "a"}, "the field 'conversations' is of type str, expected a list of turns"),
        ({"conversations": []}, "the field 'conversations' is empty, expected a list of turns"),
        ({"conversations": [{"from": "bing", "value": ""}]}, r"conversations\[0\]: the field 'from' is 'bing', exp"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]: the field 'value' is missing"),
        ({"conversations": ["a"]}, r"conversations\[0\] is of type str, expected an object"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\]: the field 'role' is missing"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: the field 'content' is missing"),
    ],
)
def test_bad_records(tmp_path, record, message):
    for name, where in [("data.json", "record 2"), ("data.jsonl", "line 2")]:
        reader = instructions.conversations(write(tmp_path / name, [RECORDS[0][0], record]))
        assert next(reader) == TALK
        with pytest.raises(ValueError, match=rf"{name}, {where}.*{message}"):
            next(reader)


def test_bad_files(tmp_path):
    for name, content, message in [
        ("a.json", b"{}", r"a\.json is of type dict, expected a list; one a line is \.jsonl"),
        ("a.json", b"[", r"a\.json is not JSON"),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON"),
        ("a.jsonl", b'"\xff"', r"a\.jsonl, line 1 is not UTF-8: byte 1 is 0xff"),
        ("a.txt", b"", r"path is .*a\.txt', expected a file that ends in \.json or \.jsonl"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            next(instructions.conversations(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        next(instructions.conversations(tmp_path / "none.jsonl"))


# Packing

encoded = st.lists(
    st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=9).map(
        lambda pairs: ([token for token, _ in pairs], [said for _, said in pairs])
    ),
    min_size=1,
    max_size=12,
)


@given(encoded=encoded, context=st.integers(8, 12))
def test_every_conversation_lies_whole_in_one_row(encoded, context):
    kept = {number: pair for number, pair in enumerate(encoded) if any(pair[1][1:])}
    if not kept:
        with pytest.raises(ValueError, match="no conversation in which the assistant says something"):
            instructions.pack_masked(encoded, context)
        return
    packed = instructions.pack_masked(iter(encoded), context)
    assert packed.context == context and packed.ids.shape == packed.documents.shape == packed.mask.shape
    ids, targets, documents = packed.batch(slice(None))
    for number, (tokens, said) in kept.items():
        rows, columns = np.nonzero(packed.documents == number)
        assert len(set(rows)) == 1 and (np.diff(columns) == 1).all()
        assert packed.ids[rows, columns].tolist() == tokens
        learned = [token for token, mine in zip(tokens[1:], said[1:], strict=True) if mine]
        place = rows[0], slice(columns[0], columns[0] + len(tokens) - 1)
        assert [target for target in targets[place] if target != IGNORE] == learned
    assert set(np.unique(packed.documents)) - {-1} == set(kept)
    assert (targets != IGNORE).sum() == sum(sum(said[1:]) for _, said in kept.values())
    every = next_tokens(packed.ids, packed.documents)
    assert (every[targets != IGNORE] == targets[targets != IGNORE]).all()
    assert ids.shape == documents.shape == (len(packed), context)


@given(lengths=st.lists(st.integers(1, 10), min_size=1, max_size=30))
def test_best_fit(lengths):
    rows = instructions.best_fit(dict(enumerate(lengths)), 10)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    fills = [sum(lengths[number] for number in row) for row in rows]
    assert max(fills) <= 10
    assert all(one + two > 10 for one, two in itertools.combinations(fills, 2))  # else one had gone to the other
    assert instructions.best_fit({0: 7, 1: 6, 2: 4, 3: 3}, 10) == [[0, 3], [1, 2]]


def test_a_conversation_longer_than_a_row():
    long, short = ([1, 2, 3, 4, 5], [False, True, True, False, True]), ([6, 7], [False, True])
    with pytest.raises(ValueError, match="conversation 1 has 5 tokens, but a row has 4; pass cut=True"):
        instructions.pack_masked([short, long], 3)
    packed = instructions.pack_masked([short, long], 3, cut=True)
    assert packed.ids.tolist() == [[1, 2, 3, 4], [6, 7, 0, 0]]
    assert packed.batch([0, 1])[1].tolist() == [[2, 3, IGNORE], [7, IGNORE, IGNORE]]
    with pytest.raises(ValueError, match="conversation 0 has 2 ids and a mask of 1; expected as many"):
        instructions.pack_masked([([1, 2], [True])], 3)
    with pytest.raises(ValueError, match="context is 0; it has to be at least 1"):
        instructions.pack_masked([short], 0)


def test_a_mask_of_everything_is_plain_packing():
    documents = [[1, 2, 3], [4, 5, 6]]
    masked = instructions.pack_masked([(ids, [True] * 3) for ids in documents], 2)
    for ours, plain in zip(masked.batch(slice(None)), pack(documents, 2, eos=None).batch(slice(None)), strict=True):
        assert (ours == plain).all()


def test_the_rows_are_what_a_run_takes_and_a_model_learns_from(tmp_path):
    path = write(tmp_path / "data.json", [record for record, _ in RECORDS])
    tokenizer = Tokenizer.train(["2 + 2? 4"], 260, special_tokens=chat.special_tokens("chatml"))
    talks = [chat.encode(tokenizer, talk, "chatml") for talk in instructions.conversations(path)]
    packed = instructions.pack_masked(talks, context=95)
    data = TokenData(packed, packed, packed.context)
    batch = data.batch(2, seed=0, step=0)
    assert isinstance(batch, Batch) and batch.ids.shape == (2, 95)
    (everything,) = data.validation_batches(len(packed))
    assert everything.num_targets == sum(sum(mask) for _, mask in talks)
    learned = everything.targets[everything.targets != IGNORE]
    assert tokenizer.decode(learned.tolist()) == "4<|im_end|>" * len(RECORDS)
    model = tm.zoo.build("llama-nano", vocab_size=tokenizer.vocab_size, seed=0)
    loss = model.loss(batch.ids, batch.targets)
    assert np.isfinite(loss.item())
