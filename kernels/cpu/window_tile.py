"""The register tile of convolutions: rows of both operands lie anywhere, at offsets that the caller has listed.

`window_tile(rows, vectors)` keeps `rows x vectors` accumulators in registers while two nested loops run, `runs` times `length` steps: a convolution's
window is `kernel_height` runs of `kernel_width * channels` neighbours, an image's pixels are `OH` runs of `OW` pixels. The second operand is read on
and on, one row a step. Rows beyond `count` are computed from whatever valid offsets stand there and not stored, so one tile serves every edge.

Source: the offsets instead of a copied matrix are the indirect convolution of Dukhan 2019 ("The indirect convolution algorithm").
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
    float_p,
    i64,
    long_p,
    vector_ir,
)

# Rows of the tile for each number of vectors. Eight independent sums hide the latency of the fused multiply-add; more rows reuse the vectors of
# the second operand more often, as far as the registers reach: rows x vectors sums, `vectors` operands and one broadcast.
WINDOW_ROWS = {1: 12, 2: 12, 3: 8, 4: 6} if MACHINE.registers == 32 else {1: 8, 2: 5}
WINDOW_VECTORS = max(WINDOW_ROWS)
assert all(MACHINE.registers >= r * v + v + 1 for v, r in WINDOW_ROWS.items()), "the accumulators would spill"
WINDOW_STRIP = WINDOW_VECTORS * LANES  # columns of the widest tile
MOST_ROWS = max(WINDOW_ROWS.values())

N = types.intp


def window_tile(rows: int, vectors: int) -> Any:
    """`c[C_r + :] = max(init[f C_r + :] + sum over i < runs, t < length of a[A_r + i a_run + t a_step] b[(i length + t) ld_b + :], floor)`.

    For the rows r < count, with A_r = a_offsets[r] and C_r = c_offsets[r]; all `rows` offsets must be valid. f is 0 to start from one row of
    init, 1 to start from a matrix like c. The last of `vectors` vectors has `tail` lanes. runs, length >= 1.

    Returns
    -------
    intrinsic
        `tile(a, a_offsets, a_step, a_run, runs, length, b, ld_b, init, f, c, c_offsets, floor, count, tail)`.
    """

    def twin(a, a_offsets, a_step, a_run, runs, length, b, ld_b, init, f, c, c_offsets, floor, count, tail) -> None:
        width = (vectors - 1) * LANES + min(tail, LANES)
        for r in range(min(rows, count)):
            at, to = int(a_offsets[r]), int(c_offsets[r])
            total = init[f * to : f * to + width].copy()
            for i in range(runs):
                for t in range(length):
                    row = (i * length + t) * ld_b
                    total += a[at + i * a_run + t * a_step] * b[row : row + width]
            c[to : to + width] = np.where(total < floor, floor, total)

    if not JIT:
        return twin

    @intrinsic
    def tile(context, a, a_offsets, a_step, a_run, runs, length, b_, ld_b, init, f, c, c_offsets, floor, count, tail):
        sig = types.void(
            float_p, long_p, N, N, N, N, float_p, N, float_p, N, float_p, long_p, types.float32, N, N
        )  # fmt: skip

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            A, a_offsets, a_step, a_run, runs, length, B, ld_b, init, f, C, c_offsets, floor, count, tail = args
            lanes = emit_lane_mask(b, tail)
            grid = [(r, j) for r in range(rows) for j in range(vectors)]

            def load(pointer: ir.Value, j: int) -> ir.Value:
                at = b.gep(pointer, [i64(j * LANES)])
                return emit_masked_load(b, at, lanes) if j == vectors - 1 else emit_load(b, at)

            # One pointer a row: the loops then need a single index register for all of them.
            a_rows = [b.gep(A, [b.load(b.gep(a_offsets, [i64(r)]))]) for r in range(rows)]
            to = [b.load(b.gep(c_offsets, [i64(r)])) for r in range(rows)]
            start = {}
            for r in range(rows):
                first = b.gep(init, [b.mul(to[r], f)])
                for j in range(vectors):
                    start[r, j] = load(first, j)
            entry = b.block
            run, step = b.append_basic_block("run"), b.append_basic_block("step")
            run_end, done = b.append_basic_block("run_end"), b.append_basic_block("done")
            b.branch(run)

            def carried(name: str, initial: Any, ty: ir.Type = i64) -> ir.Value:
                phi = b.phi(ty, name)
                phi.add_incoming(initial, entry if b.block is run else run)
                return phi

            b.position_at_end(run)
            outer = {"i": carried("i", i64(0)), "at": carried("at", i64(0)), "b": carried("b", B, B.type)}
            outer_totals = {cell: carried("total", start[cell], vector_ir) for cell in grid}
            b.branch(step)

            b.position_at_end(step)
            t = carried("t", i64(0))
            at, row = carried("at", outer["at"]), carried("b", outer["b"], B.type)
            totals = {cell: carried("total", outer_totals[cell], vector_ir) for cell in grid}
            vectors_of_b = [load(row, j) for j in range(vectors)]
            new = {}
            for r in range(rows):
                broadcast = emit_splat(b, b.load(b.gep(a_rows[r], [at])))
                for j in range(vectors):
                    new[r, j] = emit_fma(b, broadcast, vectors_of_b[j], totals[r, j])
            t_next, row_next = b.add(t, i64(1)), b.gep(row, [ld_b])
            for phi, value in ((t, t_next), (at, b.add(at, a_step)), (row, row_next)):
                phi.add_incoming(value, step)
            for cell in grid:
                totals[cell].add_incoming(new[cell], step)
            b.cbranch(b.icmp_signed("<", t_next, length), step, run_end)

            b.position_at_end(run_end)
            i_next = b.add(outer["i"], i64(1))
            for phi, value in (
                (outer["i"], i_next),
                (outer["at"], b.add(outer["at"], a_run)),
                (outer["b"], row_next),
            ):
                phi.add_incoming(value, run_end)
            for cell in grid:
                outer_totals[cell].add_incoming(new[cell], run_end)
            store = b.append_basic_block("store")
            b.cbranch(b.icmp_signed("<", i_next, runs), run, store)

            b.position_at_end(store)
            limit = emit_splat(b, floor)
            for r in range(rows):
                for j in range(vectors):
                    value = b.select(b.fcmp_ordered("<", new[r, j], limit), limit, new[r, j])  # NaN stays NaN
                    pointer = b.gep(C, [b.add(to[r], i64(j * LANES))])
                    if j == vectors - 1:
                        emit_masked_store(b, value, pointer, lanes)
                    else:
                        emit_store(b, value, pointer)
                following = done if r == rows - 1 else b.append_basic_block("store")
                if r == rows - 1:
                    b.branch(done)
                else:
                    b.cbranch(b.icmp_signed("<", i64(r + 1), count), following, done)
                b.position_at_end(following)
            return ctx.get_dummy_value()

        return sig, generate

    return tile
