"""As much of CuPy as `fastmnist.backends.gpu_device` may use, over the simulator; anything else is an AttributeError.

Strict where CuPy or CUDA is: arguments of kernels are NumPy scalars, pointers among them; while a stream captures, nothing may be copied,
allocated, compiled or waited for.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
import types
import weakref
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fastmnist.backends import gpu_probe

from .device import HostBuffer
from .simulator import Module

MULTIPROCESSORS = 4
GRANTED_SHARED, MOST_SHARED = 48 << 10, 99 << 10
_UPLOAD = 1  # cudaMemcpyHostToDevice


class FakeCudaError(RuntimeError):
    """What a real device would refuse."""


class _Current:
    """The stream that captures, if one does."""

    capturing: Stream | None = None
    stream: Stream | None = None
    uploads: ClassVar[list[tuple[int, int, int]]] = []  # that the stream has not come to

    @classmethod
    def arrive(cls) -> None:
        for target, source, nbytes in cls.uploads:
            ctypes.memmove(target, source, nbytes)
        cls.uploads.clear()


def _not_while_capturing(what: str) -> None:
    if _Current.capturing is not None:
        raise FakeCudaError(f"{what} is not permitted while a stream captures")


class Stream:
    def __init__(self, *, non_blocking: bool) -> None:
        assert non_blocking, "the default stream's order would bind everybody's work together"
        self.ptr = id(self)
        self._launches: list[Any] = []

    def __enter__(self) -> Stream:
        self._before, _Current.stream = _Current.stream, self
        return self

    def __exit__(self, *_: object) -> None:
        _Current.stream = self._before

    def begin_capture(self) -> None:
        _not_while_capturing("a second capture")
        _Current.capturing, self._launches = self, []

    def end_capture(self) -> Graph:
        assert _Current.capturing is self
        _Current.capturing = None
        return Graph(self._launches)

    def synchronize(self) -> None:
        _not_while_capturing("waiting")
        _Current.arrive()


class Graph:
    def __init__(self, launches: list[Any]) -> None:
        self._launches = launches

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        _Current.arrive()
        for launch in self._launches:
            launch()


class Event:
    """A mark in a stream with a time; the fake's launches have ended when they return."""

    def __init__(self) -> None:
        _not_while_capturing("making an event")
        self.at: float | None = None

    def record(self, stream: Stream) -> None:
        assert _Current.stream is stream
        self.at = time.perf_counter()


def _elapsed(begin: Event, end: Event) -> float:
    assert begin.at is not None and end.at is not None, "an event that was not recorded"
    return 1e3 * (end.at - begin.at)


RANGES: list[str] = []  # NVTX ranges that were opened, in order
_open_ranges: list[str] = []


def _push(name: str) -> None:
    _open_ranges.append(name)
    RANGES.append(name)


def _file_of(code: str) -> str:
    """The last file that a text says it comes from: under its name the other tests have compiled it already."""
    return (re.findall(r'^#line 1 "(\w+\.cu)"$', code, re.MULTILINE) or ["kernels.cu"])[-1]


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        assert options == ("-std=c++17",)
        self._code = code

    def get_function(self, name: str) -> RawKernel:
        _not_while_capturing("compiling")
        return RawKernel(Module(self._code, name=_file_of(self._code)), name)


class RawKernel:
    def __init__(self, module: Module, name: str) -> None:
        self._module, self._name = module, name
        self.num_regs = 32
        self.max_dynamic_shared_size_bytes = GRANTED_SHARED

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        self.kernel(grid, block, args, shared_mem=shared_mem)

    def kernel(
        self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0, enable_cooperative_groups: bool = False
    ) -> None:
        assert isinstance(grid, tuple) and isinstance(block, tuple) and isinstance(args, tuple)
        assert _Current.stream is not None, "a launch on the default stream"
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= MOST_SHARED, "more shared memory than was asked for"
        assert not enable_cooperative_groups or grid[0] <= MULTIPROCESSORS, "CuPy would cut the grid"
        assert not (enable_cooperative_groups and _Current.capturing), "a graph has no cooperative launches"
        signature = self._module.signatures[self._name]
        arguments = [_as_simulated(argument, kind) for argument, kind in zip(args, signature, strict=True)]
        launch = partial(
            self._module.launch,
            *(self._name, grid, block, arguments),
            shared=shared_mem,
            cooperative=enable_cooperative_groups,
        )
        if _Current.capturing is _Current.stream:
            _Current.capturing._launches.append(launch)
        else:
            _Current.arrive()
            launch()


def _as_simulated(argument: object, kind: str) -> object:
    assert isinstance(argument, np.generic), f"CuPy would guess how many bytes of {argument!r} to pass"
    if kind[0] != "P":
        return argument
    assert argument.dtype == np.uint64, f"a pointer is 8 bytes; got {argument.dtype}"
    pointee = {"l": "int64", "L": "uint64"}.get(kind[1], kind[1])
    return types.SimpleNamespace(address=int(argument), dtype=pointee)


class ndarray:
    """As much of an array as a user of CuPy hands over: where it lies, and the way back."""

    def __init__(self, array: np.ndarray, *, device: int = 0) -> None:
        self._memory = HostBuffer(max(array.nbytes, 1))
        self._memory.memory[: array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.data = types.SimpleNamespace(ptr=self._memory.address)
        self.flags = types.SimpleNamespace(c_contiguous=array.flags.c_contiguous)
        self.device = types.SimpleNamespace(id=device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        return self

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3}

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def get(self) -> np.ndarray:
        return (
            self._memory.memory[: int(np.prod(self.shape)) * self.dtype.itemsize].view(self.dtype).reshape(self.shape)
        )


def _from_dlpack(tensor: Any) -> ndarray:
    assert tensor.__dlpack_device__()[0] == 2, "CuPy takes what lies on a CUDA device"
    array = tensor.__dlpack__(stream=_STREAM.ptr)
    assert isinstance(array, ndarray)
    return array


def _asarray(array: Any) -> ndarray:
    """Of `__cuda_array_interface__`, without a copy; the fake's foreign arrays wrap one of its own."""
    assert isinstance(array.owner, ndarray) and array.__cuda_array_interface__["data"][0] == array.owner.data.ptr
    return array.owner


class _UsersStream:
    """The stream that is current where nobody has chosen one."""

    ptr = 0

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        _not_while_capturing("waiting")
        self.waited += 1


_STREAM = _UsersStream()


_allocated: weakref.WeakSet[HostBuffer] = weakref.WeakSet()


def _used() -> int:
    return sum(buffer.nbytes for buffer in _allocated)


class _Memory:
    """What `cupy.cuda.alloc` returns."""

    def __init__(self, nbytes: int) -> None:
        _not_while_capturing("allocating")
        assert nbytes > 0
        self._buffer = HostBuffer(nbytes)
        _allocated.add(self._buffer)
        self.ptr = self._buffer.address


def _memcpy(target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
    _not_while_capturing("copying")
    assert kind in (1, 2, 3) and stream
    if kind == _UPLOAD:  # read when the stream comes to it, as a device may that reads the host's memory itself
        _Current.uploads.append((target, source, nbytes))
    else:
        _Current.arrive()
        ctypes.memmove(target, source, nbytes)


def _memset(address: int, value: int, nbytes: int, stream: int) -> None:
    assert stream
    _Current.arrive()
    ctypes.memset(address, value, nbytes)


class _Device:
    def __init__(self, index: int) -> None:
        assert index == 0
        self.attributes = {
            "MultiProcessorCount": MULTIPROCESSORS,
            "MaxSharedMemoryPerBlockOptin": MOST_SHARED,
            "CooperativeLaunch": 1,
            "PageableMemoryAccess": 1,
        }

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def module() -> types.ModuleType:
    """The package, to be put into `sys.modules` as "cupy"."""
    runtime = types.SimpleNamespace(
        memcpyAsync=_memcpy,
        memsetAsync=_memset,
        memcpyHostToDevice=_UPLOAD,
        memcpyDeviceToHost=2,
        memGetInfo=lambda: (1 << 30, 1 << 30),
        getDeviceProperties=lambda index: {"name": b"Fake GPU"},
    )
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Event=Event,
        get_elapsed_time=_elapsed,
        nvtx=types.SimpleNamespace(RangePush=_push, RangePop=_open_ranges.pop),
        Device=_Device,
        Stream=Stream,
        alloc=_Memory,
        runtime=runtime,
        get_current_stream=lambda: _STREAM,
    )
    cupy.ndarray, cupy.from_dlpack, cupy.asarray = ndarray, _from_dlpack, _asarray  # type: ignore[attr-defined]
    cupy.RawModule = RawModule  # type: ignore[attr-defined]
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0, used_bytes=_used)  # type: ignore[attr-defined]
    return cupy


def install(monkeypatch: Any) -> None:
    """Let a test find a GPU, and this package as CuPy."""
    usable = gpu_probe.GpuStatus("ok", True, "", "", "Fake GPU", (9, 0), 1 << 30, (13, 0), 1, "cupy-cuda13x 14.2.0")
    monkeypatch.setitem(sys.modules, "cupy", module())
    monkeypatch.setattr(gpu_probe, "probe", lambda: usable)
