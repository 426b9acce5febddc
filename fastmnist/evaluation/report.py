"""How good predictions are, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Report:
    """Precision, recall and F1 of each class, and their averages.

    With TP, FP and FN the true positives, false positives and false negatives of a class: precision = TP / (TP + FP),
    recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979, chapter 7). A fraction 0 / 0 is 0, as
    in scikit-learn.

    Attributes
    ----------
    labels : ndarray of shape (n_classes,)
    confusion : ndarray of shape (n_classes, n_classes), int64
        Row: the true class; column: the predicted one.
    """

    labels: np.ndarray
    confusion: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """True samples of each class, int64."""
        return self.confusion.sum(axis=1)

    @property
    def precision(self) -> np.ndarray:
        """Share of the predictions of each class that are right, float64."""
        return _ratio(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """Share of the samples of each class that were found, float64."""
        return _ratio(np.diagonal(self.confusion), self.support)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall of each class, float64."""
        return _ratio(2 * np.diagonal(self.confusion), self.confusion.sum(axis=0) + self.support)

    @property
    def accuracy(self) -> float:
        """Share of all samples that are classified correctly."""
        return float(_ratio(np.trace(self.confusion), self.confusion.sum()))

    def averages(self) -> dict[str, tuple[float, float, float]]:
        """Precision, recall and F1, as the mean of the classes ("macro avg") and weighted by support ("weighted avg")."""
        columns = (self.precision, self.recall, self.f1)
        total = self.support.sum()
        return {
            "macro avg": tuple(float(column.mean()) for column in columns),  # type: ignore[dict-item]
            "weighted avg": tuple(float(_ratio(column @ self.support, total)) for column in columns),  # type: ignore[dict-item]
        }

    def as_dict(self) -> dict[str, Any]:
        """The layout of scikit-learn's `classification_report(..., output_dict=True)`: plain numbers, keys are strings."""
        total = int(self.support.sum())
        rows = zip(self.precision, self.recall, self.f1, self.support, strict=True)
        result: dict[str, Any] = {
            str(label): _entry(p, r, f, s) for label, (p, r, f, s) in zip(self.labels, rows, strict=True)
        }
        result["accuracy"] = self.accuracy
        for name, (p, r, f) in self.averages().items():
            result[name] = _entry(p, r, f, total)
        return result

    def as_table(self) -> Table:
        """A table for a terminal."""
        from rich.markup import escape
        from rich.table import Table

        total = f"{self.support.sum():,}"
        table = Table("class", *(_right(name) for name in ("precision", "recall", "F1", "support")))
        for label, p, r, f, s in zip(self.labels, self.precision, self.recall, self.f1, self.support, strict=True):
            table.add_row(escape(str(label)), f"{p:.4f}", f"{r:.4f}", f"{f:.4f}", f"{s:,}")
        table.add_section()
        table.add_row("accuracy", "", "", f"{self.accuracy:.4f}", total)
        for name, values in self.averages().items():
            table.add_row(name, *(f"{value:.4f}" for value in values), total)
        return table


def classification_report(y_true: ArrayLike, y_pred: ArrayLike, labels: Sequence | np.ndarray | None = None) -> Report:
    """Compare predicted with true classes.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Numbers or strings.
    labels : array-like of shape (n_classes,), optional
        All classes, in the order of the report; default: those that occur, sorted.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        Different lengths, no samples, or a class that is not among `labels`.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != predicted.shape or len(true) == 0:
        raise ValueError(
            f"y_true and y_pred must be one-dimensional, of one length, and not empty; got shapes {true.shape} and {predicted.shape}."
        )
    classes, indices = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    if labels is not None:
        order = np.asarray(labels)
        position = {label: i for i, label in enumerate(order.tolist())}
        unknown = [c for c in classes.tolist() if c not in position]
        if unknown:
            raise ValueError(
                f"labels must contain every class that occurs; missing: {unknown}. Leave labels out to take them all."
            )
        indices = np.array([position[c] for c in classes.tolist()])[indices]
        classes = order
    n, n_classes = len(true), len(classes)
    confusion = np.bincount(indices[:n] * n_classes + indices[n:], minlength=n_classes**2)
    return Report(classes, confusion.reshape(n_classes, n_classes))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element in float64; 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _entry(precision: float, recall: float, f1: float, support: int) -> dict[str, float | int]:
    return {"precision": float(precision), "recall": float(recall), "f1-score": float(f1), "support": int(support)}


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")
