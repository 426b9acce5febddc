"""CUDA C++ kernels and how to launch them; nothing here imports CuPy or touches a device.

`launches(op, facts, arrays, params)` says which kernels with which arguments compute an op; a device (`fastmnist.backends.gpu_device`, or the tests'
simulator) compiles `source(file)` and runs them.
"""

from . import (
    activations,
    channels,
    convolution,
    judging,
    lbfgs,
    losses,
    matmul,
    optimizers,
    persistent,
    pooling,
    rows,
    update,
)
from .fusion import decisions, plan
from .launch import LAUNCHERS, NOT_ON_GPU, Array, Facts, Launch, launches
from .source import FILES, file_of, source

__all__ = [
    "FILES",
    "LAUNCHERS",
    "NOT_ON_GPU",
    "Array",
    "Facts",
    "Launch",
    "activations",
    "channels",
    "convolution",
    "decisions",
    "file_of",
    "judging",
    "launches",
    "lbfgs",
    "losses",
    "matmul",
    "optimizers",
    "persistent",
    "plan",
    "pooling",
    "rows",
    "source",
    "update",
]
