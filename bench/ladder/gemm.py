"""The ladder of the matrix product `y = x w`: from the naive triple loop to what is shipped. `make ladder` runs it.

Each rung is verified against float64, then timed on one thread, warm, rungs in turn; medians of the rounds. Peak is the rate of the register tile's
fused multiply-adds on operands that never leave L1, measured in the same run.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

import fastmnist.kernels.cpu as cpu
from fastmnist.kernels.cpu.isa import LANES
from fastmnist.kernels.cpu.matmul import NO_FLOOR, STRIP, tile_full, tile_row
from fastmnist.kernels.cpu.simd import OPTIONS, address_to, offset
from fastmnist.kernels.cpu.tile import TILE_ROWS

SHAPES = [(32, 784, 128), (256, 784, 128), (64, 512, 256), (512, 512, 512)]
ROUNDS = 9
pointer = address_to["float32"]


@njit(**OPTIONS)
def naive(y, x, w):
    """Row, column, sum: every step walks down a column of w, one cache line for one number."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[i, k] * w[k, j]
            y[i, j] = total


@njit(**OPTIONS)
def reordered(y, x, w):
    """The sum outside, the columns inside: rows of w are read as they lie, and the compiler makes vectors of them."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = np.float32(0)
        for k in range(x.shape[1]):
            a = x[i, k]
            for j in range(y.shape[1]):
                y[i, j] += a * w[k, j]


@njit(**OPTIONS)
def _row_strips(y, x, w, zero, m, k, n):
    y, x, w, zero = pointer(y), pointer(x), pointer(w), pointer(zero)
    for j in range(0, n, STRIP):
        for i in range(m):
            to = offset(y, i * n + j)
            tile_row(offset(x, i * k), k, 1, offset(w, j), n, k, zero, 0, to, n, NO_FLOOR, 0)


@njit(**OPTIONS)
def _tiles(y, x, w, zero, m, k, n):
    y, x, w, zero = pointer(y), pointer(x), pointer(w), pointer(zero)
    for j in range(0, n, STRIP):
        for i in range(0, m, TILE_ROWS):
            to = offset(y, i * n + j)
            tile_full(offset(x, i * k), k, 1, offset(w, j), n, k, zero, 0, to, n, NO_FLOOR, 0)


ZERO = np.zeros(4096, np.float32)


def row_strips(y, x, w):
    """One row times a strip of columns: the sums stay in registers for the whole of k; y is written once."""
    _row_strips(y.ctypes.data, x.ctypes.data, w.ctypes.data, ZERO.ctypes.data, *x.shape, w.shape[1])


def register_tile(y, x, w):
    """Several rows at once: each vector of w that is loaded serves them all."""
    _tiles(y.ctypes.data, x.ctypes.data, w.ctypes.data, ZERO.ctypes.data, *x.shape, w.shape[1])


def shipped(y, x, w):
    """Blocks of k, so that a strip of w stays in L1 while all rows pass over it; any shape, ragged ends masked."""
    _entry(y, x, w)()


@cache
def _encoded(shapes: tuple, addresses: tuple) -> Callable[[], None]:
    row = np.zeros(cpu.ROW_WORDS, np.int64)
    (m, k), (_, n) = shapes
    y, x, w = addresses
    operands = [(y, (m, n), n, "float32"), (x, (m, k), k, "float32"), (w, (k, n), n, "float32")]
    cpu.encode(row, "linear", [*operands, (ZERO.ctypes.data, (n,), 0, "float32")], [])
    entry, address = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0])), row.ctypes.data
    return lambda row=row: entry(address)


def _entry(y, x, w):
    return _encoded((x.shape, w.shape), (y.ctypes.data, x.ctypes.data, w.ctypes.data))


def openblas(y, x, w):
    """NumPy's `@`, on one thread."""
    np.matmul(x, w, out=y)


RUNGS: list[Callable] = [naive, reordered, row_strips, register_tile, shipped, openblas]


def seconds(rung: Callable, operands: tuple[np.ndarray, ...]) -> float:
    """Best of a few calls in a time budget of some milliseconds."""
    rung(*operands)
    best, end = float("inf"), time.perf_counter() + 0.02
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        rung(*operands)
        best = min(best, time.perf_counter() - start)
    return best


def peak() -> float:
    """GFLOP/s of the tile on operands in L1."""
    x, w, y = (
        np.ones((TILE_ROWS, 96), np.float32),
        np.ones((96, STRIP), np.float32),
        np.empty((TILE_ROWS, STRIP), np.float32),
    )
    repeats = 200

    @njit(**OPTIONS)
    def run(y, x, w, zero, k):
        y, x, w, zero = pointer(y), pointer(x), pointer(w), pointer(zero)
        for _ in range(repeats):
            tile_full(x, k, 1, w, STRIP, k, zero, 0, y, STRIP, NO_FLOOR, 0)

    arguments = (y.ctypes.data, x.ctypes.data, w.ctypes.data, ZERO.ctypes.data, 96)
    return 2 * TILE_ROWS * 96 * STRIP * repeats / seconds(lambda: run(*arguments), ()) / 1e9


def main() -> None:
    """Verify, time, print."""
    rng = np.random.default_rng(0)
    print(f"{LANES} float32 a vector, tile {TILE_ROWS} x {STRIP}, peak of the tile in L1: {peak():.0f} GFLOP/s")
    print(f"{'GFLOP/s':16}" + "".join(f"{'x'.join(map(str, shape)):>14}" for shape in SHAPES))
    rates: dict[str, list[float]] = {rung.__name__: [] for rung in RUNGS}
    for m, k, n in SHAPES:
        x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        y, exact = np.empty((m, n), np.float32), x.astype(np.float64) @ w
        for rung in RUNGS:
            y[:] = np.nan
            rung(y, x, w)
            assert not (np.abs(y - exact).max() > 1e-5 * k), rung.__name__
        times: dict[str, list[float]] = {rung.__name__: [] for rung in RUNGS}
        for _ in range(ROUNDS):
            for rung in RUNGS:
                times[rung.__name__].append(seconds(rung, (y, x, w)))
        for name, values in times.items():
            rates[name].append(2 * m * k * n / statistics.median(values) / 1e9)
    for rung in RUNGS:
        row = rates[rung.__name__]
        print(f"{rung.__name__:16}" + "".join(f"{rate:14.1f}" for rate in row) + f"   {rung.__doc__}")


if __name__ == "__main__":
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        main()
