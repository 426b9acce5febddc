"""Launchers of matmul.cu and tensor_matmul.cu: which shape of tile multiplies which matrices."""

from __future__ import annotations

import numpy as np

from .channels import column_sums
from .launch import Array, Facts, Launch, integers, launcher, leading
from .tiles import ADD, RELU, SHAPES, Tile, add_shares, cut, in_precision, scratch

TILES = (SHAPES["large"], SHAPES["medium"], SHAPES["small"])


def choose_tile(facts: Facts, rows: int, columns: int) -> Tile:
    """The largest tile that still gives every multiprocessor a block of its own; else the smallest.

    A large tile reads least for what it multiplies, but idle multiprocessors cost more than any reading.
    """
    tiles = in_precision(TILES, facts.precision)
    for tile in tiles:
        if -(-rows // tile.rows) * -(-columns // tile.columns) >= facts.multiprocessors:
            return tile
    return tiles[-1]


def product(
    facts: Facts,
    layout: str,
    c: Array,
    a: Array,
    b: Array,
    depth: int,
    *,
    bias: Array | None = None,
    kept: Array | None = None,
    flags: int = 0,
    tile: Tile | None = None,
) -> list[Launch]:
    """`c = a b` with its epilogue: one launch, or two where few tiles have long sums.

    Parameters
    ----------
    layout : {"nn", "nt", "tn"}
        How a and b are stored, see matmul.cu.
    depth : int
        Terms of each sum.
    bias, kept, flags
        Of the epilogue, see matmul.cu.
    tile : Tile, optional
        Default: `choose_tile`.
    """
    rows, columns = c.shape
    if not rows or not columns:
        return []
    tile = tile or choose_tile(facts, rows, columns)
    grid = tile.blocks(rows, columns)
    kernel, sizes = f"gemm_{layout}_{tile.name}_kernel", integers(rows, columns, depth)
    n, share = cut(facts, grid[0] * grid[1], depth, rows * columns)
    if n > 1:
        part = scratch(facts, c.shape)
        arguments = (part, a, b, None, None, *sizes, *integers(share), *leading(part, a, b), *integers(0, 0))
        launch = Launch(kernel, (*grid, n), (tile.threads,), arguments, tile.shared)
        return [launch, *add_shares(facts, c, n, bias=bias, kept=kept, flags=flags)]
    strides = (*leading(c, a, b), np.int32(kept.ld if kept else 0))
    arguments = (c, a, b, bias, kept, *sizes, *integers(share), *strides, np.int32(flags))
    return [Launch(kernel, grid, (tile.threads,), arguments, tile.shared)]


@launcher
def linear(facts: Facts, y: Array, x: Array, w: Array, b: Array) -> list[Launch]:
    return product(facts, "nn", y, x, w, w.shape[0], bias=b)


@launcher
def linear_relu(facts: Facts, y: Array, x: Array, w: Array, b: Array) -> list[Launch]:
    return product(facts, "nn", y, x, w, w.shape[0], bias=b, flags=RELU)


@launcher
def linear_dx(facts: Facts, dx: Array, dy: Array, w: Array) -> list[Launch]:
    return product(facts, "nt", dx, dy, w, w.shape[1])


@launcher
def linear_dx_add(facts: Facts, dx: Array, dy: Array, w: Array) -> list[Launch]:
    return product(facts, "nt", dx, dy, w, w.shape[1], flags=ADD)


@launcher
def linear_dx_relu(facts: Facts, dx: Array, dy: Array, w: Array, y: Array) -> list[Launch]:
    return product(facts, "nt", dx, dy, w, w.shape[1], kept=y)


@launcher
def linear_dx_add_relu(facts: Facts, dx: Array, dy: Array, w: Array, y: Array) -> list[Launch]:
    return product(facts, "nt", dx, dy, w, w.shape[1], kept=y, flags=ADD)


@launcher
def linear_dw(facts: Facts, dw: Array, x: Array, dy: Array) -> list[Launch]:
    return product(facts, "tn", dw, x, dy, dy.shape[0])


@launcher
def linear_dw_add(facts: Facts, dw: Array, x: Array, dy: Array) -> list[Launch]:
    return product(facts, "tn", dw, x, dy, dy.shape[0], flags=ADD)


@launcher
def linear_db(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return column_sums(facts, db, dy)


@launcher
def linear_db_add(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return column_sums(facts, db, dy, flags=ADD)
