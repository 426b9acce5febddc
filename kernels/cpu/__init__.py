"""Compiled kernels for the CPU.

`entry(op, dtypes)` is the address of a compiled op, `prepare` compiles several at once, `encode` fills a row of a table with its operands, `call`
runs one op on NumPy arrays, and `walk` runs a table. What is in the cache is loaded without importing Numba.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..contract import CONTRACT, find
from . import objects
from .compile_helper import helped, summon
from .interrupts import interrupts_kept
from .layout import CONTROL_WORDS, LANE_WORDS, ROW_WORDS

__all__ = [
    "CONTROL_WORDS",
    "CREW",
    "LANE_WORDS",
    "ROW_WORDS",
    "WALKERS",
    "available",
    "call",
    "compile_seconds",
    "encode",
    "entry",
    "expect",
    "helpers",
    "on_compile",
    "prepare",
    "walk",
]

# What is compiled beside ops: see `walker.py`, the plain one and the one that records, and `crew.py`.
WALKERS, CREW = ("walk", "walk_recording"), ("serve", "share_out")

# A list of functions called as f(op_name) before something is compiled: how the layers above tell the user why they wait.
on_compile: list[Callable[[str], None]] = []

_addresses: dict[tuple[str, tuple[str, ...]], int] = {}
_lock = threading.RLock()  # two threads must not compile at once: Numba's compiler is not re-entrant
if hasattr(os, "register_at_fork"):
    # A child must not inherit a lock that a thread of the parent holds, nor a compiler in the middle of its work.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_seconds = 0.0


def compile_seconds() -> float:
    """Seconds that this process has spent compiling."""
    return _seconds


def available() -> tuple[str, ...]:
    """Names of the ops that have a compiled kernel."""
    return tuple(CONTRACT)


def _load(name: str, compile_object: Callable[[], tuple[bytes, str]]) -> int:
    global _seconds

    def timed() -> tuple[bytes, str]:
        global _seconds
        for listener in on_compile:
            listener(name)
        start = time.perf_counter()
        collects = gc.isenabled()
        gc.disable()  # the compiler leaves cycles, and collecting them meanwhile takes a sixth of its time
        try:
            with interrupts_kept(at_once=False):
                import numba  # noqa: F401 (by itself: half a second)
            with interrupts_kept(at_once=True):
                return compile_object()
        finally:
            if collects:
                gc.enable()
            _seconds += time.perf_counter() - start

    return objects.load(name, timed)[0]


def entry(name: str, dtypes: tuple[str, ...] = ()) -> int:
    """Address of a compiled function, compiled if it is not in the cache.

    Parameters
    ----------
    name : str
        An op or a job: `void entry(int64 *row)`; or one of `WALKERS`, or of `CREW`.
    dtypes : tuple of str
        Of the op's operands.
    """
    key = (name, dtypes)
    if key not in _addresses:
        with _lock:
            if key not in _addresses:
                _addresses[key] = _load(_file_name(*key), functools.partial(_compile, *key))
    return _addresses[key]


def expect(kernel: str, n_processes: int) -> None:
    """Say that `prepare` will be called soon: where this kernel is missing, so are many, and a second process makes itself ready to compile."""
    if n_processes > 1 and (kernel, ()) not in _addresses and not is_kept((kernel, ())):
        summon()


def prepare(
    kernels: Iterable[tuple[str, tuple[str, ...]]],
    n_processes: int = 1,
    on_kernel: Callable[[str, int, int], None] | None = None,
) -> int:
    """Load these, and compile those that are missing: where they are many, with the help of a second process.

    Parameters
    ----------
    kernels : iterable of (name, dtypes)
        As `entry` takes them.
    n_processes : int
        1: without help.
    on_kernel : callable, optional
        Called before each kernel with its name, its number from 1 and how many there are.

    Returns
    -------
    int
        How many were not in the cache.
    """
    wanted = [key for key in dict.fromkeys(kernels) if key not in _addresses]
    missing = [key for key in wanted if not is_kept(key)]
    with helped(missing if n_processes > 1 else []) as wait_for:
        for number, key in enumerate(wanted, start=1):
            if on_kernel is not None:
                on_kernel(key[0], number, len(wanted))
            wait_for(key)
            entry(*key)
    return len(missing)


def is_kept(kernel: tuple[str, tuple[str, ...]]) -> bool:
    """Whether the cache has this one, (name, dtypes); not whether its file is sound."""
    return (objects.cache_folder() / f"{_file_name(*kernel)}.o").exists()


def _file_name(name: str, dtypes: tuple[str, ...]) -> str:
    """Only operands with a choice of type tell variants of an op apart."""
    operands = find(name).operands if dtypes else ()
    return "-".join([name, *(d for operand, d in zip(operands, dtypes, strict=True) if len(operand.dtypes) > 1)])


def _compile(name: str, dtypes: tuple[str, ...]) -> tuple[bytes, str]:
    from . import compiler

    if name in WALKERS:
        return compiler.compile_walker(name)
    if name in CREW:
        return compiler.compile_crew(name)
    return compiler.compile_entry(name, dtypes)


def encode(
    row: np.ndarray, op: str, operands: Sequence[tuple[int, tuple[int, ...], int, str]], params: Sequence[float]
) -> None:
    """Fill a row of a table.

    Parameters
    ----------
    row : ndarray of int64, shape (ROW_WORDS,)
    op : str
    operands : sequence of (address, shape, leading dimension, dtype)
        In the contract's order; the leading dimension of vectors is ignored.
    params : sequence of float
    """
    words = _words(op, operands, params)
    row[: len(words)] = words


def _words(op: str, operands: Sequence[tuple[int, tuple[int, ...], int, str]], params: Sequence[float]) -> list[int]:
    """What an entry finds in its row."""
    contract = find(op)
    words = [entry(op, tuple(dtype for _, _, _, dtype in operands))]
    words += [address for address, _, _, _ in operands]
    words += np.asarray(params, np.float64).view(np.int64).tolist()
    words += contract.bind_dims([shape for _, shape, _, _ in operands]).values()
    words += [ld for _, shape, ld, _ in operands if len(shape) == 2]
    return words


def call(op: str, *arrays: np.ndarray, **params: float) -> None:
    """Run one op in place on NumPy arrays: jobs, and ops for tests, study and benchmarks; executors fill tables with these.

    Parameters
    ----------
    op : str
        Of the contract, or a job.
    *arrays : ndarray
        Operands in the contract's order, already checked; matrices may have any row stride, their last axis is contiguous.
    **params : float
        The op's params by name.
    """
    operands = [
        (a.ctypes.data, a.shape, a.strides[0] // a.itemsize if a.ndim == 2 else 0, a.dtype.name) for a in arrays
    ]
    row = np.array(_words(op, operands, [params[name] for name in find(op).params]), np.int64)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0]))
    function(row.ctypes.data)


def helpers() -> tuple[Callable[[int], int], Callable[[int, int, int], int]]:
    """The compiled `serve` and `share_out` as ctypes functions, see `crew.py`; they release the interpreter's lock."""
    n, p = ctypes.c_int64, ctypes.c_void_p
    serve, share_out = map(entry, CREW)
    return ctypes.CFUNCTYPE(n, p)(serve), ctypes.CFUNCTYPE(n, p, n, n)(share_out)


def walk(*, recording: bool = False, keeps_lock: bool = False) -> Callable[..., int]:
    """The compiled walker as a ctypes function, see `walker.walk` and `walk_recording`.

    It releases the interpreter's lock, unless it `keeps_lock`: for microseconds, where getting it back may take another thread's time slice.
    """
    n, p = ctypes.c_int64, ctypes.c_void_p
    address = entry(WALKERS[recording])
    return (ctypes.PYFUNCTYPE if keeps_lock else ctypes.CFUNCTYPE)(n, p, n, n, n, p)(address)
