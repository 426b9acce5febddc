"""Register tiles: the two inner loops that almost all arithmetic runs in, generated as LLVM IR for this machine's vectors.

`dense_tile(rows, vectors)` is the micro-kernel of every matrix product: `rows x vectors` accumulators live in registers while k runs; each step
loads `vectors` vectors of B and broadcasts `rows` elements of A. Rows of A are `row_stride` apart and its columns `column_stride`, so the same
tile multiplies by A or by its transpose.

`sparse_tile(vectors)` is a row of a product with a compressed matrix: the accumulators of one output row live in registers while the list of
nonzeros runs.

Both start from `init` (a bias with stride 0, zeros with stride 0, or the output itself to accumulate), and clip at `floor` (0 is ReLU, -inf
nothing). With `masked` the last vector has only `tail` lanes: ragged edges touch nothing outside the matrices.

Sources: BLIS' micro-kernel (Van Zee & van de Geijn 2015) for the shape of the loop.
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
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    f32,
    float_p,
    i64,
    vector_ir,
)

# The tile's height and width in vectors. 4 x 4 accumulators, 4 vectors of B and a broadcast take 21 of 32 registers; 6 x 4 would fit, and was no
# faster (bench/ladder). 4 x 2 and theirs take 11 of 16. Wider than tall in elements: a row of B is one contiguous run of cache lines.
TILE_ROWS, TILE_VECTORS = (4, 4) if MACHINE.registers == 32 else (4, 2)
assert MACHINE.registers >= TILE_ROWS * TILE_VECTORS + TILE_VECTORS + 1, "the accumulators would spill"
STRIP = TILE_VECTORS * LANES  # columns of a tile

N = types.intp


def _address(b: ir.IRBuilder, base: ir.Value, stride: ir.Value, row: int, vector: int = 0) -> ir.Value:
    return b.gep(base, [b.add(b.mul(stride, i64(row)), i64(vector * LANES))])


class _Edge:
    """Loads and stores of a row of vectors, the last one masked where the tile is ragged."""

    def __init__(self, b: ir.IRBuilder, vectors: int, lanes: ir.Value | None) -> None:
        self.b, self.last, self.lanes = b, vectors - 1, lanes

    def load(self, pointer: ir.Value, j: int) -> ir.Value:
        if self.lanes is not None and j == self.last:
            return emit_masked_load(self.b, pointer, self.lanes)
        return emit_load(self.b, pointer)

    def store(self, value: ir.Value, pointer: ir.Value, j: int) -> None:
        if self.lanes is not None and j == self.last:
            emit_masked_store(self.b, value, pointer, self.lanes)
        else:
            emit_store(self.b, value, pointer)


def _clip(b: ir.IRBuilder, value: ir.Value, floor: ir.Value) -> ir.Value:
    """max(value, floor), but NaN stays NaN."""
    return b.select(b.fcmp_ordered("<", value, floor), floor, value)


def dense_tile(rows: int, vectors: int, masked: bool) -> Any:
    """`c[r, :] = max(init[r, :] + sum_k a[r, k] b[k, :], floor)` for `rows` rows and `vectors` vectors of columns, k >= 1.

    Returns
    -------
    intrinsic
        `tile(a, row_stride, column_stride, b, ld_b, k, init, ld_init, c, ld_c, floor, tail)`.
    """

    def twin(a, row_stride, column_stride, b, ld_b, k, init, ld_init, c, ld_c, floor, tail) -> None:
        width = (vectors - 1) * LANES + (min(tail, LANES) if masked else LANES)
        for r in range(rows):
            total = init[r * ld_init : r * ld_init + width].copy()
            for step in range(k):
                total += a[r * row_stride + step * column_stride] * b[step * ld_b : step * ld_b + width]
            c[r * ld_c : r * ld_c + width] = np.where(total < floor, floor, total)

    if not JIT:
        return twin

    @intrinsic
    def tile(context, a, row_stride, column_stride, b_, ld_b, k, init, ld_init, c, ld_c, floor, tail):
        sig = types.void(float_p, N, N, float_p, N, N, float_p, N, float_p, N, types.float32, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            A, row_stride, column_stride, B, ld_b, K, init, ld_init, C, ld_c, floor, tail = args
            edge = _Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            grid = [(r, j) for r in range(rows) for j in range(vectors)]
            start = {(r, j): edge.load(_address(b, init, ld_init, r, j), j) for r, j in grid}
            # One pointer a row of A: the loop then needs a single index register for all of them.
            a_rows = [_address(b, A, row_stride, r) for r in range(rows)]
            entry, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
            b.branch(loop)

            b.position_at_end(loop)
            step = b.phi(i64)
            step.add_incoming(i64(0), entry)
            total = {}
            for cell in grid:
                total[cell] = b.phi(vector_ir)
                total[cell].add_incoming(start[cell], entry)
            row_of_b = b.gep(B, [b.mul(step, ld_b)])
            column_of_a = b.mul(step, column_stride)
            b_vectors = [edge.load(b.gep(row_of_b, [i64(j * LANES)]), j) for j in range(vectors)]
            new = {}
            for r in range(rows):
                broadcast = emit_splat(b, b.load(b.gep(a_rows[r], [column_of_a])))
                for j in range(vectors):
                    new[r, j] = emit_fma(b, broadcast, b_vectors[j], total[r, j])
            following = b.add(step, i64(1))
            step.add_incoming(following, loop)
            for cell in grid:
                total[cell].add_incoming(new[cell], loop)
            b.cbranch(b.icmp_signed("<", following, K), loop, done)

            b.position_at_end(done)
            limit = emit_splat(b, floor)
            for r, j in grid:
                edge.store(_clip(b, new[r, j], limit), _address(b, C, ld_c, r, j), j)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def sparse_tile(vectors: int, masked: bool) -> Any:
    """`c[:] = max(init[:] + sum_t value(t) b[index[t], :], floor)` over a list of n nonzeros (n may be 0).

    `value(t)` is `table[values[t]]` for bytes (256 scaled values, made once a call) and `values[t] * table[0]` for floats.

    Returns
    -------
    intrinsic
        `tile(index, values, n, table, b, ld_b, init, c, floor, tail)`.
    """

    def twin(index, values, n, table, b, ld_b, init, c, floor, tail) -> None:
        width = (vectors - 1) * LANES + (min(tail, LANES) if masked else LANES)
        total = init[:width].copy()
        for t in range(n):
            value = table[values[t]] if values.dtype == np.uint8 else values[t] * table[0]
            row = int(index[t]) * ld_b
            total += value * b[row : row + width]
        c[:width] = np.where(total < floor, floor, total)

    if not JIT:
        return twin

    @intrinsic
    def tile(context, index, values, n, table, b_, ld_b, init, c, floor, tail):
        sig = types.void(index, values, N, float_p, float_p, N, float_p, float_p, types.float32, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            index, values, count, table, B, ld_b, init, C, floor, tail = args
            edge = _Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            start = [edge.load(b.gep(init, [i64(j * LANES)]), j) for j in range(vectors)]
            scale = b.load(table)
            entry, loop, done = b.block, b.append_basic_block("nonzero"), b.append_basic_block("done")
            b.cbranch(b.icmp_signed(">", count, i64(0)), loop, done)

            b.position_at_end(loop)
            t = b.phi(i64)
            t.add_incoming(i64(0), entry)
            total = []
            for value in start:
                phi = b.phi(vector_ir)
                phi.add_incoming(value, entry)
                total.append(phi)
            broadcast = emit_splat(b, emit_stored_value(b, values, t, table, scale))
            row = b.gep(B, [b.mul(b.zext(b.load(b.gep(index, [t])), i64), ld_b)])
            new = [emit_fma(b, broadcast, edge.load(b.gep(row, [i64(j * LANES)]), j), total[j]) for j in range(vectors)]
            following = b.add(t, i64(1))
            t.add_incoming(following, loop)
            for phi, value in zip(total, new, strict=True):
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", following, count), loop, done)

            b.position_at_end(done)
            results = []
            for empty, full in zip(start, new, strict=True):
                result = b.phi(vector_ir)
                result.add_incoming(empty, entry)
                result.add_incoming(full, loop)
                results.append(result)
            limit = emit_splat(b, floor)
            for j, result in enumerate(results):
                edge.store(_clip(b, result, limit), b.gep(C, [i64(j * LANES)]), j)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def emit_stored_value(b: ir.IRBuilder, values: ir.Value, t: ir.Value, table: ir.Value, scale: ir.Value) -> ir.Value:
    """The t-th stored value, scaled: bytes through the table (one load instead of a conversion and a product)."""
    stored = b.load(b.gep(values, [t]))
    if stored.type == f32:
        return b.fmul(stored, scale)
    return b.load(b.gep(table, [b.zext(stored, i64)]))


def transpose_block() -> Any:
    """An intrinsic `transpose(source, ld_source, target, ld_target)`: a LANES x LANES block, by butterflies in registers."""

    def twin(source, ld_source, target, ld_target) -> None:
        for i in range(LANES):
            for j in range(LANES):
                target[j * ld_target + i] = source[i * ld_source + j]

    if not JIT:
        return twin

    @intrinsic
    def transpose(context, source, ld_source, target, ld_target):
        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            source, ld_source, target, ld_target = args
            index_type = ir.VectorType(ir.IntType(32), LANES)
            rows = [emit_load(b, _address(b, source, ld_source, i)) for i in range(LANES)]
            bit = 1
            while bit < LANES:  # exchange this bit of the row's and the column's number
                low = [i if not i & bit else LANES + (i ^ bit) for i in range(LANES)]
                high = [(i | bit) if not i & bit else LANES + i for i in range(LANES)]
                for i in range(LANES):
                    if not i & bit:
                        x, y = rows[i], rows[i | bit]
                        rows[i] = b.shuffle_vector(x, y, ir.Constant(index_type, low))
                        rows[i | bit] = b.shuffle_vector(x, y, ir.Constant(index_type, high))
                bit *= 2
            for i in range(LANES):
                emit_store(b, rows[i], _address(b, target, ld_target, i))
            return ctx.get_dummy_value()

        return types.void(float_p, N, float_p, N), generate

    return transpose
