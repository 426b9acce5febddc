"""Launchers of optimizers.cu."""

from __future__ import annotations

import numpy as np

from .launch import Array, Facts, Launch, integers, launcher, leading, stream


@launcher
def sgd(facts: Facts, w: Array, dw: Array, hyper: Array, cursor: Array) -> list[Launch]:
    arguments = (w, dw, hyper, cursor, *integers(*w.shape), *leading(w, dw, hyper))
    return stream(facts, "sgd_kernel", w.shape, *arguments)


def _momentum(
    kernel: str, facts: Facts, w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float
) -> list[Launch]:
    operands, sizes = (w, velocity, dw, hyper, cursor), integers(*w.shape)
    return stream(facts, kernel, w.shape, *operands, np.float32(momentum), *sizes, *leading(w, velocity, dw, hyper))


@launcher
def momentum(
    facts: Facts, w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float
) -> list[Launch]:
    return _momentum("momentum_kernel", facts, w, velocity, dw, hyper, cursor, momentum)


@launcher
def nesterov(
    facts: Facts, w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float
) -> list[Launch]:
    return _momentum("nesterov_kernel", facts, w, velocity, dw, hyper, cursor, momentum)


@launcher
def adam(
    facts: Facts,
    w: Array,
    m: Array,
    v: Array,
    dw: Array,
    hyper: Array,
    cursor: Array,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> list[Launch]:
    constants = tuple(np.float32(c) for c in (beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon))
    arguments = (w, m, v, dw, hyper, cursor, *constants, *integers(*w.shape), *leading(w, m, v, dw, hyper))
    return stream(facts, "adam_kernel", w.shape, *arguments)
