"""Reading a batch, and writing results back. B rows of a batch, N of the data set, M entries of the order."""

from __future__ import annotations

from .common import Array, batch_rows, ieee


def advance(cursor: Array, rows: float) -> None:
    """On to the next batch: `rows` further in the order, one step further in the epoch."""
    cursor[0] += int(rows)
    cursor[1] += 1


@ieee
def gather_rows(x: Array, source: Array, order: Array, cursor: Array, scale: float) -> None:
    """`x[r] = scale * source[order[cursor[0] + r]]`; x (B, I), source (N, I)."""
    rows = source[batch_rows(order, cursor, len(x))]
    x[...] = rows.astype(x.dtype) * x.dtype.type(scale)


def scatter_rows(target: Array, p: Array, cursor: Array) -> None:
    """`target[cursor[0] + r] = p[r]`; target (M, C), p (B, C)."""
    start = int(cursor[0])
    target[start : start + len(p)] = p
