"""First layer on compressed rows: zero pixels are skipped, exactly.

Row i of the data set is `columns[indptr[i]:indptr[i + 1]]` with `values[...]`. Bytes are scaled through a table of 256 floats made once a call.
Products and gradients of full batches read the rows where they lie; mini-batches are turned by quads of features first (`quads.py`).

Compressed rows are made in two passes, `count_nonzeros` and `compress_rows`: nothing is stored twice. Where rows are read once, to predict, a row
is compressed just before it is multiplied (`skipping_linear`).
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .isa import LANES
from .matmul import (
    DEPTH,
    FLOAT,
    L1_BYTES,
    NO_FLOOR,
    PACKED_FROM_ROWS,
    RELU_FLOOR,
    copy_block,
    packed_strip,
)
from .nonzeros import (
    ENTRIES,
    GROUP,
    PIECE,
    WORD,
    byte_buffer,
    column_buffer,
    count_row,
    float_buffer,
    row_starts,
    take_row,
)
from .registry import kernel
from .simd import JIT, fma, inline, load, load_n, offset, prefetch, splat, stack_array, store, store_n
from .tile import STRIP, TILE_VECTORS, sparse_tile

BYTES_PER_LINE = 64
byte_table = stack_array(256)
tile_strip = sparse_tile(TILE_VECTORS, masked=False)
tile_part = [sparse_tile(vectors, masked=True) for vectors in range(1, TILE_VECTORS + 1)]
tile_part_1, tile_part_2, tile_part_3, tile_part_4 = (tile_part * 2)[:4]  # machines with few registers have two


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


def value_buffer(source):
    """Room for the values of some features of a row."""
    return byte_buffer() if _is_bytes(source) else float_buffer()


if JIT:

    @overload(value_buffer, inline="always")
    def _value_buffer(source):
        if source.dtype == types.uint8:
            return lambda source: byte_buffer()
        return lambda source: float_buffer()

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
        counts[r] = count_row(offset(source, r * ld_source), I)


@kernel
def compress_rows(columns, values, source, indptr, Z, B, I, P, ld_source):
    kept_columns, kept_values = column_buffer(), value_buffer(source)
    for r in range(B):
        at = indptr[r]
        for first in range(0, I, PIECE):
            n = take_row(kept_columns, kept_values, offset(source, r * ld_source + first), min(PIECE, I - first))
            # No vector of the buffers' end may be stored behind a row: that is the next one's, which another thread may have written.
            for t in range(n):
                columns[at + t] = first + np.int64(kept_columns[t])
                values[at + t] = kept_values[t]
            at += n


@inline
def _strip(index, values, n_stored, table, b, ld_b, init, c, floor, n):
    """`c[:n] = max(init + sum of nonzeros times rows of b, floor)`, n <= STRIP."""
    if n >= STRIP:
        tile_strip(index, values, n_stored, table, b, ld_b, init, c, floor, 0)
    elif n <= LANES:
        tile_part_1(index, values, n_stored, table, b, ld_b, init, c, floor, n)
    elif n <= 2 * LANES:
        tile_part_2(index, values, n_stored, table, b, ld_b, init, c, floor, n - LANES)
    elif n <= 3 * LANES:
        tile_part_3(index, values, n_stored, table, b, ld_b, init, c, floor, n - 2 * LANES)
    else:
        tile_part_4(index, values, n_stored, table, b, ld_b, init, c, floor, n - 3 * LANES)


@inline
def _row(index, values, n_stored, table, b, ld_b, init, c, floor, width):
    """The same for a row of any width."""
    for j in range(0, width, STRIP):
        n = min(STRIP, width - j)
        _strip(index, values, n_stored, table, offset(b, j), ld_b, offset(init, j), offset(c, j), floor, n)


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
def _slab_depth(inputs, width):
    """Features of a slab: rows of w that stay in L1 while a strip of them is multiplied with a group of rows; even ones."""
    most = max(WORD, min(L1_BYTES * 2 // 3 // (FLOAT * min(width, STRIP)), PIECE))
    n_slabs = max(1, (inputs + most - 1) // most)
    return max(1, (inputs + n_slabs - 1) // n_slabs)


@inline
def _forward_skipping(y, source, w, b, order, cursor, scale, B, O, I, ld_y, ld_source, ld_w, floor):
    """A group of rows goes slab by slab: the slab's nonzeros are taken out of each of them, then multiplied strip by strip."""
    if O == 0:
        return
    table = byte_table()
    columns, values, starts = column_buffer(), value_buffer(source), row_starts()
    fill_table(values, table, scale)
    depth = _slab_depth(I, O)
    group = min(GROUP, ENTRIES // depth)
    panel = packed_strip()
    for first_row in range(0, B, group):
        rows = min(group, B - first_row)
        packs = rows >= PACKED_FROM_ROWS and depth < I and depth <= DEPTH
        where, to = offset(order, cursor[0] + first_row), offset(y, first_row * ld_y)
        for r in range(min(group, B - first_row - rows)):
            for k in range(0, I, BYTES_PER_LINE):
                prefetch(source, where[rows + r] * ld_source + k)
        for k in range(0, max(I, 1), depth):
            at, n_features = np.int64(0), min(depth, I - k)
            for r in range(rows):
                starts[r] = at
                at += take_row(
                    offset(columns, at), offset(values, at), offset(source, where[r] * ld_source + k), n_features
                )
            starts[rows] = at
            limit = floor if k + depth >= I else NO_FLOOR
            for j in range(0, O, STRIP):
                n, ld_slab, slab = min(STRIP, O - j), ld_w, offset(w, k * ld_w + j)
                if packs:
                    copy_block(panel, STRIP, slab, ld_w, n_features, n)
                    ld_slab, slab = STRIP, panel
                for r in range(rows):
                    s, cj = starts[r], offset(to, r * ld_y + j)
                    init = cj if k else offset(b, j)
                    _strip(
                        offset(columns, s),
                        offset(values, s),
                        starts[r + 1] - s,
                        table,
                        slab,
                        ld_slab,
                        init,
                        cj,
                        limit,
                        n,
                    )


@kernel
def skipping_linear(y, source, w, b, order, cursor, scale, B, O, N, I, M, ld_y, ld_source, ld_w):
    _forward_skipping(y, source, w, b, order, cursor, scale, B, O, I, ld_y, ld_source, ld_w, NO_FLOOR)


@kernel
def skipping_linear_relu(y, source, w, b, order, cursor, scale, B, O, N, I, M, ld_y, ld_source, ld_w):
    _forward_skipping(y, source, w, b, order, cursor, scale, B, O, I, ld_y, ld_source, ld_w, RELU_FLOOR)


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
