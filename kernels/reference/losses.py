"""Losses: logits z (B, C) to gradient dz (B, C); losses (M,), hits (M,) are written at the batch's positions.

Source: log-sum-exp and softmax, Blanchard, Higham & Higham 2021 ("Accurately computing the log-sum-exp and softmax functions").
"""

from __future__ import annotations

import numpy as np

from .activations import logistic
from .common import Array, batch_rows, ieee


def _log_softmax(z: Array) -> Array:
    # Shifted by the maximum exp cannot overflow, and one summand is 1: the logarithm's argument lies in [1, C].
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@ieee
def softmax(p: Array, z: Array) -> None:
    """Softmax of each row of z."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p[...] = e / e.sum(axis=1, keepdims=True)


@ieee
def softmax_cross_entropy(
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
) -> None:
    """`losses = -sum t log softmax(z)`, with `t = (1 - s) onehot + s / C`, s = label_smoothing.

    `dz = weight scale (softmax(z) - t)`; `hits = (argmax z == label)`, the first of equals. A label that names no
    output (see DESIGN.md, Vocabulary) has a onehot of zeros and is never hit.
    """
    rows = batch_rows(order, cursor, len(z))
    n_outputs = z.shape[1]
    onehot = (labels[rows][:, np.newaxis] == np.arange(n_outputs)).astype(z.dtype)
    target = (1 - label_smoothing) * onehot + label_smoothing / n_outputs
    log_p = _log_softmax(z)
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    # 0 log 0 is 0: an output that is not asked for costs nothing, however improbable.
    losses[here] = -np.where(target == 0, 0, target * log_p).sum(axis=1)
    hits[here] = z.argmax(axis=1) == labels[rows]
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * (np.exp(log_p) - target)


@ieee
def softmax_twice_cross_entropy(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """`losses = -sum t log q`, with `p = softmax(z)`, `q = softmax(p)`, t = onehot: probabilities taken for logits.

    `dz = weight scale p (g - sum g p)`, the chain rule through the first softmax, with `g = q - t`; hits as in
    `softmax_cross_entropy`.
    """
    rows = batch_rows(order, cursor, len(z))
    onehot = (labels[rows][:, np.newaxis] == np.arange(z.shape[1])).astype(z.dtype)
    p = np.exp(_log_softmax(z))
    log_q = _log_softmax(p)
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = -np.where(onehot == 0, 0, log_q).sum(axis=1)
    hits[here] = z.argmax(axis=1) == labels[rows]
    g = np.exp(log_q) - onehot
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * p * (g - (g * p).sum(axis=1, keepdims=True))


@ieee
def binary_cross_entropy(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """One-vs-rest: each output's cross-entropy, summed, with t = (label == output).

    `losses = sum of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))`; `dz = weight scale (sigmoid(z) - t)`; hits as in
    `softmax_cross_entropy`, and with one output `(z > 0) == (label == 0)`.
    """
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = _one_vs_rest(dz, hits, z, labels, sample_weight, order, scale, cursor).sum(axis=1)


@ieee
def binary_cross_entropy_by_class(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """`binary_cross_entropy` without the sum: losses (M, C) has each output's cross-entropy."""
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = _one_vs_rest(dz, hits, z, labels, sample_weight, order, scale, cursor)


@ieee
def binary_cross_entropy_sums(
    dz: Array,
    losses: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """`binary_cross_entropy_by_class`, summed over the rows: `losses[cursor[1], c] = sum_r weight_r loss_rc`."""
    losses_by_class = _one_vs_rest_losses(dz, z, labels, sample_weight, order, scale, cursor)
    weights = sample_weight[batch_rows(order, cursor, len(z))].astype(z.dtype)
    losses[cursor[1]] = (weights[:, np.newaxis] * losses_by_class).sum(axis=0)


def _one_vs_rest(
    dz: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> Array:
    """Write dz and hits of `binary_cross_entropy`; return the cross-entropy (B, C) of each output."""
    rows = batch_rows(order, cursor, len(z))
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    if z.shape[1] == 1:
        hits[here] = (z[:, 0] > 0) == (labels[rows] == 0)
    else:
        hits[here] = z.argmax(axis=1) == labels[rows]
    return _one_vs_rest_losses(dz, z, labels, sample_weight, order, scale, cursor)


def _one_vs_rest_losses(
    dz: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> Array:
    """Write dz of `binary_cross_entropy`; return the cross-entropy (B, C) of each output."""
    rows = batch_rows(order, cursor, len(z))
    target = (labels[rows][:, np.newaxis] == np.arange(z.shape[1])).astype(z.dtype)
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * (logistic(z) - target)
    # -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)) without the logarithm of a rounded 0.
    return np.maximum(z, 0) - z * target + np.log1p(np.exp(-np.abs(z)))


def weighted_sums(sums: Array, losses: Array, sample_weight: Array) -> None:
    """Sum over the samples of each column of losses (N, C), times their weights, in float64."""
    sums[...] = (sample_weight[:, np.newaxis] * losses.astype(np.float64)).sum(axis=0)


def _weights(sample_weight: Array, rows: Array, scale: Array, cursor: Array, dtype: np.dtype) -> Array:
    """Factor (B, 1) of each row's gradient."""
    return (sample_weight[rows].astype(dtype) * scale[cursor[1]].astype(dtype))[:, np.newaxis]
