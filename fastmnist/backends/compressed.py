"""Compressed rows: only the nonzero values of X, built once a fit. Four fifths of MNIST's pixels are 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastmnist.network.layers import Dense
from fastmnist.network.lowering import DataFormat
from fastmnist.network.spec import Spec

# Above this share of nonzeros dense rows are multiplied: a vector product passes zeros faster than a list passes nonzeros.
DENSITY_LIMIT = 0.35
SLICE_ROWS = 4096  # rows compressed at a time: bounds the temporary memory


@dataclass(frozen=True)
class CompressedRows:
    """Row i is `columns[indptr[i]:indptr[i + 1]]` with `values[...]`, columns ascending.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n + 1,)
    columns : ndarray of uint16 (fewer than 65,536 features) or int32, shape (nonzeros,)
    values : ndarray of X's dtype, shape (nonzeros,)
    """

    indptr: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of the program's bound tensors."""
        return {"indptr": self.indptr, "columns": self.columns, "values": self.values}


def density(X: np.ndarray) -> float:
    """Share of nonzero values."""
    return np.count_nonzero(X) / max(X.size, 1)


def compress(X: np.ndarray) -> CompressedRows:
    """The nonzero values of X (n, features), uint8 or float32."""
    dtype = np.dtype(np.uint16 if X.shape[1] <= 1 << 16 else np.int32)
    counts, columns, values = [], [], []
    for start in range(0, len(X), SLICE_ROWS):
        block = X[start : start + SLICE_ROWS]
        nonzero = block != 0
        counts.append(nonzero.sum(axis=1))
        at = np.flatnonzero(nonzero.ravel())
        columns.append((at % X.shape[1]).astype(dtype))
        values.append(block.ravel()[at])
    indptr = np.zeros(len(X) + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=indptr[1:])
    return CompressedRows(indptr, np.concatenate(columns), np.concatenate(values))


def choose_format(X: np.ndarray, scale: float, spec: Spec) -> tuple[DataFormat, CompressedRows | None]:
    """Dense or compressed rows, with the reason."""
    if not isinstance(spec.layers[0], Dense):
        return DataFormat(X.dtype.name, scale, reason="The first layer is not Dense, it needs every value."), None
    share = density(X)
    if share > DENSITY_LIMIT:
        reason = f"{share:.0%} of the values are nonzero, above the limit of {DENSITY_LIMIT:.0%} for compressed rows."
        return DataFormat(X.dtype.name, scale, reason=reason), None
    rows = compress(X)
    reason = f"{share:.0%} of the values are nonzero: the first layer skips the others."
    return DataFormat(X.dtype.name, scale, rows.columns.dtype.name, reason), rows
