"""Optimizers: (step_size, decay, l2) = hyper[cursor[1]]; all matrices (R, Q).

Source: Adam, Kingma & Ba 2015.
"""

from __future__ import annotations

import numpy as np

from .common import Array, ieee


@ieee
def sgd(w: Array, dw: Array, hyper: Array, cursor: Array) -> None:
    """`w -= step_size (dw + l2 w)`."""
    step_size, _, l2 = hyper[cursor[1]]
    w[...] = w - step_size * (dw + l2 * w)


@ieee
def momentum(w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float) -> None:
    """`velocity = momentum velocity - step_size (dw + l2 w); w += velocity`."""
    step_size, _, l2 = hyper[cursor[1]]
    velocity[...] = momentum * velocity - step_size * (dw + l2 * w)
    w[...] = w + velocity


@ieee
def nesterov(w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float) -> None:
    """`velocity = momentum velocity - step_size g`, `g = dw + l2 w`; `w += momentum velocity - step_size g`."""
    step_size, _, l2 = hyper[cursor[1]]
    g = dw + l2 * w
    velocity[...] = momentum * velocity - step_size * g
    w[...] = w + momentum * velocity - step_size * g


@ieee
def adam(
    w: Array,
    m: Array,
    v: Array,
    dw: Array,
    hyper: Array,
    cursor: Array,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Adam (Kingma & Ba 2015); step_size holds the bias correction; AdamW's decay is taken from the old w."""
    step_size, decay, l2 = hyper[cursor[1]]
    g = dw + l2 * w
    m[...] = beta_1 * m + (1 - beta_1) * g
    v[...] = beta_2 * v + (1 - beta_2) * g * g
    w[...] = w - decay * w - step_size * m / (np.sqrt(v) + epsilon)


@ieee
def add(total: Array, part: Array) -> None:
    """`total += part`."""
    total[...] = total + part
