"""The package's own safetensors reader and writer against the library, and on damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinymoe.models import tensor_files

KINDS = ("bool", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8")


def arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every kind of number in every shape that is special: none, empty, transposed, of the other byte order."""
    some = {f"{kind}.{n}": (10 * rng.random((2, n))).astype(kind) for kind in KINDS for n in (3, 1)}
    return some | {
        "zwölf": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "scalar": np.array(1.5, dtype=np.float32),
        "empty": np.zeros((0, 7), dtype=np.float32),
        "big": np.arange(3, dtype=">f4"),
    }


def plain(tensors):
    return {name: (list(one["shape"]), one["dtype"], bytes(one["data"])) for name, one in tensors}


def test_the_same_bytes_as_the_library():
    if not hasattr(pytest.importorskip("safetensors"), "deserialize"):
        pytest.skip("this is a stand-in for the safetensors library")
    library = pytest.importorskip("safetensors.numpy")
    some = arrays(np.random.default_rng(0))
    del some["big"]  # the library takes its bytes as they are
    whole = {name: np.asarray(array, order="C") for name, array in some.items()}
    for metadata in (None, {"format": "pt"}):
        ours = tensor_files._write(some, metadata)
        assert ours == library.save(whole, metadata=metadata) == tensor_files.serialize(some, metadata)
        assert plain(tensor_files._read(ours)) == plain(tensor_files.deserialize(ours))


def test_what_was_written_is_read():
    some = arrays(np.random.default_rng(1))
    read = dict(tensor_files._read(tensor_files._write(some, None)))
    assert read.keys() == some.keys()
    for name, array in some.items():
        kind = array.dtype.newbyteorder("<")
        assert np.array_equal(np.frombuffer(read[name]["data"], kind).reshape(read[name]["shape"]), array), name
    with pytest.raises(ValueError, match="words: got numbers of type <U3"):
        tensor_files._write({"words": np.array(["one"])}, None)


def file_of(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int = 0, end: int = 8, shape: object = (2,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "nothing": b"",
    "a piece of the length": bytes(5),
    "a length beyond the end": (99).to_bytes(8, "little") + b"{}",
    "an enormous length": b"\xff" * 64,
    "no JSON": file_of(b"{'a': 1}"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "a list": file_of([1]),
    "deep": file_of(b"[" * 100_000),
    "deep inside": file_of(b'{"]]\\"]": {"a": ' + b"[" * 100_000),
    "a tensor that is a number": file_of({"a": 1}),
    "a tensor without a type": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "an unknown type": file_of({"a": entry(dtype="F31")}),
    "a type that is a list": file_of({"a": entry(dtype=["F32"])}),
    "a negative size": file_of({"a": entry(shape=[-1, -2])}),
    "a size with a point": file_of({"a": entry(shape=[2.0])}),
    "a size that is true": file_of({"a": entry(0, 4, shape=[True])}, bytes(4)),
    "three places": file_of({"a": {**entry(), "data_offsets": [0, 4, 8]}}),
    "fewer bytes than numbers": file_of({"a": entry(shape=[3])}),
    "cut off": file_of({"a": entry()}, bytes(7)),
    "bytes left over": file_of({"a": entry()}, bytes(9)),
    "a gap": file_of({"a": entry(0, 8), "b": entry(9, 17)}, bytes(17)),
    "an overlap": file_of({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_refused(data):
    with pytest.raises(ValueError):
        tensor_files._read(data)
    with pytest.raises(ValueError):
        tensor_files.deserialize(data)
    with pytest.raises(ValueError):
        tensor_files._read(data[: len(data) // 2])


def test_a_name_that_stands_there_twice():
    with pytest.raises(ValueError, match="twice"):  # the library takes the last one
        tensor_files._read(file_of(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2)))


def test_a_file_that_only_looks_odd_is_read():
    odd = {**entry(), "stride": 1}
    data = file_of({"b": entry(8, 16), "__metadata__": {"format": "pt"}, "a": odd}, bytes(range(16)))
    read = plain(tensor_files._read(data))
    assert read == {"a": ([2], "F32", bytes(range(8))), "b": ([2], "F32", bytes(range(8, 16)))}
    assert read == plain(tensor_files.deserialize(data))
    assert tensor_files._read(file_of({}, b"")) == [] == tensor_files.deserialize(file_of({}, b""))
