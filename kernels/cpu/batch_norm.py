"""Batch normalisation of images, each channel by itself. B images of Y = pixels x O values, O channels side by side; channels are the lanes.

Moments take two passes, mean first: one pass would cancel where the mean is large beside the deviation.
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .registry import kernel
from .simd import fma, inline, load_n, offset, splat, sqrt, store_n

_F = np.float32


@inline
def _inverse_deviation(moments, ld_moments, j, count, n, epsilon):
    variance = load_n(moments, ld_moments + j, count) / splat(_F(n))
    return splat(_F(1)) / sqrt(variance + splat(_F(epsilon)))


@kernel
def batch_moments(moments, x, O, B, Y, ld_moments, ld_x):
    for j in range(0, O, LANES):
        n = O - j
        total, other = splat(_F(0)), splat(_F(0))
        for image in range(B):
            at, end = image * ld_x + j, image * ld_x + Y
            while at + O < end:  # two sums side by side hide the latency of an addition
                total, other = total + load_n(x, at, n), other + load_n(x, at + O, n)
                at += 2 * O
            if at < end:
                total = total + load_n(x, at, n)
        mean = (total + other) / splat(_F(B * (Y // O)))
        total, other = splat(_F(0)), splat(_F(0))
        for image in range(B):
            at, end = image * ld_x + j, image * ld_x + Y
            while at + O < end:
                d, e = load_n(x, at, n) - mean, load_n(x, at + O, n) - mean
                total, other = fma(d, d, total), fma(e, e, other)
                at += 2 * O
            if at < end:
                d = load_n(x, at, n) - mean
                total = fma(d, d, total)
        store_n(moments, j, mean, n)
        store_n(moments, ld_moments + j, total + other, n)


@kernel
def merge_moments(total, part, n_total, n_part, O, ld_total, ld_part):
    share = _F(n_part / (n_total + n_part))
    for j in range(0, O, LANES):
        n = O - j
        mean = load_n(total, j, n)
        distance = load_n(part, j, n) - mean
        squares = load_n(total, ld_total + j, n) + load_n(part, ld_part + j, n)
        store_n(total, ld_total + j, squares + distance * distance * splat(share * _F(n_total)), n)
        store_n(total, j, mean + distance * splat(share), n)


@kernel
def moving_moments(mean, variance, moments, n, momentum, O, ld_moments):
    step, divisor = splat(_F(1.0 - momentum)), splat(_F(max(n - 1.0, 1.0)))
    for j in range(0, O, LANES):
        m, v = load_n(mean, j, O - j), load_n(variance, j, O - j)
        store_n(mean, j, m + step * (load_n(moments, j, O - j) - m), O - j)
        store_n(variance, j, v + step * (load_n(moments, ld_moments + j, O - j) / divisor - v), O - j)


@inline
def _normalise(y, x, mean, scale, beta, j, B, Y, O, ld_y, ld_x):
    for image in range(B):
        yi, xi = offset(y, image * ld_y), offset(x, image * ld_x)
        for at in range(j, Y, O):
            store_n(yi, at, fma(load_n(xi, at, O - j) - mean, scale, beta), O - j)


@kernel
def batch_norm(y, x, moments, gamma, beta, n, epsilon, B, Y, O, ld_y, ld_x, ld_moments):
    for j in range(0, O, LANES):
        scale = load_n(gamma, j, O - j) * _inverse_deviation(moments, ld_moments, j, O - j, n, epsilon)
        _normalise(y, x, load_n(moments, j, O - j), scale, load_n(beta, j, O - j), j, B, Y, O, ld_y, ld_x)


@kernel
def batch_norm_inference(y, x, gamma, beta, mean, variance, epsilon, B, Y, O, ld_y, ld_x):
    for j in range(0, O, LANES):
        scale = load_n(gamma, j, O - j) / sqrt(load_n(variance, j, O - j) + splat(_F(epsilon)))
        _normalise(y, x, load_n(mean, j, O - j), scale, load_n(beta, j, O - j), j, B, Y, O, ld_y, ld_x)


@kernel
def batch_norm_sums(sums, dy, x, moments, n, epsilon, O, B, Y, ld_sums, ld_dy, ld_x, ld_moments):
    for j in range(0, O, LANES):
        count = O - j
        mean, inverse = load_n(moments, j, count), _inverse_deviation(moments, ld_moments, j, count, n, epsilon)
        plain, weighted = splat(_F(0)), splat(_F(0))
        for image in range(B):
            di, xi = offset(dy, image * ld_dy), offset(x, image * ld_x)
            for at in range(j, Y, O):
                d = load_n(di, at, count)
                plain, weighted = plain + d, fma(d, (load_n(xi, at, count) - mean) * inverse, weighted)
        store_n(sums, j, plain, count)
        store_n(sums, ld_sums + j, weighted, count)


@kernel
def batch_norm_dx(dx, dy, x, moments, gamma, sums, n, epsilon, B, Y, O, ld_dx, ld_dy, ld_x, ld_moments, ld_sums):
    for j in range(0, O, LANES):
        count = O - j
        mean, inverse = load_n(moments, j, count), _inverse_deviation(moments, ld_moments, j, count, n, epsilon)
        scale = load_n(gamma, j, count) * inverse
        plain = load_n(sums, j, count) / splat(_F(n))
        weighted = load_n(sums, ld_sums + j, count) / splat(_F(n))
        for image in range(B):
            oi, di, xi = offset(dx, image * ld_dx), offset(dy, image * ld_dy), offset(x, image * ld_x)
            for at in range(j, Y, O):
                hat = (load_n(xi, at, count) - mean) * inverse
                store_n(oi, at, scale * (load_n(di, at, count) - plain - hat * weighted), count)
