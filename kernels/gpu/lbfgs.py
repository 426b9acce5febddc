"""Launches of lbfgs.cu: no ops of a program, but what a full-batch search on the device needs between two gradients."""

from __future__ import annotations

import numpy as np

from .launch import THREADS, Array, Facts, Launch, integers, spread, stream

MOST_PAIRS = 32  # as in lbfgs.cu

# What `direction` tells each problem.
WAIT, ACCEPT, FORGET = 0, 1, 2
DIAGONAL, FULL, TRANSPOSED = 0, 1, 2  # forms of a change of variables


def _matrix(parameter: Array) -> tuple[int, int]:
    """A bias is a matrix of one row."""
    rows, columns = parameter.shape if len(parameter.shape) == 2 else (1, *parameter.shape)
    return rows, columns


def trial(
    facts: Facts, w: Array, vectors: tuple[Array, Array, Array], steps: Array, at: int, problems: int
) -> list[Launch]:
    """One parameter of `trial = x + step direction`; `vectors` are these three."""
    sizes = integers(at, problems, *_matrix(w), w.ld if len(w.shape) == 2 else 0)
    return stream(facts, "lbfgs_trial_kernel", _matrix(w), w, *vectors, steps, *sizes)


def move(facts: Facts, vectors: tuple[Array, Array, Array], steps: Array, problems: int) -> list[Launch]:
    """`trial = x + step direction` of whole vectors; `vectors` are these three."""
    shape = (vectors[0].shape[0] // problems, problems)
    return stream(facts, "lbfgs_trial_kernel", shape, None, *vectors, steps, *integers(0, problems, *shape, 0))


def transform(facts: Facts, out: Array, matrix: Array, vector: Array, *, transposed: bool = False) -> list[Launch]:
    """`out = T vector`, or `T' vector`, of vectors that are matrices of as many rows as T, row by row."""
    m, n = matrix.shape[0], vector.shape[0]
    form = DIAGONAL if len(matrix.shape) == 1 else TRANSPOSED if transposed else FULL
    return spread(facts, "lbfgs_transform_kernel", n, out, matrix, vector, *integers(form, m, n // m))


def gradient(facts: Facts, outs: tuple[Array, Array], dw: Array, trial: Array, l2: float, at: int) -> list[Launch]:
    """One parameter's part of the gradient and of the penalty; `outs` are these vectors."""
    sizes = integers(at, *_matrix(dw), dw.ld if len(dw.shape) == 2 else 0)
    return stream(facts, "lbfgs_gradient_kernel", _matrix(dw), *outs, dw, trial, np.float64(l2), *sizes)


def measure(
    facts: Array, losses: Array, sample_weight: Array, vectors: tuple[Array, Array, Array, Array], problems: int
) -> list[Launch]:
    """What the host must know of a trial; `vectors` are penalty, gradient, direction and the gradient of the parameters."""
    rows, columns = losses.shape if len(losses.shape) == 2 else (*losses.shape, 1)
    sizes = integers(rows, columns, vectors[0].shape[0], problems)
    return [Launch("lbfgs_facts_kernel", (problems,), (THREADS,), (facts, losses, sample_weight, *vectors, *sizes))]


def direction(operands: tuple[Array, ...], memory: int, problems: int) -> list[Launch]:
    """Accept, forget or wait, then the next direction; `operands` as the kernel takes them."""
    sizes = integers(memory, operands[0].shape[0], problems)
    return [Launch("lbfgs_direction_kernel", (problems,), (THREADS,), (*operands, *sizes))]
