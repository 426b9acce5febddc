"""Compressed rows: what they hold, and what building them takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fastmnist.backends.compressed import compress, row_pointers


def _rows(n, n_features, share, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(1, 256, (n, n_features), dtype=np.uint8) * (rng.random((n, n_features)) < share)
    return X.astype(dtype)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("n", "n_features"), [(0, 3), (1, 1), (50, 7), (5000, 33), (3, 70_000)])
def test_compressed_rows_hold_the_nonzeros(n, n_features, dtype, n_threads):
    X = _rows(n, n_features, 0.3, dtype)
    if n > 10:
        X[3], X[5] = 0, 1
    rows = compress(X, n_threads)
    assert rows.indptr.tolist() == [0, *np.cumsum((X != 0).sum(axis=1))]
    assert rows.columns.dtype == (np.uint16 if n_features < 65_536 else np.int32)
    np.testing.assert_array_equal(rows.columns, np.nonzero(X)[1])
    np.testing.assert_array_equal(rows.values, X[X != 0])
    assert rows.values.dtype == dtype
    assert len(rows) == n
    assert rows.density == pytest.approx((X != 0).mean() if n else 0)


def test_values_that_are_not_zero_are_kept():
    X = np.array([[np.nan, -0.0, 1e-45, np.inf, 0, -1]], np.float32)
    rows = compress(X)
    assert rows.columns.tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(rows.values, X[0, [0, 2, 3, 5]])


def test_compressing_takes_the_memory_of_its_result():
    X = _rows(20_000, 100, 0.2, np.uint8)
    compress(X[:10], 2)  # the kernels are loaded
    tracemalloc.start()
    try:
        rows = compress(X, 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    result = rows.indptr.nbytes + rows.columns.nbytes + rows.values.nbytes
    assert result <= peak <= result + 64 * 1024
    assert row_pointers(X)[-1] == len(rows.columns)
