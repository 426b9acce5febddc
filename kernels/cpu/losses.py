"""Logits to loss and gradient in one pass. B batch, C classes.

Rows are the lanes: logits are turned, a square of LANES rows and classes at a time, so that maxima and sums over the classes go from vector to
vector, and no lane is empty but those behind the last row. Where probabilities alone are wanted a row's classes are walked in vectors.
"""

from __future__ import annotations

import math

import numpy as np

from .isa import LANES
from .mathematics import exp, log, log1p, sigmoid_of
from .registry import kernel
from .simd import (
    absolute,
    add_products,
    fill_zeros,
    first_lanes,
    first_true,
    inline,
    load,
    load_n,
    offset,
    reduce_add,
    reduce_max,
    splat,
    stack_array,
    store,
    store_bytes_n,
    store_n,
    transpose_lanes,
    where,
)

_F = np.float32
square, lane_values = stack_array(LANES * LANES), stack_array(LANES)

# Sums that are made in turn: an addition to a sum in memory waits some 12 cycles for the one before. A power of two.
BANKS = 4
banks = stack_array(BANKS * LANES, "float64")


@inline
def _row_maximum(z, C):
    """The largest of C values and its first index; NaN if there is one."""
    best, at = z[0], np.int64(0)
    for j in range(0, C, LANES):
        v = where(first_lanes(C - j), load_n(z, j, C - j), splat(_F(-np.inf)))
        top = reduce_max(v)
        if top > best or j == 0:
            best, at = top, j + first_true(v == splat(top))
    return best, at


@inline
def _exponentials(p, z, C, top):
    """`p = exp(z - top)`, and its sum."""
    total = _F(0)
    for j in range(0, C, LANES):
        n = C - j
        e = where(first_lanes(n), exp(load_n(z, j, n) - splat(top)), splat(_F(0)))
        store_n(p, j, e, n)
        total += reduce_add(e)
    return total


@inline
def _read_rows(labels_of, weights, labels, sample_weight, order, at, n):
    """Label and weight of `n` rows from `at` on, a lane each; the last row stands for the lanes behind it."""
    for r in range(LANES):
        i = order[at + min(r, n - 1)]
        labels_of[r] = _F(labels[i])
        weights[r] = sample_weight[i]


@inline
def _turn_in(tile, rows, z, ld_z, n, j, width):
    """`tile[c LANES + r] = z[r, j + c]` for `width` classes c; the last of `n` rows stands for the lanes behind it."""
    if width == 1:  # a column: nothing to be turned
        for r in range(LANES):
            tile[r] = z[min(r, n - 1) * ld_z + j]
        return
    for r in range(LANES):
        store(rows, r * LANES, load_n(z, min(r, n - 1) * ld_z + j, width))
    transpose_lanes(tile, rows)


@inline
def _turn_out(dz, ld_dz, tile, rows, n, j, width):
    """`dz[r, j + c] = tile[c LANES + r]` for `n` rows and `width` classes."""
    if width == 1:
        for r in range(n):
            dz[r * ld_dz + j] = tile[r]
        return
    transpose_lanes(rows, tile)
    for r in range(n):
        store_n(dz, r * ld_dz + j, load(rows, r * LANES), width)


@inline
def _leading(tile, j, width, top, at):
    """The largest value of each lane so far and its class, the first of equals."""
    for c in range(width):
        v = load(tile, c * LANES)
        larger = v > top
        at = where(larger, splat(_F(j + c)), at)
        top = where(larger, v, top)
    return top, at


@kernel
def softmax_cross_entropy(
    dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing, B, C, M, N, S, ld_dz, ld_z
):
    smooth = _F(label_smoothing)
    share, rest = smooth / _F(C), _F(1) - smooth
    tile, rows, labels_of, weights = square(), square(), lane_values(), lane_values()
    nothing = splat(_F(0))
    for first in range(0, B, LANES):
        n, at = min(LANES, B - first), cursor[0] + first
        zp, dp = offset(z, first * ld_z), offset(dz, first * ld_dz)
        _read_rows(labels_of, weights, labels, sample_weight, order, at, n)
        label, factor = load(labels_of, 0), load(weights, 0) * splat(scale[cursor[1]])
        top, arg = splat(_F(-np.inf)), nothing
        for j in range(0, C, LANES):
            _turn_in(tile, rows, zp, ld_z, n, j, min(LANES, C - j))
            top, arg = _leading(tile, j, min(LANES, C - j), top, arg)
        total, own, shifted = nothing, nothing, nothing
        for j in range(0, C, LANES):
            if C > LANES:  # the tile holds other classes
                _turn_in(tile, rows, zp, ld_z, n, j, min(LANES, C - j))
            for c in range(min(LANES, C - j)):
                v = load(tile, c * LANES) - top
                own = where(label == splat(_F(j + c)), v, own)
                shifted = shifted + v
                e = exp(v)
                store(tile, c * LANES, e)
                total = total + e
        # The logarithm is one of numbers only; a label that names no output asks for the smoothing's share alone.
        logarithm = where(total == total, log(total), total)
        asked = where(label < splat(_F(C)), splat(_F(1)), splat(smooth))
        loss = where(label < nothing, splat(smooth), asked) * logarithm - splat(rest) * own
        if smooth > _F(0):
            loss = loss - splat(share) * shifted
        store_n(losses, at, loss, n)
        store_bytes_n(hits, at, where(arg == label, splat(_F(1)), nothing), n)
        inverse = splat(_F(1)) / total
        for j in range(0, C, LANES):
            width = min(LANES, C - j)
            if C > LANES:
                _turn_in(tile, rows, zp, ld_z, n, j, width)
                for c in range(width):
                    store(tile, c * LANES, exp(load(tile, c * LANES) - top))
            for c in range(width):
                t = where(label == splat(_F(j + c)), splat(rest + share), splat(share))
                store(tile, c * LANES, factor * (load(tile, c * LANES) * inverse - t))
            _turn_out(dp, ld_dz, tile, rows, n, j, width)


@kernel
def softmax_twice_cross_entropy(
    dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, M, N, S, ld_dz, ld_z
):
    for r in range(B):
        at = cursor[0] + r
        i = order[at]
        label = np.int64(labels[i])
        zp, dp = offset(z, r * ld_z), offset(dz, r * ld_dz)
        top, arg = _row_maximum(zp, C)
        first = np.float64(_exponentials(dp, zp, C, top))
        # g - sum g p cancels where one p is almost 1: summed in float64, of e in float32, no digit of it is lost.
        second = np.float64(0)
        for c in range(C):
            second += math.exp(np.float64(dp[c]) / first)
        mean = np.float64(0)
        for c in range(C):
            p = np.float64(dp[c]) / first
            mean += p * (math.exp(p) / second - np.float64(c == label))
        loss = np.float64(0)
        if 0 <= label < C:
            loss = math.log(second) - np.float64(dp[label]) / first
        losses[at] = _F(loss)
        hits[at] = np.uint8(arg == label)
        factor = np.float64(sample_weight[i] * scale[cursor[1]])
        for c in range(C):
            p = np.float64(dp[c]) / first
            g = math.exp(p) / second - np.float64(c == label)
            dp[c] = _F(factor * p * (g - mean))


@inline
def _one_vs_rest(tile, losses, j, width, label, factor):
    """Logits of `width` classes from j on, in a tile, become their gradient; their losses are written beside it."""
    for c in range(width):
        v = load(tile, c * LANES)
        t = where(label == splat(_F(j + c)), splat(_F(1)), splat(_F(0)))
        positive = where(v < splat(_F(0)), splat(_F(0)), v)
        e = exp(splat(_F(0)) - absolute(v))
        store(losses, c * LANES, positive - v * t + log1p(e))
        store(tile, c * LANES, factor * (sigmoid_of(v, e) - t))


@inline
def _one_vs_rest_hits(top, arg, label, C):
    """1 where the largest logit is the label's, else 0; a single logit is that of label 0."""
    yes, no = splat(_F(1)), splat(_F(0))
    if C == 1:
        return where(where(top > no, yes, no) == where(label == no, yes, no), yes, no)
    return where(arg == label, yes, no)


@inline
def _lost(a, b):
    """What rounding takes from a + b, exactly (Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    of_b = total - a
    return (a - (total - of_b)) + (b - of_b)


@kernel
def binary_cross_entropy(dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, M, N, S, ld_dz, ld_z):
    tile, rows, loss, labels_of, weights = square(), square(), square(), lane_values(), lane_values()
    for first in range(0, B, LANES):
        n, at = min(LANES, B - first), cursor[0] + first
        zp, dp = offset(z, first * ld_z), offset(dz, first * ld_dz)
        _read_rows(labels_of, weights, labels, sample_weight, order, at, n)
        label, factor = load(labels_of, 0), load(weights, 0) * splat(scale[cursor[1]])
        top, arg, total, lost = splat(_F(-np.inf)), splat(_F(0)), splat(_F(0)), splat(_F(0))
        for j in range(0, C, LANES):
            width = min(LANES, C - j)
            _turn_in(tile, rows, zp, ld_z, n, j, width)
            top, arg = _leading(tile, j, width, top, arg)
            _one_vs_rest(tile, loss, j, width, label, factor)
            part = splat(_F(0))
            for c in range(width):
                part = part + load(loss, c * LANES)
            # Losses of many classes are alike, and so are the roundings of their sum: what an addition loses is summed beside it.
            lost = lost + _lost(total, part)
            total = total + part
            _turn_out(dp, ld_dz, tile, rows, n, j, width)
        store_n(losses, at, where(lost == lost, total + lost, total), n)  # of infinite sums nothing is known to be lost
        store_bytes_n(hits, at, _one_vs_rest_hits(top, arg, label, C), n)


@kernel
def binary_cross_entropy_by_class(
    dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, M, N, S, ld_dz, ld_losses, ld_z
):
    tile, rows, loss, labels_of, weights = square(), square(), square(), lane_values(), lane_values()
    for first in range(0, B, LANES):
        n, at = min(LANES, B - first), cursor[0] + first
        zp, dp, lp = offset(z, first * ld_z), offset(dz, first * ld_dz), offset(losses, at * ld_losses)
        _read_rows(labels_of, weights, labels, sample_weight, order, at, n)
        label, factor = load(labels_of, 0), load(weights, 0) * splat(scale[cursor[1]])
        top, arg = splat(_F(-np.inf)), splat(_F(0))
        for j in range(0, C, LANES):
            width = min(LANES, C - j)
            _turn_in(tile, rows, zp, ld_z, n, j, width)
            top, arg = _leading(tile, j, width, top, arg)
            _one_vs_rest(tile, loss, j, width, label, factor)
            _turn_out(dp, ld_dz, tile, rows, n, j, width)
            _turn_out(lp, ld_losses, loss, rows, n, j, width)
        store_bytes_n(hits, at, _one_vs_rest_hits(top, arg, label, C), n)


@kernel
def binary_cross_entropy_sums(
    dz, losses, z, labels, sample_weight, order, scale, cursor, B, C, S, N, M, ld_dz, ld_losses, ld_z
):
    tile, rows, loss, sums, labels_of, weights = square(), square(), square(), square(), lane_values(), lane_values()
    for j in range(0, C, LANES):
        width = min(LANES, C - j)
        fill_zeros(sums, LANES * LANES)
        for first in range(0, B, LANES):
            n, at = min(LANES, B - first), cursor[0] + first
            _read_rows(labels_of, weights, labels, sample_weight, order, at, n)
            label, weight = load(labels_of, 0), load(weights, 0)
            _turn_in(tile, rows, offset(z, first * ld_z), ld_z, n, j, width)
            _one_vs_rest(tile, loss, j, width, label, weight * splat(scale[cursor[1]]))
            for c in range(width):
                weighted = where(first_lanes(n), weight * load(loss, c * LANES), splat(_F(0)))
                store(sums, c * LANES, load(sums, c * LANES) + weighted)
            _turn_out(offset(dz, first * ld_dz), ld_dz, tile, rows, n, j, width)
        transpose_lanes(rows, sums)
        total = load(rows, 0)
        for r in range(1, LANES):
            total = total + load(rows, r * LANES)
        store_n(losses, cursor[1] * ld_losses + j, total, width)


@kernel
def softmax(p, z, B, C, ld_p, ld_z):
    for r in range(B):
        zp, pp = offset(z, r * ld_z), offset(p, r * ld_p)
        top, _ = _row_maximum(zp, C)
        inverse = _F(1) / _exponentials(pp, zp, C, top)
        for j in range(0, C, LANES):
            store_n(pp, j, load_n(pp, j, C - j) * splat(inverse), C - j)


@kernel
def weighted_sums(sums, losses, sample_weight, C, N, ld_losses):
    totals = banks()
    for j in range(0, C, LANES):
        width = min(LANES, C - j)
        for t in range(BANKS * LANES):
            totals[t] = 0.0
        for r in range(N):
            bank = offset(totals, (r & (BANKS - 1)) * LANES)
            add_products(bank, load_n(losses, r * ld_losses + j, width), sample_weight[r])
        for c in range(width):
            total = 0.0
            for t in range(BANKS):
                total += totals[t * LANES + c]
            sums[j + c] = total
