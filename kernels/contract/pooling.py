"""Pooling of images: largest and mean value of windows, and their gradients."""

from __future__ import annotations

from .convolution import IMAGE
from .table import Table

OPS = Table()

_POOL = "pool_height pool_width stride"
OPS.add(
    "max_pool",
    "y[B,Y] argmax[B,Y]",
    "x[B,X]",
    """y[oy, ox, c] = the largest x[oy stride + i, ox stride + j, c] of a window of pool_height x pool_width pixels, argmax its i pool_width + j,
    the first of equals. NaN in a window makes y NaN, and argmax unspecified.""",
    params=f"{IMAGE} {_POOL}",
    types={"argmax": ("uint8",)},
    flops=lambda d: d["B"] * d["X"],
)
OPS.add(
    "max_pool_dx",
    "dx[B,X]",
    "dy[B,Y] argmax[B,Y]",
    "dx[iy, ix, c] = sum of the dy of the windows whose largest value was there.",
    params=f"{IMAGE} {_POOL}",
    types={"argmax": ("uint8",)},
    flops=lambda d: d["B"] * d["Y"],
)
OPS.add(
    "avg_pool",
    "y[B,Y]",
    "x[B,X]",
    "y[oy, ox, c] = mean over i, j of x[oy stride + i, ox stride + j, c].",
    params=f"{IMAGE} {_POOL}",
    flops=lambda d: d["B"] * d["X"],
)
OPS.add(
    "avg_pool_dx",
    "dx[B,X]",
    "dy[B,Y]",
    "dx[iy, ix, c] = sum of the dy of the windows that hold the pixel, divided by pool_height pool_width.",
    params=f"{IMAGE} {_POOL}",
    flops=lambda d: d["B"] * d["X"],
)
