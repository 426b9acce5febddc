"""First layer on compressed rows: zero pixels are skipped, exactly.

Row i of the data set is `columns[indptr[i]:indptr[i + 1]]` with `values[...]`. Bytes are scaled through a table of 256 floats made once a call.
The forward pass reads the rows where they lie; the weight gradient wants the batch by feature, which `sparse_transpose` makes (a counting
scatter into lists of fixed capacity), so that the gradient of a weight row is finished in registers and stored once.

Compressed rows are made in two passes, `count_nonzeros` and `compress_rows`: nothing is stored twice.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .isa import LANES
from .matmul import NO_FLOOR, RELU_FLOOR
from .registry import kernel
from .simd import JIT, fma, inline, load, load_n, offset, prefetch, splat, stack_array, store, store_n
from .tile import STRIP, TILE_VECTORS, list_tile, sparse_tile

# Elements to a cache line, of the narrowest types; wider ones are asked for in part, the hardware fetches on.
COLUMNS_PER_LINE, VALUES_PER_LINE = 32, 64
WORD = 8  # values looked at together where rows are compressed: most of them lie between zeros
byte_table = stack_array(256)
tile_strip = sparse_tile(TILE_VECTORS, masked=False)
tile_part = [sparse_tile(vectors, masked=True) for vectors in range(1, TILE_VECTORS + 1)]
tile_part_1, tile_part_2, tile_part_3, tile_part_4 = (tile_part * 2)[:4]  # machines with few registers have two
# The weight gradient of two neighbouring features at a time, and of the last one where their number is odd.
pair_strip = list_tile(2, TILE_VECTORS, masked=False)
pair_part = [list_tile(2, vectors, masked=True) for vectors in range(1, TILE_VECTORS + 1)]
pair_part_1, pair_part_2, pair_part_3, pair_part_4 = (pair_part * 2)[:4]
last_feature = list_tile(1, 1, masked=True)


def _is_bytes(values):
    return values.dtype == np.uint8


def stored_value(values, t, table):
    """The t-th stored value, scaled: `table[values[t]]` for bytes, `values[t] * table[0]` for floats."""
    return table[values[t]] if _is_bytes(values) else values[t] * table[0]


def fill_table(values, table, scale):
    """What `stored_value` needs: all 256 scaled bytes, or the scale alone."""
    if _is_bytes(values):
        for i in range(256):
            table[i] = np.float32(i) * np.float32(scale)
    else:
        table[0] = np.float32(scale)


if JIT:

    @overload(stored_value, inline="always")
    def _stored_value(values, t, table):
        if values.dtype == types.uint8:
            return lambda values, t, table: table[values[t]]
        return lambda values, t, table: values[t] * table[0]

    @overload(fill_table)
    def _fill_table(values, table, scale):
        if values.dtype == types.uint8:

            def fill(values, table, scale):
                for i in range(256):
                    table[i] = np.float32(i) * np.float32(scale)

            return fill

        def fill_scale(values, table, scale):
            table[0] = np.float32(scale)

        return fill_scale


@kernel
def count_nonzeros(counts, source, B, I, ld_source):
    for r in range(B):
        row, n = offset(source, r * ld_source), np.int64(0)
        for k in range(I):
            n += np.int64(row[k] != 0)
        counts[r] = n


@inline
def _compress_part(columns, values, row, at, first, last):
    """Store the nonzeros of `row[first:last]` from place `at` on; returns the next free place."""
    for k in range(first, last):
        if row[k] != 0:
            columns[at] = k
            values[at] = row[k]
            at += 1
    return at


@kernel
def compress_rows(columns, values, source, indptr, Z, B, I, P, ld_source):
    for r in range(B):
        row, at = offset(source, r * ld_source), np.int64(indptr[r])
        whole = I - I % WORD
        for first in range(0, whole, WORD):
            anything = False
            for k in range(first, first + WORD):
                anything |= row[k] != 0
            if anything:
                at = _compress_part(columns, values, row, at, first, first + WORD)
        _compress_part(columns, values, row, at, whole, I)


@inline
def _row(index, values, n_stored, table, b, ld_b, init, c, floor, width):
    """`c[:width] = max(init + sum of nonzeros times rows of b, floor)`."""
    for j in range(0, width, STRIP):
        start, to, bj = offset(init, j), offset(c, j), offset(b, j)
        n = width - j
        if n >= STRIP:
            tile_strip(index, values, n_stored, table, bj, ld_b, start, to, floor, 0)
        elif n <= LANES:
            tile_part_1(index, values, n_stored, table, bj, ld_b, start, to, floor, n)
        elif n <= 2 * LANES:
            tile_part_2(index, values, n_stored, table, bj, ld_b, start, to, floor, n - LANES)
        elif n <= 3 * LANES:
            tile_part_3(index, values, n_stored, table, bj, ld_b, start, to, floor, n - 2 * LANES)
        else:
            tile_part_4(index, values, n_stored, table, bj, ld_b, start, to, floor, n - 3 * LANES)


@inline
def _forward(y, indptr, columns, values, w, b, order, cursor, scale, B, O, ld_y, ld_w, floor):
    table = byte_table()
    fill_table(values, table, scale)
    for r in range(B):
        i = order[cursor[0] + r]
        first, last = indptr[i], indptr[i + 1]
        to = offset(y, r * ld_y)
        _row(offset(columns, first), offset(values, first), last - first, table, w, ld_w, b, to, floor, O)


@kernel
def sparse_linear(y, indptr, columns, values, w, b, order, cursor, scale, B, O, P, Z, I, M, ld_y, ld_w):
    _forward(y, indptr, columns, values, w, b, order, cursor, scale, B, O, ld_y, ld_w, NO_FLOOR)


@kernel
def sparse_linear_relu(y, indptr, columns, values, w, b, order, cursor, scale, B, O, P, Z, I, M, ld_y, ld_w):
    _forward(y, indptr, columns, values, w, b, order, cursor, scale, B, O, ld_y, ld_w, RELU_FLOOR)


@inline
def _prefetch_rows(indptr, columns, values, order, position, rows):
    """Ask for the rows of the next batch, which lie anywhere in memory: they arrive while this batch is worked on."""
    for r in range(rows):
        i = order[position + r]
        first, last = indptr[i], indptr[i + 1]
        for t in range(first, last, COLUMNS_PER_LINE):
            prefetch(columns, t)
        for t in range(first, last, VALUES_PER_LINE):
            prefetch(values, t)


@kernel
def sparse_transpose(
    counts, rows, entries, indptr, columns, values, order, cursor, scale, I, B, P, Z, M, ld_rows, ld_entries
):
    table = byte_table()
    fill_table(values, table, scale)
    _prefetch_rows(indptr, columns, values, order, cursor[0] + B, min(B, M - cursor[0] - B))
    for k in range(I):
        counts[k] = 0
    for r in range(B):
        i = order[cursor[0] + r]
        for t in range(indptr[i], indptr[i + 1]):
            k = np.int64(columns[t])
            n = np.int64(counts[k])
            rows[k * ld_rows + n] = r
            entries[k * ld_entries + n] = stored_value(values, t, table)
            counts[k] = n + 1


@kernel
def sparse_linear_dw(dw, counts, rows, entries, dy, I, O, B, ld_dw, ld_rows, ld_entries, ld_dy):
    for j in range(0, O, STRIP):
        dyj, dwj, n = offset(dy, j), offset(dw, j), O - j
        for k in range(0, I - 1, 2):
            c, r, e = offset(counts, k), offset(rows, k * ld_rows), offset(entries, k * ld_entries)
            d = offset(dwj, k * ld_dw)
            if n >= STRIP:
                pair_strip(c, r, ld_rows, e, ld_entries, dyj, ld_dy, d, ld_dw, 0)
            elif n <= LANES:
                pair_part_1(c, r, ld_rows, e, ld_entries, dyj, ld_dy, d, ld_dw, n)
            elif n <= 2 * LANES:
                pair_part_2(c, r, ld_rows, e, ld_entries, dyj, ld_dy, d, ld_dw, n - LANES)
            elif n <= 3 * LANES:
                pair_part_3(c, r, ld_rows, e, ld_entries, dyj, ld_dy, d, ld_dw, n - 2 * LANES)
            else:
                pair_part_4(c, r, ld_rows, e, ld_entries, dyj, ld_dy, d, ld_dw, n - 3 * LANES)
        if I % 2 == 1:
            k = I - 1
            c, r, e = offset(counts, k), offset(rows, k * ld_rows), offset(entries, k * ld_entries)
            for v in range(0, min(n, STRIP), LANES):
                last_feature(
                    c, r, ld_rows, e, ld_entries, offset(dyj, v), ld_dy, offset(dwj, k * ld_dw + v), ld_dw, n - v
                )


@kernel
def sparse_linear_dw_add(dw, indptr, columns, values, dy, order, cursor, scale, I, O, P, Z, B, M, ld_dw, ld_dy):
    table = byte_table()
    fill_table(values, table, scale)
    for j in range(0, O, LANES):
        n = min(LANES, O - j)
        for r in range(B):
            i = order[cursor[0] + r]
            if n == LANES:
                d = load(dy, r * ld_dy + j)
                for t in range(indptr[i], indptr[i + 1]):
                    at = np.int64(columns[t]) * ld_dw + j
                    store(dw, at, fma(splat(stored_value(values, t, table)), d, load(dw, at)))
            else:
                d = load_n(dy, r * ld_dy + j, n)
                for t in range(indptr[i], indptr[i + 1]):
                    at = np.int64(columns[t]) * ld_dw + j
                    store_n(dw, at, fma(splat(stored_value(values, t, table)), d, load_n(dw, at, n)), n)
