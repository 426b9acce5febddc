"""First layer of a mini-batch: zero pixels are skipped, exactly, four neighbouring features at a time.

`sparse_quads` turns compressed rows into the lists of each quad of features: the rows of the batch where one of the four is not 0, and all four
values; `skipping_quads` makes the same lists of dense rows. Each has room for all rows of the batch. In MNIST a listed quad holds 2.7 values that
are not 0: the products with the others are the price of fewer loads, stores and ends of lists (bench/ladder/README.md).

Feature after feature is added to a row of y and row after row to a gradient, in the order of the dense product: the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from ..contract import QUAD
from .isa import LANES, MACHINE
from .matmul import NO_FLOOR, RELU_FLOOR, ZERO, copy_block
from .optimizers import step_of
from .quad_tile import (
    as_bytes,
    as_floats,
    move_quad,
    pack_rest,
    pack_vector,
    quad_forward_tile,
    quad_gradient_tile,
    transpose_quads,
)
from .registry import kernel
from .simd import JIT, fill_zeros, inline, load_n, offset, prefetch, splat, stack_array, store, store_n, where
from .tile import STRIP, TILE_VECTORS

# Elements to a cache line, of the narrowest types; wider ones are asked for in part, the hardware fetches on.
COLUMNS_PER_LINE, BYTES_PER_LINE = 32, 64
QUAD_BITS = QUAD.bit_length() - 1  # a shift: a quotient of signed numbers takes more
four_strips = stack_array(QUAD * STRIP)
# Rows of y are loaded and stored again and again: so many of them on the stack, since beside them in y stand columns that another thread works on,
# and a core that fetches the next cache line ahead takes it away from the other one.
OWN_SUMS = 256
strips_of_sums = stack_array(OWN_SUMS * STRIP)


@inline
def _prefetch_rows(indptr, columns, values, order, position, rows):
    """Ask for the rows of the next batch, which lie anywhere in memory: they arrive while this batch is worked on."""
    for r in range(rows):
        i = order[position + r]
        first, last = indptr[i], indptr[i + 1]
        for t in range(first, last, COLUMNS_PER_LINE):
            prefetch(columns, t)
        for t in range(first, last, BYTES_PER_LINE):
            prefetch(values, t)


@inline
def _list_bytes(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries):
    """Four bytes are a number: they are scattered to where the row numbers will stand, then those that are not 0 are pushed together."""
    whole = B - B % LANES
    for g in range(G):
        row_list = as_floats(offset(rows, g * ld_rows))
        for r in range(0, whole, LANES):
            store(row_list, r, splat(ZERO))
        store_n(row_list, whole, splat(ZERO), B - whole)
    for r in range(B):
        i = order[position + r]
        quads = as_bytes(offset(rows, r))
        for t in range(indptr[i], indptr[i + 1]):
            k = np.int64(columns[t])
            quads[(k >> QUAD_BITS) * (ld_rows * QUAD) + (k & (QUAD - 1))] = values[t]
    for g in range(G):
        n, row_list, entry_list = np.int64(0), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
        for r in range(0, whole, LANES):
            n += pack_vector(row_list, entry_list, offset(row_list, r), r, LANES, n, np.float32(scale))
        if whole < B:
            n += pack_rest(row_list, entry_list, offset(row_list, whole), whole, B - whole, n, np.float32(scale))
        counts[g] = n


@inline
def _list_values(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries):
    """The values are scattered to where they would stand if all rows were listed, then those that are not 0 are pushed together."""
    for g in range(G):
        fill_zeros(offset(entries, g * ld_entries), QUAD * B)
    for r in range(B):
        i = order[position + r]
        quads = offset(entries, r * QUAD)
        for t in range(indptr[i], indptr[i + 1]):
            k = np.int64(columns[t])
            quads[(k >> QUAD_BITS) * ld_entries + (k & (QUAD - 1))] = values[t]
    for g in range(G):
        n, row_list, entry_list = np.int64(0), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
        for r in range(B):
            row_list[n] = r
            n += move_quad(entry_list, n * QUAD, entry_list, r * QUAD, np.float32(scale))
        counts[g] = n


def list_quads(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries):
    """The lists, in the way that suits the values' type and this machine."""
    way = _list_bytes if values.dtype == np.uint8 and MACHINE.packs_lanes else _list_values
    way(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries)


if JIT:

    @overload(list_quads, inline="always")
    def _list_quads(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries):
        way = _list_bytes if values.dtype == types.uint8 and MACHINE.packs_lanes else _list_values

        def listed(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries):
            way(counts, rows, entries, indptr, columns, values, order, position, scale, G, B, ld_rows, ld_entries)

        return listed


@kernel
def sparse_quads(
    counts, rows, entries, indptr, columns, values, order, cursor, scale, G, B, J, P, Z, M, ld_rows, ld_entries
):
    _prefetch_rows(indptr, columns, values, order, cursor[0] + B, min(B, M - cursor[0] - B))
    list_quads(counts, rows, entries, indptr, columns, values, order, cursor[0], scale, G, B, ld_rows, ld_entries)


SQUARE = QUAD * LANES  # bytes of a row that are transposed at once
square_of_quads, square_of_bytes = stack_array(LANES * LANES, "int32"), stack_array(LANES * SQUARE, "uint8")
row_starts, row_copy = stack_array(LANES, "int64"), stack_array(QUAD)


@inline
def _pack_square(counts, rows, entries, quads, n_quads, first, n, scale, B, ld_rows, ld_entries):
    """Append n rows from `first` on to the lists of some quads."""
    for q in range(n_quads):
        at, mine = np.int64(counts[q]), offset(quads, q * LANES)
        row_list, entry_list = offset(rows, q * ld_rows), offset(entries, q * ld_entries)
        if n == LANES:
            counts[q] = at + pack_vector(row_list, entry_list, mine, first, n, at, np.float32(scale))
        else:
            counts[q] = at + pack_rest(row_list, entry_list, mine, first, n, at, np.float32(scale))


@inline
def _list_dense_bytes(
    counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source
):
    """Four bytes are a number: those of some rows are transposed, then those that are not 0 are pushed together."""
    quads, copies, starts, following = square_of_quads(), square_of_bytes(), row_starts(), row_starts()
    for i in range(LANES * SQUARE):
        copies[i] = 0
    whole = I - I % SQUARE
    for first in range(0, B, LANES):
        n = min(LANES, B - first)
        for r in range(LANES):  # behind the last row it once more: its quads are not looked at
            starts[r] = order[position + first + min(r, n - 1)] * ld_source
        for r in range(LANES):
            ahead = position + B + first + r  # a row of the next batch, while there is one
            following[r] = (order[ahead] if ahead < M else order[position]) * ld_source
        for k in range(0, whole, SQUARE):
            for r in range(LANES):
                prefetch(source, following[r] + k)
            g = k // QUAD
            transpose_quads(quads, offset(source, k), starts)
            c, to, e = offset(counts, g), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
            _pack_square(c, to, e, quads, LANES, first, n, scale, B, ld_rows, ld_entries)
        if whole < I:  # copied, so that nothing behind the rows is read
            for r in range(LANES):
                prefetch(source, following[r] + whole)
                for k in range(I - whole):
                    copies[r * SQUARE + k] = source[starts[r] + whole + k]
                starts[r] = r * SQUARE
            g = whole // QUAD
            transpose_quads(quads, copies, starts)
            c, to, e = offset(counts, g), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
            _pack_square(c, to, e, quads, G - g, first, n, scale, B, ld_rows, ld_entries)


@inline
def _list_dense_values(
    counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source
):
    """Row after row, each quad to the end of its list, which becomes longer where one of the four is not 0."""
    for r in range(min(B, M - position - B)):  # the next batch's, of whose floats a part is enough
        row = offset(source, order[position + B + r] * ld_source)
        for k in range(0, I, BYTES_PER_LINE):
            prefetch(row, k)
    last_quad, rest = row_copy(), I % QUAD
    for f in range(QUAD):
        last_quad[f] = 0
    for r in range(B):
        row = offset(source, order[position + r] * ld_source)
        for g in range(G):
            n = np.int64(counts[g])
            rows[g * ld_rows + n] = r
            to = g * ld_entries + n * QUAD
            if rest and g == G - 1:
                for f in range(rest):
                    last_quad[f] = row[g * QUAD + f]
                counts[g] = n + move_quad(entries, to, last_quad, 0, np.float32(scale))
            else:
                counts[g] = n + move_quad(entries, to, row, g * QUAD, np.float32(scale))


def list_dense_quads(counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source):
    """As `list_quads`, of dense rows."""
    way = _list_dense_bytes if source.dtype == np.uint8 and MACHINE.packs_lanes else _list_dense_values
    way(counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source)


if JIT:

    @overload(list_dense_quads, inline="always")
    def _list_dense_quads(
        counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source
    ):
        way = _list_dense_bytes if source.dtype == types.uint8 and MACHINE.packs_lanes else _list_dense_values

        def listed(counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source):
            way(counts, rows, entries, source, order, position, scale, G, B, I, M, ld_rows, ld_entries, ld_source)

        return listed


@kernel
def skipping_quads(
    counts, rows, entries, source, order, cursor, scale, G, B, J, N, I, M, ld_rows, ld_entries, ld_source
):
    for g in range(G):
        counts[g] = 0
    list_dense_quads(counts, rows, entries, source, order, cursor[0], scale, G, B, I, M, ld_rows, ld_entries, ld_source)


tile_strip = quad_forward_tile(TILE_VECTORS, masked=False)
tile_part = [quad_forward_tile(vectors, masked=True) for vectors in range(1, TILE_VECTORS + 1)]
tile_part_1, tile_part_2, tile_part_3, tile_part_4 = (tile_part * 2)[:4]  # machines with few registers have two


@inline
def _begin(sums, ld_sums, b, B, n):
    """`sums[:, :n] = b[:n]`."""
    for r in range(B):
        for v in range(0, n, LANES):
            store_n(sums, r * ld_sums + v, load_n(b, v, n - v), n - v)


@inline
def _end(y, ld_y, sums, ld_sums, B, n, floor):
    """`y[:, :n] = max(sums[:, :n], floor)`, but NaN stays NaN."""
    for r in range(B):
        for v in range(0, n, LANES):
            value = load_n(sums, r * ld_sums + v, n - v)
            store_n(y, r * ld_y + v, where(value < splat(floor), splat(floor), value), n - v)


@inline
def _forward(y, counts, rows, entries, w, b, B, O, G, I, ld_y, ld_rows, ld_entries, ld_w, floor):
    last_quad, own_sums = four_strips(), strips_of_sums()
    fill_zeros(last_quad, QUAD * STRIP)
    for j in range(0, O, STRIP):
        yj, n = offset(y, j), O - j
        sums, ld_sums = yj, ld_y
        if B <= OWN_SUMS:
            sums, ld_sums = own_sums, STRIP
        _begin(sums, ld_sums, offset(b, j), B, min(n, STRIP))
        for g in range(G):
            c, r, e = np.int64(counts[g]), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
            if c == 0:
                continue
            wg, ld, features = offset(w, g * QUAD * ld_w + j), ld_w, I - g * QUAD
            if features < QUAD:  # the others' weights are 0
                copy_block(last_quad, STRIP, wg, ld_w, features, min(n, STRIP))
                wg, ld = last_quad, STRIP
            if n >= STRIP:
                tile_strip(c, r, e, wg, ld, sums, ld_sums, 0)
            elif n <= LANES:
                tile_part_1(c, r, e, wg, ld, sums, ld_sums, n)
            elif n <= 2 * LANES:
                tile_part_2(c, r, e, wg, ld, sums, ld_sums, n - LANES)
            elif n <= 3 * LANES:
                tile_part_3(c, r, e, wg, ld, sums, ld_sums, n - 2 * LANES)
            else:
                tile_part_4(c, r, e, wg, ld, sums, ld_sums, n - 3 * LANES)
        _end(yj, ld_y, sums, ld_sums, B, min(n, STRIP), floor)


@kernel
def quad_linear(y, counts, rows, entries, w, b, B, O, G, J, I, ld_y, ld_rows, ld_entries, ld_w):
    _forward(y, counts, rows, entries, w, b, B, O, G, I, ld_y, ld_rows, ld_entries, ld_w, NO_FLOOR)


@kernel
def quad_linear_relu(y, counts, rows, entries, w, b, B, O, G, J, I, ld_y, ld_rows, ld_entries, ld_w):
    _forward(y, counts, rows, entries, w, b, B, O, G, I, ld_y, ld_rows, ld_entries, ld_w, RELU_FLOOR)


def _make_gradient(stepping: bool) -> Any:
    """`gradient`: `w = x^T dy`; or, if `stepping`, `w += minus_step (x^T dy + l2 w)`."""
    strip = quad_gradient_tile(TILE_VECTORS, masked=False, stepping=stepping)
    part = [quad_gradient_tile(vectors, masked=True, stepping=stepping) for vectors in range(1, TILE_VECTORS + 1)]
    part_1, part_2, part_3, part_4 = (part * 2)[:4]

    @inline
    def gradient(w, counts, rows, entries, dy, minus_step, l2, I, O, G, ld_w, ld_rows, ld_entries, ld_dy):
        last_quad = four_strips()
        for j in range(0, O, STRIP):
            d, n = offset(dy, j), O - j
            for g in range(G):
                c, r, e = np.int64(counts[g]), offset(rows, g * ld_rows), offset(entries, g * ld_entries)
                wg, ld, features = offset(w, g * QUAD * ld_w + j), ld_w, I - g * QUAD
                to = wg
                if features < QUAD:  # the others' gradients go nowhere
                    copy_block(last_quad, STRIP, wg, ld_w, features, min(n, STRIP))
                    to, ld = last_quad, STRIP
                if n >= STRIP:
                    strip(c, r, e, d, ld_dy, to, ld, minus_step, l2, 0)
                elif n <= LANES:
                    part_1(c, r, e, d, ld_dy, to, ld, minus_step, l2, n)
                elif n <= 2 * LANES:
                    part_2(c, r, e, d, ld_dy, to, ld, minus_step, l2, n - LANES)
                elif n <= 3 * LANES:
                    part_3(c, r, e, d, ld_dy, to, ld, minus_step, l2, n - 2 * LANES)
                else:
                    part_4(c, r, e, d, ld_dy, to, ld, minus_step, l2, n - 3 * LANES)
                if features < QUAD:
                    copy_block(wg, ld_w, last_quad, STRIP, features, min(n, STRIP))

    return gradient


_gradient, _stepping_gradient = _make_gradient(False), _make_gradient(True)


@kernel
def quad_linear_dw(dw, counts, rows, entries, dy, I, O, G, B, J, ld_dw, ld_rows, ld_entries, ld_dy):
    _gradient(dw, counts, rows, entries, dy, ZERO, ZERO, I, O, G, ld_dw, ld_rows, ld_entries, ld_dy)


@kernel
def quad_linear_dw_sgd(
    w, counts, rows, entries, dy, hyper, cursor, I, O, G, B, J, S, ld_w, ld_rows, ld_entries, ld_dy, ld_hyper
):
    step, _, l2 = step_of(hyper, ld_hyper, cursor)
    _stepping_gradient(w, counts, rows, entries, dy, -step, l2, I, O, G, ld_w, ld_rows, ld_entries, ld_dy)
