"""What tests use of the library of this name to make files and look into them, where it cannot be installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinymoe.models.tensor_files import _read, _write


def save(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a file."""
    return _write(tensors, metadata)


def load(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in the bytes of a file, of floats and integers."""
    return {
        name: np.frombuffer(one["data"], f"<{one['dtype'][0].lower()}{int(one['dtype'][1:]) // 8}")
        .reshape(one["shape"])
        .copy()
        for name, one in _read(data)
    }


def save_file(tensors: dict[str, np.ndarray], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file."""
    Path(path).write_bytes(save(tensors, metadata))


def load_file(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays in a file."""
    return load(Path(path).read_bytes())
