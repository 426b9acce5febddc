"""The shapes of tile.cuh, and into how many shares a long sum is cut."""

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
    """A shape of tile.cuh: the size of a block's tile of the result, its threads, and its shared memory in bytes."""

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


SHAPES = _shapes()


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
