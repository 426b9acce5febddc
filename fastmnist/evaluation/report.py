"""How good predictions are, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Confusion:
    """One kind of mistake.

    Attributes
    ----------
    true, predicted : object
        The class that was right, and the one that was said.
    count : int or float
        How often; with sample weights their sum.
    share : float
        As a part of all samples of the true class.
    """

    true: Any
    predicted: Any
    count: float
    share: float


@dataclass(frozen=True, eq=False)
class Report:
    """Precision, recall and F1 of each class, and their averages.

    With TP, FP and FN the true positives, false positives and false negatives of a class: precision = TP / (TP + FP),
    recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979, chapter 7). A fraction 0 / 0 is 0, as
    in scikit-learn with `zero_division=0`. Everything follows from the confusion matrix, which takes one pass.

    `str(report)` is scikit-learn's `classification_report` with four digits.

    Attributes
    ----------
    labels : ndarray of shape (n_classes,)
    confusion : ndarray of shape (n_classes, n_classes), int64; float64 with sample weights
        Row: the true class; column: the predicted one.
    """

    labels: np.ndarray
    confusion: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """True samples of each class (with sample weights: their sum), of the type of `confusion`."""
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

    def top_confusions(self, n: int = 10) -> list[Confusion]:
        """The most frequent mistakes.

        Parameters
        ----------
        n : int, default=10
            At most so many.

        Returns
        -------
        list of Confusion
            The most frequent first; equally frequent ones in the order of `labels`.
        """
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[: max(n, 0)]
        support, labels = self.support, self.labels.tolist()
        return [
            Confusion(labels[i], labels[j], counts[i, j].item(), float(counts[i, j] / support[i]))
            for i, j in zip(*np.unravel_index(order, counts.shape), strict=True)
            if counts[i, j] > 0
        ]

    def as_dict(self) -> dict[str, Any]:
        """The layout of scikit-learn's `classification_report(..., output_dict=True)`: plain numbers, keys are strings."""
        total = self.support.sum()
        rows = zip(self.precision, self.recall, self.f1, self.support, strict=True)
        result: dict[str, Any] = {
            str(label): _entry(p, r, f, s) for label, (p, r, f, s) in zip(self.labels, rows, strict=True)
        }
        result["accuracy"] = self.accuracy
        for name, (p, r, f) in self.averages().items():
            result[name] = _entry(p, r, f, total)
        return result

    def as_text(self, digits: int = 4) -> str:
        """The text of scikit-learn's `classification_report` (`zero_division=0`), character by character.

        Parameters
        ----------
        digits : int, default=4
            After the decimal point; scikit-learn's default is 2.
        """
        width = max(len("weighted avg"), digits, *(len(str(label)) for label in self.labels))

        def line(name: str, values: Sequence[float], support: float) -> str:
            cells = [f"{value:>9.{digits}f}" for value in values]
            return " ".join([f"{name:>{width}} ", *[" " * 9] * (3 - len(cells)), *cells, f"{support:>9}"])

        heads = [f"{head:>9}" for head in ("precision", "recall", "f1-score", "support")]
        lines = [" ".join([f"{'':>{width}} ", *heads]), ""]
        rows = zip(self.labels, self.precision, self.recall, self.f1, self.support, strict=True)
        lines += [line(str(label), values, support) for label, *values, support in rows]
        total = self.support.sum()
        lines += ["", line("accuracy", [self.accuracy], total)]
        lines += [line(name, values, total) for name, values in self.averages().items()]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return self.as_text()

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


def classification_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    labels: Sequence | np.ndarray | None = None,
    sample_weight: ArrayLike | None = None,
) -> Report:
    """Compare predicted with true classes.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Integers, booleans or strings.
    labels : array-like of shape (n_classes,), optional
        All classes, in the order of the report; default: those that occur, sorted.
    sample_weight : array-like of shape (n,), optional
        Weights >= 0; default: each sample counts 1.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        Different lengths, no samples, numbers that are no classes, strings beside numbers, a class that is not among
        `labels`, or weights that are no weights.
    """
    classes, true, predicted = encode_classes(y_true, y_pred, labels)
    n_classes = len(classes)
    weights = checked_weights(sample_weight, len(true))
    confusion = np.bincount(true * n_classes + predicted, weights, n_classes**2)
    return Report(classes, confusion.reshape(n_classes, n_classes))


def encode_classes(
    y_true: ArrayLike, y_pred: ArrayLike, labels: Sequence | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All classes, and the true and the predicted one of each sample as its number among them, int64.

    Parameters and errors as of `classification_report`.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != predicted.shape or len(true) == 0:
        raise ValueError(
            f"y_true and y_pred must be one-dimensional, of one length, and not empty; got shapes {true.shape} and {predicted.shape}."
        )
    _require_classes(true, "y_true")
    _require_classes(predicted, "y_pred")
    if _holds_strings(true) != _holds_strings(predicted):
        raise ValueError(
            f"y_true and y_pred must be of one kind, both strings or both numbers; got {true[0]!r} and {predicted[0]!r}. "
            "Convert one of them, as in y_pred.astype(y_true.dtype)."
        )
    classes, indices = np.unique(np.concatenate([true, predicted]), return_inverse=True)
    if labels is not None:
        order = np.asarray(labels)
        position = {label: i for i, label in enumerate(order.tolist())}
        if len(position) != order.size:
            raise ValueError(f"labels must name each class once; got {order.tolist()}.")
        unknown = [c for c in classes.tolist() if c not in position]
        if unknown:
            raise ValueError(
                f"labels must contain every class that occurs; missing: {unknown}. Leave labels out to take them all."
            )
        indices = np.array([position[c] for c in classes.tolist()])[indices]
        classes = order
    return classes, indices[: len(true)], indices[len(true) :]


def checked_weights(sample_weight: ArrayLike | None, n_samples: int) -> np.ndarray | None:
    """Weights of the samples as float64, or None.

    Raises
    ------
    ValueError
        Not one finite number >= 0 for each sample, or all 0.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have one number a sample, shape ({n_samples},); got shape {weights.shape}."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(
            "sample_weight must be finite numbers >= 0 with a positive sum; got "
            f"{weights.min():g} to {weights.max():g}, sum {weights.sum():g}."
        )
    return weights


def _holds_strings(y: np.ndarray) -> bool:
    kinds = {isinstance(value, str) for value in y} if y.dtype == object else {y.dtype.kind in "US"}
    if len(kinds) > 1:
        raise ValueError("Classes must be of one kind, all strings or all numbers; got both in one array. Convert it.")
    return kinds.pop()


def _require_classes(y: np.ndarray, name: str) -> None:
    if y.dtype.kind in "fc" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise ValueError(
            f"{name} must be classes: integers, booleans or strings; got numbers with fractions, or none at all, such as "
            f"{y[~np.isfinite(y) | (y != np.round(y))][0]}. Of probabilities take classes[probabilities.argmax(axis=1)]."
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element in float64; 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _entry(precision: float, recall: float, f1: float, support: np.generic) -> dict[str, float]:
    return {"precision": float(precision), "recall": float(recall), "f1-score": float(f1), "support": support.item()}


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")
