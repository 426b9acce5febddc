"""NVIDIA's run-time compiler through ctypes: compiles CUDA C++ to machine code of any device, without a GPU, a driver or CuPy.

Needs one of the wheels `nvidia-cuda-nvrtc` (CUDA 13) or `nvidia-cuda-nvrtc-cu12`. Functions and their order: NVRTC documentation.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_WHEELS = {13: "nvidia/cu13/lib/libnvrtc.so.13", 12: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"}


class NvrtcError(RuntimeError):
    """The compiler's message."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a multiprocessor: registers of a thread, static shared memory, bytes spilled to memory."""

    registers: int
    shared: int
    spilled: int


def find(cuda: int) -> Path | None:
    """The library of a CUDA version (12 or 13) in the installed wheels."""
    candidates = (Path(folder) / _WHEELS[cuda] for folder in sys.path)
    return next((path for path in candidates if path.exists()), None)


class Nvrtc:
    """The compiler.

    Parameters
    ----------
    library : path
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source: str, architecture: str) -> tuple[bytes, dict[str, Usage]]:
        """Compile a source.

        Parameters
        ----------
        source : str
        architecture : str
            "sm_90" and so on.

        Returns
        -------
        cubin : bytes
        usage : dict of str to Usage
            By kernel.

        Raises
        ------
        NvrtcError
            It does not compile, or not without a warning.
        """
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            # -ftz=true: what CuPy compiles with.
            words = [f"-arch={architecture}", "-std=c++17", "-ftz=true", "--ptxas-options=-v"]
            options_ = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
            result = self._library.nvrtcCompileProgram(program, len(words), options_)
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode()
            # That an architecture is old is no news.
            warned = any("warning" in line and "are deprecated" not in line for line in log.splitlines())
            if result or warned:
                raise NvrtcError(f"{architecture}: {log or self._library.nvrtcGetErrorString(result).decode()}")
            return self._text(program, "CUBIN"), _usage(log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        if result:
            raise NvrtcError(f"{function}: {self._library.nvrtcGetErrorString(result).decode()}")


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '\w+'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)


def _usage(log: str) -> dict[str, Usage]:
    """From the assembler's report."""

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return {
        kernel: Usage(
            number(r"Used (\d+) registers", text),
            number(r"(\d+) bytes smem", text),
            number(r"(\d+) bytes spill stores", text) + number(r"(\d+) bytes spill loads", text),
        )
        for kernel, text in _ENTRY.findall(log)
    }
