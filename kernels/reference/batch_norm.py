"""Batch normalisation of images: each channel by itself."""

from __future__ import annotations

import numpy as np

from .common import Array, ieee
from .images import pixels_of


@ieee
def batch_moments(moments: Array, x: Array) -> None:
    """Mean, and sum of squared deviations from it, of each channel; moments (2, O), x (B, pixels O)."""
    pixels = pixels_of(x, moments.shape[1])
    moments[0] = pixels.sum(axis=0) / len(pixels)
    moments[1] = ((pixels - moments[0]) ** 2).sum(axis=0)


@ieee
def merge_moments(total: Array, part: Array, n_total: float, n_part: float) -> None:
    """Moments of `n_total + n_part` pixels from those of both (Chan, Golub & LeVeque 1983, equation 2.1)."""
    share = part.dtype.type(n_part / (n_total + n_part))
    distance = part[0] - total[0]
    total[1] = total[1] + part[1] + distance * distance * (share * part.dtype.type(n_total))
    total[0] = total[0] + distance * share


@ieee
def moving_moments(mean: Array, variance: Array, moments: Array, n: float, momentum: float) -> None:
    """`running += (1 - momentum) (batch - running)`; the variance is the unbiased one."""
    step = mean.dtype.type(1 - momentum)
    mean[...] = mean + step * (moments[0] - mean)
    variance[...] = variance + step * (moments[1] / mean.dtype.type(max(n - 1, 1)) - variance)


def _inverse_deviation(moments: Array, n: float, epsilon: float) -> Array:
    return 1 / np.sqrt(moments[1] / moments.dtype.type(n) + moments.dtype.type(epsilon))


@ieee
def batch_norm(y: Array, x: Array, moments: Array, gamma: Array, beta: Array, n: float, epsilon: float) -> None:
    """`y = gamma (x - mean) / sqrt(variance + epsilon) + beta`, with the batch's moments."""
    scale = gamma * _inverse_deviation(moments, n, epsilon)
    y[...] = ((pixels_of(x, len(gamma)) - moments[0]) * scale + beta).reshape(y.shape)


@ieee
def batch_norm_inference(
    y: Array, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> None:
    """`y = gamma (x - mean) / sqrt(variance + epsilon) + beta`, with the running statistics."""
    scale = gamma / np.sqrt(variance + variance.dtype.type(epsilon))
    y[...] = ((pixels_of(x, len(gamma)) - mean) * scale + beta).reshape(y.shape)


@ieee
def batch_norm_sums(sums: Array, dy: Array, x: Array, moments: Array, n: float, epsilon: float) -> None:
    """`dbeta = sum dy`, `dgamma = sum dy x_hat`, with x_hat = (x - mean) / sqrt(variance + epsilon)."""
    d = pixels_of(dy, sums.shape[1])
    hat = (pixels_of(x, sums.shape[1]) - moments[0]) * _inverse_deviation(moments, n, epsilon)
    sums[0], sums[1] = d.sum(axis=0), (d * hat).sum(axis=0)


@ieee
def batch_norm_dx(
    dx: Array, dy: Array, x: Array, moments: Array, gamma: Array, sums: Array, n: float, epsilon: float
) -> None:
    """`dx = gamma / sqrt(variance + epsilon) (dy - dbeta / n - x_hat dgamma / n)`: mean and variance depend on x too."""
    inverse = _inverse_deviation(moments, n, epsilon)
    hat = (pixels_of(x, len(gamma)) - moments[0]) * inverse
    d = pixels_of(dy, len(gamma)) - sums[0] / sums.dtype.type(n) - hat * (sums[1] / sums.dtype.type(n))
    dx[...] = (gamma * inverse * d).reshape(dx.shape)
