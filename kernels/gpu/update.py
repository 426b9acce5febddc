"""Launchers of update.cu and tensor_update.cu, and of the biases' step in channels.cu: a gradient and the optimizer's step in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .channels import LEAST_SHARE, lane_groups
from .launch import THREADS, Array, Facts, Launch, integers, leading
from .matmul import choose_tile
from .tiles import Tile, cut

KINDS = {"sgd": 0, "momentum": 1, "nesterov": 2, "adam": 3}  # as in step.cuh

Step = tuple[str, Sequence[Array], Sequence[float]]  # an op of `KINDS`, its operands and parameters


def tile_of(facts: Facts, rows: int, columns: int, depth: int) -> Tile | None:
    """Which tile sums the gradient of so many weights over `depth` samples and takes the step; None: two kernels are better.

    Not where the sum is cut into shares, which are complete only when all are added; and not in the largest tiles, whose registers
    hold no more: so large a product takes far longer than the gradient's way through memory.
    """
    tile = choose_tile(facts, rows, columns)
    grid = tile.blocks(rows, columns)
    shares, _ = cut(facts, grid[0] * grid[1], depth, rows * columns)
    return None if shares > 1 or tile.name.startswith("large") else tile


def _operands(step: Step) -> tuple[tuple[Any, ...], tuple[Array | None, ...], Array]:
    """A step as kernels take it, from the weights to the constants; the weights with what is kept of them; and hyper."""
    op, arrays, params = step
    *state, _, hyper, cursor = arrays
    weights = (*state, None, None)[:3]
    constants = (params[0], 1 - params[0], params[1], 1 - params[1], params[2]) if op == "adam" else (*params, *[0] * 5)
    numbers = tuple(np.float32(constant) for constant in constants[:5])
    return (*weights, hyper, cursor, np.int32(KINDS[op]), *numbers), weights, hyper


def update_weights(facts: Facts, x: Array, dy: Array, step: Step) -> list[Launch] | None:
    """`linear_dw` of x and dy, then the step; None where two kernels are better."""
    arguments, weights, hyper = _operands(step)
    assert weights[0] is not None
    rows, columns = weights[0].shape
    tile = tile_of(facts, rows, columns, dy.shape[0]) if rows and columns else None
    if tile is None:
        return None
    strides = (*leading(x, dy), *(np.int32(matrix.ld if matrix else 0) for matrix in weights), *leading(hyper))
    sizes = integers(rows, columns, dy.shape[0])
    grid = tile.blocks(rows, columns)
    return [
        Launch(f"update_{tile.name}_kernel", grid, (tile.threads,), (x, dy, *arguments, *sizes, *strides), tile.shared)
    ]


def update_bias(facts: Facts, dy: Array, step: Step) -> list[Launch] | None:
    """`linear_db` of dy, then the step; None where two kernels are better."""
    arguments, _, hyper = _operands(step)
    rows, columns = dy.shape
    lanes, groups = lane_groups(columns)
    shares, _ = cut(facts, groups, rows, columns, LEAST_SHARE)
    if shares > 1 or not columns:
        return None
    sizes = integers(rows, columns, lanes)
    return [
        Launch("update_bias_kernel", (groups,), (THREADS,), (dy, *arguments, *sizes, *leading(dy), *leading(hyper)))
    ]
