"""Matrix products: `gemm_*`, and the fully connected layers, which are the same product with a bias, an old content and, at its end,
a floor (ReLU) or a gate (the derivative of the ReLU below, taken where the gradient is stored).

Layout: row-major, leading dimensions of their own. B rows of the result, O its columns, I what is summed over.

One product serves all (`_make_product`): the summed dimension is cut into blocks; for each of them the rows of the left operand into blocks that
stay in L2, the columns of the right one into strips that stay in L1 while all rows pass over them; register tiles do the arithmetic (`tile.py`).
Packing, that is copying a block to where its rows lie close together, is done where the rows of an operand would drive each other out of the
cache, and not otherwise. How the sum is cut depends on its length alone and on this machine's caches: neither packing, nor the shape of the
result, nor who computes which part of it changes a bit.

Sources: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication" (what to keep in which cache); Van Zee & van de Geijn
2015, "BLIS" (the micro-kernel); Low et al. 2016, "Analytical modeling is enough for high-performance BLIS" (block sizes from caches).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .caches import CACHES
from .isa import LANES
from .optimizers import step_of
from .registry import kernel
from .simd import fill_zeros, inline, load, load_n, offset, stack_array, store, store_n
from .tile import STRIP, TILE_ROWS, TILE_VECTORS, dense_tile, transpose_block

L1_BYTES, L2_BYTES = CACHES[1], CACHES[2]
FLOAT = 4  # bytes

# Summed elements of a block: a strip of the right operand that deep takes two thirds of L1. The rest is for rows of the left operand and tiles of
# the result on their way. Shallower blocks load and store the result more often; deeper ones fall out of L1 (bench/ladder).
DEPTH = max(LANES, L1_BYTES * 2 // 3 // (FLOAT * STRIP) // LANES * LANES)
# Rows of a block of the left operand: a quarter of L2, because the result and the next strip pass through as well. Not above 256 KB: where it
# is packed it lies on the stack, of which some threads have 1 MB.
BLOCK_ROWS = max(LANES, min(L2_BYTES // 4, 256 << 10) // (FLOAT * DEPTH) // LANES * LANES)
# Rows from which a strip is packed. Packing costs the first tile some of its time and spares the others; with fewer there is nobody to spare.
PACKED_FROM_ROWS = 4 * TILE_ROWS
# Rows further apart than this lie on pages of their own: the prefetchers of all common processors stop at the end of a page (4 KB at least).
PAGE = 4096
# Columns from which a transposed left operand is packed: each of its elements is then used for several strips.
PACKED_FROM_COLUMNS = 4 * STRIP

NO_FLOOR = np.float32(-np.inf)
RELU_FLOOR = np.float32(0)
ZERO, ONE = np.float32(0), np.float32(1)

packed_strip = stack_array(DEPTH * STRIP)
BLOCK_LD = BLOCK_ROWS + LANES  # an odd number of vectors: rows of a power of two would share cache sets
packed_block = stack_array(DEPTH * BLOCK_LD)
transpose = transpose_block()


# A product ends with what is done to each element before it is stored: it is clipped at a floor; or it passes a gate, a matrix like the result.
# The `end` of a tile is the floor, or a pointer to where its part of the gate begins and the gate's leading dimension.


@inline
def _floor_from(floor, is_last, i, j):
    """The end of what begins at row i and column j, in the last block of a sum or in one before."""
    return floor if is_last else NO_FLOOR


@inline
def _gate_from(end, is_last, i, j):
    """Likewise. Every block of a sum passes: what is set to 0 before the last one will be again."""
    gate, ld_gate = end
    return offset(gate, i * ld_gate + j), ld_gate


@inline
def _clip(value, floor):
    """What a tile does at its end to a single element."""
    return floor if value < floor else value


@inline
def _pass_gate(value, end):
    """Likewise."""
    return value if end[0][0] > ZERO else ZERO


def _make_tiles(gated: bool, stepping: bool) -> Any:
    """`tiles`: cover an m x n output, n <= STRIP. Whole strips, or fewer vectors of which the last is masked; rows that are left one at a time."""
    kind = {"gated": gated, "stepping": stepping}
    full = dense_tile(TILE_ROWS, TILE_VECTORS, **kind)
    part = [dense_tile(TILE_ROWS, vectors, masked=True, **kind) for vectors in range(1, TILE_VECTORS + 1)]
    part_1, part_2, part_3, part_4 = (part * 2)[:4]  # machines with few registers have two
    row, row_part = dense_tile(1, TILE_VECTORS, **kind), dense_tile(1, 1, masked=True, **kind)
    end_from = _gate_from if gated else _floor_from

    @inline
    def tiles(a, row_stride, column_stride, b, ld_b, k, alpha, beta, init, ld_init, c, ld_c, end, m, n):
        vectors = (n + LANES - 1) // LANES
        tail = n - (vectors - 1) * LANES
        r = 0
        while m - r >= TILE_ROWS:
            ar, cr, ir = offset(a, r * row_stride), offset(c, r * ld_c), offset(init, r * ld_init)
            er = end_from(end, True, r, 0)
            if n == STRIP:
                full(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, 0, b)
            elif vectors == 1:
                part_1(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, tail, b)
            elif vectors == 2:
                part_2(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, tail, b)
            elif vectors == 3:
                part_3(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, tail, b)
            else:
                part_4(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, tail, b)
            r += TILE_ROWS
        while r < m:
            ar, cr, ir = offset(a, r * row_stride), offset(c, r * ld_c), offset(init, r * ld_init)
            if n == STRIP:
                er = end_from(end, True, r, 0)
                row(ar, row_stride, column_stride, b, ld_b, k, alpha, beta, ir, ld_init, cr, ld_c, er, 0, b)
            else:
                for j in range(0, n, LANES):
                    bj, cj, ij, ej = offset(b, j), offset(cr, j), offset(ir, j), end_from(end, True, r, j)
                    row_part(
                        ar, row_stride, column_stride, bj, ld_b, k, alpha, beta, ij, ld_init, cj, ld_c, ej, n - j, b
                    )
            r += 1

    return tiles


@inline
def copy_block(target, ld_target, source, ld_source, rows, columns):
    for i in range(rows):
        to, start = offset(target, i * ld_target), offset(source, i * ld_source)
        whole = columns // LANES * LANES
        for j in range(0, whole, LANES):
            store(to, j, load(start, j))
        store_n(to, whole, load_n(start, whole, columns - whole), columns - whole)


@inline
def _copy_transposed(target, ld_target, source, ld_source, rows, columns):
    """`target[j, i] = source[i, j]` for rows x columns of source."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            start, to = offset(source, i * ld_source + j), offset(target, j * ld_target + i)
            if rows - i >= LANES and columns - j >= LANES:
                transpose(start, ld_source, to, ld_target)
            else:
                for p in range(min(LANES, rows - i)):
                    for q in range(min(LANES, columns - j)):
                        to[q * ld_target + p] = start[p * ld_source + q]


@inline
def _block_depth(k):
    """Depth of the blocks of a sum over k, k >= 1: even blocks of whole vectors, since a shallow last one costs as much traffic as a deep one."""
    n_blocks = (k + DEPTH - 1) // DEPTH
    return ((k + n_blocks - 1) // n_blocks + LANES - 1) // LANES * LANES


@inline
def _rows_collide(ld, depth):
    """Whether `depth` rows of a strip, `ld` elements apart, leave L1 too little room: they share few sets, or lie on a page each."""
    distance = abs(ld) * FLOAT
    spacing = (
        distance & -distance
    )  # the largest power of two in it: rows start at multiples of it within a period of the cache
    return distance >= PAGE or depth * spacing > L1_BYTES * 2 // 3


def _make_product(a_transposed: bool, b_transposed: bool, gated: bool = False, stepping: bool = False) -> Any:
    """`product`: `c = max(alpha op(a) op(b) + beta init, floor)`, c is m x n, the sum runs over k.

    init may be c itself (with ld_init = ld_c), or one row (ld_init = 0); it is not read where beta is 0. a and b are not read where alpha is 0.
    `end` is floor; or, if `gated`, the pair (gate, ld_gate): then nothing is clipped, and c is 0 where not `gate > 0`.

    If `stepping`, `c += alpha (op(a) op(b) + beta c)`, init is c itself and `end` is not looked at.
    """
    tiles = _make_tiles(gated, stepping)
    tile_packing = dense_tile(TILE_ROWS, TILE_VECTORS, packing=True, gated=gated, stepping=stepping)
    goes_on = ZERO if stepping else ONE  # beta of the later blocks of a sum
    end_from, finish = (_gate_from, _pass_gate) if gated else (_floor_from, _clip)

    @inline
    def without_sum(alpha, beta, init, ld_init, c, ld_c, end, m, n):
        for r in range(m):
            for j in range(n):
                value = ZERO if beta == ZERO else beta * init[r * ld_init + j]
                if stepping:
                    c[r * ld_c + j] += alpha * value
                else:
                    c[r * ld_c + j] = finish(value, end_from(end, True, r, j))

    @inline
    def product(a, ld_a, b, ld_b, k, alpha, beta, init, ld_init, c, ld_c, end, m, n):
        if k == 0 or alpha == ZERO:
            without_sum(alpha, beta, init, ld_init, c, ld_c, end, m, n)
            return
        block_depth = _block_depth(k)
        packs_strips = b_transposed or (m >= PACKED_FROM_ROWS and _rows_collide(ld_b, block_depth))
        strip = packed_strip()
        for k0 in range(0, k, block_depth):
            depth = min(block_depth, k - k0)
            is_last = k0 + depth == k
            for i0 in range(0, m, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, m - i0)
                if a_transposed:
                    row_stride, column_stride, left = 1, ld_a, offset(a, k0 * ld_a + i0)
                    if n >= PACKED_FROM_COLUMNS and ld_a * FLOAT >= PAGE:
                        block = packed_block()
                        copy_block(block, BLOCK_LD, left, ld_a, depth, rows)
                        column_stride, left = BLOCK_LD, block
                else:
                    row_stride, column_stride, left = ld_a, 1, offset(a, i0 * ld_a + k0)
                for j in range(0, n, STRIP):
                    width = min(STRIP, n - j)
                    ci, ei = offset(c, i0 * ld_c + j), end_from(end, is_last, i0, j)
                    start, ld_start, scale = ci, ld_c, goes_on
                    if k0 == 0:
                        start, ld_start, scale = offset(init, i0 * ld_init + j), ld_init, beta
                    done = 0  # rows of this strip that are computed
                    if b_transposed:
                        right, ld_right = strip, STRIP
                        _copy_transposed(strip, STRIP, offset(b, j * ld_b + k0), ld_b, width, depth)
                    else:
                        right, ld_right = offset(b, k0 * ld_b + j), ld_b
                        if packs_strips and width == STRIP and rows >= TILE_ROWS:
                            tile_packing(
                                left,
                                row_stride,
                                column_stride,
                                right,
                                ld_b,
                                depth,
                                alpha,
                                scale,
                                start,
                                ld_start,
                                ci,
                                ld_c,
                                ei,
                                0,
                                strip,
                            )
                            right, ld_right, done = strip, STRIP, TILE_ROWS
                        elif packs_strips:
                            copy_block(strip, STRIP, right, ld_b, depth, width)
                            right, ld_right = strip, STRIP
                    tiles(
                        offset(left, done * row_stride),
                        row_stride,
                        column_stride,
                        right,
                        ld_right,
                        depth,
                        alpha,
                        scale,
                        offset(start, done * ld_start),
                        ld_start,
                        offset(ci, done * ld_c),
                        ld_c,
                        end_from(ei, True, done, 0),
                        rows - done,
                        width,
                    )

    return product


product_nn, product_nt = _make_product(False, False), _make_product(False, True)
product_tn, product_tt = _make_product(True, False), _make_product(True, True)
gated_product_nt = _make_product(False, True, gated=True)
stepping_product_tn = _make_product(True, False, stepping=True)


@kernel
def gemm_nn(c, a, b, alpha, beta, B, O, I, ld_c, ld_a, ld_b):
    product_nn(a, ld_a, b, ld_b, I, np.float32(alpha), np.float32(beta), c, ld_c, c, ld_c, NO_FLOOR, B, O)


@kernel
def gemm_nt(c, a, b, alpha, beta, B, O, I, ld_c, ld_a, ld_b):
    product_nt(a, ld_a, b, ld_b, I, np.float32(alpha), np.float32(beta), c, ld_c, c, ld_c, NO_FLOOR, B, O)


@kernel
def gemm_tn(c, a, b, alpha, beta, B, O, I, ld_c, ld_a, ld_b):
    product_tn(a, ld_a, b, ld_b, I, np.float32(alpha), np.float32(beta), c, ld_c, c, ld_c, NO_FLOOR, B, O)


@kernel
def gemm_tt(c, a, b, alpha, beta, B, O, I, ld_c, ld_a, ld_b):
    product_tt(a, ld_a, b, ld_b, I, np.float32(alpha), np.float32(beta), c, ld_c, c, ld_c, NO_FLOOR, B, O)


@kernel
def linear(y, x, w, b, B, O, I, ld_y, ld_x, ld_w):
    product_nn(x, ld_x, w, ld_w, I, ONE, ONE, b, 0, y, ld_y, NO_FLOOR, B, O)


@kernel
def linear_relu(y, x, w, b, B, O, I, ld_y, ld_x, ld_w):
    product_nn(x, ld_x, w, ld_w, I, ONE, ONE, b, 0, y, ld_y, RELU_FLOOR, B, O)


@kernel
def linear_dx(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w):
    product_nt(dy, ld_dy, w, ld_w, O, ONE, ZERO, dx, ld_dx, dx, ld_dx, NO_FLOOR, B, I)


@kernel
def linear_dx_add(dx, dy, w, B, I, O, ld_dx, ld_dy, ld_w):
    product_nt(dy, ld_dy, w, ld_w, O, ONE, ONE, dx, ld_dx, dx, ld_dx, NO_FLOOR, B, I)


@kernel
def linear_dx_relu(dx, dy, w, y, B, I, O, ld_dx, ld_dy, ld_w, ld_y):
    gated_product_nt(dy, ld_dy, w, ld_w, O, ONE, ZERO, dx, ld_dx, dx, ld_dx, (y, ld_y), B, I)


@kernel
def linear_dx_add_relu(dx, dy, w, y, B, I, O, ld_dx, ld_dy, ld_w, ld_y):
    gated_product_nt(dy, ld_dy, w, ld_w, O, ONE, ONE, dx, ld_dx, dx, ld_dx, (y, ld_y), B, I)


@kernel
def linear_dw(dw, x, dy, I, O, B, ld_dw, ld_x, ld_dy):
    product_tn(x, ld_x, dy, ld_dy, B, ONE, ZERO, dw, ld_dw, dw, ld_dw, NO_FLOOR, I, O)


@kernel
def linear_dw_add(dw, x, dy, I, O, B, ld_dw, ld_x, ld_dy):
    product_tn(x, ld_x, dy, ld_dy, B, ONE, ONE, dw, ld_dw, dw, ld_dw, NO_FLOOR, I, O)


@kernel
def linear_dw_sgd(w, x, dy, hyper, cursor, I, O, B, S, ld_w, ld_x, ld_dy, ld_hyper):
    step, _, l2 = step_of(hyper, ld_hyper, cursor)
    stepping_product_tn(x, ld_x, dy, ld_dy, B, -step, l2, w, ld_w, w, ld_w, NO_FLOOR, I, O)


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
    fill_zeros(db, O)
    _add_rows(db, dy, B, O, ld_dy)


@kernel
def linear_db_add(db, dy, O, B, ld_dy):
    _add_rows(db, dy, B, O, ld_dy)
