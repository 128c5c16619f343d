"""CUDA C on the processor, for tests where there is no GPU: compiled by g++, its threads run as fibers.

Slow and strict: an argument of another type than the kernel declares, a barrier that not all threads reach, and a
result that depends on the order of the threads are errors.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_emulator.h")
_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
_SCALARS = {"i64": np.int64, "int": np.int32, "double": np.float64, "bf16": np.uint16, "unsigned char": np.uint8}

launches: list[str] = []  # the name of every kernel that was run


def compiler() -> str | None:
    """The C++ compiler, or None."""
    return shutil.which("g++")


class Function:
    """A kernel, called like CuPy's: grid, block, arguments (addresses as `Pointer`, NumPy scalars)."""

    def __init__(self, library: ctypes.CDLL, name: str, parameters: Sequence[str], real: Any):
        self.library, self.name, self.real = library, name, real
        self.parameters = [self._parse(parameter) for parameter in parameters]

    def _parse(self, parameter: str) -> tuple[bool, Any]:
        words = parameter.replace("const", "").replace("*", " * ").split()
        kind = " ".join(word for word in words[:-1] if word != "*")
        return "*" in words, self.real if kind == "real" else _SCALARS.get(kind)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]) -> None:
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name}: got {len(arguments)} arguments, expected {len(self.parameters)}")
        if not all(0 < n < 65536 for n in grid[1:]) or not 0 < grid[0] < 2**31 or not 0 < block[0] <= 1024:
            raise ValueError(f"{self.name}: grid {grid} and block {block} cannot be launched")
        launches.append(self.name)
        cells = [self._cell(i, *pair) for i, pair in enumerate(zip(self.parameters, arguments, strict=True))]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.cast(ctypes.byref(c), ctypes.c_void_p) for c in cells))
        sizes = [(ctypes.c_uint * 3)(*sizes, *(1,) * (3 - len(sizes))) for sizes in (grid, block)]
        body = getattr(self.library, f"call_{self.name}")
        if self.library.launch(body, pointers, *sizes, Function.backwards):
            raise RuntimeError(f"{self.name}: some threads wait at a barrier that others never reach")

    backwards = 0  # 1 runs threads and blocks in the other order

    def _cell(self, number: int, parameter: tuple[bool, Any], argument: Any) -> Any:
        pointer, dtype = parameter
        where = f"{self.name}, argument {number}"
        if pointer:
            if isinstance(argument, np.uint64) and argument == 0:
                return ctypes.c_void_p(0)
            given = argument.dtype
            if dtype is not None and given != dtype and not (dtype == np.uint8 and given == np.bool_):
                raise TypeError(f"{where}: got a pointer to {given}, expected {np.dtype(dtype)}")
            if not argument.flags.c_contiguous and argument.flags.owndata:
                raise TypeError(f"{where}: got an array with gaps")
            return ctypes.c_void_p(argument.data.ptr)
        if not isinstance(argument, np.generic) or argument.dtype != dtype:
            raise TypeError(f"{where}: got {argument!r} ({type(argument).__name__}), expected {np.dtype(dtype)}")
        return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@functools.cache
def compile_module(source: str, options: tuple[str, ...] = ()) -> Callable[[str], Function]:
    """The kernels of a source text, by name."""
    plain = re.sub(r"//.*", "", source)
    kernels = {name: [p for p in parameters.split(",") if p.strip()] for name, parameters in _KERNEL.findall(plain)}
    wrappers = [f'extern "C" void call_{name}(void** a) {{ {name}({_pass_on(ps)}); }}' for name, ps in kernels.items()]
    text = f'#include "{HEADER}"\n{source}\n' + "\n".join(wrappers)
    digest = hashlib.sha256((HEADER.read_text() + text + repr(options)).encode()).hexdigest()[:16]
    folder = Path(tempfile.mkdtemp(prefix="cuda_emulator_"))
    file, output = folder / "kernels.cpp", folder / f"{digest}.so"
    file.write_text(text)
    wanted = [option for option in options if option.startswith("-D")]
    command = [compiler() or "g++", "-O1", "-std=c++17", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", *wanted]
    subprocess.run([*command, str(file), "-o", str(output)], check=True)
    library = ctypes.CDLL(str(output))
    shutil.rmtree(folder)
    real = np.float64 if "-DREAL=double" in options else np.float32
    return lambda name: Function(library, name, kernels[name], real)


def _pass_on(parameters: Sequence[str]) -> str:
    kinds = [
        parameter.strip().rsplit(None, 1)[0] if "*" not in parameter else _pointer(parameter)
        for parameter in parameters
    ]
    return ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(kinds))


def _pointer(parameter: str) -> str:
    return parameter[: parameter.rindex("*") + 1].strip()
