"""Convolutions of 3 x 3 pixels with stride 1 by transformed tiles: F(4 x 4, 3 x 3).

Source: Lavin and Gray 2016 ("Fast algorithms for convolutional neural networks").
"""

from __future__ import annotations

import numpy as np

from .activations import relu
from .common import Array, ieee
from .images import images_of

# Lavin and Gray 2016 at the points 0, 1, -1, 2, -2, infinity: what F(4 x 4, 3 x 3) multiplies tiles, filters and products by.
_PIXEL_TRANSFORM = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT_TRANSFORM = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _combine(coefficients: tuple[tuple[float, ...], ...], a: Array, axis: int) -> Array:
    """The matrix times a along an axis; terms whose coefficient is 0 are left out, so that infinity stays out of them."""
    parts = np.moveaxis(a, axis, 0)
    sums = [sum(a.dtype.type(c) * part for c, part in zip(row, parts, strict=True) if c != 0) for row in coefficients]
    return np.moveaxis(np.stack(sums), 0, axis)


@ieee
def winograd_filters(u: Array, w: Array) -> None:
    """`u = G w G^T` for each channel and filter: w (9 C, O), u (36 C, O)."""
    filters = w.reshape(3, 3, -1, w.shape[1])
    u[...] = _combine(_FILTER_TRANSFORM, _combine(_FILTER_TRANSFORM, filters, 0), 1).reshape(u.shape)


@ieee
def winograd_filters_kept(u: Array, seen: Array, w: Array) -> None:
    """`winograd_filters`, and seen = w (9 C, O), unless they are equal."""
    if not np.array_equal(seen, w):
        winograd_filters(u, w)
        seen[...] = w


@ieee
def winograd_filters_turned(u: Array, wt: Array) -> None:
    """`winograd_filters` of filters turned by half a turn, channels and filters exchanged: wt (O, 9 C), u (36 O, C)."""
    turned = wt.reshape(len(wt), 9, -1)[:, ::-1].transpose(1, 0, 2)  # (9, O, C)
    winograd_filters(u, turned.reshape(-1, turned.shape[2]))


@ieee
def conv2d_winograd(y: Array, x: Array, u: Array, b: Array, height: float, width: float, channels: float) -> None:
    """`y = A^T (sum over channels of u * B^T d B) A + b` for tiles of 4 x 4 pixels; x (B, H W C), u (36 C, O)."""
    out_height, out_width = int(height) - 2, int(width) - 2
    down, across = -(-out_height // 4), -(-out_width // 4)
    image = images_of(x, height, width)
    image = np.pad(image, ((0, 0), (0, 4 * down - out_height), (0, 4 * across - out_width), (0, 0)))
    tiles = np.lib.stride_tricks.sliding_window_view(image, (6, 6), axis=(1, 2))[:, ::4, ::4]  # ..., channels, 6, 6
    pixels = _combine(_PIXEL_TRANSFORM, _combine(_PIXEL_TRANSFORM, tiles, 4), 5)
    products = np.moveaxis(pixels, (4, 5), (0, 1)).reshape(36, -1, int(channels)) @ u.reshape(36, int(channels), -1)
    products = products.reshape(6, 6, len(x), down, across, len(b))
    made = _combine(_OUTPUT_TRANSFORM, _combine(_OUTPUT_TRANSFORM, products, 0), 1)  # (4, 4, images, down, across, O)
    made = made.transpose(2, 3, 0, 4, 1, 5).reshape(len(x), 4 * down, 4 * across, len(b)) + b
    y[...] = made[:, :out_height, :out_width].reshape(y.shape)


@ieee
def conv2d_winograd_relu(y: Array, x: Array, u: Array, b: Array, height: float, width: float, channels: float) -> None:
    """`y = max(conv2d_winograd, 0)`."""
    conv2d_winograd(y, x, u, b, height, width, channels)
    relu(y, y)
