"""float64 objectives of the logistic models on uint8 images, to compare what was reached. Never within a clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CHUNK_ROWS = 10_000


def _mean(
    loss_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    weights: np.ndarray,
    biases: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
) -> float:
    """Mean over the rows of `loss_of(logits, labels)`, in float64."""
    total = 0.0
    W, b = weights.astype(np.float64) / 255, biases.astype(np.float64)
    for start in range(0, len(X), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        total += float(loss_of(X[rows].astype(np.float64) @ W + b, y[rows]).sum())
    return total / len(X)


def _binary(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum over the classes of log(1 + exp(z)) - t z, without overflow."""
    losses = np.logaddexp(0, logits).sum(axis=1)
    return losses - logits[np.arange(len(labels)), labels]


def _softmax(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    largest = logits.max(axis=1)
    normaliser = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return normaliser - logits[np.arange(len(labels)), labels]


def one_vs_rest(weights: np.ndarray, biases: np.ndarray, X: np.ndarray, y: np.ndarray, C: float = np.inf) -> float:
    """Sum over the classes of scikit-learn's binary objective, divided by C and the number of images.

    Parameters
    ----------
    weights : ndarray of shape (n_features, n_classes)
        For pixels in [0, 1].
    biases : ndarray of shape (n_classes,)
    X : ndarray of shape (n, n_features), uint8
    y : ndarray of shape (n,), int
    C : float
        Inverse of the penalty's weight.
    """
    return _mean(_binary, weights, biases, X, y) + _penalty(weights, C, len(X))


def multinomial(weights: np.ndarray, biases: np.ndarray, X: np.ndarray, y: np.ndarray, C: float = np.inf) -> float:
    """scikit-learn's multinomial objective, divided by C and the number of images; parameters as in `one_vs_rest`."""
    return _mean(_softmax, weights, biases, X, y) + _penalty(weights, C, len(X))


def _penalty(weights: np.ndarray, C: float, n: int) -> float:
    return 0.5 / (C * n) * float((weights.astype(np.float64) ** 2).sum())
