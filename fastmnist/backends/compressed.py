"""Compressed rows: only the nonzero values of X, built once a fit. Four fifths of MNIST's pixels are 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.blocks import BlockRows, best_layout, bitmap_of, n_occupied, pack
from fastmnist.backends.crossovers import share_to_compress
from fastmnist.backends.rows import CompressedRows, column_dtype
from fastmnist.backends.sharing import by_rows
from fastmnist.kernels.cpu.isa import MACHINE
from fastmnist.network.layers import Dense
from fastmnist.network.lowering import BLOCK_SLOTS, DataFormat
from fastmnist.network.spec import Spec

# Rows from which the share of nonzeros is estimated where X is to be read once: 50 us.
SAMPLE_ROWS = 128

# Rows in blocks: the sums of so many outputs stay in registers, more are the business of vectors of outputs.
FEW_OUTPUTS = 16
# The product of a block with so many outputs takes the time that a nonzero of compressed rows takes (2.3 and 0.6 cycles): blocks pay where they
# hold enough nonzeros.
OUTPUTS_A_NONZERO = 4


def row_pointers(X: np.ndarray, n_threads: int = 1) -> np.ndarray:
    """Where each row of X (n, features), uint8 or float32, begins when its nonzeros are stored: int64 (n + 1,)."""
    indptr = np.zeros(len(X) + 1, np.int64)
    by_rows(len(X), n_threads, lambda lo, hi: cpu.call("count_nonzeros", indptr[lo + 1 : hi + 1], X[lo:hi]))
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
    by_rows(
        len(X),
        n_threads,
        lambda lo, hi: cpu.call("compress_rows", columns, values, X[lo:hi], indptr[lo : hi + 1]),
    )
    return CompressedRows(indptr, columns, values, X.shape[1])


def most_nonzeros(spec: Spec, size: int) -> float:
    """Up to how many nonzeros among `size` values the first layer skips zeros of dense rows that are read once; -1 where it can't."""
    return float(share_to_compress(full_batch=False).share * size) if isinstance(spec.layers[0], Dense) else -1.0


def _sample(X: np.ndarray) -> np.ndarray:
    return X if len(X) <= SAMPLE_ROWS else X[:: len(X) // SAMPLE_ROWS]


def skips_zeros(X: np.ndarray, spec: Spec) -> bool:
    """Whether the first layer skips the zeros of dense rows that are read once: by the limit of compressed rows, from a sample of X."""
    sample = _sample(X)
    most = most_nonzeros(spec, sample.size)
    return most >= 0 and int(np.count_nonzero(sample)) <= most


def choose_format(
    X: np.ndarray | CompressedRows,
    scale: float,
    spec: Spec,
    n_threads: int = 1,
    *,
    max_memory: int | None = None,
    full_batch: bool = False,
) -> tuple[DataFormat, CompressedRows | BlockRows | None]:
    """Dense rows, compressed ones, or rows in occupied blocks, with the reason.

    Rows are compressed where the first layer can skip zeros, at most a share of the values is not 0 that is measured
    or stated (`fastmnist.backends.crossovers`), and the compressed rows
    take no more memory than X and than `max_memory` bytes. Rows that are compressed already stay so. Rows of bytes for mini-batches stay dense where
    this machine finds their nonzeros sooner than it reads compressed ones; zeros are skipped all the same. For full-batch gradients of a single
    layer of few outputs rows are stored in blocks, within the same limits, unless too few values of a block are nonzero.
    """
    if isinstance(X, CompressedRows):
        reason = f"X is sparse, {X.density:.0%} of the values are nonzero: the first layer skips the others."
        return DataFormat(X.values.dtype.name, scale, X.columns.dtype.name, reason), X
    dense = DataFormat(X.dtype.name, scale)
    if not isinstance(spec.layers[0], Dense):
        return replace(dense, reason="The first layer is not Dense, it needs every value."), None
    if full_batch and len(spec.layers) == 1 and spec.n_outputs <= FEW_OUTPUTS:
        blocks = _blocks_that_pay(X, spec.n_outputs, n_threads, max_memory)
        if blocks is not None:
            share = len(blocks.values) / max(len(X) * len(blocks.features), 1)
            reason = (
                f"{share:.0%} of the blocks of {BLOCK_SLOTS} features are not all 0: the only layer skips the others."
            )
            return replace(dense, blocked=True, reason=reason), blocks
    limit = share_to_compress(full_batch=full_batch)
    stays_dense = not full_batch and X.dtype == np.uint8 and MACHINE.packs_lanes
    if stays_dense:
        sample = _sample(X)
        share = np.count_nonzero(sample) / max(sample.size, 1)
    else:
        indptr = row_pointers(X, n_threads)
        share = indptr[-1] / max(X.size, 1)
    if share > limit.share:
        reason = f"{share:.0%} of the values are nonzero, above the limit of {limit} for compressed rows."
        return replace(dense, reason=reason), None
    reason = f"{share:.0%} of the values are nonzero, at most {limit}: the first layer skips the others."
    if stays_dense:
        return replace(dense, skipping=True, reason=reason), None
    itemsize = column_dtype(X.shape[1]).itemsize + X.dtype.itemsize
    nbytes = int(indptr[-1]) * itemsize + indptr.nbytes
    for most, owner in ((X.nbytes, "X itself takes"), (max_memory, "max_memory allows")):
        if most is not None and nbytes > most:
            too_large = f"Compressed rows would take {nbytes:,} bytes, {owner} {most:,}."
            return replace(dense, reason=too_large), None
    rows = compress(X, n_threads, indptr=indptr)
    return replace(dense, column_dtype=rows.columns.dtype.name, reason=reason), rows


def _blocks_that_pay(X: np.ndarray, n_outputs: int, n_threads: int, max_memory: int | None) -> BlockRows | None:
    """X's rows in blocks, unless compressed rows are multiplied faster or memory does not suffice."""
    features, nonzeros_a_block = best_layout(X)
    if n_outputs > OUTPUTS_A_NONZERO * nonzeros_a_block:
        return None
    bitmap = bitmap_of(X, features, n_threads)
    nbytes = int(n_occupied(bitmap).sum()) * BLOCK_SLOTS * X.itemsize
    # Beside blocks that are all occupied, as those of standardised features are, the few bytes of the bitmap do not count.
    if nbytes > X.nbytes or (max_memory is not None and nbytes + 2 * bitmap.nbytes > max_memory):
        return None
    return pack(X, features, n_threads, bitmap=bitmap)
