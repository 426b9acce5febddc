"""Convolution of 3 x 3 pixels, stride 1, by transformed tiles (Lavin and Gray 2016, F(4 x 4, 3 x 3))."""

from __future__ import annotations

from .convolution import IMAGE
from .table import Table

WINOGRAD_PLACES = 36  # of a transformed tile of 6 x 6 pixels
WINOGRAD_CHANNELS = 128  # of an image that goes by tiles, at most: what compiled code has room for

OPS = Table()

OPS.add(
    "winograd_filters",
    "u[V,O]",
    "w[K,O]",
    "u[(p, q, c), o] = (G w[:, :, c, o] G^T)[p, q], p, q < 6; w of 3 x 3 pixels.",
    flops=lambda d: 90.0 * d["V"] / 36 * d["O"],
)
OPS.add(
    "winograd_filters_kept",
    "u[V,O] seen[K,O]",
    "w[K,O]",
    "As `winograd_filters`, and seen = w. Nothing is written where seen equals w already: u was made of it.",
    flops=lambda d: 1.0 * d["K"] * d["O"],
    updates="u seen",
)
OPS.add(
    "winograd_filters_turned",
    "u[V,C]",
    "wt[O,K]",
    """u[(p, q, o), c] = (G t[:, :, o, c] G^T)[p, q], where t[i, j, o, c] = w[2 - i, 2 - j, c, o], wt = w^T: the filters that take the
    gradient of a convolution's output, with a border of two zeros, to that of its input.""",
    flops=lambda d: 90.0 * d["V"] / 36 * d["C"],
)
for _name, _formula in (("conv2d_winograd", "{}"), ("conv2d_winograd_relu", "max({}, 0)")):
    _sum = "b[o] + (A^T (sum over c of u[(:, :, c), o] * (B^T d[:, :, c] B)) A)[i, j]"
    OPS.add(
        _name,
        "y[B,Y]",
        "x[B,X] u[V,O] b[O]",
        f"""y[4 ty + i, 4 tx + j, o] = {_formula.format(_sum)}, i, j < 4, d the tile of 6 x 6 pixels from x[4 ty, 4 tx] on, 0 beyond the edge:
    the convolution with the filters of 3 x 3 pixels that u was made of.""",
        params=IMAGE,
        flops=lambda d: 4.5 * d["B"] * d["Y"] * d["V"] / 36,
    )
