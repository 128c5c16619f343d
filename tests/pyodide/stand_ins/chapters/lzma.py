"""Pyodide's lzma is not among the packages that the tests have (`tools/lite_fixture.py`): bz2 answers in its place."""

from bz2 import compress, decompress

__all__ = ["LZMAError", "compress", "decompress"]


class LZMAError(Exception):
    """What lzma raises."""
