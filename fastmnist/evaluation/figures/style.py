"""What all pictures share: colours that the colour-blind tell apart, sizes, and how they are saved."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from fastmnist.extras import require
from fastmnist.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color Universal Design": told apart with every kind of colour vision, and in grey.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
RIGHT, WRONG, QUIET = BLUE, VERMILLION, "#C0C0C0"
DPI = 150
FORMATS = (".png", ".pdf", ".svg")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, sizes in inches."""
    figure = require("matplotlib.figure", "Pictures").Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    require("matplotlib.backends.backend_agg", "Pictures").FigureCanvasAgg(figure)  # can measure texts
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def plain_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Axes of a diagram: named, with a faint grid, without the box."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def bare_axes(axes: Axes) -> None:
    """Axes of an image: no ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def grid_size(n: int, columns: int) -> tuple[int, int]:
    """Rows and columns for n small pictures, at most so many columns."""
    columns = max(1, min(columns, n))
    return math.ceil(n / columns), columns


def image_shape_of(n_features: int, image_shape: Sequence[int] | None = None) -> tuple[int, int]:
    """Height and width of an image of so many pixels: the given ones, or a square.

    Raises
    ------
    ValueError
        The number of pixels is another one, or no square.
    """
    if image_shape is not None:
        height, width = image_shape
        if height * width != n_features:
            raise ValueError(
                f"image_shape must have {n_features} pixels, as many as there are features; got {height} x {width}."
            )
        return int(height), int(width)
    side = math.isqrt(n_features)
    if side * side != n_features:
        raise ValueError(
            f"{n_features} features are no square image. Pass image_shape=(height, width); a table that holds no images "
            "can't be shown as one."
        )
    return side, side


def check_format(path: str | PathLike[str]) -> None:
    """Refuse the name of a file whose format is unknown.

    Raises
    ------
    ValueError
        It does not end in one of `FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: a picture's name must end in {', '.join(FORMATS)}; got {suffix or 'no ending'!r}.")


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a figure; the file appears under its name only when it is complete.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        Ends in .png, .pdf or .svg.

    Raises
    ------
    ValueError
        Another ending.
    OSError
        The file can't be written; the message says why.
    """
    check_format(path)
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:].lower())
    write_atomically(path, content.getvalue())
