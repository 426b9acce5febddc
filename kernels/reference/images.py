"""Images as rows, and windows that move over them. Each image is a row, pixel by pixel, the channels of a pixel side by side."""

from __future__ import annotations

import numpy as np

from .common import Array


def images_of(x: Array, height: float, width: float) -> Array:
    """The rows of x as images (B, height, width, channels)."""
    return x.reshape(len(x), int(height), int(width), x.shape[1] // max(int(height) * int(width), 1))


def count_places(size: float, window: float, stride: float) -> int:
    """How many places a window of that size has."""
    return (int(size) - int(window)) // int(stride) + 1


def windows_of(x: Array, height: float, width: float, rows: float, columns: float, stride: float) -> Array:
    """Every window of rows x columns pixels of every image: (B, OH, OW, rows, columns, channels)."""
    image, step = images_of(x, height, width), int(stride)
    windows = np.lib.stride_tricks.sliding_window_view(image, (int(rows), int(columns)), axis=(1, 2))
    return np.moveaxis(windows[:, ::step, ::step], 3, -1)


def add_windows(dx: Array, sent: Array, height: float, width: float, stride: float) -> None:
    """`dx` = the sum of what each window sends to its pixels; sent (B, OH, OW, rows, columns, channels)."""
    _, out_height, out_width, rows, columns, _ = sent.shape
    step = int(stride)
    image = np.zeros_like(images_of(np.zeros(dx.shape, dx.dtype), height, width))
    for i in range(rows):
        for j in range(columns):
            # The pixels that stand at (i, j) of the windows, one for each window.
            down, across = slice(i, i + step * out_height, step), slice(j, j + step * out_width, step)
            image[:, down, across] += sent[:, :, :, i, j]
    dx[...] = image.reshape(dx.shape)


def pixels_of(y: Array, channels: int) -> Array:
    """All pixels of all images, (B OH OW, channels)."""
    return y.reshape(-1, channels)
