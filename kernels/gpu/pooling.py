"""Launchers of pooling.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from .launch import QUAD, Array, Facts, Launch, integers, launcher, leading, spread


def _pixels(
    facts: Facts, kernel: str, images: int, pixels: int, channels: float, *arguments: np.generic | Array
) -> list[Launch]:
    """Four channels of a pixel to a thread."""
    return spread(facts, kernel, images * pixels * -(-int(channels) // QUAD), *arguments)


def _window(height: float, width: float, pool_height: float, pool_width: float, stride: float) -> tuple[int, int]:
    """Height and width of the pooled image."""
    return int((height - pool_height) // stride) + 1, int((width - pool_width) // stride) + 1


def _forward(
    facts: Facts, kernel: str, outs: tuple[Array, ...], x: Array, height: float, width: float, *window: float
) -> list[Launch]:
    channels, *pool = window
    out: tuple[Any, ...] = _window(height, width, *pool)
    sizes = integers(x.shape[0], width, channels, *pool, *out)
    return _pixels(facts, kernel, x.shape[0], out[0] * out[1], channels, *outs, x, *sizes, *leading(*outs, x))


def _backward(
    facts: Facts, kernel: str, dx: Array, ins: tuple[Array, ...], height: float, width: float, *window: float
) -> list[Launch]:
    channels, *pool = window
    sizes = integers(dx.shape[0], height, width, channels, *pool, *_window(height, width, *pool))
    pixels = int(height) * int(width)
    return _pixels(facts, kernel, dx.shape[0], pixels, channels, dx, *ins, *sizes, *leading(dx, *ins))


@launcher
def max_pool(
    facts: Facts,
    y: Array,
    argmax: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> list[Launch]:
    geometry = (height, width, channels, pool_height, pool_width, stride)
    return _forward(facts, "max_pool_kernel", (y, argmax), x, *geometry)


@launcher
def max_pool_dx(
    facts: Facts,
    dx: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> list[Launch]:
    geometry = (height, width, channels, pool_height, pool_width, stride)
    return _backward(facts, "max_pool_dx_kernel", dx, (dy, argmax), *geometry)


@launcher
def avg_pool(
    facts: Facts,
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> list[Launch]:
    geometry = (height, width, channels, pool_height, pool_width, stride)
    return _forward(facts, "avg_pool_kernel", (y,), x, *geometry)


@launcher
def avg_pool_dx(
    facts: Facts,
    dx: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> list[Launch]:
    geometry = (height, width, channels, pool_height, pool_width, stride)
    return _backward(facts, "avg_pool_dx_kernel", dx, (dy,), *geometry)
