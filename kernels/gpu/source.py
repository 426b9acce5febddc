"""The CUDA sources, each as one text: CuPy's cache of compiled kernels is keyed by the text alone, so it must hold all that it depends on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(')

# What some sources share, between common.cuh and the source.
_PARTS = {
    "activations": ("functions.cuh", "philox.cuh"),
    "convolution": ("tile.cuh", "windows.cuh"),
    "optimizers": ("step.cuh",),
    "channels": ("step.cuh",),
    "update": ("tile.cuh", "step.cuh", "update.cuh"),
    "tensor_update": ("tile.cuh", "tensor_tile.cuh", "step.cuh", "update.cuh"),
    "tensor_matmul": ("tile.cuh", "tensor_tile.cuh"),
    "tensor_convolution": ("tile.cuh", "tensor_tile.cuh", "windows.cuh"),
    "judging": ("block_sums.cuh",),
    "lbfgs": ("block_sums.cuh",),
    "matmul": ("tile.cuh",),
    "persistent": ("functions.cuh",),
    "warping": ("philox.cuh",),
}

# Sources of which older devices get no kernel, with the compute capability from which they do.
LEAST_COMPUTE_CAPABILITY = dict.fromkeys(("tensor_matmul", "tensor_convolution", "tensor_update"), (8, 0))

FILES = tuple(sorted(path.stem for path in _FOLDER.glob("*.cu")))


@cache
def source(file: str) -> str:
    """The text to compile for one of `FILES`."""
    names = ("common.cuh", *_PARTS.get(file, ()), f"{file}.cu")
    text = "\n".join(f'#line 1 "{name}"\n{part(name)}' for name in names)
    if file not in LEAST_COMPUTE_CAPABILITY:
        return text
    major, minor = LEAST_COMPUTE_CAPABILITY[file]
    return f"#if defined(__CUSIM__) || __CUDA_ARCH__ >= {100 * major + 10 * minor}\n{text}\n#endif\n"


def part(name: str) -> str:
    """The text of a file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


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
