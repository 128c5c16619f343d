"""How deep JSON is nested, without reading it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.text.nesting import nesting
from tinymoe.text.replies import read_json

JSON = st.recursive(
    st.none() | st.integers() | st.text('ab\\"[]{}é\n') | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"[{'), inner, max_size=3),
)


def depth_of(value):
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@given(JSON)
def test_the_depth_of_what_it_holds(value):
    for indent in (None, 1):
        text = json.dumps(value, indent=indent)
        assert nesting(text) == depth_of(value)
        if isinstance(value, list | dict):
            assert nesting(text + "</end> [[[[[[[[") == depth_of(value)


@pytest.mark.parametrize(
    ("text", "depth"),
    [("", 0), ("]", 0), ("[" * 9, 9), ('["[[[', 1), ('["\\"[[', 1), ('{"a": [{"b', 3), ('["\\', 1)],
)
def test_the_depth_of_what_is_no_json(text, depth):
    assert nesting(text) == depth


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 201 + "]" * 201])
def test_nothing_deep_is_read(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(text)
    assert read_json("[" * 200 + "]" * 200 + "</end>")[1] == "</end>"
