"""The simulator as a device: runs the launches of `fastmnist.kernels.gpu` on host memory."""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from fastmnist.backends.gpu_device import Foreign
from fastmnist.kernels.gpu import Array, Facts, Launch, file_of, launches, source

from .simulator import Module

SCRATCH_BYTES = 1 << 20


class HostBuffer:
    """Memory that a test can look into; NaN until something is written, so that reading too early shows.

    It begins where the allocator puts it, and nothing stands behind it: so the sanitizers see the first byte too far.
    """

    def __init__(self, nbytes: int) -> None:
        self.memory, self.nbytes = np.full(nbytes, 0xFF, np.uint8), nbytes
        self.address = self.memory.ctypes.data
        assert self.address % 16 == 0, "vectors of four floats need it; CUDA gives 256"


_SCRATCH = HostBuffer(SCRATCH_BYTES)
# As few multiprocessors as let the test's small matrices use every tile; a real device has 20 to 150.
FACTS = Facts(multiprocessors=4, scratch=Array(_SCRATCH.address, (SCRATCH_BYTES // 4,), 1, "float32"))

# One that can run an epoch in one launch.
COOPERATIVE_FACTS = replace(FACTS, multiprocessors=80, shared=99 << 10, cooperative=True)


# (kernel, mode, whether blocks ran in reverse) of all launches so far: test_gpu_modes.py asks that none is missing.
LAUNCHED: set[tuple[str, str, bool]] = set()


@cache
def module(file: str, mode: str) -> Module:
    """One of the CUDA sources, compiled for the simulator."""
    return Module(source(file), mode=mode, name=f"{file}.cu")


def run(launch: Launch, *, mode: str = "plain", reverse: bool = False) -> None:
    """Run one launch."""
    LAUNCHED.add((launch.kernel, mode, reverse))
    kernels = module(file_of(launch.kernel), mode)
    kernels.launch(
        launch.kernel,
        launch.grid,
        launch.block,
        launch.arguments,
        shared=launch.shared,
        reverse=reverse,
        cooperative=launch.cooperative,
    )


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


class RecordedGraph:
    """Launches as they were when they were recorded."""

    def __init__(self, device: SimulatedDevice, launches: Sequence[Launch]) -> None:
        self._device, self._launches = device, tuple(launches)

    def replay(self) -> None:
        self._device.run(self._launches)


class SimulatedDevice:
    """A `fastmnist.backends.gpu_device.Device` that runs kernels in the simulator.

    Parameters
    ----------
    memory : int
        Bytes that it has.
    facts : Facts
    mode, reverse
        How its launches run, see `Module`.

    Attributes
    ----------
    recorded : int
        How many graphs were recorded.
    """

    name = "Simulated GPU"
    compile_seconds = 0.0
    peak_bytes = 0

    def __init__(
        self, memory: int = 1 << 30, facts: Facts = FACTS, *, mode: str = "plain", reverse: bool = False
    ) -> None:
        self.facts, self._mode, self._reverse = facts, mode, reverse
        self._memory = memory
        self._buffers: weakref.WeakSet[HostBuffer] = weakref.WeakSet()
        self.recorded = 0

    def free_memory(self) -> int:
        return self._memory - sum(buffer.nbytes for buffer in self._buffers)

    def allocate(self, nbytes: int) -> HostBuffer:
        buffer = HostBuffer(nbytes)
        self._buffers.add(buffer)
        self.peak_bytes = max(self.peak_bytes, sum(buffer.nbytes for buffer in self._buffers))
        return buffer

    def upload(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        ctypes.memmove(self._owned(address, array.nbytes), array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        assert array.flags.c_contiguous
        ctypes.memmove(array.ctypes.data, self._owned(address, array.nbytes), array.nbytes)

    def clear(self, address: int, nbytes: int) -> None:
        ctypes.memset(self._owned(address, nbytes), 0, nbytes)

    def _owned(self, address: int, nbytes: int) -> int:
        """The address, if it lies in memory that this device has given."""
        inside = [b for b in self._buffers if b.address <= address and address + nbytes <= b.address + b.nbytes]
        assert inside, "a copy outside of the device's memory"
        return address

    def run(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            run(launch, mode=self._mode, reverse=self._reverse)

    def record(self, launches: Sequence[Launch]) -> RecordedGraph:
        assert not any(launch.cooperative for launch in launches), "a graph has no cooperative launches"
        self.recorded += 1
        return RecordedGraph(self, launches)

    def timed(self, groups: Sequence[tuple[str, Sequence[Launch]]]) -> list[tuple[float, float]]:
        first, result = time.perf_counter(), []
        for _, group in groups:
            start = time.perf_counter()
            self.run(group)
            result.append((start - first, time.perf_counter() - start))
        return result

    def take(self, array: Any) -> Foreign:
        raise NotImplementedError("no other library puts arrays into the simulator")

    def forget_peak(self) -> None:
        self.peak_bytes = 0

    def synchronize(self) -> None:
        pass
