"""Activations, dropout among them, and their derivatives: y may be x, dx may be dy.

Source: GELU, Hendrycks & Gimpel 2016.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from .common import Array, ieee
from .philox import philox4x32


@ieee
def relu(y: Array, x: Array) -> None:
    """`y = max(x, 0)`."""
    y[...] = np.maximum(x, 0)


@ieee
def relu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else 0`."""
    dx[...] = np.where(y > 0, dy, 0)


@ieee
def leaky_relu(y: Array, x: Array) -> None:
    """`y = x where x > 0, else 0.01 x`."""
    y[...] = np.where(x > 0, x, 0.01 * x)


@ieee
def leaky_relu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else 0.01 dy`."""
    dx[...] = np.where(y > 0, dy, 0.01 * dy)


@ieee
def elu(y: Array, x: Array) -> None:
    """`y = x where x > 0, else exp(x) - 1`."""
    y[...] = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@ieee
def elu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else dy (y + 1)`."""
    dx[...] = np.where(y > 0, dy, dy * (y + 1))


@ieee
def sigmoid(y: Array, x: Array) -> None:
    """`y = 1 / (1 + exp(-x))`."""
    y[...] = logistic(x)


def logistic(x: Array) -> Array:
    """`1 / (1 + exp(-x))`."""
    small = np.exp(-np.abs(x))  # never above 1: exp(-x) itself overflows for x < -88 in float32
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


@ieee
def sigmoid_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy y (1 - y)`."""
    dx[...] = dy * y * (1 - y)


@ieee
def tanh(y: Array, x: Array) -> None:
    """`y = tanh(x)`."""
    y[...] = np.tanh(x)


@ieee
def tanh_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy (1 - y^2)`."""
    dx[...] = dy * (1 - y * y)


@ieee
def gelu(y: Array, x: Array) -> None:
    """`y = x Phi(x)`, Phi the normal distribution function."""
    y[...] = x * _normal_distribution(x)


@ieee
def gelu_backward(dx: Array, dy: Array, x: Array) -> None:
    """`dx = dy (Phi(x) + x phi(x))`, phi the normal density."""
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi).astype(x.dtype)
    dx[...] = dy * (_normal_distribution(x) + x * density)


def _normal_distribution(x: Array) -> Array:
    # erfc(-x / sqrt 2) / 2 equals (1 + erf(x / sqrt 2)) / 2, but does not cancel for x << 0.
    return erfc(-x / np.sqrt(2).astype(x.dtype)) / 2


@ieee
def dropout(
    y: Array,
    mask: Array,
    x: Array,
    key: Array,
    cursor: Array,
    rate: float,
    layer: float,
    row_offset: float,
    column_offset: float,
) -> None:
    """`mask = 0` with probability rate, else `1 / (1 - rate)`; `y = x mask`.

    Element (r, c) of the block is element (cursor[0] + row_offset + r, column_offset + c) of the epoch's activations;
    its mask depends on the key, the layer and these coordinates alone.
    """
    rows = int(cursor[0]) + int(row_offset) + np.arange(x.shape[0])
    columns = int(column_offset) + np.arange(x.shape[1])
    counter = np.zeros((*x.shape, 4), dtype=np.uint32)
    counter[..., 0] = columns // 4
    counter[..., 1] = rows[:, np.newaxis] & 0xFFFFFFFF
    counter[..., 2] = int(layer)
    words = philox4x32(counter, key)
    drawn = np.take_along_axis(words, np.broadcast_to(columns % 4, x.shape)[..., np.newaxis], axis=-1)[..., 0]
    mask[...] = np.where(drawn < rate * 2.0**32, 0, 1 / (1 - rate))
    y[...] = x * mask


@ieee
def dropout_backward(dx: Array, dy: Array, mask: Array) -> None:
    """`dx = dy mask`."""
    dx[...] = dy * mask
