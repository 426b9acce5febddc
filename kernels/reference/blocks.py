"""A layer of few outputs on rows in occupied blocks of 16 slots: features (F,), bitmap (N, W), w (F O,)."""

from __future__ import annotations

import numpy as np

from ..contract import BLOCK
from .common import Array, batch_rows, ieee


def _in_slots(source: Array, features: Array) -> Array:
    """The rows of source (N, I) slot by slot, (N, F): 0 in empty slots."""
    return np.where(features >= 0, source[:, np.maximum(features, 0)], 0)


def _slots(bitmap_row: Array, n_slots: int) -> Array:
    """The slots of those blocks that a row's bitmap names, (stored blocks, 16)."""
    slots = np.arange(n_slots).reshape(-1, BLOCK)
    return slots[[bitmap_row[k // 64] >> k % 64 & 1 == 1 for k in range(len(slots))]]


@ieee
def occupied_blocks(bitmap: Array, source: Array, features: Array) -> None:
    """Bit k of `bitmap[r, v]`: whether block 64 v + k of row r is not all 0."""
    bitmap[...] = 0
    occupied = (_in_slots(source, features) != 0).reshape(len(source), len(features) // BLOCK, BLOCK).any(axis=2)
    for k, rows in enumerate(occupied.T):
        bitmap[:, k // 64] |= rows.astype(np.int64) << k % 64


def pack_blocks(values: Array, source: Array, features: Array, bitmap: Array, starts: Array) -> None:
    """The named blocks of row r to `values` from `starts[r]` on."""
    for r, row in enumerate(_in_slots(source, features)):
        stored = row[_slots(bitmap[r], len(features))].ravel()
        values[starts[r] : starts[r] + len(stored)] = stored


@ieee
def block_linear(
    y: Array,
    indptr: Array,
    bitmap: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = x w + b`, row r of x being the blocks of row order[cursor[0] + r]; what is not stored is not multiplied."""
    n_outputs = y.shape[1]
    weights = w.reshape(-1, n_outputs, BLOCK).swapaxes(1, 2).reshape(-1, n_outputs)
    for r, i in enumerate(batch_rows(order, cursor, len(y))):
        x = values[indptr[i] : indptr[i + 1]].astype(y.dtype) * y.dtype.type(scale)
        y[r] = x @ weights[_slots(bitmap[i], len(weights)).ravel()] + b


@ieee
def block_linear_dw_add(
    dw: Array, indptr: Array, bitmap: Array, values: Array, dy: Array, order: Array, cursor: Array, scale: float
) -> None:
    """`dw += x^T dy`, x as in `block_linear`."""
    n_outputs = dy.shape[1]
    blocks = dw.reshape(-1, n_outputs, BLOCK)
    for r, i in enumerate(batch_rows(order, cursor, len(dy))):
        x = values[indptr[i] : indptr[i + 1]].astype(dw.dtype) * dw.dtype.type(scale)
        stored = _slots(bitmap[i], len(blocks) * BLOCK)[:, 0] // BLOCK
        blocks[stored] += dy[r][:, np.newaxis] * x.reshape(-1, 1, BLOCK)
