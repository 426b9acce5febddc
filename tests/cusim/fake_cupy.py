"""As much of CuPy as `fastmnist.backends.gpu_device` may use, over the simulator; anything else is an AttributeError.

Strict where CuPy or CUDA is: arguments of kernels are NumPy scalars, pointers among them; while a stream captures, nothing may be copied,
allocated, compiled or waited for.
"""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np

from fastmnist.kernels.gpu import FILES, source

from .device import HostBuffer
from .simulator import Module

MULTIPROCESSORS = 4
_NAMES = {source(file): f"{file}.cu" for file in FILES}  # by which the simulator knows what it has compiled already


class FakeCudaError(RuntimeError):
    """What a real device would refuse."""


class _Current:
    """The stream that captures, if one does."""

    capturing: Stream | None = None
    stream: Stream | None = None


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


class Graph:
    def __init__(self, launches: list[Any]) -> None:
        self._launches = launches

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        for launch in self._launches:
            launch()


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        assert options == ("-std=c++17",)
        self._code = code

    def get_function(self, name: str) -> RawKernel:
        _not_while_capturing("compiling")
        return RawKernel(Module(self._code, name=_NAMES[self._code]), name)


class RawKernel:
    def __init__(self, module: Module, name: str) -> None:
        self._module, self._name = module, name
        self.num_regs = 32

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        assert isinstance(grid, tuple) and isinstance(block, tuple) and isinstance(args, tuple)
        assert _Current.stream is not None, "a launch on the default stream"
        signature = self._module.signatures[self._name]
        arguments = [_as_simulated(argument, kind) for argument, kind in zip(args, signature, strict=True)]
        launch = lambda: self._module.launch(self._name, grid, block, arguments, shared=shared_mem)  # noqa: E731
        if _Current.capturing is _Current.stream:
            _Current.capturing._launches.append(launch)
        else:
            launch()


def _as_simulated(argument: object, kind: str) -> object:
    assert isinstance(argument, np.generic), f"CuPy would guess how many bytes of {argument!r} to pass"
    if kind[0] != "P":
        return argument
    assert argument.dtype == np.uint64, f"a pointer is 8 bytes; got {argument.dtype}"
    pointee = {"l": "int64", "L": "uint64"}.get(kind[1], kind[1])
    return types.SimpleNamespace(address=int(argument), dtype=pointee)


class _Memory:
    """What `cupy.cuda.alloc` returns."""

    def __init__(self, nbytes: int) -> None:
        _not_while_capturing("allocating")
        assert nbytes > 0
        self._buffer = HostBuffer(nbytes)
        self.ptr = self._buffer.address


def _memcpy(target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
    _not_while_capturing("copying")
    assert kind in (1, 2, 3) and stream
    ctypes.memmove(target, source, nbytes)


def _memset(address: int, value: int, nbytes: int, stream: int) -> None:
    assert stream
    ctypes.memset(address, value, nbytes)


class _Device:
    def __init__(self, index: int) -> None:
        assert index == 0
        self.attributes = {"MultiProcessorCount": MULTIPROCESSORS}

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def module() -> types.ModuleType:
    """The package, to be put into `sys.modules` as "cupy"."""
    runtime = types.SimpleNamespace(
        memcpyAsync=_memcpy,
        memsetAsync=_memset,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        memGetInfo=lambda: (1 << 30, 1 << 30),
        getDeviceProperties=lambda index: {"name": b"Fake GPU"},
    )
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(Device=_Device, Stream=Stream, alloc=_Memory, runtime=runtime)  # type: ignore[attr-defined]
    cupy.RawModule = RawModule  # type: ignore[attr-defined]
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)  # type: ignore[attr-defined]
    return cupy
