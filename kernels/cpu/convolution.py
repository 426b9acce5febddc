"""Convolutions without padding: forward, input gradient, weight gradient, bias gradient, all on the window tile.

B images, each a row: pixel by pixel, C channels side by side (X = H W C read, Y = OH OW O made). K = kernel_height kernel_width C, O filters.

Nothing is copied into matrices: the tile reads the image where it lies. Filters (of the input's gradient: channels) are the lanes of a vector, and

- forward: rows are output pixels, one after the other, on over rows and images; the sum runs over the window;
- dw: rows are weights (i, j, c) of a filter; the sum runs over an image's pixels, then the next image is added;
- dx: what an output pixel sends back to its window is a product with wt, added where it belongs. Either a row is an output pixel and the lanes are
  channels of one window position; or, with few channels, the lanes are a whole run of the window, kernel_width * C values, and the rows of the
  tile are output pixels below each other, whose runs do not overlap.

Every element's sum has one order, which depends on the shapes and on how a batch was cut into calls, never on threads.
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .registry import kernel
from .simd import apart, fill_zeros, inline, load_n, offset, splat, stack_array, store_n
from .tile import transpose_block
from .window_tile import MOST_ROWS, WINDOW_ROWS, WINDOW_STRIP, WINDOW_VECTORS, window_tile

_F = np.float32
NO_FLOOR, RELU_FLOOR = _F(-np.inf), _F(0)
from_offsets = stack_array(MOST_ROWS, "int64")
to_offsets = stack_array(MOST_ROWS, "int64")
transpose_lanes = transpose_block()

_tiles = [window_tile(WINDOW_ROWS[vectors], vectors) for vectors in range(1, WINDOW_VECTORS + 1)]
tile_1, tile_2, tile_3, tile_4 = (_tiles * 2)[:4]  # machines with few registers have two
ROWS_1, ROWS_2, ROWS_3, ROWS_4 = ([WINDOW_ROWS[v] for v in range(1, WINDOW_VECTORS + 1)] * 2)[:4]


@inline
def tile_rows(columns):
    """Height of the tile that is `columns` wide."""
    if columns <= LANES:
        return ROWS_1
    if columns <= 2 * LANES:
        return ROWS_2
    if columns <= 3 * LANES:
        return ROWS_3
    return ROWS_4


@apart
def run_tile(a, fro, a_step, a_run, runs, length, b, ld_b, init, f, c, to, floor, count, columns):
    if columns <= LANES:
        tile_1(a, fro, a_step, a_run, runs, length, b, ld_b, init, f, c, to, floor, count, columns)
    elif columns <= 2 * LANES:
        tile_2(a, fro, a_step, a_run, runs, length, b, ld_b, init, f, c, to, floor, count, columns - LANES)
    elif columns <= 3 * LANES:
        tile_3(a, fro, a_step, a_run, runs, length, b, ld_b, init, f, c, to, floor, count, columns - 2 * LANES)
    else:
        tile_4(a, fro, a_step, a_run, runs, length, b, ld_b, init, f, c, to, floor, count, columns - 3 * LANES)


@inline
def _forward(y, x, w, b, height, width, channels, kernel_height, kernel_width, stride, B, O, ld_y, ld_x, ld_w, floor):
    W, C, KH, KW, S = (
        np.int64(width),
        np.int64(channels),
        np.int64(kernel_height),
        np.int64(kernel_width),
        np.int64(stride),
    )
    OH, OW = (np.int64(height) - KH) // S + 1, (W - KW) // S + 1
    fro, to = from_offsets(), to_offsets()
    total = B * OH * OW
    next_column, next_row = S * C, S * W * C - (OW - 1) * S * C
    next_image = ld_x - (OH - 1) * S * W * C - (OW - 1) * S * C
    for j in range(0, O, WINDOW_STRIP):
        columns = min(WINDOW_STRIP, O - j)
        rows = tile_rows(columns)
        start, ox, oy, source, target = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        while start < total:
            count = min(rows, total - start)
            for r in range(count):
                fro[r], to[r] = source, target
                ox += 1
                if ox < OW:
                    source, target = source + next_column, target + O
                else:
                    ox = np.int64(0)
                    oy += 1
                    if oy < OH:
                        source, target = source + next_row, target + O
                    else:
                        oy = np.int64(0)
                        source, target = source + next_image, target + O + ld_y - OH * OW * O
            for r in range(count, rows):
                fro[r], to[r] = fro[0], to[0]
            yj, wj, bj = offset(y, j), offset(w, j), offset(b, j)
            # The bias is one row, so its offsets are 0: f = 0.
            run_tile(x, fro, 1, W * C, KH, KW * C, wj, ld_w, bj, 0, yj, to, floor, count, columns)
            start += count


@kernel
def conv2d(y, x, w, b, height, width, channels, kernel_height, kernel_width, stride, B, Y, X, K, O, ld_y, ld_x, ld_w):
    _forward(y, x, w, b, height, width, channels, kernel_height, kernel_width, stride, B, O, ld_y, ld_x, ld_w, NO_FLOOR)


@kernel
def conv2d_relu(
    y, x, w, b, height, width, channels, kernel_height, kernel_width, stride, B, Y, X, K, O, ld_y, ld_x, ld_w
):
    _forward(
        y, x, w, b, height, width, channels, kernel_height, kernel_width, stride, B, O, ld_y, ld_x, ld_w, RELU_FLOOR
    )


@inline
def _add_weight_gradient(
    dw, x, dy, height, width, channels, kernel_height, kernel_width, stride, K, O, B, ld_dw, ld_x, ld_dy
):
    W, C, KH, KW, S = (
        np.int64(width),
        np.int64(channels),
        np.int64(kernel_height),
        np.int64(kernel_width),
        np.int64(stride),
    )
    OH, OW = (np.int64(height) - KH) // S + 1, (W - KW) // S + 1
    run = KW * C
    fro, to = from_offsets(), to_offsets()
    for image in range(B):
        xi = offset(x, image * ld_x)
        for j in range(0, O, WINDOW_STRIP):
            columns = min(WINDOW_STRIP, O - j)
            rows = tile_rows(columns)
            dwj, dyj = offset(dw, j), offset(dy, image * ld_dy + j)
            for k in range(0, K, rows):
                count = min(rows, K - k)
                for r in range(rows):
                    i, rest = divmod(k + min(r, count - 1), run)
                    fro[r], to[r] = i * W * C + rest, (i * run + rest) * ld_dw
                run_tile(xi, fro, S * C, S * W * C, OH, OW, dyj, O, dwj, 1, dwj, to, NO_FLOOR, count, columns)


@kernel
def conv2d_dw(
    dw, x, dy, height, width, channels, kernel_height, kernel_width, stride, K, O, B, X, Y, ld_dw, ld_x, ld_dy
):
    for k in range(K):
        fill_zeros(offset(dw, k * ld_dw), O)
    _add_weight_gradient(
        dw, x, dy, height, width, channels, kernel_height, kernel_width, stride, K, O, B, ld_dw, ld_x, ld_dy
    )


@kernel
def conv2d_dw_add(
    dw, x, dy, height, width, channels, kernel_height, kernel_width, stride, K, O, B, X, Y, ld_dw, ld_x, ld_dy
):
    _add_weight_gradient(
        dw, x, dy, height, width, channels, kernel_height, kernel_width, stride, K, O, B, ld_dw, ld_x, ld_dy
    )


@inline
def _send_back_to_channels(dx, dy, wt, W, C, KH, KW, S, OH, OW, B, O, ld_dx, ld_dy, ld_wt):
    """Rows of the tile are output pixels, lanes the channels of one window position."""
    fro, to = from_offsets(), to_offsets()
    total = B * OH * OW
    for c in range(0, C, WINDOW_STRIP):
        columns = min(WINDOW_STRIP, C - c)
        rows = tile_rows(columns)
        for start in range(0, total, rows):
            count = min(rows, total - start)
            for r in range(rows):
                image, pixel = divmod(start + min(r, count - 1), OH * OW)
                oy, ox = divmod(pixel, OW)
                fro[r] = image * ld_dy + pixel * O
                to[r] = image * ld_dx + (oy * W + ox) * S * C
            for i in range(KH):
                for j in range(KW):
                    dxi, wti = offset(dx, (i * W + j) * C + c), offset(wt, (i * KW + j) * C + c)
                    run_tile(dy, fro, 1, 0, 1, O, wti, ld_wt, dxi, 1, dxi, to, NO_FLOOR, count, columns)


@inline
def _send_back_to_runs(dx, dy, wt, W, C, KH, KW, S, OH, OW, B, O, ld_dx, ld_dy, ld_wt):
    """Rows of the tile are output pixels below each other, lanes the values of a run of the window."""
    fro, to = from_offsets(), to_offsets()
    run = KW * C
    for image in range(B):
        for c in range(0, run, WINDOW_STRIP):
            columns = min(WINDOW_STRIP, run - c)
            rows = tile_rows(columns)
            for start in range(0, OH, rows):
                count = min(rows, OH - start)
                for r in range(rows):
                    oy = start + min(r, count - 1)
                    fro[r], to[r] = oy * OW * O, oy * S * W * C
                for ox in range(OW):
                    dyi = offset(dy, image * ld_dy + ox * O)
                    for i in range(KH):
                        dxi = offset(dx, image * ld_dx + (i * W + ox * S) * C + c)
                        run_tile(
                            dyi,
                            fro,
                            1,
                            0,
                            1,
                            O,
                            offset(wt, i * run + c),
                            ld_wt,
                            dxi,
                            1,
                            dxi,
                            to,
                            NO_FLOOR,
                            count,
                            columns,
                        )


@kernel
def conv2d_dx(
    dx, dy, wt, height, width, channels, kernel_height, kernel_width, stride, B, X, Y, O, K, ld_dx, ld_dy, ld_wt
):
    W, C, KH, KW, S = (
        np.int64(width),
        np.int64(channels),
        np.int64(kernel_height),
        np.int64(kernel_width),
        np.int64(stride),
    )
    OH, OW = (np.int64(height) - KH) // S + 1, (W - KW) // S + 1
    for image in range(B):
        fill_zeros(offset(dx, image * ld_dx), X)
    # Vectors a product takes, partly empty ones and rows of the tile beyond the image included.
    below = tile_rows(KW * C)
    by_run = (KW * C + LANES - 1) // LANES * ((OH + below - 1) // below * below)
    by_channel = (C + LANES - 1) // LANES * KW * OH
    if by_run < by_channel:
        _send_back_to_runs(dx, dy, wt, W, C, KH, KW, S, OH, OW, B, O, ld_dx, ld_dy, ld_wt)
    else:
        _send_back_to_channels(dx, dy, wt, W, C, KH, KW, S, OH, OW, B, O, ld_dx, ld_dy, ld_wt)


@inline
def _add_pixels(db, dy, B, Y, O, ld_dy, start):
    """`db = start db + sums`: four sums side by side, which hide the latency of an addition."""
    zero = splat(_F(0))
    for j in range(0, O, LANES):
        n = O - j
        s0, s1, s2, s3 = load_n(db, j, n * start), zero, zero, zero
        for image in range(B):
            at, end = image * ld_dy + j, image * ld_dy + Y
            while at + 3 * O < end:
                s0, s1 = s0 + load_n(dy, at, n), s1 + load_n(dy, at + O, n)
                s2, s3 = s2 + load_n(dy, at + 2 * O, n), s3 + load_n(dy, at + 3 * O, n)
                at += 4 * O
            while at < end:
                s0 = s0 + load_n(dy, at, n)
                at += O
        store_n(db, j, (s0 + s1) + (s2 + s3), n)


@kernel
def conv2d_db(db, dy, O, B, Y, ld_dy):
    _add_pixels(db, dy, B, Y, O, ld_dy, 0)


@kernel
def conv2d_db_add(db, dy, O, B, Y, ld_dy):
    _add_pixels(db, dy, B, Y, O, ld_dy, 1)


@kernel
def transpose(wt, w, O, K, ld_wt, ld_w):
    for k in range(0, K, LANES):
        for o in range(0, O, LANES):
            source, target = offset(w, k * ld_w + o), offset(wt, o * ld_wt + k)
            if K - k >= LANES and O - o >= LANES:
                transpose_lanes(source, ld_w, target, ld_wt)
            else:
                for p in range(min(LANES, K - k)):
                    for q in range(min(LANES, O - o)):
                        target[q * ld_wt + p] = source[p * ld_w + q]


@inline
def _copy(target, source, n):
    for i in range(0, n, LANES):
        store_n(target, i, load_n(source, i, n - i), n - i)


@kernel
def pad(y, x, height, width, channels, top, bottom, left, right, B, Y, X, ld_y, ld_x):
    H, row, C = np.int64(height), np.int64(width) * np.int64(channels), np.int64(channels)
    before, wide = np.int64(left) * C, row + (np.int64(left) + np.int64(right)) * C
    for image in range(B):
        yi, xi = offset(y, image * ld_y), offset(x, image * ld_x)
        fill_zeros(yi, np.int64(top) * wide)
        for h in range(H):
            to = offset(yi, (np.int64(top) + h) * wide)
            fill_zeros(to, before)
            _copy(offset(to, before), offset(xi, h * row), row)
            fill_zeros(offset(to, before + row), wide - before - row)
        fill_zeros(offset(yi, (np.int64(top) + H) * wide), np.int64(bottom) * wide)


@kernel
def crop(x, y, height, width, channels, top, bottom, left, right, B, X, Y, ld_x, ld_y):
    H, row, C = np.int64(height), np.int64(width) * np.int64(channels), np.int64(channels)
    wide = row + (np.int64(left) + np.int64(right)) * C
    for image in range(B):
        xi, yi = offset(x, image * ld_x), offset(y, image * ld_y)
        for h in range(H):
            _copy(offset(xi, h * row), offset(yi, (np.int64(top) + h) * wide + np.int64(left) * C), row)
