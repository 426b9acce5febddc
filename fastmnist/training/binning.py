"""From numbers to bytes: what a forest is grown on, and back to thresholds.

A tree sees the order of a feature's values and nothing else. uint8 stays as it is; of other numbers each feature's values are numbered in
order, which is exact up to 256 different ones. Where there are more, they are divided into 256 bins of about as many rows each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastmnist.backends.job_clock import JobClock
from fastmnist.backends.recording import Line, active
from fastmnist.backends.team import Team

N_BINS = 256
_BINNING = (Line("bin_values", "values of a feature"),)


class Coding(Protocol):
    """Bytes for values."""

    @property
    def codes(self) -> np.ndarray:
        """(n, n_features), uint8."""

    def thresholds(self, features: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Numbers between values with codes `low` and `high`, float32; values that are not larger go to the left."""


@dataclass(frozen=True, eq=False)
class PixelCoding:
    """uint8 values as they are; thresholds refer to values times `scale` and lie between two of them, where rounding can't reach."""

    codes: np.ndarray
    scale: float

    def thresholds(self, features: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `Coding`."""
        return (((low + high) // 2 + 0.5) * self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BinCoding:
    """Numbers of bins.

    Attributes
    ----------
    codes : ndarray of shape (n, n_features), uint8
    smallest, largest : ndarray of shape (256, n_features), float32
        Values in each bin.
    """

    codes: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray

    def thresholds(self, features: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `Coding`; the middle, as in scikit-learn."""
        left, right = self.largest[low, features], self.smallest[high, features]
        middle = (left.astype(np.float64) / 2 + right.astype(np.float64) / 2).astype(np.float32)
        return np.where(middle < right, middle, left)  # neighbours have no number between them


def code_pixels(X: np.ndarray, scale: float) -> PixelCoding:
    """uint8 values as codes."""
    return PixelCoding(np.ascontiguousarray(X), scale)


def code_numbers(X: np.ndarray, n_threads: int) -> BinCoding:
    """Number the values of each feature.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        Finite.
    n_threads : int

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C.
    """
    n_features = X.shape[1]
    coding = BinCoding(
        np.empty(X.shape, np.uint8),
        np.zeros((N_BINS, n_features), np.float32),
        np.zeros((N_BINS, n_features), np.float32),
    )
    team = Team(max(1, min(n_threads, n_features)))
    clock = JobClock(active(), "preparation", _BINNING, len(X), team.n_threads)

    def work(thread: int) -> int:
        for feature in range(thread, n_features, team.n_threads):
            if team.stop_requested:
                break
            with clock.timing(thread, 0):
                codes, smallest, largest = _bins(X[:, feature])
            coding.codes[:, feature] = codes
            coding.smallest[: len(smallest), feature] = smallest
            coding.largest[: len(largest), feature] = largest
        return 0

    team.run(work)
    if team.stop_requested:
        raise KeyboardInterrupt
    clock.stop()
    return coding


def _bins(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code of each value; smallest and largest value of each bin."""
    ordered = np.sort(values)
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    if len(distinct) <= N_BINS:
        return np.searchsorted(distinct, values), distinct, distinct
    starts = np.unique(ordered[len(ordered) * np.arange(N_BINS) // N_BINS])
    ends = np.append(np.searchsorted(ordered, starts[1:]), len(ordered))
    return np.searchsorted(starts, values, side="right") - 1, starts, ordered[ends - 1]
