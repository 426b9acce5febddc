"""Rows of a batch: reading them in the epoch's order, writing results back, and dropout. B batch, I inputs, O outputs."""

from __future__ import annotations

import math

import numpy as np

from .registry import kernel
from .simd import inline, offset

_F = np.float32


@kernel
def advance(cursor, rows):
    cursor[0] += np.int64(rows)
    cursor[1] += 1


@kernel
def gather_rows(x, source, order, cursor, scale, B, I, N, M, ld_x, ld_source):
    factor = _F(scale)
    for r in range(B):
        row, to = offset(source, order[cursor[0] + r] * ld_source), offset(x, r * ld_x)
        for k in range(I):
            to[k] = factor * _F(row[k])


@kernel
def scatter_rows(target, p, cursor, M, C, B, ld_target, ld_p):
    for r in range(B):
        to, row = offset(target, (cursor[0] + r) * ld_target), offset(p, r * ld_p)
        for c in range(C):
            to[c] = row[c]


_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@inline
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al. 2011): four random words from a counter and a key, all uint64 below 2^32."""
    for _ in range(10):
        product_0, product_1 = _MULTIPLY_0 * c0, _MULTIPLY_1 * c2
        c0, c1, c2, c3 = (product_1 >> _32) ^ c1 ^ k0, product_1 & _LOW, (product_0 >> _32) ^ c3 ^ k1, product_0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@kernel
def dropout(y, mask, x, key, cursor, rate, layer, row_offset, column_offset, B, O, ld_y, ld_mask, ld_x):
    threshold = np.uint64(math.ceil(rate * 4294967296.0))  # word < rate * 2^32, for whole words
    keep = _F(1.0 / (1.0 - rate))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    first = np.int64(column_offset)
    for r in range(B):
        position = np.uint64(cursor[0] + np.int64(row_offset) + r) & _LOW
        yr, mr, xr = offset(y, r * ld_y), offset(mask, r * ld_mask), offset(x, r * ld_x)
        for quad in range(first // 4, (first + O + 3) // 4):
            words = philox4x32(np.uint64(quad), position, np.uint64(layer), np.uint64(0), k0, k1)
            for lane in range(4):
                c = quad * 4 + lane - first
                if 0 <= c < O:
                    value = _F(0) if words[lane] < threshold else keep
                    mr[c] = value
                    yr[c] = xr[c] * value
