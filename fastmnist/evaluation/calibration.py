"""Whether a model that says 90 % is right nine times of ten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.evaluation.report import checked_weights

ROUNDING = 1e-5  # float32 probabilities of thousands of classes sum to 1 within this


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence beside accuracy, in bins of equal width (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    Bin b holds the samples with edges[b] < confidence <= edges[b + 1]; the first one those with confidence 0 too.

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,)
    count : ndarray of shape (n_bins,), float64
        Samples (with sample weights: their sum) of each bin.
    confidence : ndarray of shape (n_bins,)
        Mean probability that the model gave the class it predicted; NaN in an empty bin.
    accuracy : ndarray of shape (n_bins,)
        Share of those predictions that are right; NaN in an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence| over all samples (Guo et al. 2017, equation 3)."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.average(gaps, weights=self.count[filled]))

    @property
    def maximum_error(self) -> float:
        """Maximum calibration error: the largest |accuracy - confidence| of a bin (Guo et al. 2017, equation 5)."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name; None in place of NaN."""
        columns = {"count": self.count, "confidence": self.confidence, "accuracy": self.accuracy}
        return {
            "expected_calibration_error": self.expected_error,
            "maximum_calibration_error": self.maximum_error,
            "edges": self.edges.tolist(),
            **{name: [None if np.isnan(x) else x for x in column.tolist()] for name, column in columns.items()},
        }


def measure_calibration(
    correct: ArrayLike, confidence: ArrayLike, n_bins: int = 15, sample_weight: ArrayLike | None = None
) -> Calibration:
    """Compare how sure a model was with how often it was right.

    Parameters
    ----------
    correct : array-like of shape (n,), bool
        Whether each prediction is right.
    confidence : array-like of shape (n,)
        Probability of the class that was predicted.
    n_bins : int, default=15
    sample_weight : array-like of shape (n,), optional
        Weights >= 0.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        Different lengths, no samples, fewer than one bin, or confidences that are no probabilities.
    """
    right, sure = np.asarray(correct, bool), np.asarray(confidence, np.float64)
    if right.ndim != 1 or right.shape != sure.shape or len(right) == 0:
        raise ValueError(
            f"correct and confidence must be one-dimensional, of one length, and not empty; got shapes {right.shape} and {sure.shape}."
        )
    if not ((sure >= -ROUNDING) & (sure <= 1 + ROUNDING)).all():
        raise ValueError(
            f"confidence must be probabilities, 0 to 1; got {sure.min():g} to {sure.max():g}. Pass what predict_proba returns."
        )
    if n_bins < 1:
        raise ValueError(f"n_bins must be >= 1; got {n_bins!r}.")
    weights = checked_weights(sample_weight, len(right))
    weights = np.ones(len(right)) if weights is None else weights
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], sure)
    count, sums, hits = (np.bincount(bins, weights * values, n_bins) for values in (np.ones(len(right)), sure, right))
    with np.errstate(invalid="ignore"):  # 0 / 0: an empty bin
        return Calibration(edges, count, sums / count, hits / count)
