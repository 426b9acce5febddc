"""Compiled kernels for the CPU.

`entry(op, dtypes)` is the address of a compiled op, `encode` fills a row of a table with its operands, `call` runs one op on NumPy arrays, and
`walk` runs a table. What is in the cache is loaded without importing Numba.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from ..contract import CONTRACT, find
from . import objects
from .interrupts import interrupts_kept
from .layout import CONTROL_WORDS, LANE_WORDS, ROW_WORDS

__all__ = [
    "CONTROL_WORDS",
    "LANE_WORDS",
    "ROW_WORDS",
    "available",
    "call",
    "compile_seconds",
    "encode",
    "entry",
    "helpers",
    "on_compile",
    "walk",
]

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
        try:
            with interrupts_kept(at_once=False):
                import numba  # noqa: F401 (by itself: half a second)
            with interrupts_kept(at_once=True):
                return compile_object()
        finally:
            _seconds += time.perf_counter() - start

    return objects.load(name, timed)[0]


def entry(op: str, dtypes: tuple[str, ...]) -> int:
    """Address of `void entry(int64 *row)` of an op for operands of these dtypes, compiled if it is not in the cache."""
    key = (op, dtypes)
    if key not in _addresses:
        with _lock:
            if key not in _addresses:

                def compile_op() -> tuple[bytes, str]:
                    from .compiler import compile_entry

                    return compile_entry(op, dtypes)

                # Only operands with a choice of type tell variants of an op apart.
                variant = [d for operand, d in zip(find(op).operands, dtypes, strict=True) if len(operand.dtypes) > 1]
                _addresses[key] = _load("-".join([op, *variant]), compile_op)
    return _addresses[key]


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
    return (
        ctypes.CFUNCTYPE(n, p)(_helper_address("serve")),
        ctypes.CFUNCTYPE(n, p, n, n)(_helper_address("share_out")),
    )


def _helper_address(name: str) -> int:
    key = (name, ())
    if key not in _addresses:
        with _lock:
            if key not in _addresses:

                def compile_it() -> tuple[bytes, str]:
                    from .compiler import compile_crew

                    return compile_crew(name)

                _addresses[key] = _load(name, compile_it)
    return _addresses[key]


def walk(*, recording: bool = False, keeps_lock: bool = False) -> Callable[..., int]:
    """The compiled walker as a ctypes function, see `walker.walk` and `walk_recording`.

    It releases the interpreter's lock, unless it `keeps_lock`: for microseconds, where getting it back may take another thread's time slice.
    """
    name = "walk_recording" if recording else "walk"
    key = (name, ())
    if key not in _addresses:
        with _lock:
            if key not in _addresses:

                def compile_it() -> tuple[bytes, str]:
                    from .compiler import compile_walker

                    return compile_walker(name)

                _addresses[key] = _load(name, compile_it)
    n, p = ctypes.c_int64, ctypes.c_void_p
    return (ctypes.PYFUNCTYPE if keeps_lock else ctypes.CFUNCTYPE)(n, p, n, n, n, p)(_addresses[key])
