"""Rows of X besides plain arrays: compressed ones, and those that do not lie as kernels read them (sparse, of another type, in a file).

`CompressedRows` is what executors read; `StoredRows` is what the user gave, converted where it is read, some rows at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse

Matrix: TypeAlias = "np.ndarray | scipy.sparse.csr_array"

PIECE_BYTES = 2 << 20  # converted at a time: two copies of it stay in a core's cache
# Rows of so many bytes are predicted at a time: enough to keep all threads busy, and little beside a process.
BLOCK_BYTES = 8 << 20
# Blocks of whole multiples of it give the bits of one large block: NumPy's executor works on so many rows at a time.
BLOCK_MULTIPLE = 1024


@dataclass(frozen=True)
class CompressedRows:
    """Row i is `columns[indptr[i]:indptr[i + 1]]` with `values[...]`, columns ascending.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n + 1,)
    columns : ndarray of uint16 (up to 65,536 features) or int32, shape (nonzeros,)
    values : ndarray of X's dtype, shape (nonzeros,)
    n_features : int
    """

    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    n_features: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def density(self) -> float:
        """Share of nonzero values."""
        return len(self.columns) / max(len(self) * self.n_features, 1)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of the program's bound tensors."""
        return {"indptr": self.indptr, "columns": self.columns, "values": self.values}


def column_dtype(n_features: int) -> np.dtype:
    """Of the column numbers of compressed rows."""
    return np.dtype(np.uint16 if n_features <= 1 << 16 else np.int32)


def is_mapped(X: Matrix) -> bool:
    """Whether X lies in a mapped file (`np.memmap`, `np.load(mmap_mode="r")`, or a view of one), not in the memory of this process."""
    base: object = X
    while base is not None:
        if isinstance(base, mmap.mmap):
            return True
        base = getattr(base, "obj", None) if isinstance(base, memoryview) else getattr(base, "base", None)
    return False


def convert(X: Matrix, dtype: np.dtype, out: np.ndarray | None = None) -> np.ndarray:
    """X as a dense C-contiguous array of `dtype`; X itself where it is one, and no `out` was given.

    Raises
    ------
    ValueError
        A value is too large for float32.
    """
    if out is None and isinstance(X, np.ndarray) and X.dtype == dtype and X.flags.c_contiguous:
        return X
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    with np.errstate(over="ignore"):
        if out is None:
            out = np.ascontiguousarray(dense, dtype)
        else:
            np.copyto(out, dense, casting="unsafe")
    if out.dtype.itemsize < dense.dtype.itemsize and not np.isfinite(out).all():
        raise ValueError(
            f"Input X contains a value too large for dtype('float32'), in which this model computes: {largest_magnitude(dense):g}. "
            "Scale X (sklearn.preprocessing.StandardScaler), or fit float64 data with backend='numpy'."
        )
    return out


def largest_magnitude(X: Matrix) -> float:
    """Largest absolute value of X, without a copy of it."""
    return max(abs(float(X.max())), abs(float(X.min())))


class StoredRows:
    """Rows of a matrix, converted to `dtype` where they are read.

    Parameters
    ----------
    matrix : ndarray of numbers, or csr_array in canonical form without stored zeros; (n, n_features)
    dtype : dtype
        uint8, float32 or float64.
    rows : ndarray of int64, optional
        Those rows of the matrix, in that order; None: all.
    """

    def __init__(self, matrix: Matrix, dtype: np.dtype | type, rows: np.ndarray | None = None) -> None:
        self._matrix, self.dtype, self._rows = matrix, np.dtype(dtype), rows
        self.shape = (matrix.shape[0] if rows is None else len(rows), matrix.shape[1])
        self.is_sparse = not isinstance(matrix, np.ndarray)
        self.is_mapped = not self.is_sparse and is_mapped(matrix)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Of a dense row of `dtype`."""
        return self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice | np.ndarray) -> StoredRows:
        """Some of the rows; nothing is read."""
        if self._rows is not None:
            return StoredRows(self._matrix, self.dtype, self._rows[rows])
        if isinstance(rows, slice):
            return StoredRows(self._matrix[rows], self.dtype)
        return StoredRows(self._matrix, self.dtype, rows)

    def dense(self, out: np.ndarray | None = None) -> np.ndarray:
        """All rows as a dense C-contiguous array, written to `out` where it is given.

        Raises
        ------
        ValueError
            A value is too large for float32.
        """
        out = np.empty(self.shape, self.dtype) if out is None else out
        piece = max(1, PIECE_BYTES // max(self.row_bytes, 1))
        for start in range(0, len(self), piece):
            part = slice(start, start + piece)
            convert(self._matrix[part if self._rows is None else self._rows[part]], self.dtype, out[part])
        return out

    def compressed(self) -> CompressedRows:
        """All rows of a sparse matrix; values that have the right type already are not copied.

        Raises
        ------
        ValueError
            A value is too large for float32.
        """
        part = self._matrix if self._rows is None else self._matrix[self._rows]
        assert not isinstance(part, np.ndarray)
        return CompressedRows(
            part.indptr.astype(np.int64, copy=False),
            part.indices.astype(column_dtype(self.shape[1])),
            convert(part.data, self.dtype),
            self.shape[1],
        )

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Dense blocks of all rows, one after the other in the same memory, and where they lie."""
        rows = max(1, BLOCK_BYTES // max(self.row_bytes, 1))
        rows = min(rows // BLOCK_MULTIPLE * BLOCK_MULTIPLE or rows, len(self))
        buffer = np.empty((rows, self.shape[1]), self.dtype)
        for start in range(0, len(self), rows):
            block = slice(start, min(start + rows, len(self)))
            yield block, self[block].dense(buffer[: block.stop - start])
