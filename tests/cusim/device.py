"""The simulator as a device: runs the launches of `fastmnist.kernels.gpu` on host memory."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastmnist.kernels.gpu import Array, Facts, Launch, file_of, launches, source

from .simulator import Module

# As few multiprocessors as let the test's small matrices use every tile; a real device has 20 to 150.
FACTS = Facts(multiprocessors=4)


@cache
def module(file: str, mode: str) -> Module:
    """One of the CUDA sources, compiled for the simulator."""
    return Module(source(file), mode=mode, name=f"{file}.cu")


def run(launch: Launch, *, mode: str = "plain", reverse: bool = False) -> None:
    """Run one launch."""
    kernels = module(file_of(launch.kernel), mode)
    kernels.launch(launch.kernel, launch.grid, launch.block, launch.arguments, shared=launch.shared, reverse=reverse)


def array(a: np.ndarray) -> Array:
    """A NumPy array as an operand: matrices may have a leading dimension larger than their row."""
    ld = a.strides[0] // a.itemsize if a.ndim == 2 else 1
    return Array(a.ctypes.data, a.shape, ld, a.dtype.name)


def call(
    op: str, *arrays: np.ndarray, facts: Facts = FACTS, mode: str = "plain", reverse: bool = False, **params: float
) -> None:
    """Run an op on NumPy arrays."""
    for launch in launches(op, facts, [array(a) for a in arrays], list(params.values())):
        run(launch, mode=mode, reverse=reverse)
