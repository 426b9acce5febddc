"""Compile CUDA C++ for the CPU and launch it on host memory: the Python side of `cusim.h`."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")

_COMMON = [
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-exceptions", "-fno-rtti"),
    *("-fno-threadsafe-statics", "-ffp-contract=fast", "-fno-math-errno", "-march=native"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),
]
# How a source is compiled. Each mode sees other mistakes; README.md says which. "address" is not optimized: that took a minute for all sources.
_MODES = {
    "plain": ["-O2"],
    "race": ["-O1", "-g", "-fsanitize=thread"],
    "address": ["-O0", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
_REVERSE, _COOPERATIVE = 1, 4  # as in cusim.h

_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")


class SimulatorError(RuntimeError):
    """A kernel does not compile, or did something that would be wrong on a GPU."""


def compiler_missing() -> str:
    """Why nothing can be simulated here, with the command that mends it; empty where it can.

    Raises
    ------
    RuntimeError
        The same, where `FASTMNIST_REQUIRE_CUSIM` is set: continuous integration must not skip these tests.
    """
    if shutil.which(COMPILER) is not None:
        return ""
    problem = f"the CUDA simulator needs {COMPILER}. Run: apt-get install --yes g++"
    if os.environ.get("FASTMNIST_REQUIRE_CUSIM"):
        raise RuntimeError(problem)
    return problem


def sanitizer_environment() -> dict[str, str]:
    """Environment variables of a process that may load modules of mode "address"."""
    libraries = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    # Fibers change the stack under the sanitizer's feet, and Python leaks by design.
    options = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0"
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"}


class Module:
    """The kernels of one source text, compiled once for each content and kept in a folder of the user's.

    Parameters
    ----------
    source : str
        CUDA C++ without includes. Kernels are `extern "C" __global__ void name(...)`.
    mode : {"plain", "race", "address"}
    name : str
        Of the source, in messages.

    Attributes
    ----------
    signatures : dict of str to list of str
        For each kernel the types of its parameters: NumPy's type character, with a "P" in front for a pointer.
    """

    def __init__(self, source: str, *, mode: str = "plain", name: str = "kernels.cu") -> None:
        kernels = _KERNEL.findall(source)
        self._library_path = _build(source, kernels, mode, name)
        library = ctypes.CDLL(str(self._library_path))
        library.cusim_error.restype = ctypes.c_char_p
        self._library = library
        self.signatures: dict[str, list[str]] = {}
        for kernel in kernels:
            signature = getattr(library, f"cusim_sig_{kernel}")
            signature.restype = ctypes.c_char_p
            self.signatures[kernel] = signature().decode().split(",")[:-1]

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[object],
        *,
        shared: int = 0,
        reverse: bool = False,
        cooperative: bool = False,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        kernel : str
        grid, block : sequence of int
            Up to three sizes each.
        arguments : sequence
            NumPy scalars; arrays, which are passed as pointers; objects with `address` and `dtype`, likewise; None, a
            null pointer. Types must be the kernel's exactly, because a GPU would reinterpret the bytes.
        shared : int
            Bytes of dynamic shared memory.
        reverse : bool
            Blocks and threads run in descending order.
        cooperative : bool
            The launch may use a grid barrier.

        Raises
        ------
        TypeError
            The arguments do not fit the kernel's parameters.
        SimulatorError
            A barrier or warp operation that not all take part in, a race (in mode "race"), a bad launch.
        """
        signature = self.signatures[kernel]
        if len(arguments) != len(signature):
            raise TypeError(f"{kernel} takes {len(signature)} arguments, got {len(arguments)}")
        values = [_value(kernel, i, *pair) for i, pair in enumerate(zip(arguments, signature, strict=True))]
        pointers = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        flags = _REVERSE * reverse | _COOPERATIVE * cooperative
        run = getattr(self._library, f"cusim_run_{kernel}")
        if run(_dims(grid), _dims(block), ctypes.c_size_t(shared), pointers, flags):
            message = self._library.cusim_error().decode()
            raise SimulatorError(f"{kernel}: " + re.sub(r"@pc:(0x[0-9a-f]+)", self._line, message))

    def _line(self, address: re.Match) -> str:
        command = ["addr2line", "-e", str(self._library_path), address[1]]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return "at " + line.rpartition("/")[2].partition(" (")[0]


def _value(kernel: str, index: int, argument: object, wanted: str) -> np.ndarray:
    """An argument as the bytes that the kernel will read."""
    where = f"{kernel}, argument {index}: the kernel takes {wanted!r}"
    if argument is None:
        if wanted[0] != "P":
            raise TypeError(f"{where}, got None")
        return np.zeros(1, np.uint64)
    if hasattr(argument, "address") or isinstance(argument, np.ndarray):
        dtype = np.dtype(argument.dtype)  # type: ignore[attr-defined]
        given = "P" + {"q": "l", "Q": "L"}.get(dtype.char, dtype.char)
        if given != wanted:
            raise TypeError(f"{where}, got an array of {dtype}")
        address = argument.ctypes.data if isinstance(argument, np.ndarray) else argument.address  # type: ignore[attr-defined]
        return np.array([address], np.uint64)
    value = np.asarray(argument)
    if not isinstance(argument, np.generic) or value.dtype.char != wanted:
        raise TypeError(f"{where}, got {type(argument).__name__}")
    return value.reshape(1)


def _dims(sizes: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_uint * 3)(*(*sizes, 1, 1)[:3])


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (root / "fastmnist" / "cusim").mkdir(parents=True, exist_ok=True)
        return root / "fastmnist" / "cusim"
    except OSError:  # a home that can't be written to
        return Path(tempfile.mkdtemp(prefix="cusim-"))


def _build(source: str, kernels: list[str], mode: str, name: str) -> Path:
    """The shared library of a source, compiled unless it is there already."""
    if problem := compiler_missing():
        raise SimulatorError(problem)
    body = _DYNAMIC.sub(r"\1* \2 = reinterpret_cast<\1*>(cusim::dynamic_shared());", source)
    header = "cusim_race.h" if mode == "race" else "cusim.h"
    exports = "\n".join(f"CUSIM_EXPORT({kernel}, ({kernel}))" for kernel in kernels)
    text = (
        f'#include "{header}"\n#include "cusim_mma.h"\n#include "cusim_export.h"\n#line 1 "{name}"\n{body}\n{exports}\n'
    )
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    headers = [file.read_text(encoding="utf-8") for file in sorted(HERE.glob("cusim*.h"))]
    key = hashlib.sha256(repr((text, headers, _COMMON, _MODES[mode], version, platform.node())).encode()).hexdigest()
    library = _cache_folder() / f"{Path(name).stem}-{mode}-{key[:24]}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, compiled = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        flags = [*_COMMON, *_MODES[mode], f"-I{HERE}"]
        _run([COMPILER, *flags, "-c", "-x", "c++", "-", "-o", str(made)], text)
        # The race checker's call-backs are in cusim_race.h: the compiler's own library must not be linked.
        link = [] if mode == "race" else [flag for flag in _MODES[mode] if flag.startswith("-fsanitize")]
        _run([COMPILER, "-shared", *link, str(made), "-o", str(compiled)], "")
        compiled.rename(library)
    return library


def _run(command: list[str], text: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # no sanitized compiler
    result = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    if result.returncode or result.stderr:  # a warning is an error: the real compiler may take it for one
        raise SimulatorError(result.stderr)
