"""The filter gradient of convolutions of one channel that are pooled 2 x 2: pooled pixels are the lanes.

A window of few pixels of one channel leaves most lanes of a vector empty; neighbouring pooled pixels fill them. What pooling chose differs from lane
to lane, so pixels are chosen by blending: of two neighbouring columns before, of two neighbouring rows by the sum that a product is added to. Each
weight has a vector of sums, all of them in registers, and its lanes are added up at the end.

For that the columns of x are copied apart, every second one from each column of the window on, and gradients and choices are turned until those of
a filter lie side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .isa import LANES, MACHINE
from .simd import (
    JIT,
    emit_constant,
    emit_fma,
    emit_load,
    emit_store,
    even_lanes,
    fill_zeros,
    float_p,
    i64,
    inline,
    load,
    load_bytes_n,
    load_n,
    lower_halves,
    offset,
    reduce_add,
    splat,
    stack_array,
    store,
    vector_ir,
)
from .tile import transpose_block

_F = np.float32
# Rows and columns of the largest window, whose sums are TAPS x TAPS registers; those of the smaller tile, for windows that fit. None where there
# are too few registers: such windows are gathered (`pooled_tile.py`).
TAPS, FEW_TAPS = (5, 3) if MACHINE.registers == 32 else (0, 0)
ROWS = 16  # pooled rows that are turned at a time
FILTERS = LANES // 2  # turned together: their gradients and their choices are one vector a pixel
SUMMED = 64  # filters whose sums are kept, in level 2 if there are many

N = types.intp


def grey_gradient_tile(taps: int) -> Any:
    """`sums[i, j] += sum over r < rows of d[r] x[2 r + i + place[r] // 2][j + place[r] % 2]`, i, j < taps, where d is not 0; all of it vectors.

    d and place are `step` apart, rows of x `line`, their vectors LANES. rows >= 1.

    Returns
    -------
    intrinsic
        `tile(sums, d, place, step, x, line, rows)`.
    """

    def twin(sums, d, place, step, x, line, rows) -> None:
        for r in range(rows):
            for k in range(LANES):
                value, chosen = d[r * step + k], int(place[r * step + k])
                if value != 0:
                    for i in range(taps):
                        for j in range(taps):
                            at = (2 * r + i + chosen // 2) * line + (j + chosen % 2) * LANES + k
                            sums[(i * taps + j) * LANES + k] += value * x[at]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, sums, d, place, step, x, line, rows):
        sig = types.void(float_p, float_p, float_p, N, float_p, N, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            sums, d, place, step, x, line, rows = args
            cells = [(i, j) for i in range(taps) for j in range(taps)]

            def home(cell: tuple[int, int]) -> ir.Value:
                return b.gep(sums, [i64((cell[0] * taps + cell[1]) * LANES)])

            initial = {cell: emit_load(b, home(cell)) for cell in cells}
            entry, loop, done = b.block, b.append_basic_block("row"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            r, at, top = b.phi(i64), b.phi(i64), b.phi(x.type)
            totals = {cell: b.phi(vector_ir) for cell in cells}
            gradient, chosen = emit_load(b, b.gep(d, [at])), emit_load(b, b.gep(place, [at]))
            sent = b.fcmp_unordered("!=", gradient, emit_constant(0))
            right = b.or_(*(b.fcmp_ordered("==", chosen, emit_constant(number)) for number in (1, 3)))
            below = b.fcmp_ordered(">", chosen, emit_constant(1))
            upper, lower = b.and_(sent, b.not_(below)), b.and_(sent, below)
            new, row = dict(totals), top
            for i in range(taps + 1):
                seen = [emit_load(b, b.gep(row, [i64(s * LANES)])) for s in range(taps + 1)]
                for j in range(taps):
                    pixels = b.select(right, seen[j + 1], seen[j])
                    for cell, lanes in (((i, j), upper), ((i - 1, j), lower)):
                        if cell in new:
                            new[cell] = b.select(lanes, emit_fma(b, gradient, pixels, new[cell]), new[cell])
                row = b.gep(row, [line])
            r_next = b.add(r, i64(1))
            for phi, first, value in (
                (r, i64(0), r_next),
                (at, i64(0), b.add(at, step)),
                (top, x, b.gep(top, [b.mul(line, i64(2))])),
                *((totals[cell], initial[cell], new[cell]) for cell in cells),
            ):
                phi.add_incoming(first, entry)
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", r_next, rows), loop, done)
            b.position_at_end(done)
            for cell in cells:
                emit_store(b, new[cell], home(cell))
            return ctx.get_dummy_value()

        return sig, generate

    return tile


tile_few, tile_all = (grey_gradient_tile(taps) for taps in (FEW_TAPS, TAPS))
transpose_lanes = transpose_block()
kept_sums = stack_array(max(SUMMED * TAPS * TAPS * LANES, 1))
columns_apart = stack_array((2 * ROWS + TAPS) * (TAPS + 1) * LANES)
staged_pixels, turned_gradients = stack_array(LANES * LANES), stack_array(ROWS * LANES * LANES)


@inline
def _set_columns_apart(to, x, W, lines, KW, line, pixels):
    """Vector s of a line: the pixels 0, 2, 4, ... from column s on."""
    for y in range(lines):
        for s in range(KW + 1):
            at, n = y * W + s, 2 * pixels - 1
            store(to, y * line + s * LANES, even_lanes(load_n(x, at, n), load_n(x, at + LANES, n - LANES)))


@inline
def _turn(turned, dy, argmax, O, filters, pixels, rows, ld):
    """Of each row LANES vectors: a filter's gradients, at most FILTERS of them, then their choices; lanes behind the pixels that are there are 0."""
    staged = staged_pixels()
    for k in range(pixels, LANES):
        store(staged, k * LANES, splat(_F(0)))
    for r in range(rows):
        for k in range(pixels):
            at = r * ld + k * O
            gradients, places = load_n(dy, at, filters), load_bytes_n(argmax, at, filters)
            store(staged, k * LANES, lower_halves(gradients, places))
        transpose_lanes(staged, LANES, offset(turned, r * LANES * LANES), LANES)


@inline
def add_grey_gradient(dwt, x, dy, argmax, W, KH, KW, OH, OW, O, B, ld_dwt, ld_x, ld_dy, ld_argmax):
    """`dwt += ...` as in `conv2d_pooled_dwt`, of images of one channel; stride 1, windows of at most TAPS x TAPS pixels, pooled 2 x 2."""
    taps = np.int64(FEW_TAPS) if KH <= FEW_TAPS and KW <= FEW_TAPS else np.int64(TAPS)
    each, line = taps * taps * LANES, (taps + 1) * LANES
    sums, columns, turned = kept_sums(), columns_apart(), turned_gradients()
    for o0 in range(0, O, SUMMED):
        summed = min(SUMMED, O - o0)
        fill_zeros(sums, summed * each)
        for image in range(B):
            for y in range(0, OH, ROWS):
                rows = min(ROWS, OH - y)
                for p in range(0, OW, LANES):
                    pixels = min(LANES, OW - p)
                    seen = offset(x, image * ld_x + 2 * (y * W + p))
                    _set_columns_apart(columns, seen, W, 2 * rows + KH - 1, KW, line, pixels)
                    for o in range(0, summed, FILTERS):
                        filters, at = min(FILTERS, summed - o), (y * OW + p) * O + o0 + o
                        gradients, chosen = offset(dy, image * ld_dy + at), offset(argmax, image * ld_argmax + at)
                        _turn(turned, gradients, chosen, O, filters, pixels, rows, OW * O)
                        for f in range(filters):
                            to, d = offset(sums, (o + f) * each), offset(turned, f * LANES)
                            place = offset(d, FILTERS * LANES)
                            if taps == FEW_TAPS:
                                tile_few(to, d, place, LANES * LANES, columns, line, rows)
                            else:
                                tile_all(to, d, place, LANES * LANES, columns, line, rows)
        for o in range(summed):
            for i in range(KH):
                for j in range(KW):
                    to = (o0 + o) * ld_dwt + i * KW + j
                    dwt[to] += reduce_add(load(sums, o * each + (i * taps + j) * LANES))
