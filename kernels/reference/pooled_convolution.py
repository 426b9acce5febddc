"""Convolutions whose output goes through max pooling: gradients from those of the pooled images, and with one channel both in one pass."""

from __future__ import annotations

import numpy as np

from .common import Array, ieee
from .convolution import conv2d_relu
from .images import add_windows, count_places, pixels_of, windows_of
from .pooling import max_pool


@ieee
def conv2d_grey_pooled(
    y: Array,
    argmax: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    kernel_height: float,
    kernel_width: float,
) -> None:
    """`conv2d_relu` of one channel, then `max_pool` of 2 x 2 pixels."""
    rows, columns = count_places(height, kernel_height, 1), count_places(width, kernel_width, 1)
    made = np.empty((len(x), rows * columns * len(b)), x.dtype)
    conv2d_relu(made, x, w, b, height, width, 1, kernel_height, kernel_width, 1)
    max_pool(y, argmax, made, rows, columns, len(b), 2, 2, 2)


def _chosen_windows(
    x: Array, argmax: Array, window: tuple[float, ...], pool: tuple[float, ...], filters: int
) -> tuple[Array, tuple[Array, ...]]:
    """Indices of the windows of x that pooling chose, (B, PH, PW, O) each: image, row, column; and the windows, (B, OH, OW, K)."""
    windows = windows_of(x, *window)
    rows, columns = count_places(windows.shape[1], pool[0], pool[2]), count_places(windows.shape[2], pool[1], pool[2])
    place = argmax.reshape(len(x), rows, columns, filters).astype(np.int64)
    image, row, column, _ = np.indices(place.shape, sparse=True)
    step, width = int(pool[2]), int(pool[1])
    chosen = image, row * step + place // width, column * step + place % width
    return windows.reshape(*windows.shape[:3], int(np.prod(windows.shape[3:]))), chosen


@ieee
def conv2d_pooled_dwt(
    dwt: Array,
    x: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """Of each filter: the sum of the windows that pooling chose, each times its dy where that is not 0."""
    window, pool = (height, width, kernel_height, kernel_width, stride), (pool_height, pool_width, pool_stride)
    windows, (image, row, column) = _chosen_windows(x, argmax, window, pool, len(dwt))
    for o in range(len(dwt)):
        taken = windows[image[..., 0], row[..., o], column[..., o]].reshape(-1, dwt.shape[1])
        sent = pixels_of(dy, len(dwt))[:, o]
        dwt[o] = sent @ np.where(sent[:, np.newaxis] == 0, 0, taken)


@ieee
def conv2d_pooled_dwt_add(
    dwt: Array,
    x: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """`dwt += ...` as in `conv2d_pooled_dwt`."""
    added = np.empty_like(dwt)
    window, pool = (
        (height, width, channels, kernel_height, kernel_width, stride),
        (pool_height, pool_width, pool_stride),
    )
    conv2d_pooled_dwt(added, x, dy, argmax, *window, *pool)
    dwt[...] = dwt + added


@ieee
def conv2d_pooled_dx(
    dx: Array,
    dy: Array,
    argmax: Array,
    wt: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """Each pooled pixel sends `dy wt[o]` back to the window that pooling chose for filter o."""
    window, pool = (height, width, kernel_height, kernel_width, stride), (pool_height, pool_width, pool_stride)
    windows, (image, row, column) = _chosen_windows(dx, argmax, window, pool, len(wt))
    sent = np.zeros(windows.shape, dx.dtype)
    gradient = dy.reshape(row.shape)
    for o, filter_ in enumerate(wt):
        each = gradient[..., o, np.newaxis]
        places = image[..., 0], row[..., o], column[..., o]
        np.add.at(sent, places, np.where(each == 0, 0, each * filter_))
    shape = *windows.shape[:3], int(kernel_height), int(kernel_width), int(channels)
    add_windows(dx, sent.reshape(shape), height, width, stride)
