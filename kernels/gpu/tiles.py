"""The shapes of tile.cuh and tensor_tile.cuh, and into how many shares a long sum is cut."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from .launch import Array, Facts, Launch, integers, leading, stream
from .source import part

ADD, RELU = 1, 2  # as in tile.cuh

# A share of a cut sum: shorter ones would cost more to add than their blocks gain; and a multiple of every shape's DEPTH.
LEAST_SHARE, SHARE_STEP = 512, 64


@dataclass(frozen=True)
class Tile:
    """A shape of tile.cuh or tensor_tile.cuh: the size of a block's tile of the result, its threads, and its shared memory in bytes.

    The name of one on tensor cores ends with its precision, as those of its kernels do: "large_tf32".
    """

    name: str
    rows: int
    columns: int
    threads: int
    shared: int

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """The grid that covers a result."""
        return -(-columns // self.columns), -(-rows // self.rows)


def _shapes() -> dict[str, Tile]:
    """The shapes as tile.cuh defines them, largest first; the formulas are those of its `Shape`."""
    tiles = {}
    for name, numbers in re.findall(r"using (\w+) = Shape<([\d, ]+)>;", part("tile.cuh")):
        warps_m, warps_n, warps_k, tm, tn, depth = map(int, numbers.split(","))
        rows, columns = 4 * tm * warps_m, 8 * tn * warps_n
        shared = 2 * depth * (rows + 4 + columns + 4) * 4
        tiles[name.lower()] = Tile(name.lower(), rows, columns, 32 * warps_m * warps_n * warps_k, shared)
    return tiles


# Of each precision: values in a word of shared memory, as PACK in tensor_tile.cuh; none where products are made in float32.
PRECISIONS = {"float32": None, "tf32": 1, "bf16": 2}


def _tensor_shapes(precision: str) -> dict[str, Tile]:
    """The shapes as tensor_tile.cuh defines them; the formulas are those of its `TensorShape`."""
    pack, tiles = PRECISIONS[precision], {}
    assert pack is not None
    for name, numbers in re.findall(r"using Tensor(\w+) = TensorShape<P, ([\d, ]+)>;", part("tensor_tile.cuh")):
        warps_m, warps_n, warps_k, tiles_m, tiles_n, depth = map(int, numbers.split(","))
        rows, columns, words = 16 * tiles_m * warps_m, 8 * tiles_n * warps_n, depth // pack
        along_ld = words if words == 8 else words + 8
        stage = sum(max(extent * along_ld, words * (extent + 4)) for extent in (rows, columns))
        name = f"{name.lower()}_{precision}"
        tiles[name] = Tile(name, rows, columns, 32 * warps_m * warps_n * warps_k, 2 * stage * 4)
    return tiles


SHAPES = _shapes() | _tensor_shapes("tf32") | _tensor_shapes("bf16")


def in_precision(tiles: tuple[Tile, ...], precision: str) -> tuple[Tile, ...]:
    """The shapes of these names in another precision, where it has them."""
    if precision == "float32":
        return tiles
    return tuple(SHAPES[name] for name in (f"{tile.name}_{precision}" for tile in tiles) if name in SHAPES)


def cut(facts: Facts, blocks: int, terms: int, size: int, least: int | None = None) -> tuple[int, int]:
    """Into how many shares a sum of so many terms is cut, and how long they are, so that every multiprocessor gets a block.

    Parameters
    ----------
    facts : Facts
    blocks : int
        That there are for one share.
    terms : int
    size : int
        Elements of a share's result: all of them must fit into the scratch.
    least : int, optional
        Terms of a share; default `LEAST_SHARE`.

    Returns
    -------
    n, share : int
        With one share, `share` is the number of terms.
    """
    least = LEAST_SHARE if least is None else least
    room = facts.scratch.shape[0] // max(size, 1) if facts.scratch else 1
    n = min(-(-facts.multiprocessors // max(blocks, 1)), terms // least, room)
    if n < 2:
        return 1, terms
    share = math.ceil(terms / n / SHARE_STEP) * SHARE_STEP
    n = -(-terms // share)
    return (n, share) if n > 1 else (1, terms)


def scratch(facts: Facts, shape: tuple[int, ...]) -> Array:
    """The scratch as a matrix."""
    assert facts.scratch is not None
    return Array(facts.scratch.address, shape, shape[1], facts.scratch.dtype)


def add_shares(
    facts: Facts, c: Array, n: int, *, bias: Array | None = None, kept: Array | None = None, flags: int = 0
) -> list[Launch]:
    """The launch that adds the n results in the scratch to c, with what follows a product."""
    rows, columns = c.shape if len(c.shape) == 2 else (1, *c.shape)
    strides = (*leading(c), np.int32(kept.ld if kept else 0))
    arguments = (c, facts.scratch, bias, kept, *integers(n, rows, columns), *strides, np.int32(flags))
    return stream(facts, "add_shares_kernel", (rows, columns), *arguments)
