"""Optimizer steps: one stream over weights, moments and gradient. R rows, Q columns.

`hyper[cursor[1]]` is (step size, decoupled decay, L2 coefficient) of this step. Square root and division are the exact ones: on current cores
they hide behind the memory traffic of the moments, approximations gain nothing.
"""

from __future__ import annotations

import numpy as np

from .isa import LANES
from .registry import kernel
from .simd import fma, inline, load, load_n, offset, splat, sqrt, store, store_n

_F = np.float32


@inline
def step_of(hyper, ld_hyper, cursor):
    """Step size, decoupled decay and L2 coefficient of this step."""
    row = ld_hyper * cursor[1]
    return hyper[row], hyper[row + 1], hyper[row + 2]


@kernel
def sgd(w, dw, hyper, cursor, R, Q, S, ld_w, ld_dw, ld_hyper):
    step, _, l2 = step_of(hyper, ld_hyper, cursor)
    minus_step, l2 = splat(-step), splat(l2)
    for r in range(R):
        wr, gr = offset(w, r * ld_w), offset(dw, r * ld_dw)
        for j in range(0, Q, LANES):
            n = Q - j
            if n >= LANES:
                v = load(wr, j)
                store(wr, j, fma(minus_step, fma(l2, v, load(gr, j)), v))
            else:
                v = load_n(wr, j, n)
                store_n(wr, j, fma(minus_step, fma(l2, v, load_n(gr, j, n)), v), n)


@inline
def _momentum_step(w, velocity, dw, hyper, cursor, momentum, R, Q, ld_w, ld_velocity, ld_dw, ld_hyper, ahead):
    step, _, l2 = step_of(hyper, ld_hyper, cursor)
    minus_step, l2, mu = splat(-step), splat(l2), splat(_F(momentum))
    for r in range(R):
        wr, vr, gr = offset(w, r * ld_w), offset(velocity, r * ld_velocity), offset(dw, r * ld_dw)
        for j in range(0, Q, LANES):
            n = Q - j
            value = load_n(wr, j, n)
            push = minus_step * fma(l2, value, load_n(gr, j, n))
            speed = fma(mu, load_n(vr, j, n), push)
            store_n(vr, j, speed, n)
            if ahead:
                speed = fma(mu, speed, push)
            store_n(wr, j, value + speed, n)


@kernel
def momentum(w, velocity, dw, hyper, cursor, momentum, R, Q, S, ld_w, ld_velocity, ld_dw, ld_hyper):
    _momentum_step(w, velocity, dw, hyper, cursor, momentum, R, Q, ld_w, ld_velocity, ld_dw, ld_hyper, False)


@kernel
def nesterov(w, velocity, dw, hyper, cursor, momentum, R, Q, S, ld_w, ld_velocity, ld_dw, ld_hyper):
    _momentum_step(w, velocity, dw, hyper, cursor, momentum, R, Q, ld_w, ld_velocity, ld_dw, ld_hyper, True)


@inline
def _adam_vector(w, m, v, g, decay, l2, b1, c1, b2, c2, step, epsilon):
    g = fma(l2, w, g)
    m = fma(b1, m, c1 * g)
    v = fma(b2, v, c2 * g * g)
    return w - decay * w - step * m / (sqrt(v) + epsilon), m, v


@kernel
def adam(w, m, v, dw, hyper, cursor, beta_1, beta_2, epsilon, R, Q, S, ld_w, ld_m, ld_v, ld_dw, ld_hyper):
    step, decay, l2 = step_of(hyper, ld_hyper, cursor)
    step, decay, l2 = splat(step), splat(decay), splat(l2)
    b1, c1 = splat(_F(beta_1)), splat(_F(1 - beta_1))
    b2, c2 = splat(_F(beta_2)), splat(_F(1 - beta_2))
    eps = splat(_F(epsilon))
    for r in range(R):
        wr, mr, vr, gr = offset(w, r * ld_w), offset(m, r * ld_m), offset(v, r * ld_v), offset(dw, r * ld_dw)
        for j in range(0, Q, LANES):
            n = Q - j
            if n >= LANES:
                new_w, new_m, new_v = _adam_vector(
                    load(wr, j), load(mr, j), load(vr, j), load(gr, j), decay, l2, b1, c1, b2, c2, step, eps
                )
                store(wr, j, new_w)
                store(mr, j, new_m)
                store(vr, j, new_v)
            else:
                new_w, new_m, new_v = _adam_vector(
                    load_n(wr, j, n),
                    load_n(mr, j, n),
                    load_n(vr, j, n),
                    load_n(gr, j, n),
                    decay,
                    l2,
                    b1,
                    c1,
                    b2,
                    c2,
                    step,
                    eps,
                )
                store_n(wr, j, new_w, n)
                store_n(mr, j, new_m, n)
                store_n(vr, j, new_v, n)


@kernel
def add(total, part, R, Q, ld_total, ld_part):
    for r in range(R):
        tr, pr = offset(total, r * ld_total), offset(part, r * ld_part)
        for j in range(0, Q, LANES):
            store_n(tr, j, load_n(tr, j, Q - j) + load_n(pr, j, Q - j), Q - j)
