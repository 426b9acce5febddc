"""Rows in occupied blocks, for full-batch gradients of a single layer of few outputs: only blocks of features that are not all 0 are stored.

What belongs together should be zero together: of a square image a block is a patch of 4 x 4 pixels where that leaves fewer blocks than 16 pixels in
a row do (of MNIST 38 % of the patches are occupied and 58 % of the runs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.sharing import by_rows
from fastmnist.network.lowering import BLOCK_SLOTS, blocks_of

PATCH = math.isqrt(BLOCK_SLOTS)  # pixels of a patch's side
BLOCKS_A_WORD = 64  # of the bitmap
SAMPLE_ROWS = 512  # that the layouts are compared on
# Rows that are sorted among each other: enough that most have as many blocks as the row before, few enough that any thousand rows take as long
# as any others, and that they stay in L2 while they are packed.
SORTED_ROWS = 2048


@dataclass(frozen=True)
class BlockRows:
    """X's rows in occupied blocks, those with equally many next to each other; `kernels/contract/blocks.py` says what the arrays hold.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        The row of X that each of these is.
    features : ndarray of int32, shape (slots,)
        The feature in each slot, -1 in an empty one.
    indptr : ndarray of int64, shape (n + 1,)
    bitmap : ndarray of int64, shape (n, words)
    values : ndarray of X's dtype, shape (stored blocks * BLOCK_SLOTS,)
    """

    rows: np.ndarray
    features: np.ndarray
    indptr: np.ndarray
    bitmap: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.bitmap)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By the names of the program's bound tensors."""
        return {"indptr": self.indptr, "bitmap": self.bitmap, "values": self.values}

    def to_blocks(self, weights: np.ndarray) -> np.ndarray:
        """Weights (features, outputs) block by block, as a vector."""
        below = np.zeros((1, weights.shape[1]), weights.dtype)  # an empty slot's, -1, is the last row
        slots = np.concatenate([weights, below]).take(self.features, axis=0)
        return slots.reshape(-1, BLOCK_SLOTS, weights.shape[1]).swapaxes(1, 2).ravel()

    def from_blocks(self, vector: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weights (features, outputs) that lie block by block in a vector."""
        slots = vector.reshape(-1, shape[1], BLOCK_SLOTS).swapaxes(1, 2).reshape(-1, shape[1])
        return slots.take(self._slots, axis=0)

    @cached_property
    def _slots(self) -> np.ndarray:
        """The slot of each feature."""
        return np.argsort(self.features, kind="stable")[np.count_nonzero(self.features < 0) :]


def layouts(n_features: int) -> list[np.ndarray]:
    """Which features to put together: neighbours in a row of X; of a square image also patches of it."""
    runs = np.full(blocks_of(n_features) * BLOCK_SLOTS, -1, np.int32)
    runs[:n_features] = np.arange(n_features)
    side = math.isqrt(n_features)
    if side * side != n_features or side % PATCH:
        return [runs]
    patches = runs.reshape(side // PATCH, PATCH, side // PATCH, PATCH).swapaxes(1, 2)
    return [runs, patches.ravel()]


def bitmap_of(X: np.ndarray, features: np.ndarray, n_threads: int = 1) -> np.ndarray:
    """Which blocks of each row of X (n, features), uint8 or float32, are not all 0."""
    bitmap = np.empty((len(X), -(-len(features) // (BLOCKS_A_WORD * BLOCK_SLOTS))), np.int64)
    by_rows(len(X), n_threads, lambda lo, hi: cpu.call("occupied_blocks", bitmap[lo:hi], X[lo:hi], features))
    return bitmap


def n_occupied(bitmap: np.ndarray) -> np.ndarray:
    """Occupied blocks of each row."""
    return np.bitwise_count(bitmap.view(np.uint64)).sum(axis=1, dtype=np.int64)


def best_layout(X: np.ndarray) -> tuple[np.ndarray, float]:
    """The layout with the fewest occupied blocks, and how many values that are not 0 one of them holds on average; from a sample of the rows."""
    sample = X[:: max(1, len(X) // SAMPLE_ROWS)]
    counted = [(int(n_occupied(bitmap_of(sample, features)).sum()), features) for features in layouts(X.shape[1])]
    n_blocks, features = min(counted, key=lambda pair: pair[0])
    return features, np.count_nonzero(sample) / max(n_blocks, 1)


def rows_by_count(counts: np.ndarray) -> np.ndarray:
    """The rows in an order in which those with equally many occupied blocks stand together, each within its `SORTED_ROWS`: loops over a row's
    blocks then end where the processor expects it.
    """
    small = counts.astype(np.min_scalar_type(counts.max(initial=0)))  # bytes are sorted by counting
    order = [
        first + np.argsort(small[first : first + SORTED_ROWS], kind="stable")
        for first in range(0, len(small), SORTED_ROWS)
    ]
    return np.concatenate([np.zeros(0, np.int64), *order])


def pack(X: np.ndarray, features: np.ndarray, n_threads: int = 1, *, bitmap: np.ndarray | None = None) -> BlockRows:
    """X's rows in occupied blocks; allocates the result and nothing else.

    Parameters
    ----------
    X : ndarray of shape (n, features), C-contiguous uint8 or float32
    features : ndarray of int32
        One of `layouts`.
    n_threads : int
    bitmap : ndarray, optional
        `bitmap_of(X, features)`, where it is known already.
    """
    bitmap = bitmap_of(X, features, n_threads) if bitmap is None else bitmap
    counts = n_occupied(bitmap)
    rows = rows_by_count(counts)
    indptr = np.zeros(len(X) + 1, np.int64)
    np.cumsum(counts[rows] * BLOCK_SLOTS, out=indptr[1:])
    starts = np.empty(len(X), np.int64)
    starts[rows] = indptr[:-1]
    values = np.empty(indptr[-1], X.dtype)
    by_rows(
        len(X),
        n_threads,
        lambda lo, hi: cpu.call("pack_blocks", values, X[lo:hi], features, bitmap[lo:hi], starts[lo:hi]),
    )
    return BlockRows(rows, features, indptr, bitmap[rows], values)
