"""Register tiles: the two inner loops that almost all arithmetic runs in, generated as LLVM IR for this machine's vectors.

`dense_tile(rows, vectors)` is the micro-kernel of every matrix product: `rows x vectors` accumulators live in registers while k runs; each step
loads `vectors` vectors of B and broadcasts `rows` elements of A. Rows of A are `row_stride` apart and its columns `column_stride`, so the same
tile multiplies by A or by its transpose.

`sparse_tile(vectors)` is a row of a product with a compressed matrix: the accumulators of one output row live in registers while the list of
nonzeros runs.

Both add or start from `init` (a bias with stride 0, or the output itself to accumulate), and clip at `floor` (0 is ReLU, -inf nothing); a
`gated` dense tile takes the derivative of a ReLU instead. With `masked` the last vector has only `tail` lanes: ragged edges touch nothing outside
the matrices. A `stepping` dense tile makes gradients of weights, and takes the step of stochastic gradient descent where it would store them.

Sources: BLIS' micro-kernel (Van Zee & van de Geijn 2015) for the shape of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .isa import LANES, MACHINE
from .simd import (
    JIT,
    emit_constant,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_prefetch,
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

# Independent sums that hide the latency of an addition (4 cycles, two additions a cycle; more gained nothing where loads bind).
SUMS_IN_FLIGHT = 4

N = types.intp


def address(b: ir.IRBuilder, base: ir.Value, stride: ir.Value, row: int, vector: int = 0) -> ir.Value:
    return b.gep(base, [b.add(b.mul(stride, i64(row)), i64(vector * LANES))])


class Edge:
    """Loads and stores of a row of vectors, the last one masked where the tile is ragged."""

    def __init__(self, b: ir.IRBuilder, vectors: int, lanes: ir.Value | None) -> None:
        self.b, self.last, self.lanes = b, vectors - 1, lanes

    def load(self, pointer: ir.Value, j: int) -> ir.Value:
        """The j-th vector of the row, from where `pointer` stands."""
        if self.lanes is not None and j == self.last:
            return emit_masked_load(self.b, pointer, self.lanes)
        return emit_load(self.b, pointer)

    def store(self, value: ir.Value, pointer: ir.Value, j: int) -> None:
        """Store the row's j-th vector."""
        if self.lanes is not None and j == self.last:
            emit_masked_store(self.b, value, pointer, self.lanes)
        else:
            emit_store(self.b, value, pointer)


def emit_clip(b: ir.IRBuilder, value: ir.Value, floor: ir.Value) -> ir.Value:
    """max(value, floor), but NaN stays NaN."""
    return b.select(b.fcmp_ordered("<", value, floor), floor, value)


def emit_loop(
    b: ir.IRBuilder,
    begin: ir.Value,
    end: ir.Value,
    values: list,
    body: Callable[[ir.Value, list], list],
    rolled: bool = False,
) -> list:
    """`for t in range(begin, end): values = body(t, values)`, the values in registers; returns the last ones.

    Unless it is to be `rolled`, LLVM may make it two or more steps at a time, and what is left over a second loop, whose end is a second branch
    that can't be foreseen.
    """
    entry, loop, done = b.block, b.append_basic_block("loop"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed("<", begin, end), loop, done)
    b.position_at_end(loop)
    t = b.phi(i64)
    t.add_incoming(begin, entry)
    carried = [b.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, entry)
    new = body(t, carried)
    following = b.add(t, i64(1))
    t.add_incoming(following, loop)
    for phi, value in zip(carried, new, strict=True):
        phi.add_incoming(value, loop)
    branch = b.cbranch(b.icmp_signed("<", following, end), loop, done)
    if rolled:
        _keep_rolled(b, branch)
    b.position_at_end(done)
    results = [b.phi(value.type) for value in values]
    for phi, before, after in zip(results, values, new, strict=True):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, loop)
    return results


def _keep_rolled(b: ir.IRBuilder, branch: ir.Instruction) -> None:
    """LLVM knows a loop by a node of metadata whose first operand is itself."""
    disable = b.module.add_metadata([ir.MetaDataString(b.module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(b.module, [disable], name=str(len(b.module.metadata)))
    loop.operands = (loop, disable)
    branch.set_metadata("llvm.loop", loop)


def dense_tile(
    rows: int, vectors: int, masked: bool = False, packing: bool = False, gated: bool = False, stepping: bool = False
) -> Any:
    """`c[r, :] = max(alpha sum_k a[r, k] b[k, :] + beta init[r, :], floor)` for `rows` rows and `vectors` vectors of columns, k >= 1.

    init is not read where beta is 0. The sum runs in the order of k, whatever the tile's shape: which tile covers an element does not change
    its bits.

    `end` is floor; or, if `gated`, the pair (gate, ld_gate): then nothing is clipped, and c is 0 where not `gate[r, :] > 0`.

    If `stepping`, `c = init + alpha (sum_k a[r, k] b[k, :] + beta init)`, rounded as by the optimizer's op on a gradient that was stored: init are
    weights, alpha is minus the size of a step, beta the coefficient of the L2 penalty. `end` is not looked at.

    With `packing` it also copies b into `panel`, k x STRIP, for the tiles after it.

    Returns
    -------
    intrinsic
        `tile(a, row_stride, column_stride, b, ld_b, k, alpha, beta, init, ld_init, c, ld_c, end, tail, panel)`.
    """

    def twin(a, row_stride, column_stride, b, ld_b, k, alpha, beta, init, ld_init, c, ld_c, end, tail, panel) -> None:
        width = (vectors - 1) * LANES + (min(tail, LANES) if masked else LANES)
        if packing:
            for step in range(k):
                panel[step * STRIP : step * STRIP + width] = b[step * ld_b : step * ld_b + width]
        for r in range(rows):
            old = beta * init[r * ld_init : r * ld_init + width] if beta != 0 else np.zeros(width, np.float32)
            total = old.copy() if alpha == 1 and not stepping else np.zeros(width, np.float32)
            for step in range(k):
                total += a[r * row_stride + step * column_stride] * b[step * ld_b : step * ld_b + width]
            if stepping:
                weights = init[r * ld_init : r * ld_init + width]
                c[r * ld_c : r * ld_c + width] = weights + alpha * (total + beta * weights)
                continue
            total = total if alpha == 1 else alpha * total + old
            if gated:
                gate, at = end[0], r * end[1]
                total[~(gate[at : at + width] > 0)] = 0
            else:
                total[total < end] = end
            c[r * ld_c : r * ld_c + width] = total

    if not JIT:
        return twin

    @intrinsic
    def tile(context, a, row_stride, column_stride, b_, ld_b, k, alpha, beta, init, ld_init, c, ld_c, end, tail, panel):
        f, ends = types.float32, types.Tuple((float_p, N)) if gated else types.float32
        sig = types.void(float_p, N, N, float_p, N, N, f, f, float_p, N, float_p, N, ends, N, float_p)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            A, row_stride, column_stride, B, ld_b, K, alpha, beta, init, ld_init, C, ld_c, end, tail, panel = args
            edge = Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            grid = [(r, j) for r in range(rows) for j in range(vectors)]
            gate, ld_gate = cgutils.unpack_tuple(b, end) if gated else (C, ld_c)
            # What the end of the tile reads and writes is asked for now: it arrives while the sums run.
            for r, j in grid:
                emit_prefetch(b, address(b, C, ld_c, r, j))
                if gated:
                    emit_prefetch(b, address(b, gate, ld_gate, r, j))
            # One pointer a row of A: the loop then needs a single index register for all of them.
            a_rows = [address(b, A, row_stride, r) for r in range(rows)]
            # A sum goes on where the last one ended (a bias, the block or panel before): where it is cut does not change its bits. Only a sum
            # that is scaled afterwards starts at 0 and meets `beta init` at its end. Adding -0 changes nothing, not even 0's sign.
            plain, nothing = b.fcmp_ordered("==", alpha, f32(1)), f32(0)
            first, last = b.select(plain, beta, nothing), b.select(plain, nothing, beta)
            nothing_yet = dict.fromkeys(grid, emit_constant(0))
            start = nothing_yet if stepping else _start_values(b, edge, grid, first, init, ld_init, 0.0)
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
            if packing:
                row_of_panel = b.gep(panel, [b.mul(step, i64(STRIP))])
                for j in range(vectors):
                    emit_store(b, b_vectors[j], b.gep(row_of_panel, [i64(j * LANES)]))
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
            alphas, betas = emit_splat(b, alpha), emit_splat(b, beta)
            if not stepping:
                rest = _start_values(b, edge, grid, last, init, ld_init, -0.0)
            for r, j in grid:
                if stepping:
                    old = edge.load(address(b, init, ld_init, r, j), j)
                    result = emit_fma(b, alphas, emit_fma(b, betas, old, new[r, j]), old)
                else:
                    result = emit_fma(b, alphas, new[r, j], rest[r, j])
                if gated:
                    passes = b.fcmp_ordered(">", edge.load(address(b, gate, ld_gate, r, j), j), emit_constant(0))
                    result = b.select(passes, result, emit_constant(0))
                elif not stepping:
                    result = emit_clip(b, result, emit_splat(b, end))
                edge.store(result, address(b, C, ld_c, r, j), j)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def _start_values(
    b: ir.IRBuilder, edge: Edge, grid: list, beta: ir.Value, init: ir.Value, ld_init: ir.Value, otherwise: float
) -> dict:
    """`beta init` for each accumulator, `otherwise` where beta is 0: init is then not read, it may hold NaN or nothing."""
    skipped, reads, after = b.block, b.append_basic_block("init"), b.append_basic_block("result")
    b.cbranch(b.fcmp_unordered("!=", beta, f32(0)), reads, after)
    b.position_at_end(reads)
    betas = emit_splat(b, beta)
    read = {(r, j): b.fmul(betas, edge.load(address(b, init, ld_init, r, j), j)) for r, j in grid}
    b.branch(after)
    b.position_at_end(after)
    values = {}
    for cell in grid:
        values[cell] = b.phi(vector_ir)
        values[cell].add_incoming(emit_constant(otherwise), skipped)
        values[cell].add_incoming(read[cell], reads)
    return values


def sparse_tile(vectors: int, masked: bool) -> Any:
    """`c[:] = max(init[:] + sum_t value(t) b[index[t], :], floor)` over a list of n nonzeros (n may be 0).

    `value(t)` is `table[values[t]]` for bytes (256 scaled values, made once a call) and `values[t] * table[0]` for floats. Few vectors are
    summed in several banks: with four sums in flight no addition waits for the one before.

    Returns
    -------
    intrinsic
        `tile(index, values, n, table, b, ld_b, init, c, floor, tail)`.
    """
    banks = max(1, SUMS_IN_FLIGHT // vectors)

    def twin(index, values, n, table, b, ld_b, init, c, floor, tail) -> None:
        width = (vectors - 1) * LANES + (min(tail, LANES) if masked else LANES)
        totals = [init[:width].copy(), *(np.zeros(width, np.float32) for _ in range(1, banks))]
        for t in range(n):
            value = table[values[t]] if values.dtype == np.uint8 else values[t] * table[0]
            row = int(index[t]) * ld_b
            totals[t % banks if t < n // banks * banks else 0] += value * b[row : row + width]
        while len(totals) > 1:
            totals = [x + y for x, y in zip(totals[::2], totals[1::2], strict=True)]
        c[:width] = np.where(totals[0] < floor, floor, totals[0])

    if not JIT:
        return twin

    @intrinsic
    def tile(context, index, values, n, table, b_, ld_b, init, c, floor, tail):
        sig = types.void(index, values, N, float_p, float_p, N, float_p, float_p, types.float32, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            index, values, count, table, B, ld_b, init, C, floor, tail = args
            edge = Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            scale = b.load(table)

            def add(t: ir.Value, totals: list) -> list:
                broadcast = emit_splat(b, emit_stored_value(b, values, t, table, scale))
                row = b.gep(B, [b.mul(b.zext(b.load(b.gep(index, [t])), i64), ld_b)])
                return [
                    emit_fma(b, broadcast, edge.load(b.gep(row, [i64(j * LANES)]), j), totals[j])
                    for j in range(vectors)
                ]

            def add_to_banks(group: ir.Value, totals: list) -> list:
                first = b.mul(group, i64(banks))
                new = []
                for bank in range(banks):
                    new += add(b.add(first, i64(bank)), totals[bank * vectors : (bank + 1) * vectors])
                return new

            totals = [edge.load(b.gep(init, [i64(j * LANES)]), j) for j in range(vectors)]
            grouped = i64(0)
            if banks > 1:
                groups = b.sdiv(count, i64(banks))
                grouped = b.mul(groups, i64(banks))
                totals += [emit_constant(0)] * (vectors * (banks - 1))
                totals = emit_loop(b, i64(0), groups, totals, add_to_banks)
            # The last few go to the first bank.
            totals[:vectors] = emit_loop(b, grouped, count, totals[:vectors], add)
            while len(totals) > vectors:
                rows = [totals[i : i + vectors] for i in range(0, len(totals), vectors)]
                totals = [
                    b.fadd(x, y) for p, q in zip(rows[::2], rows[1::2], strict=True) for x, y in zip(p, q, strict=True)
                ]
            limit = emit_splat(b, floor)
            for j, total in enumerate(totals):
                edge.store(emit_clip(b, total, limit), b.gep(C, [i64(j * LANES)]), j)
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
            rows = [emit_load(b, address(b, source, ld_source, i)) for i in range(LANES)]
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
                emit_store(b, rows[i], address(b, target, ld_target, i))
            return ctx.get_dummy_value()

        return types.void(float_p, N, float_p, N), generate

    return transpose
