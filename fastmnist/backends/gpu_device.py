"""A CUDA device through CuPy: all that the package asks of CuPy is in this file.

Used: raw modules, memory, streams, graphs, events and NVTX ranges; of CuPy's arrays only the way in, for those that users bring (the tests'
fake of CuPy has nothing else). `Device` says what the executor needs, so that a simulated device can stand in for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastmnist.kernels.gpu import FILES, Array, Facts, Launch, file_of, source
from fastmnist.kernels.gpu.source import kernels

# For the shares of long sums (`Facts.scratch`): those of filters of 100,000 weights for each of 40 blocks.
SCRATCH_BYTES = 16 << 20

# Bytes of dynamic shared memory that every launch may have; more must be asked for, kernel by kernel.
GRANTED_SHARED = 48 << 10


class Buffer(Protocol):
    """Device memory, freed with the object."""

    address: int
    nbytes: int


@dataclass(frozen=True)
class Foreign:
    """An array of another library's on the device.

    Attributes
    ----------
    address : int
    shape : tuple of int
    dtype : str
    contiguous : bool
        In C order.
    index : int
        Of the device that it lies on.
    owner : object
        Keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    contiguous: bool
    index: int
    owner: object

    @property
    def array(self) -> Array:
        """As an operand, of contiguous ones."""
        return Array(self.address, self.shape, self.shape[-1] if len(self.shape) > 1 else 1, self.dtype)


class Graph(Protocol):
    """A recorded list of launches."""

    def replay(self) -> None:
        """Run it again with the same arguments, behind what the stream already has to do."""


class Device(Protocol):
    """What the executor needs of a device. Everything happens on one stream, in the order of the calls."""

    name: str
    facts: Facts

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling kernels so far."""

    def free_memory(self) -> int:
        """Bytes that could be allocated now."""

    def allocate(self, nbytes: int) -> Buffer:
        """Memory of unspecified content."""

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array to the device; it may be changed afterwards."""

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a C-contiguous array from the device, when all before is done."""

    def take(self, array: Any) -> Foreign:
        """An array that is on the device, as it lies; what was to be written to it has been written when this returns.

        Raises
        ------
        Exception
            Whatever the other library says of an array that it does not share.
        """

    def clear(self, address: int, nbytes: int) -> None:
        """Set memory to zero bytes."""

    def run(self, launches: Sequence[Launch]) -> None:
        """Launch kernels."""

    def record(self, launches: Sequence[Launch]) -> Graph:
        """Record launches without running them."""

    def timed(self, groups: Sequence[tuple[str, Sequence[Launch]]]) -> list[tuple[float, float]]:
        """Run named groups of launches; of each the seconds from the first one's start to its start, and how long it took."""

    def forget_peak(self) -> None:
        """Begin `peak_bytes` anew."""

    @property
    def peak_bytes(self) -> int:
        """The most memory that was taken at once."""

    def synchronize(self) -> None:
        """Wait until all is done."""


class CupyDevice:
    """A `Device` on a real GPU.

    Parameters
    ----------
    index : int, default=0
        Counted after `CUDA_VISIBLE_DEVICES`.

    Raises
    ------
    ImportError
        CuPy is not installed, or cannot be loaded.
    """

    def __init__(self, index: int = 0) -> None:
        import cupy

        self._cupy, self._cuda = cupy, cupy.cuda
        self._pool = cupy.get_default_memory_pool()
        self._device = cupy.cuda.Device(index)
        with self._device:
            self.stream = cupy.cuda.Stream(non_blocking=True)  # the default stream would wait for everybody else's
            # No enable_cooperative_groups, which before CuPy 14.2 compiles relocatable code, slower and linked by the driver; see `_launch`.
            self._modules = {file: cupy.RawModule(code=source(file), options=("-std=c++17",)) for file in FILES}
        self.name = f"{cupy.cuda.runtime.getDeviceProperties(index)['name'].decode()}"
        self.peak_bytes = 0
        self._scratch = self.allocate(SCRATCH_BYTES)
        scratch = Array(self._scratch.address, (SCRATCH_BYTES // 4,), 1, "float32")
        attributes = self._device.attributes
        self.facts = Facts(
            attributes["MultiProcessorCount"],
            scratch,
            attributes["MaxSharedMemoryPerBlockOptin"],
            bool(attributes["CooperativeLaunch"]),
        )
        self._reads_pageable = bool(attributes["PageableMemoryAccess"])
        self._functions: dict[str, Any] = {}
        self.compile_seconds = 0.0

    def free_memory(self) -> int:
        """See `Device.free_memory`."""
        with self._device:
            free, _ = self._cuda.runtime.memGetInfo()
            return free + self._pool.free_bytes()

    def allocate(self, nbytes: int) -> CupyBuffer:
        """See `Device.allocate`."""
        with self._device, self.stream:
            buffer = CupyBuffer(self._cuda.alloc(max(nbytes, 1)), nbytes)
        self.peak_bytes = max(self.peak_bytes, self._pool.used_bytes())
        return buffer

    def upload(self, address: int, array: np.ndarray) -> None:
        """See `Device.upload`."""
        runtime = self._cuda.runtime
        runtime.memcpyAsync(address, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self.stream.ptr)
        # The copy returns when the driver has taken the bytes; but a device that reads the host's memory itself may do so later (CUDA Runtime
        # API, "API synchronization behavior").
        if self._reads_pageable:
            self.synchronize()

    def download(self, array: np.ndarray, address: int) -> None:
        """See `Device.download`."""
        runtime = self._cuda.runtime
        runtime.memcpyAsync(array.ctypes.data, address, array.nbytes, runtime.memcpyDeviceToHost, self.stream.ptr)
        self.synchronize()

    def take(self, array: Any) -> Foreign:
        """See `Device.take`: through DLPack, else `__cuda_array_interface__`; both let CuPy's current stream wait for the writer's."""
        with self._device:
            if not isinstance(array, self._cupy.ndarray):
                array = self._cupy.from_dlpack(array) if hasattr(array, "__dlpack__") else self._cupy.asarray(array)
            self._cuda.get_current_stream().synchronize()
        contiguous = bool(array.flags.c_contiguous)
        return Foreign(array.data.ptr, array.shape, array.dtype.name, contiguous, array.device.id, array)

    def clear(self, address: int, nbytes: int) -> None:
        """See `Device.clear`."""
        self._cuda.runtime.memsetAsync(address, 0, nbytes, self.stream.ptr)

    def run(self, launches: Sequence[Launch]) -> None:
        """See `Device.run`."""
        with self._device, self.stream:
            for launch in launches:
                self._launch(launch)

    def record(self, launches: Sequence[Launch]) -> CupyGraph:
        """See `Device.record`."""
        for launch in launches:
            self._function(launch.kernel)  # compiled and loaded before: a capture allows neither
        self.stream.begin_capture()
        try:
            self.run(launches)
        finally:
            graph = self.stream.end_capture()
        return CupyGraph(graph, self.stream)

    def timed(self, groups: Sequence[tuple[str, Sequence[Launch]]]) -> list[tuple[float, float]]:
        """See `Device.timed`: by events, inside NVTX ranges of these names for NVIDIA's profilers."""
        for _, launches in groups:
            for launch in launches:
                self._function(launch.kernel)
        with self._device, self.stream:
            marks = [(self._cuda.Event(), self._cuda.Event()) for _ in groups]
            for (name, launches), (begin, end) in zip(groups, marks, strict=True):
                self._cuda.nvtx.RangePush(name)
                begin.record(self.stream)
                self.run(launches)
                end.record(self.stream)
                self._cuda.nvtx.RangePop()
        self.synchronize()
        elapsed = self._cuda.get_elapsed_time  # milliseconds
        return [(elapsed(marks[0][0], begin) / 1e3, elapsed(begin, end) / 1e3) for begin, end in marks]

    def forget_peak(self) -> None:
        """See `Device.forget_peak`."""
        self.peak_bytes = self._pool.used_bytes()

    def synchronize(self) -> None:
        """See `Device.synchronize`."""
        self.stream.synchronize()

    def _launch(self, launch: Launch) -> None:
        arguments = tuple(map(_argument, launch.arguments))
        function = self._function(launch.kernel)
        if launch.shared > GRANTED_SHARED:
            function.max_dynamic_shared_size_bytes = launch.shared
        if launch.cooperative:
            together = {"shared_mem": launch.shared, "enable_cooperative_groups": True}
            function.kernel(launch.grid, launch.block, arguments, **together)
        else:
            function(launch.grid, launch.block, arguments, shared_mem=launch.shared)

    def _function(self, kernel: str) -> Any:
        if kernel not in self._functions:
            start = time.perf_counter()
            file = file_of(kernel)
            with self._device:
                for name in kernels(file):
                    function = self._modules[file].get_function(name)
                    _ = function.num_regs  # the driver loads a function when it is first asked about
                    self._functions[name] = function
            self.compile_seconds += time.perf_counter() - start
        return self._functions[kernel]


class CupyBuffer:
    """See `Buffer`; CuPy's pool gets the memory back with the object."""

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory, self.address, self.nbytes = memory, memory.ptr, nbytes


class CupyGraph:
    """See `Graph`."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def replay(self) -> None:
        """See `Graph.replay`."""
        self._graph.launch(self._stream)


def _argument(argument: Array | np.generic | None) -> np.generic:
    """A launch's argument as CuPy takes it: a pointer is its address in 64 bits."""
    if argument is None:
        return np.uint64(0)
    return np.uint64(argument.address) if isinstance(argument, Array) else argument
