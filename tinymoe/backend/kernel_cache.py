"""The compiled kernels that Numba keeps on disk, thrown away when they may be out of date."""

from __future__ import annotations

from pathlib import Path

_STAMP = "kernels.stamp"


def forget_stale_kernels(folder: Path) -> None:
    """Delete the kernels compiled from a folder's sources if one of these has changed since.

    Numba renews a kernel when its own file changes. But a compiled kernel contains those it calls, from other files:
    after an update it would go on computing with their old code. Where the folder cannot be written to, Numba keeps its
    files elsewhere, and nothing is done.
    """
    kept = folder / "__pycache__"
    about = [(source.name, source.stat().st_size, source.stat().st_mtime_ns) for source in sorted(folder.glob("*.py"))]
    stamp = kept / _STAMP
    try:
        if stamp.exists() and stamp.read_text("utf-8") == repr(about):
            return
        kept.mkdir(exist_ok=True)
        for compiled in kept.glob("*.nb[ci]"):
            compiled.unlink(missing_ok=True)
        stamp.write_text(repr(about), "utf-8")
    except OSError:
        return
