"""Convolutions without padding: forward, input gradient, weight gradient, bias gradient; borders made and taken away.

Each image is a row, pixel by pixel, the channels of a pixel side by side.
"""

from __future__ import annotations

import numpy as np

from .activations import relu
from .common import Array, ieee
from .images import add_windows, count_places, images_of, pixels_of, windows_of


@ieee
def conv2d(
    y: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`y[oy, ox] = window(oy, ox) w + b`: x (B, H W C), w (kernel_height kernel_width C, O), y (B, OH OW O)."""
    windows = windows_of(x, height, width, kernel_height, kernel_width, stride)
    y[...] = (windows.reshape(-1, w.shape[0]) @ w + b).reshape(y.shape)


@ieee
def conv2d_relu(
    y: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`y = max(conv2d, 0)`."""
    conv2d(y, x, w, b, height, width, channels, kernel_height, kernel_width, stride)
    relu(y, y)


@ieee
def conv2d_dx(
    dx: Array,
    dy: Array,
    wt: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """Each output pixel sends `dy wt` back to its window; what a pixel of the input gets is added up."""
    places = count_places(height, kernel_height, stride), count_places(width, kernel_width, stride)
    window = int(kernel_height), int(kernel_width), int(channels)
    sent = (pixels_of(dy, len(wt)) @ wt).reshape(len(dy), *places, *window)
    add_windows(dx, sent, height, width, stride)


@ieee
def conv2d_dw(
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`dw = sum over images and output pixels of the window's values times dy`."""
    windows = windows_of(x, height, width, kernel_height, kernel_width, stride)
    dw[...] = windows.reshape(-1, dw.shape[0]).T @ pixels_of(dy, dw.shape[1])


@ieee
def conv2d_dw_add(
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`dw += ...` as in `conv2d_dw`."""
    windows = windows_of(x, height, width, kernel_height, kernel_width, stride)
    dw[...] = dw + windows.reshape(-1, dw.shape[0]).T @ pixels_of(dy, dw.shape[1])


@ieee
def conv2d_db(db: Array, dy: Array) -> None:
    """`db = sum of dy over images and pixels`."""
    db[...] = pixels_of(dy, len(db)).sum(axis=0)


@ieee
def conv2d_db_add(db: Array, dy: Array) -> None:
    """`db += sum of dy over images and pixels`."""
    db[...] = db + pixels_of(dy, len(db)).sum(axis=0)


def transpose(wt: Array, w: Array) -> None:
    """`wt = w^T`."""
    wt[...] = w.T


def pad(
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> None:
    """The image with a border of zeros; height and width are x's."""
    border = ((0, 0), (int(top), int(bottom)), (int(left), int(right)), (0, 0))
    y[...] = np.pad(images_of(x, height, width), border).reshape(y.shape)


def crop(
    x: Array,
    y: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> None:
    """The image without its border; height and width are x's."""
    whole = images_of(y, height + top + bottom, width + left + right)
    inner = whole[:, int(top) : int(top) + int(height), int(left) : int(left) + int(width)]
    x[...] = inner.reshape(x.shape)
