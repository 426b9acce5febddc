"""Pooling of images: largest and mean value of windows, and their gradients. Layout as in `convolution.py`; channels are the lanes.

Where windows do not overlap each pixel gets its gradient from one of them and is written once; else what several send is added up.
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .registry import kernel
from .simd import fill_zeros, load_bytes_n, load_n, offset, splat, store_bytes_n, store_n, where

_F = np.float32


@kernel
def max_pool(y, argmax, x, height, width, channels, pool_height, pool_width, stride, B, Y, X, ld_y, ld_argmax, ld_x):
    W, C, PH, PW, S = np.int64(width), np.int64(channels), np.int64(pool_height), np.int64(pool_width), np.int64(stride)
    OH, OW = (np.int64(height) - PH) // S + 1, (W - PW) // S + 1
    for image in range(B):
        for oy in range(OH):
            for ox in range(OW):
                xi = offset(x, image * ld_x + (oy * W + ox) * S * C)
                to = (oy * OW + ox) * C
                for c in range(0, C, LANES):
                    n = C - c
                    best, at = load_n(xi, c, n), splat(_F(0))
                    number = _F(0)
                    for i in range(PH):
                        for j in range(PW):
                            v = load_n(xi, (i * W + j) * C + c, n)
                            larger = v > best
                            # A NaN is larger than nothing, but stays.
                            best = where(v == v, where(larger, v, best), v)
                            at = where(larger, splat(number), at)
                            number += _F(1)
                    store_n(y, image * ld_y + to + c, best, n)
                    store_bytes_n(argmax, image * ld_argmax + to + c, at, n)


@kernel
def max_pool_dx(
    dx, dy, argmax, height, width, channels, pool_height, pool_width, stride, B, X, Y, ld_dx, ld_dy, ld_argmax
):
    H, W, C = np.int64(height), np.int64(width), np.int64(channels)
    PH, PW, S = np.int64(pool_height), np.int64(pool_width), np.int64(stride)
    OH, OW = (H - PH) // S + 1, (W - PW) // S + 1
    covers = S == PH and S == PW and OH * S == H and OW * S == W
    overlaps = S < PH or S < PW
    for image in range(B):
        dxi = offset(dx, image * ld_dx)
        if not covers:
            fill_zeros(dxi, X)
        for oy in range(OH):
            for ox in range(OW):
                to = (oy * W + ox) * S * C
                at = (oy * OW + ox) * C
                for c in range(0, C, LANES):
                    n = C - c
                    d = load_n(dy, image * ld_dy + at + c, n)
                    chosen = load_bytes_n(argmax, image * ld_argmax + at + c, n)
                    number = _F(0)
                    for i in range(PH):
                        for j in range(PW):
                            p = to + (i * W + j) * C + c
                            sent = where(chosen == splat(number), d, splat(_F(0)))
                            if overlaps:
                                sent = sent + load_n(dxi, p, n)
                            store_n(dxi, p, sent, n)
                            number += _F(1)


@kernel
def avg_pool(y, x, height, width, channels, pool_height, pool_width, stride, B, Y, X, ld_y, ld_x):
    W, C, PH, PW, S = np.int64(width), np.int64(channels), np.int64(pool_height), np.int64(pool_width), np.int64(stride)
    OH, OW = (np.int64(height) - PH) // S + 1, (W - PW) // S + 1
    share = splat(_F(1) / _F(PH * PW))
    for image in range(B):
        for oy in range(OH):
            for ox in range(OW):
                xi = offset(x, image * ld_x + (oy * W + ox) * S * C)
                to = (oy * OW + ox) * C
                for c in range(0, C, LANES):
                    total = splat(_F(0))
                    for i in range(PH):
                        for j in range(PW):
                            total = total + load_n(xi, (i * W + j) * C + c, C - c)
                    store_n(y, image * ld_y + to + c, total * share, C - c)


@kernel
def avg_pool_dx(dx, dy, height, width, channels, pool_height, pool_width, stride, B, X, Y, ld_dx, ld_dy):
    W, C, PH, PW, S = np.int64(width), np.int64(channels), np.int64(pool_height), np.int64(pool_width), np.int64(stride)
    OH, OW = (np.int64(height) - PH) // S + 1, (W - PW) // S + 1
    share = splat(_F(1) / _F(PH * PW))
    for image in range(B):
        dxi = offset(dx, image * ld_dx)
        fill_zeros(dxi, X)
        for oy in range(OH):
            for ox in range(OW):
                to = (oy * W + ox) * S * C
                at = image * ld_dy + (oy * OW + ox) * C
                for c in range(0, C, LANES):
                    n = C - c
                    sent = load_n(dy, at + c, n) * share
                    for i in range(PH):
                        for j in range(PW):
                            p = to + (i * W + j) * C + c
                            store_n(dxi, p, load_n(dxi, p, n) + sent, n)
