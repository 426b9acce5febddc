"""Launchers of convolution.cu and tensor_convolution.cu: which shape of tile computes which convolution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .launch import MOST_BLOCKS, Array, Facts, Launch, integers, launcher, leading, stream
from .tiles import ADD, RELU, SHAPES, Tile, add_shares, cut, in_precision, scratch

# Of images and of filters; in the order in which equals are preferred.
IMAGE_TILES = (SHAPES["medium"], SHAPES["tall"], SHAPES["small"])
FILTER_TILES = (SHAPES["medium"], SHAPES["small"])


def choose_tile(facts: Facts, rows: int, columns: int, tiles: tuple[Tile, ...] = IMAGE_TILES) -> Tile:
    """Of the tiles that give every multiprocessor a block, the one that computes least beside the result; else the smallest."""
    tiles = in_precision(tiles, facts.precision)
    enough = [t for t in tiles if t.blocks(rows, columns)[0] * t.blocks(rows, columns)[1] >= facts.multiprocessors]
    return min(enough, key=lambda t: -(-columns // t.columns) * t.columns, default=tiles[-1])


def _geometry(
    height: float, width: float, channels: float, kernel_height: float, kernel_width: float, stride: float
) -> tuple[tuple[int, ...], int, int]:
    """(width, channels, kernel_width, stride, out_width, pixels) as the kernels take them, and height and width of the result."""
    out_height, out_width = (height - kernel_height) // stride + 1, (width - kernel_width) // stride + 1
    window = width, channels, kernel_width, stride, out_width, out_height * out_width
    return tuple(map(int, window)), int(out_height), int(out_width)


def _portions(images: int, pixels: int, tile: Tile) -> Iterator[tuple[int, int]]:
    """First image and number of those that one grid has the rows for: a batch of ten thousand images of MNIST is more than one."""
    most = max(MOST_BLOCKS * tile.rows // pixels, 1)
    for first in range(0, images, most):
        yield first, min(most, images - first)


def _from(images: Array, first: int) -> Array:
    """The images behind the first ones."""
    itemsize = np.dtype(images.dtype).itemsize
    shape = (images.shape[0] - first, *images.shape[1:])
    return Array(images.address + first * images.ld * itemsize, shape, images.ld, images.dtype)


def _forward(
    facts: Facts, y: Array, x: Array, w: Array, b: Array, geometry: tuple[float, ...], flags: int
) -> list[Launch]:
    window, _, _ = _geometry(*geometry)
    images, (depth, filters) = x.shape[0], w.shape
    rows = images * window[-1]
    if not rows:
        return []
    tile = choose_tile(facts, rows, filters)
    result = []
    for first, n in _portions(images, window[-1], tile):
        sizes = integers(n, filters, depth, *window)
        arguments = (_from(y, first), _from(x, first), w, b, *sizes, *leading(y, x, w), *integers(flags))
        grid = tile.blocks(n * window[-1], filters)
        result.append(Launch(f"conv2d_{tile.name}_kernel", grid, (tile.threads,), arguments, tile.shared))
    return result


@launcher
def conv2d(
    facts: Facts,
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
) -> list[Launch]:
    return _forward(facts, y, x, w, b, (height, width, channels, kernel_height, kernel_width, stride), 0)


@launcher
def conv2d_relu(
    facts: Facts,
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
) -> list[Launch]:
    return _forward(facts, y, x, w, b, (height, width, channels, kernel_height, kernel_width, stride), RELU)


@launcher
def conv2d_dx(
    facts: Facts,
    dx: Array,
    dy: Array,
    wt: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> list[Launch]:
    _, *out = _geometry(height, width, channels, kernel_height, kernel_width, stride)
    images, filters, pixels = dx.shape[0], wt.shape[0], int(height) * int(width)
    rows, columns = images * pixels, int(channels)
    if not rows:
        return []
    tile = choose_tile(facts, rows, columns)
    depth = int(kernel_height * kernel_width) * filters
    result = []
    for first, n in _portions(images, pixels, tile):
        sizes = integers(n, channels, filters, depth, kernel_width, stride, width, pixels, *out)
        arguments = (_from(dx, first), _from(dy, first), wt, *sizes, *leading(dx, dy, wt))
        grid = tile.blocks(n * pixels, columns)
        result.append(Launch(f"conv2d_dx_{tile.name}_kernel", grid, (tile.threads,), arguments, tile.shared))
    return result


def _filter_gradient(
    facts: Facts, dw: Array, x: Array, dy: Array, geometry: tuple[float, ...], flags: int = 0
) -> list[Launch]:
    window, _, _ = _geometry(*geometry)
    images, (depth, filters) = x.shape[0], dw.shape
    tile = choose_tile(facts, depth, filters, FILTER_TILES)
    grid = tile.blocks(depth, filters)
    n, share = cut(facts, grid[0] * grid[1], images * window[-1], depth * filters)
    to = scratch(facts, dw.shape) if n > 1 else dw
    sizes = integers(images, filters, depth, share, *window)
    arguments = (to, x, dy, *sizes, *leading(to, x, dy), *integers(0 if n > 1 else flags))
    launch = Launch(f"conv2d_dw_{tile.name}_kernel", (*grid, n), (tile.threads,), arguments, tile.shared)
    return [launch, *add_shares(facts, dw, n, flags=flags)] if n > 1 else [launch]


@launcher
def conv2d_dw(
    facts: Facts,
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> list[Launch]:
    return _filter_gradient(facts, dw, x, dy, (height, width, channels, kernel_height, kernel_width, stride))


@launcher
def conv2d_dw_add(
    facts: Facts,
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> list[Launch]:
    return _filter_gradient(facts, dw, x, dy, (height, width, channels, kernel_height, kernel_width, stride), ADD)


@launcher
def transpose(facts: Facts, wt: Array, w: Array) -> list[Launch]:
    depth, filters = w.shape
    if not depth or not filters:
        return []
    arguments = (wt, w, *integers(filters, depth), *leading(wt, w))
    return [Launch("transpose_kernel", (-(-filters // 32), -(-depth // 32)), (256,), arguments)]


@launcher
def pad(
    facts: Facts,
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> list[Launch]:
    wide = (width + left + right) * channels
    sizes = integers(*y.shape, width * channels, height, wide, top, left * channels)
    return stream(facts, "pad_kernel", y.shape, y, x, *sizes, *leading(y, x))


@launcher
def crop(
    facts: Facts,
    x: Array,
    y: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> list[Launch]:
    wide = (width + left + right) * channels
    sizes = integers(*x.shape, width * channels, wide, top, left * channels)
    return stream(facts, "crop_kernel", x.shape, x, y, *sizes, *leading(x, y))
