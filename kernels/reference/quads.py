"""First layer on a batch by quads of features: entries[g, 4 t : 4 t + 4] are the features 4 g ... 4 g + 3 of row rows[g, t]."""

from __future__ import annotations

import numpy as np

from ..contract import QUAD
from .activations import relu
from .common import Array, batch_rows, ieee
from .optimizers import sgd


@ieee
def sparse_quads(
    counts: Array,
    rows: Array,
    entries: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """The batch by quads of features: which of its rows have a value of quad g that is not 0, ascending, and their four values.

    These are rows[g, :counts[g]] and entries[g, : 4 * counts[g]]; what lies behind is left as it was. counts (G,) int32, rows (G, B) int32,
    entries (G, 4 B).
    """
    source = np.zeros((len(indptr) - 1, QUAD * len(counts)), values.dtype)
    source[np.repeat(np.arange(len(source)), np.diff(indptr)), columns] = values
    skipping_quads(counts, rows, entries, source, order, cursor, scale)


@ieee
def skipping_quads(
    counts: Array, rows: Array, entries: Array, source: Array, order: Array, cursor: Array, scale: float
) -> None:
    """The same of dense rows."""
    counts[...] = 0
    for r, row in enumerate(source[batch_rows(order, cursor, rows.shape[1])]):
        quads = np.pad(row, (0, QUAD * len(counts) - len(row))).reshape(-1, QUAD)
        for g in np.flatnonzero((quads != 0).any(axis=1)):
            n = counts[g]
            rows[g, n] = r
            entries[g, QUAD * n : QUAD * (n + 1)] = quads[g].astype(entries.dtype) * entries.dtype.type(scale)
            counts[g] += 1


def _features(g: int, n_features: int) -> slice:
    """Quad g's; the last one may have fewer than four."""
    return slice(QUAD * g, min(QUAD * (g + 1), n_features))


def _values(entries: Array, g: int, n: int, n_features: int) -> Array:
    """Quad g's values in its n rows, (n, features)."""
    features = _features(g, n_features)
    return entries[g, : QUAD * n].reshape(n, QUAD)[:, : features.stop - features.start]


@ieee
def quad_linear(y: Array, counts: Array, rows: Array, entries: Array, w: Array, b: Array) -> None:
    """`y = x w + b`, x by quads of features as `sparse_quads` leaves it."""
    y[...] = b
    for g, n in enumerate(counts):
        y[rows[g, :n]] += _values(entries, g, n, len(w)) @ w[_features(g, len(w))]


@ieee
def quad_linear_relu(y: Array, counts: Array, rows: Array, entries: Array, w: Array, b: Array) -> None:
    """`y = max(x w + b, 0)`, x as in `quad_linear`."""
    quad_linear(y, counts, rows, entries, w, b)
    relu(y, y)


@ieee
def quad_linear_dw(dw: Array, counts: Array, rows: Array, entries: Array, dy: Array) -> None:
    """`dw = x^T dy`, x by quads of features as `sparse_quads` leaves it."""
    for g, n in enumerate(counts):
        dw[_features(g, len(dw))] = _values(entries, g, n, len(dw)).T @ dy[rows[g, :n]]


@ieee
def quad_linear_dw_sgd(
    w: Array, counts: Array, rows: Array, entries: Array, dy: Array, hyper: Array, cursor: Array
) -> None:
    """`w -= step_size (x^T dy + l2 w)`, x by quads of features as `sparse_quads` leaves it."""
    dw = np.empty_like(w)
    quad_linear_dw(dw, counts, rows, entries, dy)
    sgd(w, dw, hyper, cursor)
