"""Logits to loss and gradient in one pass. B batch, C classes.

A row's classes are walked in vectors, the last one masked; ten classes are a single vector with 16 lanes.
"""

from __future__ import annotations

import math

import numpy as np

from .isa import LANES
from .mathematics import exp, log1p, sigmoid_of
from .registry import kernel
from .simd import (
    absolute,
    first_lanes,
    first_true,
    inline,
    load_n,
    offset,
    only_lane,
    prefetch,
    reduce_add,
    reduce_max,
    splat,
    store_n,
    where,
)

_F = np.float32


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
def _ask_for_rows(labels, sample_weight, order, cursor, B):
    """Labels and weights of a batch lie anywhere in memory: all are asked for at once, so that they are waited for once."""
    for r in range(B):
        i = order[cursor[0] + r]
        prefetch(labels, i)
        prefetch(sample_weight, i)


@kernel
def softmax_cross_entropy(
    dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing, B, C, M, N, S, ld_dz, ld_z
):
    smooth = _F(label_smoothing)
    share = smooth / _F(C)
    _ask_for_rows(labels, sample_weight, order, cursor, B)
    for r in range(B):
        at = cursor[0] + r
        i = order[at]
        label = np.int64(labels[i])
        zp, dp = offset(z, r * ld_z), offset(dz, r * ld_dz)
        top, arg = _row_maximum(zp, C)
        total = _exponentials(dp, zp, C, top)
        loss = math.log(np.float64(total))
        if 0 <= label < C:
            loss -= np.float64(_F(1) - smooth) * np.float64(zp[label] - top)
        else:  # it names no output
            loss *= np.float64(smooth)
        if smooth > _F(0):
            shifted = np.float64(0)
            for c in range(C):
                shifted += np.float64(zp[c] - top)
            loss -= np.float64(share) * shifted
        losses[at] = _F(loss)
        hits[at] = np.uint8(arg == label)
        factor = sample_weight[i] * scale[cursor[1]]
        inverse = _F(1) / total
        for j in range(0, C, LANES):
            n = C - j
            t = where(only_lane(label - j), splat(_F(1) - smooth + share), splat(share))
            store_n(dp, j, splat(factor) * (load_n(dp, j, n) * splat(inverse) - t), n)


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
def _one_vs_rest(dz, z, j, C, label, factor):
    """The gradient of the classes from j on, as many as a vector holds; returns their losses, 0 behind the last class."""
    n = C - j
    v = load_n(z, j, n)
    t = where(only_lane(label - j), splat(_F(1)), splat(_F(0)))
    positive = where(v < splat(_F(0)), splat(_F(0)), v)
    e = exp(splat(_F(0)) - absolute(v))
    loss = positive - v * t + log1p(e)
    store_n(dz, j, splat(factor) * (sigmoid_of(v, e) - t), n)
    return where(first_lanes(n), loss, splat(_F(0)))


@inline
def _one_vs_rest_hit(z, C, label):
    """Whether the largest logit is the label's; a single logit is that of label 0."""
    if C == 1:
        return np.uint8((z[0] > _F(0)) == (label == 0))
    return np.uint8(_row_maximum(z, C)[1] == label)


@kernel
def binary_cross_entropy(dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, M, N, S, ld_dz, ld_z):
    for r in range(B):
        at = cursor[0] + r
        i = order[at]
        label = np.int64(labels[i])
        zp, dp = offset(z, r * ld_z), offset(dz, r * ld_dz)
        factor = sample_weight[i] * scale[cursor[1]]
        total = np.float64(0)
        for j in range(0, C, LANES):
            total += np.float64(reduce_add(_one_vs_rest(dp, zp, j, C, label, factor)))
        losses[at] = _F(total)
        hits[at] = _one_vs_rest_hit(zp, C, label)


@kernel
def binary_cross_entropy_by_class(
    dz, losses, hits, z, labels, sample_weight, order, scale, cursor, B, C, M, N, S, ld_dz, ld_losses, ld_z
):
    for r in range(B):
        at = cursor[0] + r
        i = order[at]
        label = np.int64(labels[i])
        zp, dp, lp = offset(z, r * ld_z), offset(dz, r * ld_dz), offset(losses, at * ld_losses)
        factor = sample_weight[i] * scale[cursor[1]]
        for j in range(0, C, LANES):
            store_n(lp, j, _one_vs_rest(dp, zp, j, C, label, factor), C - j)
        hits[at] = _one_vs_rest_hit(zp, C, label)


@kernel
def softmax(p, z, B, C, ld_p, ld_z):
    for r in range(B):
        zp, pp = offset(z, r * ld_z), offset(p, r * ld_p)
        top, _ = _row_maximum(zp, C)
        inverse = _F(1) / _exponentials(pp, zp, C, top)
        for j in range(0, C, LANES):
            store_n(pp, j, load_n(pp, j, C - j) * splat(inverse), C - j)
