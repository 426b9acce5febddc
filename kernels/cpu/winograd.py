"""Convolutions of 3 x 3 pixels with stride 1 by Winograd's algorithm: 4 x 4 pixels of y from 6 x 6 of x by 36 products instead of 144.

`y = A^T (G w G^T * B^T d B) A + b` for each tile d of 6 x 6 pixels, 4 apart; the products `*` are summed over the channels, so for each of the 36
places they are a product of matrices, (tiles, C) times (C, O). Pixels beyond the edge count as 0 where a tile hangs over it.

A block of tiles is transformed, multiplied and transformed back before the next: what lies between stays in the cache. Each tile's numbers depend on
nothing but the tile, so neither blocks nor threads change a bit. Filters (of the transformation of x: channels) are the lanes.

The price is rounding: the transformations subtract numbers larger than the result, see the budget in `tests/test_winograd.py`. A pixel that is
infinite spoils its whole tile.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", F(4 x 4, 3 x 3) at the points 0, 1, -1, 2, -2, infinity.
"""

from __future__ import annotations

import numpy as np

from ..contract import WINOGRAD_CHANNELS, WINOGRAD_PLACES
from .convolution import NO_FLOOR, RELU_FLOOR, from_offsets, run_tile, tile_rows, to_offsets
from .isa import LANES
from .registry import kernel
from .simd import inline, load, load_n, offset, reduce_add, splat, stack_array, store, store_n, where
from .window_tile import WINDOW_ROWS

_F = np.float32
TILES = 12  # of a block: a multiple of the register tile's rows with 16 lanes
STRIP = 2 * LANES  # filters that are transformed back together: the block's sums stay near L1
assert max(WINDOW_ROWS.values()) <= TILES

transformed = stack_array(WINOGRAD_PLACES * TILES * WINOGRAD_CHANNELS)  # 221 KB
products = stack_array(WINOGRAD_PLACES * TILES * STRIP)
half_way = stack_array(WINOGRAD_PLACES * LANES)
nothing = stack_array(STRIP)


@inline
def _of_pixels(d0, d1, d2, d3, d4, d5):
    """B^T d."""
    two, four, five = splat(_F(2)), splat(_F(4)), splat(_F(5))
    p, q, r, s = d4 - four * d2, d3 - four * d1, d4 - d2, two * (d3 - d1)
    return four * d0 - five * d2 + d4, p + q, p - q, r + s, r - s, four * d1 - five * d3 + d5


@inline
def _of_products(m0, m1, m2, m3, m4, m5):
    """A^T m."""
    p, q, r, s = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + p + r, q + splat(_F(2)) * s, p + splat(_F(4)) * r, q + splat(_F(8)) * s + m5


@inline
def _of_weights(w0, w1, w2):
    """G w."""
    sixth = splat(_F(1 / 6))
    e, f = (w0 + w2) * sixth, w1 * sixth
    h, k = w0 * splat(_F(1 / 24)) + w2 * sixth, w1 * splat(_F(1 / 12))
    return w0 * splat(_F(1 / 4)), splat(_F(0)) - e - f, f - e, h + k, h - k, w2


@inline
def _store_six(p, at, step, values, n):
    store_n(p, at, values[0], n)
    store_n(p, at + step, values[1], n)
    store_n(p, at + 2 * step, values[2], n)
    store_n(p, at + 3 * step, values[3], n)
    store_n(p, at + 4 * step, values[4], n)
    store_n(p, at + 5 * step, values[5], n)


@inline
def _transform_tile(v, x, half, H, W, C, top, left):
    """The tile whose first pixel is (top, left), to v: place after place, TILES * C apart."""
    for c in range(0, C, LANES):
        n = C - c
        for j in range(6):
            across = left + j
            inside = n if 0 <= across < W else np.int64(0)
            at = (top * W + across) * C + c
            values = _of_pixels(
                load_n(x, at, inside if 0 <= top < H else 0),
                load_n(x, at + W * C, inside if 0 <= top + 1 < H else 0),
                load_n(x, at + 2 * W * C, inside if 0 <= top + 2 < H else 0),
                load_n(x, at + 3 * W * C, inside if 0 <= top + 3 < H else 0),
                load_n(x, at + 4 * W * C, inside if 0 <= top + 4 < H else 0),
                load_n(x, at + 5 * W * C, inside if 0 <= top + 5 < H else 0),
            )
            _store_six(half, j * LANES, 6 * LANES, values, LANES)
        for i in range(6):
            row = i * 6 * LANES
            values = _of_pixels(
                load(half, row),
                load(half, row + LANES),
                load(half, row + 2 * LANES),
                load(half, row + 3 * LANES),
                load(half, row + 4 * LANES),
                load(half, row + 5 * LANES),
            )
            _store_six(v, i * 6 * TILES * C + c, TILES * C, values, n)


@inline
def _transform_back(y, m, half, b, OH, OW, O, top, left, n, floor):
    """4 x 4 pixels of one vector of filters from the products m: place after place, TILES * STRIP apart."""
    step = TILES * STRIP
    for j in range(6):
        at = j * step
        values = _of_products(
            load(m, at),
            load(m, at + 6 * step),
            load(m, at + 12 * step),
            load(m, at + 18 * step),
            load(m, at + 24 * step),
            load(m, at + 30 * step),
        )
        store(half, j * LANES, values[0])
        store(half, (6 + j) * LANES, values[1])
        store(half, (12 + j) * LANES, values[2])
        store(half, (18 + j) * LANES, values[3])
    bias, least = load_n(b, 0, n), splat(floor)
    for i in range(min(4, OH - top)):
        row = i * 6 * LANES
        values = _of_products(
            load(half, row),
            load(half, row + LANES),
            load(half, row + 2 * LANES),
            load(half, row + 3 * LANES),
            load(half, row + 4 * LANES),
            load(half, row + 5 * LANES),
        )
        at = ((top + i) * OW + left) * O
        a0, a1, a2, a3 = values[0] + bias, values[1] + bias, values[2] + bias, values[3] + bias
        store_n(y, at, where(a0 < least, least, a0), n)
        store_n(y, at + O, where(a1 < least, least, a1), n if left + 1 < OW else 0)
        store_n(y, at + 2 * O, where(a2 < least, least, a2), n if left + 2 < OW else 0)
        store_n(y, at + 3 * O, where(a3 < least, least, a3), n if left + 3 < OW else 0)


@inline
def _multiply(m, v, u, fro, to, C, ld_u, zeros, count, columns):
    """Multiply, m = v u, at each of the places, `columns` filters of a strip."""
    rows = tile_rows(columns)
    for place in range(WINOGRAD_PLACES):
        up = offset(u, place * C * ld_u)
        for first in range(0, count, rows):
            vp = offset(v, (place * TILES + first) * C)
            mp = offset(m, (place * TILES + first) * STRIP)
            run_tile(vp, fro, 1, 0, 1, C, up, ld_u, zeros, 0, mp, to, NO_FLOOR, min(rows, count - first), columns)


@inline
def _convolve(y, x, u, b, height, width, channels, B, O, ld_y, ld_x, ld_u, floor):
    H, W, C = np.int64(height), np.int64(width), np.int64(channels)
    OH, OW = H - 2, W - 2
    across = (OW + 3) // 4
    tiles = (OH + 3) // 4 * across
    total = B * tiles
    v, m, half, zeros, fro, to = transformed(), products(), half_way(), nothing(), from_offsets(), to_offsets()
    for i in range(0, STRIP, LANES):
        store(zeros, i, splat(_F(0)))
    for start in range(0, total, TILES):
        count = min(TILES, total - start)
        for k in range(count):
            image, tile = divmod(start + k, tiles)
            row, column = divmod(tile, across)
            _transform_tile(offset(v, k * C), offset(x, image * ld_x), half, H, W, C, 4 * row, 4 * column)
        for j in range(0, O, STRIP):
            columns = min(STRIP, O - j)
            rows = tile_rows(columns)
            for r in range(rows):  # those beyond the last tile of a block repeat the first one
                fro[r], to[r] = r % count * C, r % count * STRIP
            _multiply(m, v, offset(u, j), fro, to, C, ld_u, zeros, count, columns)
            for k in range(count):
                image, tile = divmod(start + k, tiles)
                row, column = divmod(tile, across)
                for o in range(0, columns, LANES):
                    yi = offset(y, image * ld_y + j + o)
                    mk = offset(m, k * STRIP + o)
                    _transform_back(yi, mk, half, offset(b, j + o), OH, OW, O, 4 * row, 4 * column, columns - o, floor)


@kernel
def conv2d_winograd(y, x, u, b, height, width, channels, B, Y, X, V, O, ld_y, ld_x, ld_u):
    _convolve(y, x, u, b, height, width, channels, B, O, ld_y, ld_x, ld_u, NO_FLOOR)


@kernel
def conv2d_winograd_relu(y, x, u, b, height, width, channels, B, Y, X, V, O, ld_y, ld_x, ld_u):
    _convolve(y, x, u, b, height, width, channels, B, O, ld_y, ld_x, ld_u, RELU_FLOOR)


@inline
def _transform_filters(u, w, first, tap, step, channels, filters, ld_u):
    """Pixel (i, j) of channel c and filter o stands in w at `first + (3 i + j) tap + c step + o`."""
    half = half_way()
    for c in range(channels):
        for o in range(0, filters, LANES):
            n = filters - o
            for j in range(3):
                at = first + j * tap + c * step + o
                values = _of_weights(load_n(w, at, n), load_n(w, at + 3 * tap, n), load_n(w, at + 6 * tap, n))
                _store_six(half, j * LANES, 3 * LANES, values, LANES)
            for i in range(6):
                row = i * 3 * LANES
                values = _of_weights(load(half, row), load(half, row + LANES), load(half, row + 2 * LANES))
                _store_six(u, (i * 6 * channels + c) * ld_u + o, channels * ld_u, values, n)


@kernel
def winograd_filters(u, w, V, O, K, ld_u, ld_w):
    C = K // 9
    _transform_filters(u, w, 0, C * ld_w, ld_w, C, O, ld_u)


@kernel
def winograd_filters_turned(u, wt, V, C, O, K, ld_u, ld_wt):
    _transform_filters(u, wt, 8 * C, -C, ld_wt, O, C, ld_u)


@inline
def _is_equal(a, b, rows, columns, ld_a, ld_b):
    zero, one = splat(_F(0)), splat(_F(1))
    for r in range(rows):
        same = one
        for j in range(0, columns, LANES):
            n = columns - j
            same = where(load_n(a, r * ld_a + j, n) == load_n(b, r * ld_b + j, n), same, zero)
        if reduce_add(same) < LANES:
            return False
    return True


@kernel
def winograd_filters_kept(u, seen, w, V, O, K, ld_u, ld_seen, ld_w):
    if not _is_equal(seen, w, K, O, ld_seen, ld_w):
        C = K // 9
        _transform_filters(u, w, 0, C * ld_w, ld_w, C, O, ld_u)
        for k in range(K):
            for o in range(0, O, LANES):
                store_n(seen, k * ld_seen + o, load_n(w, k * ld_w + o, O - o), O - o)
