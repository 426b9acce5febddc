"""Convolutions whose output goes through max pooling: gradients from those of the pooled images, and with one channel both in one pass.

Of each pooling window one pixel sends a gradient on, and `argmax` says which: for windows of 2 x 2 pixels three quarters of the gradient between the
two layers are zeros, and here they are neither written nor multiplied. Layout as in `convolution.py`; the lanes are values of a filter's window,
kernel_width * C neighbours, and the filter gradient is made filter by filter, so it is that of the transposed weights.

What was chosen differs from filter to filter. So the filter gradient takes a filter and walks over the pooled pixels, each with its own window of x;
the input gradient takes a pooled pixel and, for each place of its window, the filters that chose it and whose gradient is not 0.

The convolution of images of one channel takes pixels as lanes instead (`grey_tile.py`), and so does its filter gradient (`grey_gradient.py`).
"""

from __future__ import annotations

import numpy as np

from .grey_gradient import TAPS, add_grey_gradient
from .grey_tile import GREY_FILTERS, grey_tile
from .isa import LANES
from .pooled_tile import POOLED_ROWS, POOLED_VECTORS, gather_tile, send_tile
from .registry import kernel
from .simd import fill_zeros, inline, load_bytes_n, load_n, mask_bits, offset, splat, stack_array

_F = np.float32
STRIP = POOLED_VECTORS * LANES
MOST_PLACES = 256  # in a pooling window: argmax is a byte
FILTERS = 64  # whose choices are the bits of one word
# Pooled rows are taken in bands whose part of x is at most so many floats, half of the smallest L1: every filter reads it again.
BAND = 6144

places_of = stack_array(MOST_PLACES, "int64")
_gather_tiles = [gather_tile(POOLED_ROWS[v], v) for v in range(1, POOLED_VECTORS + 1)]
_send_tiles = [send_tile(POOLED_ROWS[v], v) for v in range(1, POOLED_VECTORS + 1)]
gather_1, gather_2, gather_3, gather_4, gather_5, gather_6 = (_gather_tiles * 2)[
    :6
]  # machines with few registers have four
send_1, send_2, send_3, send_4, send_5, send_6 = (_send_tiles * 2)[:6]
ROWS_1, ROWS_2, ROWS_3, ROWS_4, ROWS_5, ROWS_6 = ([POOLED_ROWS[v] for v in range(1, POOLED_VECTORS + 1)] * 2)[:6]


@inline
def _rows_of(columns):
    """Height of the tile that is `columns` wide."""
    if columns <= LANES:
        return ROWS_1
    if columns <= 2 * LANES:
        return ROWS_2
    if columns <= 3 * LANES:
        return ROWS_3
    if columns <= 4 * LANES:
        return ROWS_4
    if columns <= 5 * LANES:
        return ROWS_5
    return ROWS_6


@inline
def _gather_tile(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns):
    if columns <= LANES:
        gather_1(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns)
    elif columns <= 2 * LANES:
        gather_2(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns - LANES)
    elif columns <= 3 * LANES:
        gather_3(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns - 2 * LANES)
    elif columns <= 4 * LANES:
        gather_4(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns - 3 * LANES)
    elif columns <= 5 * LANES:
        gather_5(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns - 4 * LANES)
    else:
        gather_6(to, run, x, x_row, x_step, x_run, places, argmax, d, step, runs, length, count, columns - 5 * LANES)


@inline
def _send_tile(to, to_row, wt, run, ld_wt, d, filters, count, columns):
    if columns <= LANES:
        send_1(to, to_row, wt, run, ld_wt, d, filters, count, columns)
    elif columns <= 2 * LANES:
        send_2(to, to_row, wt, run, ld_wt, d, filters, count, columns - LANES)
    elif columns <= 3 * LANES:
        send_3(to, to_row, wt, run, ld_wt, d, filters, count, columns - 2 * LANES)
    elif columns <= 4 * LANES:
        send_4(to, to_row, wt, run, ld_wt, d, filters, count, columns - 3 * LANES)
    elif columns <= 5 * LANES:
        send_5(to, to_row, wt, run, ld_wt, d, filters, count, columns - 4 * LANES)
    else:
        send_6(to, to_row, wt, run, ld_wt, d, filters, count, columns - 5 * LANES)


@inline
def _find_places(places, pool_height, pool_width, step, row):
    """Where the windows of the pixels of a pooling window begin in x, from the first one's on."""
    for i in range(pool_height):
        for j in range(pool_width):
            places[i * pool_width + j] = i * row + j * step


@inline
def _add_filter_gradient(
    dwt,
    x,
    dy,
    argmax,
    height,
    width,
    channels,
    kernel_height,
    kernel_width,
    stride,
    pool_height,
    pool_width,
    pool_stride,
    O,
    B,
    ld_dwt,
    ld_x,
    ld_dy,
    ld_argmax,
):
    row, C, KH, KW, S = (
        np.int64(width) * np.int64(channels),
        np.int64(channels),
        np.int64(kernel_height),
        np.int64(kernel_width),
        np.int64(stride),
    )
    PH, PW, PS = np.int64(pool_height), np.int64(pool_width), np.int64(pool_stride)
    OH = ((np.int64(height) - KH) // S + 1 - PH) // PS + 1
    OW = ((np.int64(width) - KW) // S + 1 - PW) // PS + 1
    run = KW * C
    if C == 1 and S == 1 and PH == 2 and PW == 2 and PS == 2 and KH <= TAPS and KW <= TAPS:
        add_grey_gradient(dwt, x, dy, argmax, row, KH, KW, OH, OW, O, B, ld_dwt, ld_x, ld_dy, ld_argmax)
        return
    places = places_of()
    _find_places(places, PH, PW, S * C, S * row)
    band = max(BAND // (PS * S * row), 1)
    for image in range(B):
        for first in range(0, OH, band):
            pixel = first * OW * O
            xb = offset(x, image * ld_x + first * PS * S * row)
            db, ab = offset(dy, image * ld_dy + pixel), offset(argmax, image * ld_argmax + pixel)
            for o in range(O):
                for c in range(0, run, STRIP):
                    columns = min(STRIP, run - c)
                    rows = _rows_of(columns)
                    for i in range(0, KH, rows):
                        _gather_tile(
                            offset(dwt, o * ld_dwt + i * run + c),
                            run,
                            offset(xb, i * row + c),
                            row,
                            PS * S * C,
                            PS * S * row,
                            places,
                            offset(ab, o),
                            offset(db, o),
                            O,
                            min(band, OH - first),
                            OW,
                            min(rows, KH - i),
                            columns,
                        )


@kernel
def conv2d_pooled_dwt(
    dwt,
    x,
    dy,
    argmax,
    height,
    width,
    channels,
    kernel_height,
    kernel_width,
    stride,
    pool_height,
    pool_width,
    pool_stride,
    O,
    K,
    B,
    X,
    Y,
    ld_dwt,
    ld_x,
    ld_dy,
    ld_argmax,
):
    for o in range(O):
        fill_zeros(offset(dwt, o * ld_dwt), K)
    _add_filter_gradient(
        dwt,
        x,
        dy,
        argmax,
        height,
        width,
        channels,
        kernel_height,
        kernel_width,
        stride,
        pool_height,
        pool_width,
        pool_stride,
        O,
        B,
        ld_dwt,
        ld_x,
        ld_dy,
        ld_argmax,
    )


@kernel
def conv2d_pooled_dwt_add(
    dwt,
    x,
    dy,
    argmax,
    height,
    width,
    channels,
    kernel_height,
    kernel_width,
    stride,
    pool_height,
    pool_width,
    pool_stride,
    O,
    K,
    B,
    X,
    Y,
    ld_dwt,
    ld_x,
    ld_dy,
    ld_argmax,
):
    _add_filter_gradient(
        dwt,
        x,
        dy,
        argmax,
        height,
        width,
        channels,
        kernel_height,
        kernel_width,
        stride,
        pool_height,
        pool_width,
        pool_stride,
        O,
        B,
        ld_dwt,
        ld_x,
        ld_dy,
        ld_argmax,
    )


@inline
def _senders(dy, argmax, place, n):
    """Bits of the first n filters that chose this place and have a gradient."""
    bits = np.int64(0)
    for j in range(0, n, LANES):
        d = load_n(dy, j, n - j)
        chose = load_bytes_n(argmax, j, n - j) == splat(_F(place))
        bits |= (mask_bits(chose) & ~mask_bits(d == splat(_F(0)))) << j
    return bits


@inline
def _send(to, to_row, wt, run, ld_wt, d, filters, KH):
    """Add filters, each times its gradient, to a window."""
    for c in range(0, run, STRIP):
        columns = min(STRIP, run - c)
        rows = _rows_of(columns)
        for i in range(0, KH, rows):
            to_i, wt_i = offset(to, i * to_row + c), offset(wt, i * run + c)
            _send_tile(to_i, to_row, wt_i, run, ld_wt, d, filters, min(rows, KH - i), columns)


@kernel
def conv2d_pooled_dx(
    dx,
    dy,
    argmax,
    wt,
    height,
    width,
    channels,
    kernel_height,
    kernel_width,
    stride,
    pool_height,
    pool_width,
    pool_stride,
    B,
    X,
    Y,
    O,
    K,
    ld_dx,
    ld_dy,
    ld_argmax,
    ld_wt,
):
    row, C, KH, KW, S = (
        np.int64(width) * np.int64(channels),
        np.int64(channels),
        np.int64(kernel_height),
        np.int64(kernel_width),
        np.int64(stride),
    )
    PH, PW, PS = np.int64(pool_height), np.int64(pool_width), np.int64(pool_stride)
    OH = ((np.int64(height) - KH) // S + 1 - PH) // PS + 1
    OW = ((np.int64(width) - KW) // S + 1 - PW) // PS + 1
    run = KW * C
    places = places_of()
    _find_places(places, PH, PW, S * C, S * row)
    for image in range(B):
        dxi = offset(dx, image * ld_dx)
        fill_zeros(dxi, X)
        for o in range(0, O, FILTERS):
            n = min(FILTERS, O - o)
            for oy in range(OH):
                for ox in range(OW):
                    pixel = (oy * OW + ox) * O + o
                    d, chosen = offset(dy, image * ld_dy + pixel), offset(argmax, image * ld_argmax + pixel)
                    window = offset(dxi, (oy * row + ox * C) * PS * S)
                    for place in range(PH * PW):
                        filters = _senders(d, chosen, place, n)
                        if filters != 0:
                            _send(offset(window, places[place]), row, offset(wt, o * ld_wt), run, ld_wt, d, filters, KH)


@kernel
def conv2d_grey_pooled(
    y, argmax, x, w, b, height, width, kernel_height, kernel_width, B, Y, X, K, O, ld_y, ld_argmax, ld_x, ld_w
):
    W, KH, KW = np.int64(width), np.int64(kernel_height), np.int64(kernel_width)
    OH, OW = (np.int64(height) - KH + 1) // 2, (W - KW + 1) // 2
    for image in range(B):
        for o in range(0, O, GREY_FILTERS):
            for oy in range(OH):
                for ox in range(0, OW, LANES):
                    at, xi = (oy * OW + ox) * O + o, offset(x, image * ld_x + 2 * (oy * W + ox))
                    yi, chosen = offset(y, image * ld_y + at), offset(argmax, image * ld_argmax + at)
                    filters, pixels = min(GREY_FILTERS, O - o), min(LANES, OW - ox)
                    grey_tile(yi, chosen, O, xi, W, offset(w, o), ld_w, offset(b, o), KH, KW, filters, pixels)
