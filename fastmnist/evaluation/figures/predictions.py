"""Pictures of predictions: confusion matrix, reliability, samples with their probabilities, worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.evaluation.calibration import Calibration
from fastmnist.evaluation.figures.style import (
    BLUE,
    QUIET,
    RIGHT,
    VERMILLION,
    WRONG,
    grid_size,
    new_figure,
    plain_axes,
)
from fastmnist.evaluation.model_evaluation import Evaluation
from fastmnist.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED_CLASSES = 20  # a matrix of more has no room for numbers in its cells
MOST_BARS = 12  # of more classes only the most likely ones have a bar


def confusion_matrix(report: Report, *, title: str = "") -> Figure:
    """How often each class (rows) was taken for each other (columns), with recall at the right and precision below.

    The right answers, most of all samples, are shown as numbers on grey; the colours are for the mistakes.

    Parameters
    ----------
    report : Report
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(report.labels)
    numbered = n <= MOST_NUMBERED_CLASSES
    size = max(4.6, 1.7 + 0.52 * n) if numbered else 8.5
    figure = new_figure(size + 0.9, size, title)
    axes = figure.subplots()
    right = np.eye(n, dtype=bool)
    mistakes = np.ma.masked_where(right, report.confusion)
    largest = max(float(mistakes.max()), 1) if n > 1 else 1.0
    shown = axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=largest)
    axes.imshow(np.ma.masked_where(~right, np.full((n, n), 0.12)), cmap="Greys", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="mistakes")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    names = [str(label) for label in report.labels]
    turned = 90 if max(map(len, names)) > 3 else 0
    axes.set_xticks(range(n), names, rotation=turned, fontsize=9 if numbered else 5)
    axes.set_yticks(range(n), names, fontsize=9 if numbered else 5)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    if numbered:
        _number_cells(axes, report, largest)
    return figure


def _number_cells(axes: Axes, report: Report, largest: float) -> None:
    n = len(report.labels)
    for i, j in np.ndindex(n, n):
        count = report.confusion[i, j].item()
        text = f"{count:g}" if count else "·"
        colour = "black" if i == j else "white" if count > 0.6 * largest else "black" if count else "#A0A0A0"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    for i, (recall, precision) in enumerate(zip(report.recall, report.precision, strict=True)):
        axes.text(n - 0.3, i, f"{100 * recall:.1f}", ha="left", va="center", fontsize=8, color=BLUE)
        axes.text(i, n - 0.1, f"{100 * precision:.1f}", ha="center", va="center", fontsize=8, color=BLUE)
    axes.text(n - 0.3, -0.72, "recall (%)", ha="left", va="center", fontsize=8, color=BLUE)
    axes.text(n - 0.3, n - 0.1, "precision (%)", ha="left", va="center", fontsize=8, color=BLUE)
    axes.set(xlim=(-0.5, n + 0.75), ylim=(n + 0.25, -0.5))


def reliability(calibration: Calibration, *, title: str = "") -> Figure:
    """How often the model is right when it is so sure, and how often it is so sure.

    Parameters
    ----------
    calibration : Calibration
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(4.8, 5.6, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = calibration.count > 0
    left, widths = calibration.edges[:-1][filled], np.diff(calibration.edges)[filled]
    accuracy, confidence = calibration.accuracy[filled], calibration.confidence[filled]
    upper.bar(left, accuracy, widths, align="edge", color=BLUE, edgecolor="white", label="accuracy of the bin")
    upper.plot([0, 1], [0, 1], "--", color="#606060", linewidth=1, label="as sure as right")
    upper.plot(confidence, confidence, "o", color=VERMILLION, markersize=4, label="mean confidence of the bin")
    plain_axes(upper, "", "accuracy")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    errors = f"expected calibration error {calibration.expected_error:.2%}, largest {calibration.maximum_error:.2%}"
    upper.set_title(errors, fontsize=9)
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    lower.bar(left, calibration.count[filled], widths, align="edge", color=QUIET, edgecolor="white")
    lower.set_yscale("log")
    plain_axes(lower, "confidence: probability of the predicted class", "samples")
    return figure


def sample_predictions(
    images: ArrayLike, true: ArrayLike, probabilities: ArrayLike, labels: Sequence | np.ndarray, *, title: str = ""
) -> Figure:
    """Digits beside the probabilities of their classes: predictions blue where they are right, vermillion where wrong.

    Parameters
    ----------
    images : array-like of shape (n, height, width) or (n, height, width, 3)
    true : array-like of shape (n,)
        Classes.
    probabilities : array-like of shape (n, n_classes)
        Columns as in `labels`.
    labels : sequence of length n_classes
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        A true class that was not predicted has a frame in the colour of what is right.

    Raises
    ------
    ValueError
        No images, or shapes that do not fit.
    """
    pictures, chances, names = np.asarray(images), np.asarray(probabilities), list(labels)
    truth = np.asarray(true).tolist()
    n = len(pictures)
    if n == 0 or pictures.ndim not in (3, 4) or len(truth) != n or chances.shape != (n, len(names)):
        raise ValueError(
            "images must be (n, height, width), true (n,) and probabilities (n, n_classes), with n > 0 and n_classes labels; got "
            f"{pictures.shape}, {len(truth)}, {chances.shape} and {len(names)} labels."
        )
    rows, columns = grid_size(n, 3)
    figure = new_figure(3.1 * columns, 1.65 * rows + (0.45 if title else 0.15), title)
    ratios = (1, 1.35) * columns
    panels = figure.subplots(rows, 2 * columns, width_ratios=ratios, squeeze=False)
    for axes in panels.ravel():
        axes.set_visible(False)
    for i in range(n):
        picture, bars = panels[i // columns, 2 * (i % columns) : 2 * (i % columns) + 2]
        picture.set_visible(True)
        bars.set_visible(True)
        _draw_digit(picture, pictures[i])
        _draw_bars(bars, names, chances[i], truth[i])
    return figure


def _draw_digit(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=None if image.max() > 0 else 1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#D0D0D0")


def _draw_bars(axes: Axes, names: list[Any], chances: np.ndarray, true: Any) -> None:
    predicted = int(chances.argmax())
    right = names[predicted] == true
    shown = np.arange(len(names))
    if len(names) > MOST_BARS:
        shown = np.sort(np.argsort(-chances, kind="stable")[:MOST_BARS])
    colours = [(RIGHT if right else WRONG) if i == predicted else QUIET for i in shown]
    places = np.arange(len(shown))
    axes.bar(places, chances[shown], color=colours, width=0.8)
    for place, i in zip(places, shown, strict=True):
        if names[i] == true and not right:
            axes.bar(place, 1.0, width=0.9, fill=False, edgecolor=RIGHT, linewidth=1.0)
    turned = 90 if max(len(str(names[i])) for i in shown) > 2 else 0
    axes.set_xticks(places, [str(names[i]) for i in shown], fontsize=8, rotation=turned)
    axes.tick_params(axis="x", length=0, pad=1)
    axes.set_yticks([])
    axes.set_ylim(0, 1.0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(
        f"true {true}, predicted {names[predicted]} ({chances[predicted]:.1%})",
        fontsize=8.5,
        color=RIGHT if right else WRONG,
        loc="right",
    )


def worst_mistakes(evaluation: Evaluation, images: ArrayLike, n: int = 12, *, title: str = "") -> Figure:
    """The mistakes of which the model was surest, as in `sample_predictions`.

    Parameters
    ----------
    evaluation : Evaluation
    images : array-like of shape (n_samples, height, width) or (n_samples, height, width, 3)
        Of all samples of the evaluation.
    n : int, default=12
        At most so many.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        There is no mistake, or the model gives no probabilities.
    """
    rows = [mistake.index for mistake in evaluation.worst_mistakes(n)]
    if not rows:
        raise ValueError(f"There is no mistake to show: all {len(evaluation.true):,} samples are right.")
    assert evaluation.probabilities is not None  # worst_mistakes has refused
    true = evaluation.labels[evaluation.true[rows]]
    return sample_predictions(
        np.asarray(images)[rows], true, evaluation.probabilities[rows], evaluation.labels.tolist(), title=title
    )
