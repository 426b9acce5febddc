"""Batch normalisation of images (Ioffe & Szegedy 2015): O channels, n pixels of all images.

Moments of some pixels: the mean of each channel, and the sum of its squared deviations from it.
"""

from __future__ import annotations

from .table import Table

OPS = Table()

OPS.add(
    "batch_moments",
    "moments[2,O]",
    "x[B,Y]",
    "moments[0, o] = mean of x[pixel, o] over images and pixels, moments[1, o] = sum of (x[pixel, o] - mean)^2.",
    flops=lambda d: 4.0 * d["B"] * d["Y"],
)
OPS.add(
    "merge_moments",
    "total[2,O]",
    "part[2,O]",
    """Moments of n_total + n_part pixels from those of both: d = part[0] - total[0]; total[0] += d n_part / (n_total + n_part); total[1] += part[1]
    + d^2 n_total n_part / (n_total + n_part) (Chan, Golub & LeVeque 1983).""",
    params="n_total n_part",
    updates="total",
    flops=lambda d: 8.0 * d["O"],
)
OPS.add(
    "moving_moments",
    "mean[O] variance[O]",
    "moments[2,O]",
    "mean += (1 - momentum) (moments[0] - mean); variance += (1 - momentum) (moments[1] / max(n - 1, 1) - variance).",
    params="n momentum",
    updates="mean variance",
    flops=lambda d: 6.0 * d["O"],
)
OPS.add(
    "batch_norm",
    "y[B,Y]",
    "x[B,Y] moments[2,O] gamma[O] beta[O]",
    "y = gamma (x - moments[0]) / sqrt(moments[1] / n + epsilon) + beta.",
    params="n epsilon",
    flops=lambda d: 3.0 * d["B"] * d["Y"],
)
OPS.add(
    "batch_norm_inference",
    "y[B,Y]",
    "x[B,Y] gamma[O] beta[O] mean[O] variance[O]",
    "y = gamma (x - mean) / sqrt(variance + epsilon) + beta.",
    params="epsilon",
    flops=lambda d: 3.0 * d["B"] * d["Y"],
)
OPS.add(
    "batch_norm_sums",
    "sums[2,O]",
    "dy[B,Y] x[B,Y] moments[2,O]",
    "sums[0] = sum of dy over images and pixels (dbeta), sums[1] = sum of dy (x - moments[0]) / sqrt(moments[1] / n + epsilon) (dgamma).",
    params="n epsilon",
    flops=lambda d: 5.0 * d["B"] * d["Y"],
)
OPS.add(
    "batch_norm_dx",
    "dx[B,Y]",
    "dy[B,Y] x[B,Y] moments[2,O] gamma[O] sums[2,O]",
    "s = 1 / sqrt(moments[1] / n + epsilon); dx = gamma s (dy - sums[0] / n - (x - moments[0]) s sums[1] / n).",
    params="n epsilon",
    flops=lambda d: 7.0 * d["B"] * d["Y"],
)
