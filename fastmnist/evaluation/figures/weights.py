"""Pictures of what a model has learned: weights of each class, filters, importance of each pixel; and grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.evaluation.figures.style import BLUE, bare_axes, grid_size, image_shape_of, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNED = "RdBu_r"  # white is 0, red positive, blue negative: told apart with every kind of colour vision


def class_weights(
    coef: ArrayLike, labels: Sequence | np.ndarray, *, image_shape: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """The weights of a linear model as an image a class, all on one scale.

    Parameters
    ----------
    coef : array-like of shape (n_classes, n_features) or (1, n_features)
        `coef_`; one row for two classes speaks for the second one.
    labels : sequence of length n_classes
    image_shape : tuple (height, width), optional
        Default: a square.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As many rows as labels there are not, or the features are no image.
    """
    weights, names = np.asarray(coef, np.float64), list(labels)
    if len(weights) == 1 and len(names) == 2:
        names = [f"{names[1]} rather than {names[0]}"]
    if weights.ndim != 2 or len(weights) != len(names):
        raise ValueError(
            f"coef must have one row a class, (n_classes, n_features); got {weights.shape} and {len(names)} labels."
        )
    shape = image_shape_of(weights.shape[1], image_shape)
    return _signed_images(weights.reshape(-1, *shape), [str(name) for name in names], 5, "weight of a pixel", title)


def filters(weights: ArrayLike, *, n: int = 40, image_shape: tuple[int, int] | None = None, title: str = "") -> Figure:
    """What the units of a first layer, or the filters of a convolution, look for: those with the largest weights first.

    Parameters
    ----------
    weights : array-like of shape (inputs, units) or (height, width, channels, filters)
        Of a Dense layer that reads images, or of a Conv2D: an item of `coefs_`.
    n : int, default=40
        At most so many.
    image_shape : tuple (height, width), optional
        Of a Dense layer's images; default: a square.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Of a convolution of several channels a row is a channel, a column a filter, at most 16 of each.

    Raises
    ------
    ValueError
        Another shape, or inputs that are no image.
    """
    array = np.asarray(weights, np.float64)
    if array.ndim not in (2, 4):
        raise ValueError(
            f"weights must be (inputs, units) or (height, width, channels, filters); got shape {array.shape}."
        )
    if n < 1:
        raise ValueError(f"n must be >= 1; got {n}.")
    if array.ndim == 4 and array.shape[2] > 1:
        return _filters_by_channel(array, min(n, 16), title)
    shape = array.shape[:2] if array.ndim == 4 else image_shape_of(array.shape[0], image_shape)
    units = array.reshape(-1, array.shape[-1]).T
    strongest = np.argsort(-np.linalg.norm(units, axis=1), kind="stable")[:n]
    images = units[strongest].reshape(-1, *shape)
    if len(strongest) < len(units):
        title = f"{title}{': ' if title else ''}the {len(strongest)} of {len(units)} with the largest weights"
    return _signed_images(images, [str(unit) for unit in strongest], 8 if len(images) > 10 else 5, "weight", title)


def _filters_by_channel(array: np.ndarray, n: int, title: str) -> Figure:
    strength = np.linalg.norm(array, axis=(0, 1))
    columns = np.argsort(-np.linalg.norm(strength, axis=0), kind="stable")[:n]
    rows = np.argsort(-np.linalg.norm(strength, axis=1), kind="stable")[:n]
    figure = new_figure(1.8 + 0.45 * len(columns), 1.1 + 0.4 * len(rows), title)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    limit = _limit(array)
    for (i, channel), (j, unit) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        axes = panels[i, j]
        shown = axes.imshow(array[:, :, channel, unit], cmap=SIGNED, vmin=-limit, vmax=limit)
        bare_axes(axes)
        if i == 0:
            axes.set_title(str(unit), fontsize=6)
        if j == 0:
            axes.set_ylabel(str(channel), fontsize=6, rotation=0, ha="right", va="center")
    figure.supxlabel(f"filter ({len(columns)} of {array.shape[3]}, largest weights first)", fontsize=8)
    figure.supylabel(f"channel ({len(rows)} of {array.shape[2]})", fontsize=8)
    figure.colorbar(shown, ax=panels, shrink=0.7, label="weight")
    return figure


def feature_importances(
    importances: ArrayLike, *, image_shape: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """How much each pixel is worth to a forest, as an image.

    Parameters
    ----------
    importances : array-like of shape (n_features,)
        `feature_importances_`.
    image_shape : tuple (height, width), optional
        Default: a square.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The features are no image.
    """
    values = np.asarray(importances, np.float64)
    if values.ndim != 1:
        raise ValueError(f"importances must have one number a feature, (n_features,); got shape {values.shape}.")
    image = 100 * values.reshape(image_shape_of(len(values), image_shape))
    figure = new_figure(5.4, 4.5, title)
    axes = figure.subplots()
    shown = axes.imshow(image, cmap="cividis", vmin=0)
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.85, label="share of the decrease of impurity (%)")
    return figure


def image_grid(
    images: ArrayLike, captions: Sequence[str] | None = None, *, columns: int = 10, title: str = ""
) -> Figure:
    """Images beside each other, dark on light.

    Parameters
    ----------
    images : array-like of shape (n, height, width) or (n, height, width, 3)
    captions : sequence of n str, optional
    columns : int, default=10
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        No images, or as many captions as images there are not.
    """
    pictures = np.asarray(images)
    if pictures.ndim not in (3, 4) or len(pictures) == 0 or (captions is not None and len(captions) != len(pictures)):
        raise ValueError(
            f"images must be (n, height, width) with n > 0, and captions n strings; got {pictures.shape} and "
            f"{'none' if captions is None else len(captions)}."
        )
    rows, columns = grid_size(len(pictures), columns)
    height = 0.95 if captions is None else 1.12
    figure = new_figure(0.95 * columns, height * rows + (0.4 if title else 0.0), title)
    panels = figure.subplots(rows, columns, squeeze=False)
    largest = max(float(pictures.max()), np.finfo(np.float32).tiny)
    for i, axes in enumerate(panels.ravel()):
        bare_axes(axes)
        if i < len(pictures):
            axes.imshow(pictures[i], cmap="gray_r", vmin=0, vmax=largest)
            if captions is not None:
                axes.set_title(captions[i], fontsize=7, pad=2)
    return figure


def augmented_images(originals: ArrayLike, copies: ArrayLike, *, title: str = "") -> Figure:
    """Images and, below each, what augmentation made of it.

    Parameters
    ----------
    originals : array-like of shape (n, height, width) or (n, height, width, 3)
    copies : array-like of shape (n_copies, n, ...)
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        There is nothing to draw, or the copies are no copies of the originals.
    """
    images, changed = np.asarray(originals), np.asarray(copies)
    if images.ndim not in (3, 4) or changed.shape[1:] != images.shape or 0 in changed.shape:
        raise ValueError(
            f"originals must be (n, height, width) and copies (n_copies, n, height, width), none empty; got {images.shape} and {changed.shape}."
        )
    rows, columns = 1 + len(changed), len(images)
    figure = new_figure(0.95 * columns + 0.6, 0.98 * rows + (0.4 if title else 0.0), title)
    panels = figure.subplots(rows, columns, squeeze=False)
    largest = max(float(images.max()), float(np.finfo(np.float32).tiny))
    for i, row in enumerate([images, *changed]):
        for axes, image in zip(panels[i], row, strict=True):
            bare_axes(axes)
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=largest)
        panels[i, 0].set_ylabel("original" if i == 0 else f"copy {i}", fontsize=8)
        if i == 0:
            for axes in panels[0]:
                axes.spines[:].set_visible(True)
                axes.spines[:].set_color(BLUE)
    return figure


def _signed_images(images: np.ndarray, names: list[str], columns: int, meaning: str, title: str) -> Figure:
    """Images of weights on one scale that is symmetric about 0."""
    rows, columns = grid_size(len(images), columns)
    side = 1.35 if columns <= 5 else 0.95
    figure = new_figure(side * columns + 1.1, (side + 0.2) * rows + (0.4 if title else 0.1), title)
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = _limit(images)
    shown: Any = None
    for i, axes in enumerate(panels.ravel()):
        bare_axes(axes)
        if i < len(images):
            shown = axes.imshow(images[i], cmap=SIGNED, vmin=-limit, vmax=limit)
            axes.set_title(names[i], fontsize=9 if columns <= 5 else 7, pad=2)
    figure.colorbar(shown, ax=panels, shrink=0.8, label=meaning)
    return figure


def _limit(weights: np.ndarray) -> float:
    """End of the colour scale: the largest weights, but for the one in a thousand that would leave the rest pale."""
    return max(float(np.quantile(np.abs(weights), 0.999)), float(np.finfo(np.float32).tiny))
