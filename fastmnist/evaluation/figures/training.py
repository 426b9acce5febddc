"""Pictures of training: curves of an epoch's losses, of each step's, learning rates beside each other, time against accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.evaluation.figures.style import BLUE, QUIET, SERIES, VERMILLION, new_figure, plain_axes
from fastmnist.extras import require
from fastmnist.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_EPOCHS = 40  # up to so many, each has a dot


# --- curves -------------------------------------------------------------------------------------------------------------------


def training_curves(histories: History | Mapping[str, History], *, unit: str = "epoch", title: str = "") -> Figure:
    """Loss and, where it was recorded, accuracy after each epoch: training solid, validation dashed.

    Parameters
    ----------
    histories : dict
        `history_` of an estimator, or several by name.
    unit : str, default="epoch"
        What is counted: "iteration" for a full-batch solver.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        Nothing was recorded.
    """
    named = cast("Mapping[str, History]", histories if "loss" not in histories else {"": histories})
    if not named or not any(_recorded(history, "loss") for history in named.values()):
        raise ValueError("There is no loss to draw: a forest has none, and a fit of 0 iterations neither.")
    has_accuracy = any(_recorded(history, key) for history in named.values() for key in ("accuracy", "val_accuracy"))
    figure = new_figure(9.0 if has_accuracy else 5.5, 3.8, title)
    panels = figure.subplots(1, 2 if has_accuracy else 1, squeeze=False)[0]
    _draw_pair(panels[0], named, "loss", 1.0, ".4f")
    plain_axes(panels[0], unit, "loss (cross-entropy, nats)")
    if has_accuracy:
        _draw_pair(panels[1], named, "accuracy", 100.0, ".2f")
        plain_axes(panels[1], unit, "accuracy (%)")
    for axes in panels:
        _whole_ticks(axes)
        axes.legend(frameon=False, fontsize=8, title="last value", title_fontsize=8)
    return figure


def _draw_pair(axes: Axes, named: Mapping[str, History], key: str, scale: float, form: str) -> None:
    """The training and the validation curve of each history."""
    for i, (name, history) in enumerate(named.items()):
        for validation in (False, True):
            values = _column(history, f"val_{key}" if validation else key) * scale
            if not np.isfinite(values).any():
                continue
            part = "validation" if validation else "training"
            colour = SERIES[i % len(SERIES)] if len(named) > 1 else (VERMILLION if validation else BLUE)
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                "--" if validation else "-",
                color=colour,
                marker="o" if len(values) <= FEW_EPOCHS else None,
                markersize=3.5,
                label=f"{name + ', ' if name else ''}{part}: {values[-1]:{form}}{'' if scale == 1 else '%'}",
            )


def _recorded(history: History, key: str) -> bool:
    return bool(np.isfinite(_column(history, key)).any())


def _column(history: History, key: str) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in history[key]], np.float64)


def _whole_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "Pictures").MaxNLocator(integer=True))


# --- steps --------------------------------------------------------------------------------------------------------------------


def step_losses(
    losses: ArrayLike | Mapping[str, ArrayLike], *, window: int = 200, unit: str = "step", title: str = ""
) -> Figure:
    """Loss of each step as the mean over the last `window` steps; of a single run the steps themselves too, faintly.

    Parameters
    ----------
    losses : array-like of shape (n_steps,) or dict
        `step_losses_` of an estimator, or several by name.
    window : int, default=200
    unit : str, default="step"
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        There are fewer steps than the window has.
    """
    named = losses if isinstance(losses, Mapping) else {"": losses}
    runs = {name: np.asarray(values, np.float64) for name, values in named.items()}
    shortest = min((len(values) for values in runs.values()), default=0)
    if not 1 <= window <= shortest:
        raise ValueError(f"window must be 1 to {shortest}, the number of steps; got {window}.")
    figure = new_figure(6.5, 4.0, title)
    axes = figure.subplots()
    largest = 0.0
    for i, (name, values) in enumerate(runs.items()):
        means = windowed_mean(values, window)
        steps = np.arange(window, len(values) + 1)
        if len(runs) == 1 and window > 1:
            axes.plot(np.arange(1, len(values) + 1), values, color=QUIET, linewidth=0.4, label=f"each {unit}")
        mean_label = f"mean of the last {window}" if window > 1 else f"each {unit}"
        label = f"{name}: {means[-1]:.4f} at the end" if name else f"{mean_label} ({means[-1]:.4f} at the end)"
        axes.plot(steps, means, color=SERIES[i % len(SERIES)], linewidth=1.5, label=label)
        largest = max(largest, float(np.nanmax(np.where(np.isfinite(means), means, np.nan))))
    plain_axes(axes, unit, "loss (cross-entropy, nats)" if len(runs) == 1 else f"loss (nats), mean of {window} {unit}s")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.3 * largest)  # single batches of the first steps or of a bad moment would flatten the rest
    axes.xaxis.set_major_formatter(require("matplotlib.ticker", "Pictures").StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False, fontsize=8)
    return figure


def windowed_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each `window` consecutive values, (n - window + 1,); a value that is no number spoils only its own windows."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


# --- learning rates -----------------------------------------------------------------------------------------------------------


def learning_rates(runs: Mapping[float, Sequence[History]], *, unit: str = "epoch", title: str = "") -> Figure:
    """What each learning rate does: loss against epoch, and the accuracy at the end.

    Parameters
    ----------
    runs : dict
        Learning rate -> `history_` of each seed. The validation's numbers are drawn where every run has them, else the training's.
    unit : str, default="epoch"
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Left: the mean of the seeds, from the smallest to the largest as a band, on a logarithmic axis. Right: each seed, and the mean.

    Raises
    ------
    ValueError
        Nothing was run.
    """
    if not runs or not all(runs.values()):
        raise ValueError("runs must have at least one history for each learning rate.")
    histories = [history for several in runs.values() for history in several]
    prefix = "val_" if all(_recorded(history, "val_loss") for history in histories) else ""
    part = "validation" if prefix else "training"
    figure = new_figure(10.0, 4.0, title)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    colours = require("matplotlib", "Pictures").colormaps["viridis"](np.linspace(0.0, 0.88, len(runs)))
    ordered = sorted(runs.items(), reverse=True)
    for (rate, several), colour in zip(ordered, colours, strict=True):
        losses = _stacked(several, f"{prefix}loss")
        epochs = np.arange(1, losses.shape[1] + 1)
        mean = losses.mean(axis=0)
        label = f"{rate:g}" if np.isfinite(losses).all() else f"{rate:g} (diverged)"
        marker = "o" if len(epochs) <= FEW_EPOCHS else None
        left.plot(epochs, mean, color=colour, marker=marker, markersize=3.5, label=label)
        left.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        finals = 100 * _stacked(several, f"{prefix}accuracy")[:, -1]
        right.plot(np.full(len(finals), rate), finals, "o", color=colour, markersize=5, alpha=0.6, markeredgewidth=0)
        right.plot(rate, finals.mean(), "_", color=colour, markersize=22, markeredgewidth=2)
        if np.isfinite(finals.mean()):
            right.annotate(
                f"{finals.mean():.2f}",
                (rate, finals.max()),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    left.set_yscale("log")
    plain_axes(left, unit, f"{part} loss (cross-entropy, nats)")
    _whole_ticks(left)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, title="learning rate", title_fontsize=8)
    right.set_xscale("log")
    right.margins(x=0.12, y=0.12)
    plain_axes(right, "learning rate", f"{part} accuracy after the last {unit} (%)")
    return figure


def _stacked(histories: Iterable[History], key: str) -> np.ndarray:
    """A row a run; runs that ended early go on with their last value."""
    columns = [_column(history, key) for history in histories]
    longest = max(len(column) for column in columns)
    return np.stack([np.pad(column, (0, longest - len(column)), mode="edge") for column in columns])


# --- time against accuracy ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A model in `time_accuracy`.

    Attributes
    ----------
    name : str
    seconds : float
        To train, > 0.
    accuracy : float
        0 to 1.
    deviation : float
        Standard deviation of the accuracy, over seeds.
    """

    name: str
    seconds: float
    accuracy: float
    deviation: float = 0.0


def time_accuracy(points: Sequence[Point], references: Sequence[Point] = (), *, title: str = "") -> Figure:
    """Accuracy against the seconds that training took, on a logarithmic axis.

    Parameters
    ----------
    points : sequence of Point
    references : sequence of Point
        Others' numbers, drawn hollow; where names are equal, a line leads from the reference to the point.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        No points, or one without a positive time.
    """
    everything = [*points, *references]
    if not points or not all(p.seconds > 0 and math.isfinite(p.accuracy) for p in everything):
        raise ValueError("points must not be empty, and each must have seconds > 0 and an accuracy.")
    figure = new_figure(7.0, 4.6, title)
    axes = figure.subplots()
    axes.set_xscale("log")
    theirs = {point.name: point for point in references}
    for point in points:
        other = theirs.get(point.name)
        if other is not None:
            ends = [other.seconds, point.seconds], [100 * other.accuracy, 100 * point.accuracy]
            axes.plot(*ends, color=QUIET, linewidth=1, zorder=1)
    for several, face, label in ((points, BLUE, "this library"), (references, "white", "reference")):
        if several:
            axes.errorbar(
                [p.seconds for p in several],
                [100 * p.accuracy for p in several],
                yerr=[100 * p.deviation for p in several] if any(p.deviation for p in several) else None,
                fmt="o",
                color=BLUE if face == BLUE else VERMILLION,
                markerfacecolor=face,
                markersize=6.5,
                capsize=2.5,
                elinewidth=1,
                label=label,
            )
    axes.margins(0.16)
    plain_axes(axes, "seconds to train (logarithmic)", "test accuracy (%)")
    ticker = require("matplotlib.ticker", "Pictures")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    if references:
        axes.legend(frameon=False, fontsize=8)
    _label_points(figure, axes, [*points, *(p for p in references if p.name not in {q.name for q in points})])
    return figure


# Where a point's name may stand, in points from it, with its alignment; the first free place is taken.
_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (8, 12, "left", "bottom"),
    (8, -12, "left", "top"),
    (-8, 12, "right", "bottom"),
    (-8, -12, "right", "top"),
    (8, 26, "left", "bottom"),
    (8, -26, "left", "top"),
)


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each point's name beside it, where it covers neither another name nor another point."""
    figure.draw_without_rendering()  # the layout decides where things stand
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    transforms = require("matplotlib.transforms", "Pictures")
    dots = axes.transData.transform([(p.seconds, 100 * p.accuracy) for p in points])
    taken = [transforms.Bbox.from_extents(x - 8, y - 8, x + 8, y + 8) for x, y in dots]
    for i, point in enumerate(points):
        others = taken[:i] + taken[i + 1 :]
        candidates = []
        for x, y, horizontal, vertical in _PLACES:
            text = axes.annotate(
                point.name,
                (point.seconds, 100 * point.accuracy),
                (x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )
            box = text.get_window_extent(renderer)
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 + 8)
            candidates.append((outside + sum(box.overlaps(other) for other in others), text, box))
            if candidates[-1][0] == 0:
                break
        _, chosen, box = min(candidates, key=lambda candidate: candidate[0])
        for _, text, _ in candidates:
            if text is not chosen:
                text.remove()
        taken.append(box)
