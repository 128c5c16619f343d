"""NVIDIA's compiler for CUDA C, which needs no GPU: for tests that kernels compile for the chips they are meant for."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path
from typing import Any


@functools.cache
def library() -> Any:
    """NVRTC from its wheel (nvidia-cuda-nvrtc-cu12 or newer), or from an installed CUDA toolkit; None without one."""
    found = [*_in_wheels(), ctypes.util.find_library("nvrtc"), "/usr/local/cuda/lib64/libnvrtc.so"]
    for name in filter(None, found):
        try:
            return ctypes.CDLL(str(name))
        except OSError:
            continue
    return None


def _in_wheels() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*"))
    return sorted(file for file in files if "builtins" not in file.name and "alt" not in file.name)


def compile_for(chip: int, source: str, options: tuple[str, ...]) -> bytes:
    """Machine code for a chip: 80 is the A100's, 90 the H100's. ValueError, with the log, where it does not compile."""
    nvrtc, program = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    flags = [flag.encode() for flag in (f"--gpu-architecture=sm_{chip}", *options)]
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    text = _read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    if failed:
        raise ValueError(text.decode())
    return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)


def _read(program: ctypes.c_void_p, size_of: Any, read: Any) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    read(program, text)
    return text.raw
