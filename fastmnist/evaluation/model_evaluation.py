"""Judge a fitted model on data that it has not seen: report, confusions, calibration, worst mistakes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.evaluation.calibration import Calibration, measure_calibration
from fastmnist.evaluation.report import Report, classification_report, encode_classes


@dataclass(frozen=True)
class Mistake:
    """A sample that was classified wrongly.

    Attributes
    ----------
    index : int
        Its row.
    true, predicted : object
        Classes.
    confidence, true_probability : float
        Probabilities that the model gave the class it predicted and the true one (0 if it does not know that class).
    """

    index: int
    true: Any
    predicted: Any
    confidence: float
    true_probability: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions beside the truth, and what follows from them.

    Attributes
    ----------
    labels : ndarray of shape (n_classes,)
        All classes: those of the model, and those that occur in the data alone; sorted.
    true, predicted : ndarray of shape (n_samples,), int64
        Numbers among `labels`.
    probabilities : ndarray of shape (n_samples, n_classes) or None
        Columns as in `labels`; None for a model without `predict_proba`.
    report : Report
    calibration : Calibration or None
        None without probabilities.
    """

    labels: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None
    report: Report
    calibration: Calibration | None

    @property
    def accuracy(self) -> float:
        """Share of the samples that are classified correctly."""
        return self.report.accuracy

    @property
    def wrong(self) -> np.ndarray:
        """Rows of all mistakes, ascending, int64."""
        return np.flatnonzero(self.true != self.predicted)

    def worst_mistakes(self, n: int = 10) -> list[Mistake]:
        """The mistakes of which the model was surest.

        Parameters
        ----------
        n : int, default=10
            At most so many.

        Returns
        -------
        list of Mistake
            The surest first, equally sure ones by row.

        Raises
        ------
        ValueError
            The model gives no probabilities.
        """
        if self.probabilities is None:
            raise ValueError("worst_mistakes needs probabilities; the model has no predict_proba. See `wrong` instead.")
        rows, labels = self.wrong, self.labels.tolist()
        confidence = self.probabilities[rows, self.predicted[rows]]
        rows = rows[np.argsort(-confidence, kind="stable")[: max(n, 0)]]
        return [
            Mistake(
                index=int(row),
                true=labels[self.true[row]],
                predicted=labels[self.predicted[row]],
                confidence=float(self.probabilities[row, self.predicted[row]]),
                true_probability=float(self.probabilities[row, self.true[row]]),
            )
            for row in rows
        ]

    def as_dict(self, n: int = 10) -> dict[str, Any]:
        """Plain values by name, for JSON; at most `n` confusions and mistakes."""
        return {
            "accuracy": self.accuracy,
            "n_samples": len(self.true),
            "n_mistakes": len(self.wrong),
            "report": self.report.as_dict(),
            "labels": self.labels.tolist(),
            "confusion_matrix": self.report.confusion.tolist(),
            "top_confusions": [asdict(confusion) for confusion in self.report.top_confusions(n)],
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "worst_mistakes": []
            if self.probabilities is None
            else [asdict(mistake) for mistake in self.worst_mistakes(n)],
        }


def evaluate(
    model: Any, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *, n_bins: int = 15
) -> Evaluation:
    """Judge a fitted classifier.

    Parameters
    ----------
    model : classifier
        With `classes_`, `predict` and, for calibration and worst mistakes, `predict_proba`: any of this package or of
        scikit-learn.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        True classes; classes that the model does not know are allowed.
    sample_weight : array-like of shape (n_samples,), optional
        Weights >= 0 for report and calibration.
    n_bins : int, default=15
        Of the calibration.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        X does not fit the model, or y or sample_weight do not fit X.
    """
    named = np.asarray(model.predict(X))
    report = classification_report(y, named, np.union1d(model.classes_, y), sample_weight)
    labels, true, predicted = encode_classes(y, named, report.labels)
    probabilities = _probabilities(model, X, labels)
    reliability = None
    if probabilities is not None:
        confidence = probabilities[np.arange(len(true)), predicted]
        reliability = measure_calibration(true == predicted, confidence, n_bins, sample_weight)
    return Evaluation(labels, true, predicted, probabilities, report, reliability)


def _probabilities(model: Any, X: ArrayLike, labels: np.ndarray) -> np.ndarray | None:
    """What the model says of each of `labels`; 0 of those that it does not know."""
    if not hasattr(model, "predict_proba"):
        return None
    own = np.asarray(model.predict_proba(X))
    probabilities = np.zeros((len(own), len(labels)), own.dtype)
    probabilities[:, np.searchsorted(labels, model.classes_)] = own
    return probabilities
