"""The register tile of convolutions of one channel, rectified and pooled 2 x 2: pixels are the lanes.

With few filters the lanes of `window_tile` stay empty; neighbouring pixels always fill them. Two rows of pixels, two vectors each, are summed for
some filters at once, then rectified and pooled in registers. The results of a filter lie side by side then, and must lie pixel by pixel: vectors
are interleaved until they do.
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
    byte_p,
    emit_constant,
    emit_fma,
    emit_lane_mask,
    emit_masked_load,
    emit_splat,
    f32,
    float_p,
    function,
    i1,
    i8,
    i32,
    i64,
    lanes_ir,
    vector_ir,
)

GREY_FILTERS = 6 if MACHINE.registers == 32 else 2  # of a tile: 4 sums each, 4 vectors of pixels, a weight
SIDE_BY_SIDE = 1 << (GREY_FILTERS - 1).bit_length()  # the same as a power of two, in which vectors can be interleaved
assert MACHINE.registers >= 4 * GREY_FILTERS + 5, "the sums would spill"

N = types.intp


def _twin(y, argmax, ld, x, ld_x, w, ld_w, b, kernel_height, kernel_width, filters, pixels) -> None:
    columns = 2 * pixels
    for f in range(min(filters, GREY_FILTERS)):
        made = np.empty((2, columns), np.float32)
        for row in range(2):
            total = np.full(columns, b[f])
            for i in range(kernel_height):
                for j in range(kernel_width):
                    at = (row + i) * ld_x + j
                    total += x[at : at + columns] * w[(i * kernel_width + j) * ld_w + f]
            made[row] = np.where(total < 0, np.float32(0), total)
        places = np.concatenate([made.reshape(2, -1, 2)[0], made.reshape(2, -1, 2)[1]], axis=1)
        y[f : (pixels - 1) * ld + f + 1 : ld] = places.max(axis=1)
        argmax[f : (pixels - 1) * ld + f + 1 : ld] = places.argmax(axis=1)


def _interleaved(b: ir.IRBuilder, lines: list[ir.Value]) -> list[ir.Value]:
    """Lines that each hold a filter's pixels as lines that hold a pixel's filters: halves are interleaved until pixels are outermost."""
    width = lines[0].type.count
    for _ in range((len(lines) - 1).bit_length()):
        half, mixed = len(lines) // 2, []
        for low, high in zip(lines[:half], lines[half:], strict=True):
            for start in (0, width // 2):
                index = [i32(lane) for k in range(start, start + width // 2) for lane in (k, width + k)]
                mixed.append(b.shuffle_vector(low, high, ir.Constant(ir.VectorType(i32, width), index)))
        lines = mixed
    return lines


def _group(b: ir.IRBuilder, lines: list[ir.Value], pixel: int) -> ir.Value:
    """The filters of a pixel, of interleaved lines."""
    line, start = divmod(pixel * SIDE_BY_SIDE, LANES)
    index = [i32(start + k) for k in range(SIDE_BY_SIDE)]
    return b.shuffle_vector(lines[line], lines[line], ir.Constant(ir.VectorType(i32, SIDE_BY_SIDE), index))


def _grey_tile() -> Any:
    if not JIT:
        return _twin

    @intrinsic
    def tile(context, y, argmax, ld, x, ld_x, w, ld_w, b_, kernel_height, kernel_width, filters, pixels):
        sig = types.void(float_p, byte_p, N, float_p, N, float_p, N, float_p, N, N, N, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            y, argmax, ld, x, ld_x, w, ld_w, bias, height, width, filters, pixels = args
            columns = b.mul(pixels, i64(2))
            masks = [emit_lane_mask(b, columns), emit_lane_mask(b, b.sub(columns, i64(LANES)))]
            # A filter that is not there is computed as the first.
            own = [b.select(b.icmp_signed("<", i64(f), filters), i64(f), i64(0)) for f in range(GREY_FILTERS)]
            cells = [(f, row, v) for f in range(GREY_FILTERS) for row in range(2) for v in range(2)]
            biases = [emit_splat(b, b.load(b.gep(bias, [own[f]]))) for f in range(GREY_FILTERS)]
            entry = b.block
            outer, inner, outer_end, done = (b.append_basic_block(name) for name in ("row", "tap", "row_end", "done"))

            def carried(value: Any, block: ir.Block, ty: ir.Type = i64) -> ir.Value:
                phi = b.phi(ty)
                phi.add_incoming(value, block)
                return phi

            b.branch(outer)
            b.position_at_end(outer)
            i, x_row, w_row = carried(i64(0), entry), carried(x, entry, x.type), carried(w, entry, w.type)
            outer_totals = {cell: carried(biases[cell[0]], entry, vector_ir) for cell in cells}
            below = b.gep(x_row, [ld_x])
            b.branch(inner)

            b.position_at_end(inner)
            j, w_at = carried(i64(0), outer), carried(w_row, outer, w.type)
            totals = {cell: carried(outer_totals[cell], outer, vector_ir) for cell in cells}
            seen = {}
            for row, start in enumerate((x_row, below)):
                for v in range(2):
                    seen[row, v] = emit_masked_load(b, b.gep(start, [b.add(j, i64(v * LANES))]), masks[v])
            new = {}
            for f in range(GREY_FILTERS):
                weight = emit_splat(b, b.load(b.gep(w_at, [own[f]])))
                for row in range(2):
                    for v in range(2):
                        new[f, row, v] = emit_fma(b, seen[row, v], weight, totals[f, row, v])
            j_next, w_next = b.add(j, i64(1)), b.gep(w_at, [ld_w])
            for phi, value in ((j, j_next), (w_at, w_next), *((totals[cell], new[cell]) for cell in cells)):
                phi.add_incoming(value, inner)
            b.cbranch(b.icmp_signed("<", j_next, width), inner, outer_end)

            b.position_at_end(outer_end)
            i_next = b.add(i, i64(1))
            for phi, value in (
                (i, i_next),
                (x_row, below),
                (w_row, w_next),
                *((outer_totals[cell], new[cell]) for cell in cells),
            ):
                phi.add_incoming(value, outer_end)
            b.cbranch(b.icmp_signed("<", i_next, height), outer, done)

            b.position_at_end(done)
            pooled = [
                _emit_pool(b, [new[f, row, v] for row in range(2) for v in range(2)]) for f in range(GREY_FILTERS)
            ]
            pooled += [pooled[0]] * (SIDE_BY_SIDE - GREY_FILTERS)
            values = _interleaved(b, [value for value, _ in pooled])
            places = _interleaved(b, [b.trunc(place, ir.VectorType(i8, LANES)) for _, place in pooled])
            _emit_pixels(b, values, places, y, argmax, ld, filters, pixels)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def _emit_pool(b: ir.IRBuilder, sums: list[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Largest value and its place of each 2 x 2 pixels, rectified; of two rows of two vectors. NaN is larger than nothing, but stays."""
    zero = emit_constant(0)
    sums = [b.select(b.fcmp_ordered("<", s, zero), zero, s) for s in sums]
    candidates = []
    for row in range(2):
        for side in range(2):
            index = ir.Constant(lanes_ir, [2 * k + side for k in range(LANES)])
            candidates.append(b.shuffle_vector(sums[2 * row], sums[2 * row + 1], index))
    best, place = candidates[0], ir.Constant(lanes_ir, [0] * LANES)
    for number, value in enumerate(candidates[1:], start=1):
        larger = b.fcmp_ordered(">", value, best)
        taken = b.or_(larger, b.fcmp_unordered("uno", value, value))
        best = b.select(taken, value, best)
        place = b.select(larger, ir.Constant(lanes_ir, [number] * LANES), place)
    return best, place


def _emit_pixels(
    b: ir.IRBuilder,
    values: list[ir.Value],
    places: list[ir.Value],
    y: ir.Value,
    argmax: ir.Value,
    ld: ir.Value,
    filters: ir.Value,
    pixels: ir.Value,
) -> None:
    """Store the filters of each pixel that is there."""
    wide = ir.VectorType(i64, SIDE_BY_SIDE)
    undefined = ir.Constant(wide, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(i32, SIDE_BY_SIDE), [0] * SIDE_BY_SIDE)
    limit = b.shuffle_vector(b.insert_element(undefined, filters, i32(0)), undefined, zeros)
    mask = b.icmp_signed("<", ir.Constant(wide, list(range(SIDE_BY_SIDE))), limit)

    def masked_store(value: ir.Value, pointer: ir.Value, element: ir.Type, name: str, align: int) -> None:
        kind = ir.VectorType(element, SIDE_BY_SIDE)
        mask_type = ir.VectorType(i1, SIDE_BY_SIDE)
        arguments = [kind, kind.as_pointer(), i32, mask_type]
        store = function(b, ir.VoidType(), arguments, f"llvm.masked.store.v{SIDE_BY_SIDE}{name}.p0")
        b.call(store, [value, b.bitcast(pointer, kind.as_pointer()), i32(align), mask])

    stored = b.append_basic_block("stored")
    for pixel in range(LANES):
        at = b.mul(ld, i64(pixel))
        masked_store(_group(b, values, pixel), b.gep(y, [at]), f32, "f32", 4)
        masked_store(_group(b, places, pixel), b.gep(argmax, [at]), i8, "i8", 1)
        following = stored if pixel == LANES - 1 else b.append_basic_block("pixel")
        if pixel == LANES - 1:
            b.branch(stored)
        else:
            b.cbranch(b.icmp_signed("<", i64(pixel + 1), pixels), following, stored)
        b.position_at_end(following)


# `tile(y, argmax, ld, x, ld_x, w, ld_w, b, kernel_height, kernel_width, filters, pixels)`: a row of at most LANES pooled pixels for at most
# GREY_FILTERS filters, at least one of each; pixels of y and argmax are ld apart. Sums begin with the bias and go through the window in order.
grey_tile = _grey_tile()
