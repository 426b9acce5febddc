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
    warping,
)
from .fusion import decisions, plan
from .launch import JOB_LAUNCHERS, JOBS_NOT_ON_GPU, LAUNCHERS, NOT_ON_GPU, Array, Facts, Launch, launches
from .source import FILES, file_of, source

__all__ = [
    "FILES",
    "JOBS_NOT_ON_GPU",
    "JOB_LAUNCHERS",
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
    "warping",
]
