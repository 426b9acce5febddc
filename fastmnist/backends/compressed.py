"""Compressed rows: only the nonzero values of X, built once a fit. Four fifths of MNIST's pixels are 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.rows import CompressedRows, column_dtype
from fastmnist.backends.team import Team
from fastmnist.network.layers import Dense
from fastmnist.network.lowering import DataFormat
from fastmnist.network.spec import Spec

# Above this share of nonzeros dense rows are multiplied: a vector product passes zeros faster than a list passes nonzeros. On two cores the ways
# cross at 26 % (epoch, 128-64, batch 32), 33 to 37 % (larger batches, wider layers) and 35 to 43 % (full-batch gradient of softmax), for
# bytes and floats alike: bench/bench_crossover.py, records in bench/results/crossover.csv. At 30 % no job loses more than a tenth.
DENSITY_LIMIT = 0.3
ROWS_A_THREAD = 1024  # fewer rows are compressed sooner than another thread is started


def row_pointers(X: np.ndarray, n_threads: int = 1) -> np.ndarray:
    """Where each row of X (n, features), uint8 or float32, begins when its nonzeros are stored: int64 (n + 1,)."""
    indptr = np.zeros(len(X) + 1, np.int64)
    _by_rows(len(X), n_threads, lambda lo, hi: cpu.call("count_nonzeros", indptr[lo + 1 : hi + 1], X[lo:hi]))
    return np.cumsum(indptr, out=indptr)


def compress(X: np.ndarray, n_threads: int = 1, *, indptr: np.ndarray | None = None) -> CompressedRows:
    """The nonzero values of X.

    Allocates the result and nothing else: rows are counted first, then written where they belong.

    Parameters
    ----------
    X : ndarray of shape (n, features), C-contiguous uint8 or float32
    n_threads : int
    indptr : ndarray, optional
        `row_pointers(X)`, where they are known already.
    """
    indptr = row_pointers(X, n_threads) if indptr is None else indptr
    columns = np.empty(indptr[-1], column_dtype(X.shape[1]))
    values = np.empty(indptr[-1], X.dtype)
    _by_rows(
        len(X),
        n_threads,
        lambda lo, hi: cpu.call("compress_rows", columns, values, X[lo:hi], indptr[lo : hi + 1]),
    )
    return CompressedRows(indptr, columns, values, X.shape[1])


def choose_format(
    X: np.ndarray | CompressedRows, scale: float, spec: Spec, n_threads: int = 1, *, max_memory: int | None = None
) -> tuple[DataFormat, CompressedRows | None]:
    """Dense or compressed rows, with the reason.

    Rows are compressed where the first layer can skip zeros, at most `DENSITY_LIMIT` of the values are not 0, and the compressed rows
    take no more memory than X and than `max_memory` bytes. Rows that are compressed already stay so.
    """
    if isinstance(X, CompressedRows):
        reason = f"X is sparse, {X.density:.0%} of the values are nonzero: the first layer skips the others."
        return DataFormat(X.values.dtype.name, scale, X.columns.dtype.name, reason), X
    dense = DataFormat(X.dtype.name, scale)
    if not isinstance(spec.layers[0], Dense):
        return replace(dense, reason="The first layer is not Dense, it needs every value."), None
    indptr = row_pointers(X, n_threads)
    share = indptr[-1] / max(X.size, 1)
    if share > DENSITY_LIMIT:
        reason = f"{share:.0%} of the values are nonzero, above the limit of {DENSITY_LIMIT:.0%} for compressed rows."
        return replace(dense, reason=reason), None
    itemsize = column_dtype(X.shape[1]).itemsize + X.dtype.itemsize
    nbytes = int(indptr[-1]) * itemsize + indptr.nbytes
    for limit, owner in ((X.nbytes, "X itself takes"), (max_memory, "max_memory allows")):
        if limit is not None and nbytes > limit:
            reason = f"Compressed rows would take {nbytes:,} bytes, {owner} {limit:,}."
            return replace(dense, reason=reason), None
    rows = compress(X, n_threads, indptr=indptr)
    reason = f"{share:.0%} of the values are nonzero: the first layer skips the others."
    return replace(dense, column_dtype=rows.columns.dtype.name, reason=reason), rows


def _by_rows(n: int, n_threads: int, work: Callable[[int, int], None]) -> None:
    """Call `work(lo, hi)` for shares of n rows, on several threads where that pays."""
    n_threads = max(1, min(n_threads, n // ROWS_A_THREAD))
    if n_threads == 1:
        work(0, n)
        return
    team = Team(n_threads)

    def share(thread: int) -> int:
        work(n * thread // n_threads, n * (thread + 1) // n_threads)
        return 0

    team.run(share)
    if team.stop_requested:
        raise KeyboardInterrupt
