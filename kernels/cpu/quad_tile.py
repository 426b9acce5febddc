"""What quads of features are listed and multiplied with, as LLVM IR: a quad are four neighbouring features, and its list are the rows of a batch in
which one of them is not 0, with all four values (`quads.py`).

`quad_forward_tile` adds a quad's products to the rows of its list. The weights of four features stay in registers, and each row of y is loaded and
stored once for four of them. `quad_gradient_tile` keeps the four gradients in registers while the list runs. A list has one end that the processor
can't foresee: of four features they cost what those of one would.

With `masked` the last vector has only `tail` lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..contract import QUAD
from .isa import LANES
from .simd import (
    JIT,
    POINTERS,
    byte_p,
    emit_constant,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_prefetch,
    emit_splat,
    emit_store,
    emit_transposed,
    f32,
    float_p,
    function,
    i8,
    i32,
    i64,
    int_p,
    lanes_ir,
    mask_ir,
    vector_ir,
    with_twin,
)
from .tile import Edge, N, emit_loop

_quad_ir = ir.VectorType(f32, QUAD)


def _width(vectors: int, masked: bool, tail: int) -> int:
    return (vectors - 1) * LANES + (min(tail, LANES) if masked else LANES)


def _rows_of_quad(b: ir.IRBuilder, first: ir.Value, ld: ir.Value) -> list:
    """Where the weights of each feature lie, or their gradients."""
    return [b.gep(first, [b.mul(ld, i64(f))]) for f in range(QUAD)]


def _emit_entry(
    b: ir.IRBuilder, t: ir.Value, rows: ir.Value, entries: ir.Value, base: ir.Value, ld: ir.Value
) -> tuple[ir.Value, list]:
    """The t-th row of a list: its address in a matrix, and the quad's values, each in all lanes."""
    row = b.gep(base, [b.mul(b.sext(b.load(b.gep(rows, [t])), i64), ld)])
    values = b.gep(entries, [b.mul(t, i64(QUAD))])
    return row, [emit_splat(b, b.load(b.gep(values, [i64(f)]))) for f in range(QUAD)]


def quad_forward_tile(vectors: int, masked: bool) -> Any:
    """`y[rows[t], :] += sum_f entries[4 t + f] w[f, :]` for t < n, features in ascending order.

    Returns
    -------
    intrinsic
        `tile(n, rows, entries, w, ld_w, y, ld_y, tail)`.
    """

    def twin(n, rows, entries, w, ld_w, y, ld_y, tail) -> None:
        width = _width(vectors, masked, tail)
        for t in range(n):
            row = y[rows[t] * ld_y :][:width]
            for f in range(QUAD):
                row += entries[QUAD * t + f] * w[f * ld_w : f * ld_w + width]

    if not JIT:
        return twin

    @intrinsic
    def tile(context, n, rows, entries, w, ld_w, y, ld_y, tail):
        sig = types.void(N, int_p, float_p, float_p, N, float_p, N, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            n, rows, entries, w, ld_w, y, ld_y, tail = args
            edge = Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            weights = [
                [edge.load(b.gep(row, [i64(j * LANES)]), j) for j in range(vectors)]
                for row in _rows_of_quad(b, w, ld_w)
            ]

            def add(t: ir.Value, nothing: list) -> list:
                row, values = _emit_entry(b, t, rows, entries, y, ld_y)
                sums = [edge.load(b.gep(row, [i64(j * LANES)]), j) for j in range(vectors)]
                for f in range(QUAD):
                    sums = [emit_fma(b, values[f], weights[f][j], sums[j]) for j in range(vectors)]
                for j in range(vectors):
                    edge.store(sums[j], b.gep(row, [i64(j * LANES)]), j)
                return []

            emit_loop(b, i64(0), n, [], add, rolled=True)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


def quad_gradient_tile(vectors: int, masked: bool, stepping: bool) -> Any:
    """`c[f, :] = sum_t entries[4 t + f] dy[rows[t], :]` over t < n; if `stepping`, `c += minus_step (sum + l2 c)`.

    Returns
    -------
    intrinsic
        `tile(n, rows, entries, dy, ld_dy, c, ld_c, minus_step, l2, tail)`.
    """

    def twin(n, rows, entries, dy, ld_dy, c, ld_c, minus_step, l2, tail) -> None:
        width = _width(vectors, masked, tail)
        for f in range(QUAD):
            total = np.zeros(width, np.float32)
            for t in range(n):
                total += entries[QUAD * t + f] * dy[rows[t] * ld_dy :][:width]
            old = c[f * ld_c : f * ld_c + width]
            c[f * ld_c : f * ld_c + width] = old + minus_step * (total + l2 * old) if stepping else total

    if not JIT:
        return twin

    @intrinsic
    def tile(context, n, rows, entries, dy, ld_dy, c, ld_c, minus_step, l2, tail):
        f = types.float32
        sig = types.void(N, int_p, float_p, float_p, N, float_p, N, f, f, N)

        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            n, rows, entries, dy, ld_dy, c, ld_c, minus_step, l2, tail = args
            edge = Edge(b, vectors, emit_lane_mask(b, tail) if masked else None)
            targets = _rows_of_quad(b, c, ld_c)
            cells = [(f, j, b.gep(targets[f], [i64(j * LANES)])) for f in range(QUAD) for j in range(vectors)]
            if stepping:  # the weights arrive while the sums run
                for _, _, at in cells:
                    emit_prefetch(b, at)

            def add(t: ir.Value, totals: list) -> list:
                row, values = _emit_entry(b, t, rows, entries, dy, ld_dy)
                gradient = [edge.load(b.gep(row, [i64(j * LANES)]), j) for j in range(vectors)]
                return [emit_fma(b, values[f], gradient[j], totals[f * vectors + j]) for f, j, _ in cells]

            totals = emit_loop(b, i64(0), n, [emit_constant(0)] * len(cells), add, rolled=True)
            for (_, j, at), total in zip(cells, totals, strict=True):
                if stepping:
                    old = edge.load(at, j)
                    total = emit_fma(b, emit_splat(b, minus_step), emit_fma(b, emit_splat(b, l2), old, total), old)
                edge.store(total, at, j)
            return ctx.get_dummy_value()

        return sig, generate

    return tile


# --- making the lists -------------------------------------------------------------------------------------------------------------------


@with_twin(lambda p: p.view(np.uint8))
def as_bytes(context: Any, p: types.Type) -> Any:
    """The memory of int32 numbers, byte by byte."""
    return byte_p(int_p), lambda ctx, b, sig, args: b.bitcast(args[0], i8.as_pointer())


@with_twin(lambda p: p.view(np.float32))
def as_floats(context: Any, p: types.Type) -> Any:
    """The memory of int32 numbers, taken for float32 ones: to fill it with zeros."""
    return float_p(int_p), lambda ctx, b, sig, args: b.bitcast(args[0], f32.as_pointer())


def _twin_move_quad(entries: np.ndarray, to: int, source: np.ndarray, place: int, scale: np.float32) -> int:
    quad = source[place : place + QUAD].astype(np.float32)
    entries[to : to + QUAD] = quad * scale
    return int((quad != 0).any())


@with_twin(_twin_move_quad)
def move_quad(context: Any, entries: types.Type, to: Any, source: types.Type, place: Any, scale: Any) -> Any:
    """`entries[to : to + 4] = scale * source[place : place + 4]`; 1 if one of them is not 0, else 0: no branch depends on the data."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        entries, to, source, place, scale = args
        factor = b.insert_element(ir.Constant(_quad_ir, ir.Undefined), scale, i32(0))
        factors = b.shuffle_vector(factor, factor, ir.Constant(ir.VectorType(i32, QUAD), [0] * QUAD))
        stored = ir.VectorType(source.type.pointee, QUAD)
        quad = b.load(b.bitcast(b.gep(source, [place]), stored.as_pointer()))
        quad.align = 4 if stored == _quad_ir else 1
        if stored != _quad_ir:
            quad = b.uitofp(quad, _quad_ir)
        b.store(b.fmul(quad, factors), b.bitcast(b.gep(entries, [to]), _quad_ir.as_pointer())).align = 4
        present = b.fcmp_unordered("!=", quad, ir.Constant(_quad_ir, [0.0] * QUAD))
        bits = ir.IntType(QUAD)
        return b.zext(b.icmp_unsigned("!=", b.bitcast(present, bits), bits(0)), i64)

    return types.int64(float_p, N, source, N, types.float32), generate


def _twin_transpose_quads(target: np.ndarray, source: np.ndarray, starts: np.ndarray) -> None:
    for r in range(LANES):
        row = source[starts[r] : starts[r] + QUAD * LANES].copy()
        target[r : LANES * LANES : LANES] = row.view(np.int32)


@with_twin(_twin_transpose_quads)
def transpose_quads(context: Any, target: types.Type, source: types.Type, starts: types.Type) -> Any:
    """A vector's quads of bytes from each of so many rows: `target[LANES q + r]` is the int32 number at `source[starts[r] + 4 q]`."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        target, source, starts = args
        lines = []
        for r in range(LANES):
            row = b.gep(source, [b.load(b.gep(starts, [i64(r)]))])
            line = b.load(b.bitcast(row, lanes_ir.as_pointer()))
            line.align = 1
            lines.append(line)
        for q, line in enumerate(emit_transposed(b, lines)):
            b.store(line, b.bitcast(b.gep(target, [i64(q * LANES)]), lanes_ir.as_pointer())).align = 4
        return ctx.get_dummy_value()

    return types.void(int_p, byte_p, POINTERS["int64"]), generate


def _pack_quads(whole: bool) -> Any:
    """An intrinsic `pack(rows, entries, quads, first, n, at, scale)` that lists those of n quads of bytes, at most a vector, that are not 0.

    They are the int32 numbers `quads[:n]`, of the rows from `first` on. The numbers of their rows go to `rows[at:]`, their values times scale
    to `entries[4 at:]`; it returns how many they are. If `whole`, n is a vector's: so much may be stored, and what is too much is
    overwritten by those that follow.
    """

    def twin(rows, entries, quads, first, n, at, scale) -> int:
        quads = quads[: LANES if whole else n].copy()
        places = np.flatnonzero(quads)
        rows[at : at + len(places)] = first + places
        entries[QUAD * at : QUAD * (at + len(places))] = quads[places].view(np.uint8) * scale
        return len(places)

    @with_twin(twin)
    def pack(
        context: Any, rows: types.Type, entries: types.Type, quads: Any, first: Any, n: Any, at: Any, scale: Any
    ) -> Any:
        def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
            rows, entries, start, first, n, at, scale = args

            def put(vector: ir.Value, to: ir.Value, lanes: ir.Value) -> None:
                if whole:
                    emit_store(b, vector, to)
                else:
                    emit_masked_store(b, vector, to, emit_lane_mask(b, lanes))

            floats, start = (b.bitcast(p, f32.as_pointer()) for p in (rows, start))
            quads = b.bitcast(
                emit_load(b, start) if whole else emit_masked_load(b, start, emit_lane_mask(b, n)), lanes_ir
            )
            present = b.icmp_unsigned("!=", quads, ir.Constant(lanes_ir, [0] * LANES))
            bits = ir.IntType(LANES)
            count = b.zext(b.call(function(b, bits, [bits], f"llvm.ctpop.i{LANES}"), [b.bitcast(present, bits)]), i64)
            numbers = b.add(ir.Constant(lanes_ir, list(range(LANES))), emit_splat(b, b.trunc(first, i32), lanes_ir))
            put(b.bitcast(_emit_compressed(b, numbers, present), vector_ir), b.gep(floats, [at]), count)
            values = b.bitcast(_emit_compressed(b, quads, present), ir.VectorType(i8, QUAD * LANES))
            target, left, factor = b.gep(entries, [b.mul(at, i64(QUAD))]), b.mul(count, i64(QUAD)), emit_splat(b, scale)
            for k in range(0, QUAD * LANES, LANES):
                lanes = ir.Constant(ir.VectorType(i32, LANES), list(range(k, k + LANES)))
                part = b.uitofp(b.shuffle_vector(values, values, lanes), vector_ir)
                put(b.fmul(part, factor), b.gep(target, [i64(k)]), b.sub(left, i64(k)))
            return count

        return types.int64(int_p, float_p, int_p, N, N, N, types.float32), generate

    return pack


pack_vector, pack_rest = _pack_quads(whole=True), _pack_quads(whole=False)


def _emit_compressed(b: ir.IRBuilder, numbers: ir.Value, chosen: ir.Value) -> ir.Value:
    """The chosen lanes side by side; the others are undefined."""
    compress = function(b, lanes_ir, [lanes_ir, mask_ir, lanes_ir], f"llvm.experimental.vector.compress.v{LANES}i32")
    return b.call(compress, [numbers, chosen, ir.Constant(lanes_ir, ir.Undefined)])
