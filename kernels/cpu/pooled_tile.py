"""The register tiles of convolutions whose output is pooled: only the pixel that won a pooling window has a gradient.

The window of such a pixel is `rows` runs of neighbouring values. `gather_tile` adds up windows of many pixels, each times its gradient, for one
filter; `send_tile` adds up filters, each times its gradient, for the window of one pixel. Both keep `rows x vectors` sums in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .isa import LANES, MACHINE
from .simd import (
    JIT,
    byte_p,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    float_p,
    function,
    i1,
    i64,
    long_p,
    vector_ir,
)

# Rows of the tile for each number of vectors: narrow ones for windows of 5 x 5 pixels with few channels, wide ones for 3 x 3 pixels with many. A
# window that is wider or higher takes several tiles; what a tile has beyond the window is computed and not stored.
POOLED_ROWS = {1: 5, 2: 5, 3: 3, 4: 3, 5: 3, 6: 3} if MACHINE.registers == 32 else {1: 5, 2: 5, 3: 3, 4: 3}
POOLED_VECTORS = max(POOLED_ROWS)
assert all(MACHINE.registers >= rows * vectors + 3 for vectors, rows in POOLED_ROWS.items()), "the sums would spill"

N = types.intp


class _Grid:
    """Emits the sums of a tile: rows of vectors, the last one of `tail` lanes; only the first `count` rows are stored."""

    def __init__(self, b: ir.IRBuilder, rows: int, vectors: int, tail: ir.Value) -> None:
        self.b, self.rows, self.vectors = b, rows, vectors
        self.lanes = emit_lane_mask(b, tail)
        self.cells = [(r, j) for r in range(rows) for j in range(vectors)]

    def pointers(self, base: ir.Value, stride: ir.Value, count: ir.Value) -> list[ir.Value]:
        """Of each row; rows that are not there stand for the first."""
        b = self.b
        offsets = [b.select(b.icmp_signed("<", i64(r), count), b.mul(stride, i64(r)), i64(0)) for r in range(self.rows)]
        return [b.gep(base, [offset]) for offset in offsets]

    def load(self, pointer: ir.Value, j: int) -> ir.Value:
        """Vector j of a row."""
        at = self.b.gep(pointer, [i64(j * LANES)])
        return emit_masked_load(self.b, at, self.lanes) if j == self.vectors - 1 else emit_load(self.b, at)

    def load_all(self, pointers: list[ir.Value]) -> dict:
        """Every cell."""
        return {(r, j): self.load(pointers[r], j) for r, j in self.cells}

    def multiply_add(self, scalar: ir.Value, pointers: list[ir.Value], at: ir.Value, totals: dict) -> dict:
        """`totals + scalar * row[at:]`."""
        b, factor = self.b, emit_splat(self.b, scalar)
        rows = [b.gep(pointer, [at]) for pointer in pointers]
        return {(r, j): emit_fma(b, factor, self.load(rows[r], j), totals[r, j]) for r, j in self.cells}

    def store(self, values: dict, pointers: list[ir.Value], count: ir.Value) -> None:
        """The rows that are there."""
        b, done = self.b, self.b.append_basic_block("stored")
        for r in range(self.rows):
            for j in range(self.vectors):
                at = b.gep(pointers[r], [i64(j * LANES)])
                if j == self.vectors - 1:
                    emit_masked_store(b, values[r, j], at, self.lanes)
                else:
                    emit_store(b, values[r, j], at)
            following = done if r == self.rows - 1 else b.append_basic_block("store")
            if r == self.rows - 1:
                b.branch(done)
            else:
                b.cbranch(b.icmp_signed("<", i64(r + 1), count), following, done)
            b.position_at_end(following)


def gather_tile(rows: int, vectors: int) -> Any:
    """`sums[r run + :] += sum over i < runs, t < length of d[n] x[i x_run + t x_step + places[argmax[n]] + r x_row + :]`, n = (i length + t) step.

    For the rows r < count. The last of `vectors` vectors has `tail` lanes. runs, length, count >= 1.

    Returns
    -------
    intrinsic
        `tile(sums, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, tail)`.
    """

    def twin(sums, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, tail) -> None:
        width = (vectors - 1) * LANES + min(tail, LANES)
        for r in range(min(rows, count)):
            total = sums[r * run : r * run + width]
            for i in range(runs):
                for t in range(length):
                    n = (i * length + t) * step
                    at = i * x_run + t * x_step + int(places[argmax[n]]) + r * x_row
                    total += d[n] * x[at : at + width]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, sums, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, tail):
        sig = types.void(float_p, N, float_p, N, N, N, long_p, byte_p, float_p, N, N, N, N, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            sums, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, tail = args
            grid = _Grid(b, rows, vectors, tail)
            to, start = grid.pointers(sums, run, count), grid.pointers(x, x_row, count)
            initial = grid.load_all(to)
            entry = b.block
            outer, inner, outer_end, done = (b.append_basic_block(name) for name in ("run", "pixel", "run_end", "done"))

            def carried(value: Any, block: ir.Block, ty: ir.Type = i64) -> ir.Value:
                phi = b.phi(ty)
                phi.add_incoming(value, block)
                return phi

            b.branch(outer)
            b.position_at_end(outer)
            i, row_at, row_n = (carried(i64(0), entry) for _ in range(3))
            outer_totals = {cell: carried(initial[cell], entry, vector_ir) for cell in grid.cells}
            b.branch(inner)

            b.position_at_end(inner)
            t, at, n = carried(i64(0), outer), carried(row_at, outer), carried(row_n, outer)
            totals = {cell: carried(outer_totals[cell], outer, vector_ir) for cell in grid.cells}
            chosen = b.zext(b.load(b.gep(argmax, [n])), i64)
            place = b.load(b.gep(places, [chosen]))
            new = grid.multiply_add(b.load(b.gep(d, [n])), start, b.add(at, place), totals)
            t_next, n_next = b.add(t, i64(1)), b.add(n, step)
            for phi, value in ((t, t_next), (at, b.add(at, x_step)), (n, n_next)):
                phi.add_incoming(value, inner)
            for cell in grid.cells:
                totals[cell].add_incoming(new[cell], inner)
            b.cbranch(b.icmp_signed("<", t_next, length), inner, outer_end)

            b.position_at_end(outer_end)
            i_next = b.add(i, i64(1))
            for phi, value in ((i, i_next), (row_at, b.add(row_at, x_run)), (row_n, n_next)):
                phi.add_incoming(value, outer_end)
            for cell in grid.cells:
                outer_totals[cell].add_incoming(new[cell], outer_end)
            b.cbranch(b.icmp_signed("<", i_next, runs), outer, done)

            b.position_at_end(done)
            grid.store(new, to, count)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def send_tile(rows: int, vectors: int) -> Any:
    """`dx[r dx_row + :] += sum over the 1-bits o of filters of d[o] wt[o ld_wt + r run + :]`.

    For the rows r < count. The last of `vectors` vectors has `tail` lanes. At least one bit, count >= 1; lower bits are added first.

    Returns
    -------
    intrinsic
        `tile(dx, dx_row, wt, run, ld_wt, d, filters, count, tail)`.
    """

    def twin(dx, dx_row, wt, run, ld_wt, d, filters, count, tail) -> None:
        width = (vectors - 1) * LANES + min(tail, LANES)
        for r in range(min(rows, count)):
            total = dx[r * dx_row : r * dx_row + width]
            for o in range(64):
                if int(filters) >> o & 1:
                    at = o * ld_wt + r * run
                    total += d[o] * wt[at : at + width]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, dx, dx_row, wt, run, ld_wt, d, filters, count, tail):
        sig = types.void(float_p, N, float_p, N, N, float_p, types.int64, N, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            dx, dx_row, wt, run, ld_wt, d, filters, count, tail = args
            grid = _Grid(b, rows, vectors, tail)
            to, start = grid.pointers(dx, dx_row, count), grid.pointers(wt, run, count)
            initial = grid.load_all(to)
            trailing_zeros = function(b, i64, [i64, i1], "llvm.cttz.i64")
            entry, loop, done = b.block, b.append_basic_block("filter"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            left = b.phi(i64)
            left.add_incoming(filters, entry)
            totals = {cell: b.phi(vector_ir) for cell in grid.cells}
            o = b.call(trailing_zeros, [left, i1(1)])
            new = grid.multiply_add(b.load(b.gep(d, [o])), start, b.mul(o, ld_wt), totals)
            for cell in grid.cells:
                totals[cell].add_incoming(initial[cell], entry)
                totals[cell].add_incoming(new[cell], loop)
            rest = b.and_(left, b.sub(left, i64(1)))
            left.add_incoming(rest, loop)
            b.cbranch(b.icmp_signed("!=", rest, i64(0)), loop, done)
            b.position_at_end(done)
            grid.store(new, to, count)
            return ctx.get_dummy_value()

        return sig, generate

    return tile
