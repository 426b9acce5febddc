"""NVIDIA's run-time compiler through ctypes: compiles CUDA C++ to machine code of any device, without a GPU, a driver or CuPy.

Needs one of the wheels `nvidia-cuda-nvrtc` (CUDA 13) or `nvidia-cuda-nvrtc-cu12`. Functions and their order: NVRTC documentation.

Compiling is two halves: a front end makes PTX, an assembler makes it one device's machine code. NVRTC does both; with the assembler of the
wheel `nvidia-cuda-nvcc` devices of the same PTX share the first half.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_WHEELS = {13: "nvidia/cu13/lib/libnvrtc.so.13", 12: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"}
_ASSEMBLER = "nvidia/cu13/bin/ptxas"
_OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")  # the last two are what CuPy adds


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
    return _installed(_WHEELS[cuda])


def find_assembler() -> Path | None:
    """The assembler of CUDA 13 in the installed wheels, if it is as old as the compiler: it would not read a newer one's PTX."""
    file = _installed(_ASSEMBLER)
    wheels = ("nvidia-cuda-nvcc", "nvidia-cuda-nvrtc")
    return file if file and len({metadata.version(wheel).rpartition(".")[0] for wheel in wheels}) == 1 else None


def _installed(name: str) -> Path | None:
    candidates = (Path(folder) / name for folder in sys.path)
    return next((path for path in candidates if path.exists()), None)


def remembered(
    make: Callable[[], dict[str, Usage]], tools: tuple[Path, ...], source: str, architecture: str
) -> dict[str, Usage]:
    """What `make` says of a source for a device, kept in a folder of the user's: until tools, this file or the source change.

    Parameters
    ----------
    make : function
    tools : tuple of path
        What it compiles with.
    source, architecture : str
    """
    facts = [(str(tool), tool.stat().st_size, tool.stat().st_mtime_ns) for tool in tools]
    this = Path(__file__).read_text(encoding="utf-8")
    key = hashlib.sha256(repr((facts, source, architecture, this)).encode()).hexdigest()
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastmnist" / "nvrtc" / f"{key[:32]}.json"
    try:
        return {kernel: Usage(**use) for kernel, use in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError):
        pass  # it is not there, or not whole
    used = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({kernel: asdict(use) for kernel, use in used.items()}), encoding="utf-8")
        new.replace(file)
    except OSError:
        pass  # a home that can't be written to
    return used


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
        return self._compile(source, architecture, "--ptxas-options=-v", get="CUBIN")

    def ptx(self, source: str, architecture: str) -> bytes:
        """Compile a source halfway, see `compile`; devices of this architecture and later ones can assemble it."""
        return self._compile(source, architecture.replace("sm_", "compute_"), get="PTX")[0].rstrip(b"\0")

    def _compile(self, source: str, architecture: str, *more: str, get: str) -> tuple[bytes, dict[str, Usage]]:
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            words = [f"-arch={architecture}", *_OPTIONS, *more]
            options_ = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
            result = self._library.nvrtcCompileProgram(program, len(words), options_)
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode()
            if result or _warns(log):
                raise NvrtcError(f"{architecture}: {log or self._library.nvrtcGetErrorString(result).decode()}")
            return self._text(program, get), _usage(log)
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


def assemble(assembler: Path, ptx: bytes, architecture: str) -> dict[str, Usage]:
    """Make PTX a device's machine code.

    Parameters
    ----------
    assembler : path
        See `find_assembler`.
    ptx : bytes
    architecture : str

    Returns
    -------
    usage : dict of str to Usage
        By kernel.

    Raises
    ------
    NvrtcError
        It cannot, or not without a warning.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.ptx"
        file.write_bytes(ptx)
        command = [
            assembler,
            f"--gpu-name={architecture}",
            "--verbose",
            file,
            "--output-file",
            file.with_suffix(".cubin"),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    log = result.stdout + result.stderr
    if result.returncode or _warns(log):
        raise NvrtcError(f"{architecture}: {log}")
    return _usage(log)


def _warns(log: str) -> bool:
    """Whether there is a warning; that an architecture is old is no news."""
    return any("warning" in line and "are deprecated" not in line for line in log.splitlines())


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
