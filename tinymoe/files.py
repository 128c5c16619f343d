"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace the file `path` by `data`, all or nothing.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name: a crash, a full
    disk or a kill leaves the old file as it was. Raises OSError (PermissionError, FileNotFoundError, …) as `open` does.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o600 | 0o666 & ~_umask())  # in a browser the mask denies even the owner
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
