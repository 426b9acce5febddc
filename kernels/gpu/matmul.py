"""Launchers of matmul.cu: which shape of tile multiplies which matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .launch import Array, Facts, Launch, integers, launcher, leading
from .source import source

ADD, RELU = 1, 2  # as in matmul.cu


@dataclass(frozen=True)
class Tile:
    """A shape of matmul.cu: the size of a block's tile of the result, its threads, and its shared memory in bytes."""

    name: str
    rows: int
    columns: int
    threads: int
    shared: int


def _tiles() -> tuple[Tile, ...]:
    """The shapes as matmul.cu defines them, largest first; the formulas are those of its `Shape`."""
    tiles = []
    for name, numbers in re.findall(r"using (\w+) = Shape<([\d, ]+)>;", source("matmul")):
        warps_m, warps_n, warps_k, tm, tn, depth = map(int, numbers.split(","))
        rows, columns = 4 * tm * warps_m, 8 * tn * warps_n
        shared = 2 * depth * (rows + 4 + columns + 4) * 4
        tiles.append(Tile(name.lower(), rows, columns, 32 * warps_m * warps_n * warps_k, shared))
    return tuple(tiles)


TILES = _tiles()


def choose_tile(facts: Facts, rows: int, columns: int) -> Tile:
    """The largest tile that still gives every multiprocessor a block of its own; else the smallest.

    A large tile reads least for what it multiplies, but idle multiprocessors cost more than any reading.
    """
    for tile in TILES:
        if -(-rows // tile.rows) * -(-columns // tile.columns) >= facts.multiprocessors:
            return tile
    return TILES[-1]


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
    """One launch of `c = a b` with its epilogue.

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
    grid = (-(-columns // tile.columns), -(-rows // tile.rows))
    strides = (*leading(c, a, b), np.int32(kept.ld if kept else 0))
    arguments = (c, a, b, bias, kept, *integers(rows, columns, depth), *strides, np.int32(flags))
    return [Launch(f"gemm_{layout}_{tile.name}_kernel", grid, (tile.threads,), arguments, tile.shared)]


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
def linear_dw(facts: Facts, dw: Array, x: Array, dy: Array) -> list[Launch]:
    return product(facts, "tn", dw, x, dy, dy.shape[0])


@launcher
def linear_dw_add(facts: Facts, dw: Array, x: Array, dy: Array) -> list[Launch]:
    return product(facts, "tn", dw, x, dy, dy.shape[0], flags=ADD)


def _column_sums(db: Array, dy: Array, flags: int) -> list[Launch]:
    rows, columns = dy.shape
    if not columns:
        return []
    arguments = (db, dy, *integers(rows, columns), *leading(dy), np.int32(flags))
    return [Launch("column_sums_kernel", (-(-columns // 32),), (256,), arguments)]


@launcher
def linear_db(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return _column_sums(db, dy, 0)


@launcher
def linear_db_add(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return _column_sums(db, dy, ADD)
