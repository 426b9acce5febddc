"""Launchers of activations.cu."""

from __future__ import annotations

import math

import numpy as np

from .launch import QUAD, Array, Facts, Launch, integers, launcher, leading, spread, stream


def _forward(op: str, facts: Facts, y: Array, x: Array) -> list[Launch]:
    return stream(facts, f"{op}_kernel", y.shape, y, x, *integers(*y.shape), *leading(y, x))


def _backward(op: str, facts: Facts, dx: Array, dy: Array, kept: Array) -> list[Launch]:
    arguments = (dx, dy, kept, *integers(*dx.shape), *leading(dx, dy, kept))
    return stream(facts, f"{op}_backward_kernel", dx.shape, *arguments)


@launcher
def relu(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("relu", facts, y, x)


@launcher
def relu_backward(facts: Facts, dx: Array, dy: Array, y: Array) -> list[Launch]:
    return _backward("relu", facts, dx, dy, y)


@launcher
def leaky_relu(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("leaky_relu", facts, y, x)


@launcher
def leaky_relu_backward(facts: Facts, dx: Array, dy: Array, y: Array) -> list[Launch]:
    return _backward("leaky_relu", facts, dx, dy, y)


@launcher
def elu(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("elu", facts, y, x)


@launcher
def elu_backward(facts: Facts, dx: Array, dy: Array, y: Array) -> list[Launch]:
    return _backward("elu", facts, dx, dy, y)


@launcher
def sigmoid(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("sigmoid", facts, y, x)


@launcher
def sigmoid_backward(facts: Facts, dx: Array, dy: Array, y: Array) -> list[Launch]:
    return _backward("sigmoid", facts, dx, dy, y)


@launcher
def tanh(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("tanh", facts, y, x)


@launcher
def tanh_backward(facts: Facts, dx: Array, dy: Array, y: Array) -> list[Launch]:
    return _backward("tanh", facts, dx, dy, y)


@launcher
def gelu(facts: Facts, y: Array, x: Array) -> list[Launch]:
    return _forward("gelu", facts, y, x)


@launcher
def gelu_backward(facts: Facts, dx: Array, dy: Array, x: Array) -> list[Launch]:
    return _backward("gelu", facts, dx, dy, x)


@launcher
def dropout(
    facts: Facts,
    y: Array,
    mask: Array,
    x: Array,
    key: Array,
    cursor: Array,
    rate: float,
    layer: float,
    row_offset: float,
    column_offset: float,
) -> list[Launch]:
    rows, columns = y.shape
    # word < rate 2^32 for integers: a threshold that is no integer is rounded up.
    threshold, keep = np.uint64(math.ceil(rate * 2.0**32)), np.float32(1 / (1 - rate))
    first = int(column_offset) // QUAD
    groups = (int(column_offset) + columns - 1) // QUAD - first + 1
    place = integers(layer, row_offset, column_offset)
    arguments = (y, mask, x, key, cursor, threshold, keep, *place, *integers(rows, columns), *leading(y, mask, x))
    return spread(facts, "dropout_kernel", rows * groups if columns else 0, *arguments)


@launcher
def dropout_backward(facts: Facts, dx: Array, dy: Array, mask: Array) -> list[Launch]:
    return _backward("dropout", facts, dx, dy, mask)
