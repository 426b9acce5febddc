"""First layer on compressed rows: row i is columns[indptr[i]:indptr[i+1]] with values[...], each column at most once."""

from __future__ import annotations

import numpy as np

from .activations import relu
from .common import Array, batch_rows, ieee


def count_nonzeros(counts: Array, source: Array) -> None:
    """`counts[r]` = number of values of `source[r]` that are not 0."""
    counts[...] = (source != 0).sum(axis=1)


def compress_rows(columns: Array, values: Array, source: Array, indptr: Array) -> None:
    """The nonzeros of `source[r]` to `values[indptr[r]:indptr[r + 1]]`, their columns, ascending, to `columns[...]`."""
    for r, row in enumerate(source):
        stored = slice(indptr[r], indptr[r + 1])
        columns[stored] = np.flatnonzero(row)
        values[stored] = row[row != 0]


@ieee
def sparse_linear(
    y: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = x w + b`, row r of x being the compressed row order[cursor[0] + r]; what is not stored is not multiplied."""
    for r, i in enumerate(batch_rows(order, cursor, len(y))):
        stored = slice(indptr[i], indptr[i + 1])
        pixels = values[stored].astype(y.dtype) * y.dtype.type(scale)
        y[r] = pixels @ w[columns[stored]] + b


@ieee
def sparse_linear_relu(
    y: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = max(x w + b, 0)`, x as in `sparse_linear`."""
    sparse_linear(y, indptr, columns, values, w, b, order, cursor, scale)
    relu(y, y)


@ieee
def skipping_linear(y: Array, source: Array, w: Array, b: Array, order: Array, cursor: Array, scale: float) -> None:
    """`y = x w + b`, row r of x being source[order[cursor[0] + r]] times scale; zeros are not multiplied."""
    for r, row in enumerate(source[batch_rows(order, cursor, len(y))]):
        pixels = row[row != 0].astype(y.dtype) * y.dtype.type(scale)
        y[r] = pixels @ w[row != 0] + b


@ieee
def skipping_linear_relu(
    y: Array, source: Array, w: Array, b: Array, order: Array, cursor: Array, scale: float
) -> None:
    """`y = max(x w + b, 0)`, x as in `skipping_linear`."""
    skipping_linear(y, source, w, b, order, cursor, scale)
    relu(y, y)


@ieee
def sparse_linear_dw_add(
    dw: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    dy: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`dw += x^T dy`, x as in `sparse_linear`; rows are added in ascending order."""
    for r, i in enumerate(batch_rows(order, cursor, len(dy))):
        stored = slice(indptr[i], indptr[i + 1])
        pixels = values[stored].astype(dw.dtype) * dw.dtype.type(scale)
        dw[columns[stored]] += np.outer(pixels, dy[r])
