"""A layer of few outputs on rows in occupied blocks, with the features along the vectors: forward pass and weight gradient.

With ten outputs a vector of columns (sparse.py, matmul.py) is half empty, and each nonzero pays for its column, its value and its row of weights.
Here a vector holds features that belong together instead: features are grouped in blocks of `BLOCK` slots, `features[k BLOCK + j]` being slot j
of block k (-1: an empty slot, whose value is 0), and of each row only the blocks that are not all 0 are stored, one behind the other from
`values[indptr[i]]` on. A bitmap says which: bit k of word v of `bitmap[i]` stands for block 64 v + k. A block is converted once and multiplied
with the weights of each output, whose sums stay in registers; only at the end of a row are they added up across the lanes. Loops that end at
another number of blocks for each row cost some 40 cycles of misprediction a row: who stores rows puts those with equally many together.

Weights and their gradient lie block by block: `w[(k O + o) BLOCK + j]` is the weight of slot j of block k for output o. B batch, I features of X,
O outputs, F slots, W words of a row's bitmap, E elements of w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..contract import BLOCK
from .isa import LANES, MACHINE
from .nonzeros import count_ones
from .registry import kernel
from .simd import (
    JIT,
    POINTERS,
    emit_constant,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    f32,
    fill_zeros,
    float_p,
    fma,
    function,
    i8,
    i64,
    inline,
    lanes_ir,
    load,
    offset,
    prefetch,
    splat,
    stack_array,
    store,
    vector_ir,
    with_twin,
)

WORD = 64  # blocks that a word of the bitmap tells of
# Outputs whose sums stay in registers together, beside a vector of features and a broadcast.
SUMS = 16 if MACHINE.registers == 32 else 12

# The forward pass asks for values so many rows before it needs them: a row takes some 40 ns, memory more than 100.
ROWS_AHEAD = 8
LINE = 64  # elements; of floats the hardware fetches the rest

words = stack_array(WORD, "int64")
places = stack_array(WORD, "int64")
block_sums = stack_array(WORD * BLOCK)

N = types.intp


# --- what the tiles are made of ---------------------------------------------------------------------------------------------------------


def _emit_features(b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """LANES features from `pointer` on as float32."""
    if pointer.type.pointee == f32:
        return emit_load(b, pointer)
    stored = b.load(b.bitcast(pointer, ir.VectorType(i8, LANES).as_pointer()))
    stored.align = 1
    return b.sitofp(b.zext(stored, lanes_ir), vector_ir)


def _emit_for_each_bit(
    b: ir.IRBuilder, bits: ir.Value, values: list, body: Callable[[ir.Value, list], list]
) -> list[ir.Value]:
    """`for k in the places of the bits that are 1, ascending: values = body(k, values)`; returns the last ones."""
    entry, loop, done = b.block, b.append_basic_block("bits"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed("!=", bits, i64(0)), loop, done)
    b.position_at_end(loop)
    left = b.phi(i64)
    left.add_incoming(bits, entry)
    carried = [b.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, entry)
    place = b.call(function(b, i64, [i64, ir.IntType(1)], "llvm.cttz.i64"), [left, ir.IntType(1)(1)])
    new = body(place, carried)
    rest = b.and_(left, b.sub(left, i64(1)))
    left.add_incoming(rest, loop)
    for phi, value in zip(carried, new, strict=True):
        phi.add_incoming(value, loop)
    b.cbranch(b.icmp_signed("!=", rest, i64(0)), loop, done)
    b.position_at_end(done)
    results = [b.phi(value.type) for value in values]
    for phi, before, after in zip(results, values, new, strict=True):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, loop)
    return results


def _emit_sums_of(b: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """One vector, lane i of which is the sum of the lanes of `vectors[i]`: halves are added to each other, two vectors at a time."""
    level: list[ir.Value | None] = [*vectors, *[None] * (LANES - len(vectors))]
    half = LANES // 2
    while half:
        starts = range(0, LANES, 2 * half)
        sides = [
            ir.Constant(
                lanes_ir, [v * LANES + at + side * half + i for v in (0, 1) for at in starts for i in range(half)]
            )
            for side in (0, 1)
        ]
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [
            None
            if p is None
            else b.fadd(*(b.shuffle_vector(p, emit_constant(0) if q is None else q, side) for side in sides))
            for p, q in pairs
        ]
        half //= 2
    assert level[0] is not None
    return level[0]


def _emit_by_count(b: ir.IRBuilder, n: ir.Value, emit: Callable[[int], None]) -> None:
    """`emit(n)` for each n of 1 .. SUMS, and the jump to the right one: sums that stay in registers are known when it is compiled."""
    done = b.append_basic_block("counted")
    jump = b.switch(n, done)
    for count in range(1, SUMS + 1):
        case = b.append_basic_block(f"sums_{count}")
        jump.add_case(i64(count), case)
        b.position_at_end(case)
        emit(count)
        b.branch(done)
    b.position_at_end(done)


def _places(bits: int) -> list[int]:
    """Of the bits that are 1: what `_emit_for_each_bit` visits."""
    return [k for k in range(WORD) if int(bits) >> k & 1]


# --- the tiles --------------------------------------------------------------------------------------------------------------------------


def _row_tile() -> Any:
    """`y[:n] = init[:n] + scale sum_k w_k x_k` over the blocks k of a row that `bits` names, n <= SUMS; x has these blocks alone.

    Returns
    -------
    intrinsic
        `tile(y, init, x, bits, w, w_step, n, scale)`, `w_step` being the distance of two blocks of weights.
    """

    def twin(y, init, x, bits, w, w_step, n, scale) -> None:
        total = np.zeros((n, BLOCK), np.float32)
        for t, k in enumerate(_places(bits)):
            total += w[k * w_step : k * w_step + n * BLOCK].reshape(n, BLOCK) * x[t * BLOCK : (t + 1) * BLOCK]
        y[:n] = init[:n] + scale * total.sum(axis=1)

    if not JIT:
        return twin

    @intrinsic
    def tile(context, y, init, x, bits, w, w_step, n, scale):
        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            y, init, x, bits, w, w_step, n, scale = args

            def add_block(k: ir.Value, carried: list) -> list:
                block, *totals = carried
                weights = b.gep(w, [b.mul(k, w_step)])
                for first in range(0, BLOCK, LANES):
                    features = _emit_features(b, b.gep(block, [i64(first)]))
                    totals = [
                        emit_fma(b, features, emit_load(b, b.gep(weights, [i64(o * BLOCK + first)])), total)
                        for o, total in enumerate(totals)
                    ]
                return [b.gep(block, [i64(BLOCK)]), *totals]

            def sums(count: int) -> None:
                _, *totals = _emit_for_each_bit(b, bits, [x, *[emit_constant(0)] * count], add_block)
                for o in range(0, count, LANES):
                    lanes = emit_lane_mask(b, i64(count - o))
                    start = emit_masked_load(b, b.gep(init, [i64(o)]), lanes)
                    total = emit_fma(b, emit_splat(b, scale), _emit_sums_of(b, totals[o : o + LANES]), start)
                    emit_masked_store(b, total, b.gep(y, [i64(o)]), lanes)

            _emit_by_count(b, n, sums)
            return ctx.get_dummy_value()

        return types.void(float_p, float_p, x, types.int64, float_p, N, N, types.float32), generate

    return tile


def _column_tile() -> Any:
    """`dw[o BLOCK : o BLOCK + LANES] += scale sum_r dy[r, o] x[at[r] : at[r] + LANES]` for n <= SUMS outputs o, over the rows r that `bits` names.

    Then `at[r] += step` for these rows.

    Returns
    -------
    intrinsic
        `tile(dw, at, x, bits, dy, ld_dy, n, scale, step)`.
    """

    def twin(dw, at, x, bits, dy, ld_dy, n, scale, step) -> None:
        total = np.zeros((n, LANES), np.float32)
        for r in _places(bits):
            total += dy[r * ld_dy : r * ld_dy + n, np.newaxis] * x[at[r] : at[r] + LANES]
            at[r] += step
        for o in range(n):
            dw[o * BLOCK : o * BLOCK + LANES] += scale * total[o]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, dw, at, x, bits, dy, ld_dy, n, scale, step):
        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            dw, at, x, bits, dy, ld_dy, n, scale, step = args

            def add_row(r: ir.Value, totals: list) -> list:
                place = b.gep(at, [r])
                first = b.load(place)
                b.store(b.add(first, step), place)
                features = _emit_features(b, b.gep(x, [first]))
                factors = b.gep(dy, [b.mul(r, ld_dy)])
                return [
                    emit_fma(b, emit_splat(b, b.load(b.gep(factors, [i64(o)]))), features, total)
                    for o, total in enumerate(totals)
                ]

            def sums(count: int) -> None:
                totals = _emit_for_each_bit(b, bits, [emit_constant(0)] * count, add_row)
                for o, total in enumerate(totals):
                    to = b.gep(dw, [i64(o * BLOCK)])
                    emit_store(b, emit_fma(b, emit_splat(b, scale), total, emit_load(b, to)), to)

            _emit_by_count(b, n, sums)
            return ctx.get_dummy_value()

        return types.void(float_p, POINTERS["int64"], x, types.int64, float_p, N, N, types.float32, N), generate

    return tile


def _row_gradient_tile() -> Any:
    """`sums[k BLOCK : (k + 1) BLOCK] += factor x_k` over the blocks k of a row that `bits` names; x has these blocks alone.

    Returns
    -------
    intrinsic
        `tile(sums, x, bits, factor)`.
    """

    def twin(sums, x, bits, factor) -> None:
        for t, k in enumerate(_places(bits)):
            sums[k * BLOCK : (k + 1) * BLOCK] += factor * x[t * BLOCK : (t + 1) * BLOCK]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, sums, x, bits, factor):
        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            sums, x, bits, factor = args

            def add_block(k: ir.Value, carried: list) -> list:
                (block,) = carried
                for first in range(0, BLOCK, LANES):
                    to = b.gep(sums, [b.add(b.mul(k, i64(BLOCK)), i64(first))])
                    features = _emit_features(b, b.gep(block, [i64(first)]))
                    emit_store(b, emit_fma(b, emit_splat(b, factor), features, emit_load(b, to)), to)
                return [b.gep(block, [i64(BLOCK)])]

            _emit_for_each_bit(b, bits, [x], add_block)
            return ctx.get_dummy_value()

        return types.void(float_p, x, types.int64, types.float32), generate

    return tile


row_tile, column_tile, row_gradient_tile = _row_tile(), _column_tile(), _row_gradient_tile()


# --- four neighbours at once ------------------------------------------------------------------------------------------------------------

FOUR = 4


def _four(b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """Where four elements stand."""
    return b.bitcast(pointer, ir.VectorType(pointer.type.pointee, FOUR).as_pointer())


def _emit_load_four(b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    four = b.load(_four(b, pointer))
    four.align = _alignment(pointer)
    return four


def _alignment(pointer: ir.Value) -> int:
    return 4 if pointer.type.pointee == f32 else 1


@with_twin(lambda p: bool((p[:FOUR] != 0).any()))
def any_of_four(context: Any, p: types.Type) -> Any:
    """Whether one of `p[:4]` is not 0; NaN is not."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        four = _emit_load_four(b, args[0])
        compare = b.fcmp_unordered if four.type.element == f32 else b.icmp_unsigned
        return b.icmp_unsigned("!=", b.bitcast(compare("!=", four, ir.Constant(four.type, None)), _bits), _bits(0))

    return types.boolean(p), generate


_bits = ir.IntType(FOUR)


def _twin_copy_four(to: np.ndarray, source: np.ndarray) -> None:
    to[:FOUR] = source[:FOUR]


@with_twin(_twin_copy_four)
def copy_four(context: Any, to: types.Type, source: types.Type) -> Any:
    """`to[:4] = source[:4]`."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        four, place = _emit_load_four(b, args[1]), _four(b, args[0])
        if four.type != place.type.pointee:
            four = (b.uitofp if four.type.element == i8 else b.fptoui)(four, place.type.pointee)
        b.store(four, place).align = _alignment(args[0])
        return ctx.get_dummy_value()

    return types.void(to, source), generate


# --- the ops ----------------------------------------------------------------------------------------------------------------------------


@inline
def _in_fours(features, F):
    """Whether slots hold four features that follow each other, then four others, and so on: runs, and patches four pixels wide."""
    for s in range(0, F, FOUR):
        if features[s] < 0:
            return False
        for j in range(1, FOUR):
            if features[s + j] != features[s] + j:
                return False
    return True


@kernel
def occupied_blocks(bitmap, source, features, B, W, I, F, ld_bitmap, ld_source):
    in_fours = _in_fours(features, F)
    for r in range(B):
        row, to = offset(source, r * ld_source), offset(bitmap, r * ld_bitmap)
        for v in range(W):
            to[v] = 0
        for k in range(F // BLOCK):
            anything = False
            if in_fours:
                for s in range(k * BLOCK, (k + 1) * BLOCK, FOUR):
                    anything |= any_of_four(offset(row, features[s]))
            else:
                for s in range(k * BLOCK, (k + 1) * BLOCK):
                    i = features[s]
                    anything |= i >= 0 and row[i] != 0
            to[k // WORD] |= np.int64(anything) << (k % WORD)


@kernel
def pack_blocks(values, source, features, bitmap, starts, Z, B, I, F, W, ld_source, ld_bitmap):
    in_fours = _in_fours(features, F)
    for r in range(B):
        row, bits, at = offset(source, r * ld_source), offset(bitmap, r * ld_bitmap), starts[r]
        for k in range(F // BLOCK):
            if (bits[k // WORD] >> (k % WORD)) & 1:
                first, to = k * BLOCK, offset(values, at)
                if in_fours:
                    for j in range(0, BLOCK, FOUR):
                        copy_four(offset(to, j), offset(row, features[first + j]))
                else:
                    for j in range(BLOCK):
                        i = features[first + j]
                        to[j] = row[max(i, 0)]
                        if i < 0:
                            to[j] = 0
                at += BLOCK


@kernel
def block_linear(y, indptr, bitmap, values, w, b, order, cursor, scale, B, O, P, N, W, Z, E, M, ld_y, ld_bitmap):
    factor = np.float32(scale)
    for r in range(B):
        i = order[cursor[0] + r]
        bits = offset(bitmap, i * ld_bitmap)
        ahead = order[cursor[0] + min(r + ROWS_AHEAD, B - 1)]
        for t in range(indptr[ahead], indptr[ahead + 1], LINE):
            prefetch(values, t)
        for o in range(0, O, SUMS):
            n, start, to, x = min(SUMS, O - o), offset(b, o), offset(y, r * ld_y + o), offset(values, indptr[i])
            for v in range(W):
                row_tile(to, start, x, bits[v], offset(w, (v * WORD * O + o) * BLOCK), O * BLOCK, n, factor)
                start, x = to, offset(x, count_ones(bits[v]) * BLOCK)


@inline
def _transpose_bits(a):
    """Bit k of word r becomes bit r of word k, for 64 words (Warren, Hacker's Delight, section 7-3)."""
    width, low = 32, np.int64(0x00000000FFFFFFFF)
    while width:
        for first in range(0, WORD, 2 * width):
            for r in range(first, first + width):
                swap = ((a[r] >> width) ^ a[r + width]) & low
                a[r] ^= swap << width
                a[r + width] ^= swap
        width //= 2
        low ^= low << width


@inline
def _add_rows(dw, at, bitmap, values, dy, order, first, rows, v, factor, ld_bitmap, ld_dy):
    """Row by row, for a single output: an addition to a sum in memory costs less than the walk over columns of bits, which begins anew for each
    block.
    """
    sums, occupied = block_sums(), np.int64(0)
    fill_zeros(sums, WORD * BLOCK)
    for r in range(rows):
        bits = bitmap[order[first + r] * ld_bitmap + v]
        row_gradient_tile(sums, offset(values, at[r]), bits, dy[r * ld_dy])
        at[r] += count_ones(bits) * BLOCK
        occupied |= bits
    for k in range(WORD):
        if (occupied >> k) & 1:
            for j in range(k * BLOCK, (k + 1) * BLOCK, LANES):
                to = v * WORD * BLOCK + j
                store(dw, to, fma(splat(factor), load(sums, j), load(dw, to)))


@kernel
def block_linear_dw_add(dw, indptr, bitmap, values, dy, order, cursor, scale, E, P, N, W, Z, B, O, M, ld_bitmap, ld_dy):
    factor = np.float32(scale)
    at, columns = places(), words()
    for first in range(0, B, WORD):
        rows, d = min(WORD, B - first), offset(dy, first * ld_dy)
        for r in range(rows):
            at[r] = indptr[order[cursor[0] + first + r]]
        for v in range(W):
            if O == 1:
                _add_rows(dw, at, bitmap, values, d, order, cursor[0] + first, rows, v, factor, ld_bitmap, ld_dy)
                continue
            for r in range(WORD):
                columns[r] = bitmap[order[cursor[0] + first + r] * ld_bitmap + v] if r < rows else 0
            _transpose_bits(columns)
            for k in range(WORD):
                for o in range(0, O if columns[k] else 0, SUMS):
                    for j in range(0, BLOCK, LANES):
                        to = offset(dw, ((v * WORD + k) * O + o) * BLOCK + j)
                        # A row's place moves on to its next block once all of this one has been read.
                        step = BLOCK if o + SUMS >= O and j + LANES == BLOCK else 0
                        column_tile(
                            to, at, offset(values, j), columns[k], offset(d, o), ld_dy, min(SUMS, O - o), factor, step
                        )
