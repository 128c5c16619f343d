"""The tests that a browser cannot run, with the reasons: read from `exceptions.txt`, one `pattern — reason` a line."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("exceptions.txt")


def read(table: Path = TABLE) -> dict[str, str]:
    """Pattern of a test's name, such as `test_kill.py::*`: why it cannot run."""
    lines = [line for line in table.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {pattern: reason for pattern, _, reason in (line.partition(" — ") for line in lines)}


class Exceptions:
    """Skips what cannot run, and what is for the other backends."""

    def __init__(self) -> None:
        self.reasons = read()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Skip test by test."""
        for item in items:
            backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None  # pyright: ignore
            if backend not in (None, "numpy"):
                item.add_marker(pytest.mark.skip(reason=f"{backend} does not exist for browsers"))
            for pattern, reason in self.reasons.items():
                if fnmatch(item.nodeid.removeprefix("tests/"), pattern.replace("[", "[[]")):
                    item.add_marker(pytest.mark.skip(reason=reason))
