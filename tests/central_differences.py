"""Gradients of the oracle's ops by central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def unwritten(a: np.ndarray) -> np.ndarray:
    """Somewhere to write a result: NaN wherever it is not written."""
    return np.full_like(a, np.nan)


def numeric_gradient(f: Callable[[], float], x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences of `f()` in every element of `x`, which f reads."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = f()
        x[index] = kept - h
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * h)
    return gradient


def assert_gradient(got: np.ndarray, f: Callable[[], float], x: np.ndarray) -> None:
    np.testing.assert_allclose(got, numeric_gradient(f, x), rtol=1e-6, atol=1e-8)
