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
from fastmnist.kernels.cpu.matmul import DEPTH, NO_FLOOR, ONE, ZERO, copy_block, packed_strip
from fastmnist.kernels.cpu.simd import OPTIONS, address_to, inline, offset
from fastmnist.kernels.cpu.tile import STRIP, TILE_ROWS, TILE_VECTORS, dense_tile

SHAPES = [(32, 784, 128), (256, 784, 512), (512, 512, 512)]
ROUNDS = 9
pointer = address_to["float32"]
tile_full, tile_row = dense_tile(TILE_ROWS, TILE_VECTORS), dense_tile(1, TILE_VECTORS)


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
def _row_strips(y, x, w, m, k, n):
    y, x, w = pointer(y), pointer(x), pointer(w)
    for j in range(0, n, STRIP):
        for i in range(m):
            to = offset(y, i * n + j)
            tile_row(offset(x, i * k), k, 1, offset(w, j), n, k, ONE, ZERO, to, n, to, n, NO_FLOOR, 0, w)


@inline
def _rows(y, x, ld_x, w, ld_w, k, beta, m, n):
    """One strip, all rows; y holds the sum of the blocks before."""
    for i in range(0, m, TILE_ROWS):
        to = offset(y, i * n)
        tile_full(offset(x, i * ld_x), ld_x, 1, w, ld_w, k, ONE, beta, to, n, to, n, NO_FLOOR, 0, w)


@njit(**OPTIONS)
def _tiles(y, x, w, m, k, n):
    y, x, w = pointer(y), pointer(x), pointer(w)
    for j in range(0, n, STRIP):
        _rows(offset(y, j), x, k, offset(w, j), n, k, ZERO, m, n)


@njit(**OPTIONS)
def _blocks(y, x, w, m, k, n):
    y, x, w = pointer(y), pointer(x), pointer(w)
    for j in range(0, n, STRIP):
        for k0 in range(0, k, DEPTH):
            depth, beta = min(DEPTH, k - k0), ZERO if k0 == 0 else ONE
            _rows(offset(y, j), offset(x, k0), k, offset(w, k0 * n + j), n, depth, beta, m, n)


@njit(**OPTIONS)
def _packed_blocks(y, x, w, m, k, n):
    y, x, w = pointer(y), pointer(x), pointer(w)
    strip = packed_strip()
    for j in range(0, n, STRIP):
        for k0 in range(0, k, DEPTH):
            depth, beta = min(DEPTH, k - k0), ZERO if k0 == 0 else ONE
            copy_block(strip, STRIP, offset(w, k0 * n + j), n, depth, STRIP)
            _rows(offset(y, j), offset(x, k0), k, strip, STRIP, depth, beta, m, n)


def _addresses(y, x, w):
    return y.ctypes.data, x.ctypes.data, w.ctypes.data, *x.shape, w.shape[1]


def row_strips(y, x, w):
    """One row times a strip of columns: the sums stay in registers for the whole of k; y is written once."""
    _row_strips(*_addresses(y, x, w))


def register_tile(y, x, w):
    """Several rows at once: each vector of w that is loaded serves them all."""
    _tiles(*_addresses(y, x, w))


def blocked(y, x, w):
    """Blocks of k, so that a strip of w stays in L1 while all rows pass over it."""
    _blocks(*_addresses(y, x, w))


def packed(y, x, w):
    """Each block of a strip is copied first: its rows lie side by side instead of in the same few sets of L1."""
    _packed_blocks(*_addresses(y, x, w))


def shipped(y, x, w):
    """The first tile packs while it computes; even blocks of k; rows in blocks for L2; any shape, ragged ends masked."""
    _entry(y, x, w)()


@cache
def _encoded(shapes: tuple, addresses: tuple) -> Callable[[], None]:
    row = np.zeros(cpu.ROW_WORDS, np.int64)
    (m, k), (_, n) = shapes
    y, x, w = addresses
    operands = [(y, (m, n), n, "float32"), (x, (m, k), k, "float32"), (w, (k, n), n, "float32")]
    cpu.encode(row, "gemm_nn", operands, [1.0, 0.0])
    entry, address = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0])), row.ctypes.data
    return lambda row=row: entry(address)


def _entry(y, x, w):
    return _encoded((x.shape, w.shape), (y.ctypes.data, x.ctypes.data, w.ctypes.data))


def openblas(y, x, w):
    """NumPy's `@`, on one thread; OPENBLAS_CORETYPE=SkylakeX gives it AVX-512 on processors that it does not know."""
    np.matmul(x, w, out=y)


RUNGS: list[Callable] = [naive, reordered, row_strips, register_tile, blocked, packed, shipped, openblas]


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
    def run(y, x, w, k):
        y, x, w = pointer(y), pointer(x), pointer(w)
        for _ in range(repeats):
            tile_full(x, k, 1, w, STRIP, k, ONE, ZERO, y, STRIP, y, STRIP, NO_FLOOR, 0, w)

    arguments = (y.ctypes.data, x.ctypes.data, w.ctypes.data, 96)
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
