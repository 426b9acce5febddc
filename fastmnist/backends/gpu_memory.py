"""Memory of a device: arrays under their names, and refusals that say what was wanted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastmnist.backends import BackendUnavailable
from fastmnist.backends.gpu_device import Buffer, Device
from fastmnist.kernels.gpu import Array

# Kept free for the context's own needs and for other programs.
RESERVED_BYTES = 64 << 20


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
