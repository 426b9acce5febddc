"""Pooling of images: largest and mean value of windows, and their gradients."""

from __future__ import annotations

import numpy as np

from .common import Array, ieee
from .images import add_windows, count_places, windows_of


@ieee
def max_pool(
    y: Array,
    argmax: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """The largest value of each window, and the first place where it stands: i pool_width + j."""
    windows = windows_of(x, height, width, pool_height, pool_width, stride)
    flat = windows.reshape(*windows.shape[:3], int(pool_height) * int(pool_width), windows.shape[-1])
    y[...] = flat.max(axis=3).reshape(y.shape)
    argmax[...] = flat.argmax(axis=3).reshape(argmax.shape)


@ieee
def max_pool_dx(
    dx: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """Each window sends its dy to the place of its largest value."""
    rows, columns, channels = int(pool_height), int(pool_width), int(channels)
    shape = len(dy), count_places(height, rows, stride), count_places(width, columns, stride), 1, channels
    chosen = argmax.reshape(shape) == np.arange(rows * columns)[:, np.newaxis]
    sent = np.where(chosen, dy.reshape(shape), 0)
    add_windows(dx, sent.reshape(*sent.shape[:3], rows, columns, channels), height, width, stride)


@ieee
def avg_pool(
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """The mean of each window."""
    y[...] = windows_of(x, height, width, pool_height, pool_width, stride).mean(axis=(3, 4)).reshape(y.shape)


@ieee
def avg_pool_dx(
    dx: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """Each window sends its dy, divided by the window's size, to all its pixels."""
    rows, columns = int(pool_height), int(pool_width)
    shape = len(dy), count_places(height, rows, stride), count_places(width, columns, stride), 1, 1, int(channels)
    share = dy.reshape(shape) / (rows * columns)
    add_windows(dx, np.broadcast_to(share, (*share.shape[:3], rows, columns, int(channels))), height, width, stride)
