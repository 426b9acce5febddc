"""Memory of a device: arrays under their names, and refusals that say what was wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastmnist.backends import BackendUnavailable
from fastmnist.backends.gpu_device import Buffer, Device
from fastmnist.kernels.gpu import Array
from fastmnist.network.lowering import DataFormat, Target, gradient_program, training_program
from fastmnist.network.spec import Spec

# Kept free for the context's own needs and for other programs.
RESERVED_BYTES = 64 << 20
BYTES_A_SAMPLE = 4 + 4 + 8 + 4 + 1  # label, weight, place in the order, loss, hit
SEARCH_VECTORS = 2 * 10 + 10  # pairs that are remembered, points, gradients and directions


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the device that a fit will take, by what they are for."""

    parts: dict[str, int]

    @property
    def nbytes(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """For people."""
        return ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in self.parts.items())

    def problem(self, device: Device) -> BackendUnavailable | None:
        """Why it does not fit into what is free now; None where it does."""
        free = device.free_memory() - RESERVED_BYTES
        if self.nbytes <= free:
            return None
        return BackendUnavailable(
            "cupy",
            "memory",
            f"{device.name} has {max(free, 0) / 2**20:,.0f} MiB free; this fit needs {self.nbytes / 2**20:,.0f} MiB ({self.describe()}).",
            "Use a smaller batch_size or network, or backend='numba'.",
        )


def plan_memory(
    spec: Spec,
    n_samples: int,
    dtype: str,
    batch_size: int,
    *,
    full_batch: bool = False,
    search: bool = False,
    resident: bool = False,
    augmented: int = 0,
) -> MemoryPlan:
    """What a fit will take, before anything is allocated.

    Parameters
    ----------
    spec : Spec
    n_samples : int
    dtype : str
        Of X on the device: "uint8" or "float32".
    batch_size : int
        Rows of a batch; with `full_batch` of a block.
    full_batch : bool
        Gradients of all rows instead of mini-batches.
    search : bool
        By L-BFGS, whose vectors lie on the device.
    resident : bool
        X is on the device already.
    augmented : int
        Bytes in which images are changed at random.
    """
    data = DataFormat(dtype)
    program = (
        gradient_program(spec, data, (batch_size,))
        if full_batch
        else training_program(spec, Target(), data, (batch_size,))
    )
    n_parameters = sum(math.prod(shape) for shape in spec.parameter_shapes)
    parameters = 0 if full_batch else min(4 * n_parameters, program.state.size)
    return MemoryPlan(
        {
            "data set": 0 if resident else n_samples * spec.n_features * np.dtype(dtype).itemsize,
            "augmented images": augmented,
            "labels, weights, order and losses": n_samples * BYTES_A_SAMPLE,
            "parameters": parameters,
            "optimizer state": program.state.size - parameters,
            "activations and workspace": program.workspace.size,
            "vectors of L-BFGS": 8 * n_parameters * SEARCH_VECTORS if search else 0,
        }
    )


def reserve(device: Device, wanted: Mapping[str, int]) -> Buffer:
    """Allocate the sum of what is wanted, or say why it can't be had.

    Raises
    ------
    BackendUnavailable
    """
    nbytes, free = sum(wanted.values()), device.free_memory() - RESERVED_BYTES
    if nbytes > free:
        parts = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in wanted.items())
        raise BackendUnavailable(
            "cupy",
            "memory",
            f"{device.name} has {max(free, 0) / 2**20:,.0f} MiB free; {nbytes / 2**20:,.0f} MiB more are needed ({parts}).",
            "Use a smaller batch_size or network, or backend='numba'.",
        )
    return device.allocate(nbytes)


class Bound:
    """Arrays of the host's that live on the device under their names."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: dict[str, Buffer] = {}
        self._owners: dict[str, object] = {}
        self.arrays: dict[str, Array] = {}

    def adopt(self, name: str, array: Array, owner: object) -> None:
        """Take memory that is on the device already, and keep what owns it."""
        self._buffers.pop(name, None)
        self._owners[name] = owner
        self.arrays[name] = array

    def release(self, name: str) -> None:
        """Let go of what was adopted."""
        del self._owners[name], self.arrays[name]

    def put(self, **arrays: np.ndarray) -> None:
        """Upload. An array of the same shape as before takes the same memory, so what was recorded stays valid.

        Raises
        ------
        BackendUnavailable
            No memory for it.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        new = {
            name: array
            for name, array in contiguous.items()
            if name not in self._buffers
            or (self.arrays[name].shape, self.arrays[name].dtype) != (array.shape, array.dtype.name)
        }
        for name in new:
            self._buffers.pop(name, None)  # before the new one is allocated
            self._owners.pop(name, None)
        for name, array in new.items():
            buffer = reserve(self._device, {name: array.nbytes})
            ld = array.shape[1] if array.ndim == 2 else 1
            self._buffers[name] = buffer
            self.arrays[name] = Array(buffer.address, array.shape, ld, array.dtype.name)
        for name, array in contiguous.items():
            if array.nbytes:
                self._device.upload(self.arrays[name].address, array)

    def get(self, name: str, array: np.ndarray) -> None:
        """Download into a contiguous array of the same shape."""
        if array.nbytes:
            self._device.download(array, self.arrays[name].address)
