"""Fully connected layers: forward, input gradient, weight gradient, all on one register tile.

Layout: row-major, leading dimensions of their own. B batch, I inputs, O outputs.

A product walks strips of `STRIP` columns of the output, blocks of `DEPTH` of the summed dimension, then rows: the strip's block of the right
operand stays in L1 while all rows pass over it. Sources: Goto & van de Geijn 2008 (what to keep in which cache); BLIS (the micro-kernel).
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .registry import kernel
from .simd import inline, load, load_n, offset, stack_array, store, store_n
from .tile import STRIP, TILE_ROWS, TILE_VECTORS, dense_tile, transpose_block

# Depth of a block: DEPTH x STRIP floats of the right operand are 24 KB with 64-column strips, three quarters of the smallest L1 in use (32 KB).
DEPTH = 6144 // STRIP
NO_FLOOR = np.float32(-np.inf)
RELU_FLOOR = np.float32(0)

zeros = stack_array(STRIP)
panel = stack_array(DEPTH * STRIP)
transpose = transpose_block()

# Full strips, strips of fewer vectors (the last one masked) and, for the rows that are left, one row at a time.
tile_full = dense_tile(TILE_ROWS, TILE_VECTORS, masked=False)
tile_part = [dense_tile(TILE_ROWS, vectors, masked=True) for vectors in range(1, TILE_VECTORS + 1)]
tile_part_1, tile_part_2, tile_part_3, tile_part_4 = (tile_part * 2)[:4]  # machines with few registers have two
tile_row = dense_tile(1, TILE_VECTORS, masked=False)
tile_row_part = dense_tile(1, 1, masked=True)


@inline
def _tiles(a, row_stride, column_stride, b, ld_b, k, init, ld_init, c, ld_c, floor, m, n):
    """Cover an m x n output, n <= STRIP, with tiles."""
    vectors = (n + LANES - 1) // LANES
    tail = n - (vectors - 1) * LANES
    r = 0
    while m - r >= TILE_ROWS:
        ar, cr, ir = offset(a, r * row_stride), offset(c, r * ld_c), offset(init, r * ld_init)
        if n == STRIP:
            tile_full(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, 0)
        elif vectors == 1:
            tile_part_1(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, tail)
        elif vectors == 2:
            tile_part_2(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, tail)
        elif vectors == 3:
            tile_part_3(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, tail)
        else:
            tile_part_4(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, tail)
        r += TILE_ROWS
    while r < m:
        ar, cr, ir = offset(a, r * row_stride), offset(c, r * ld_c), offset(init, r * ld_init)
        if n == STRIP:
            tile_row(ar, row_stride, column_stride, b, ld_b, k, ir, ld_init, cr, ld_c, floor, 0)
        else:
            for j in range(0, n, LANES):
                bj, cj, ij = offset(b, j), offset(cr, j), offset(ir, j)
                tile_row_part(ar, row_stride, column_stride, bj, ld_b, k, ij, ld_init, cj, ld_c, floor, n - j)
        r += 1


@inline
def matrix_product(a, row_stride, column_stride, b, ld_b, k, init, ld_init, c, ld_c, floor, m, n):
    """`c = max(init + a b, floor)`: a is m x k with the given strides, b is k x n; init may be c itself (ld_init = ld_c), or a row (ld_init = 0)."""
    for j in range(0, n, STRIP):
        width = min(STRIP, n - j)
        bj, cj = offset(b, j), offset(c, j)
        start, ld_start = offset(init, j), ld_init
        for k0 in range(0, k, DEPTH):
            depth = min(DEPTH, k - k0)
            limit = floor if k0 + depth == k else NO_FLOOR
            ak = offset(a, k0 * column_stride)
            _tiles(
                ak,
                row_stride,
                column_stride,
                offset(bj, k0 * ld_b),
                ld_b,
                depth,
                start,
                ld_start,
                cj,
                ld_c,
                limit,
                m,
                width,
            )
            start, ld_start = cj, ld_c


@inline
def _fill_zeros(p, n):
    for i in range(n):
        p[i] = np.float32(0)


@inline
def _product_from_zero(a, row_stride, column_stride, b, ld_b, k, c, ld_c, m, n):
    """`c = a b`; an empty sum is 0."""
    if k == 0:
        for r in range(m):
            _fill_zeros(offset(c, r * ld_c), n)
    for j in range(0, n, STRIP):
        zero = zeros()
        _fill_zeros(zero, STRIP)
        width = min(STRIP, n - j)
        matrix_product(
            a, row_stride, column_stride, offset(b, j), ld_b, k, zero, 0, offset(c, j), ld_c, NO_FLOOR, m, width
        )


@kernel
def linear(y, x, w, b, B, O, I, ld_y, ld_x, ld_w):
    matrix_product(x, ld_x, 1, w, ld_w, I, b, 0, y, ld_y, NO_FLOOR, B, O)


@kernel
def linear_relu(y, x, w, b, B, O, I, ld_y, ld_x, ld_w):
    matrix_product(x, ld_x, 1, w, ld_w, I, b, 0, y, ld_y, RELU_FLOOR, B, O)


@inline
def _transposed_panel(target, w, ld_w, rows, columns):
    """`target[j, i] = w[i, j]` for rows x columns of w; target's leading dimension is STRIP."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            source, to = offset(w, i * ld_w + j), offset(target, j * STRIP + i)
            if rows - i >= LANES and columns - j >= LANES:
                transpose(source, ld_w, to, STRIP)
            else:
                for p in range(min(LANES, rows - i)):
                    for q in range(min(LANES, columns - j)):
                        to[q * STRIP + p] = source[p * ld_w + q]


@inline
def _times_transposed(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w, init, ld_init):
    """`dx = init + dy w^T`: w is transposed block by block into a panel that stays in L1."""
    packed = panel()
    for i in range(0, I, STRIP):
        width = min(STRIP, I - i)
        start, ld_start = offset(init, i if ld_init else 0), ld_init
        for o in range(0, O, DEPTH):
            depth = min(DEPTH, O - o)
            _transposed_panel(packed, offset(w, i * ld_w + o), ld_w, width, depth)
            _tiles(
                offset(dy, o), ld_dy, 1, packed, STRIP, depth, start, ld_start, offset(dx, i), ld_dx, NO_FLOOR, B, width
            )
            start, ld_start = offset(dx, i), ld_dx


@kernel
def linear_dx(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w):
    zero = zeros()
    _fill_zeros(zero, STRIP)
    _times_transposed(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w, zero, 0)


@kernel
def linear_dx_add(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w):
    _times_transposed(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w, dx, ld_dx)


@kernel
def linear_dw(dw, x, dy, I, O, B, ld_dw, ld_x, ld_dy):
    _product_from_zero(x, 1, ld_x, dy, ld_dy, B, dw, ld_dw, I, O)


@kernel
def linear_dw_add(dw, x, dy, I, O, B, ld_dw, ld_x, ld_dy):
    matrix_product(x, 1, ld_x, dy, ld_dy, B, dw, ld_dw, dw, ld_dw, NO_FLOOR, I, O)


@inline
def _add_rows(total, dy, B, O, ld_dy):
    for j in range(0, O, LANES):
        n = O - j
        if n >= LANES:
            s = load(total, j)
            for r in range(B):
                s = s + load(dy, r * ld_dy + j)
            store(total, j, s)
        else:
            s = load_n(total, j, n)
            for r in range(B):
                s = s + load_n(dy, r * ld_dy + j, n)
            store_n(total, j, s, n)


@kernel
def linear_db(db, dy, O, B, ld_dy):
    _fill_zeros(db, O)
    _add_rows(db, dy, B, O, ld_dy)


@kernel
def linear_db_add(db, dy, O, B, ld_dy):
    _add_rows(db, dy, B, O, ld_dy)
