"""The CUDA sources, each as one text: CuPy's cache of compiled kernels is keyed by the text alone, so it must hold all that it depends on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(')

# What some sources share, between common.cuh and the source.
_PARTS = {
    "activations": ("functions.cuh",),
    "convolution": ("tile.cuh",),
    "judging": ("block_sums.cuh",),
    "lbfgs": ("block_sums.cuh",),
    "matmul": ("tile.cuh",),
    "persistent": ("functions.cuh",),
}

FILES = tuple(sorted(path.stem for path in _FOLDER.glob("*.cu")))


@cache
def source(file: str) -> str:
    """The text to compile for one of `FILES`."""
    names = ("common.cuh", *_PARTS.get(file, ()), f"{file}.cu")
    return "\n".join(f'#line 1 "{name}"\n{part(name)}' for name in names)


def part(name: str) -> str:
    """The text of a file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def cooperative(file: str) -> bool:
    """Whether the blocks of a file's kernels wait for each other."""
    return file == "persistent"


@cache
def kernels(file: str) -> tuple[str, ...]:
    """Names of the kernels of one of `FILES`."""
    return tuple(_KERNEL.findall(source(file)))


@cache
def _homes() -> dict[str, str]:
    return {kernel: file for file in FILES for kernel in kernels(file)}


def file_of(kernel: str) -> str:
    """Which of `FILES` a kernel is in."""
    return _homes()[kernel]
