"""Launchers of losses.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from .launch import Array, Facts, Launch, integers, launcher, leading

THREADS = 128


def _rows(kernel: str, z: Array, *arguments: Any) -> list[Launch]:
    """A group of lanes for each row, as `my_row` in losses.cu counts them."""
    rows, columns = z.shape
    lanes = 8 if columns <= 8 else 16 if columns <= 16 else 32
    blocks = -(-rows * lanes // THREADS)
    return [Launch(kernel, (blocks,), (THREADS,), arguments)] if blocks else []


@launcher
def softmax(facts: Facts, p: Array, z: Array) -> list[Launch]:
    return _rows("softmax_kernel", z, p, z, *integers(*z.shape), *leading(p, z))


@launcher
def softmax_cross_entropy(
    facts: Facts,
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
    label_smoothing: float,
) -> list[Launch]:
    operands = (dz, losses, hits, z, labels, sample_weight, order, scale, cursor)
    arguments = (*operands, np.float32(label_smoothing), *integers(*z.shape), *leading(dz, z))
    return _rows("softmax_cross_entropy_kernel", z, *arguments)


@launcher
def binary_cross_entropy(
    facts: Facts,
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> list[Launch]:
    operands = (dz, losses, hits, z, labels, sample_weight, order, scale, cursor)
    return _rows("binary_cross_entropy_kernel", z, *operands, *integers(*z.shape), *leading(dz, z))


@launcher
def binary_cross_entropy_by_class(
    facts: Facts,
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> list[Launch]:
    operands = (dz, losses, hits, z, labels, sample_weight, order, scale, cursor)
    arguments = (*operands, *integers(*z.shape), *leading(dz, losses, z))
    return _rows("binary_cross_entropy_by_class_kernel", z, *arguments)
