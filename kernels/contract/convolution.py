"""Convolution: every image a row, every filter a column of w; borders made and taken away."""

from __future__ import annotations

from .table import Dims, Table

OPS = Table()

IMAGE, WINDOW = "height width channels", "kernel_height kernel_width stride"


def convolution_flops(d: Dims) -> float:
    """Multiplications and additions of a convolution."""
    return 2.0 * d["B"] * d["Y"] * d["K"]


for _name, _formula in (("conv2d", "{}"), ("conv2d_relu", "max({}, 0)")):
    _sum = "b[o] + sum over i, j, c of x[oy stride + i, ox stride + j, c] w[(i, j, c), o]"
    OPS.add(
        _name,
        "y[B,Y]",
        "x[B,X] w[K,O] b[O]",
        f"y[oy, ox, o] = {_formula.format(_sum)}.",
        params=f"{IMAGE} {WINDOW}",
        flops=convolution_flops,
    )
OPS.add(
    "conv2d_dx",
    "dx[B,X]",
    "dy[B,Y] wt[O,K]",
    "dx[iy, ix, c] = sum over i, j, oy, ox, o with iy = oy stride + i, ix = ox stride + j of dy[oy, ox, o] wt[o, (i, j, c)]; wt = w^T.",
    params=f"{IMAGE} {WINDOW}",
    flops=convolution_flops,
)
for _name, _formula, _updates in (("conv2d_dw", "=", ""), ("conv2d_dw_add", "+=", "dw")):
    OPS.add(
        _name,
        "dw[K,O]",
        "x[B,X] dy[B,Y]",
        f"dw[(i, j, c), o] {_formula} sum over images, oy, ox of x[oy stride + i, ox stride + j, c] dy[oy, ox, o].",
        params=f"{IMAGE} {WINDOW}",
        updates=_updates,
        flops=convolution_flops,
    )
for _name, _formula, _updates in (("conv2d_db", "=", ""), ("conv2d_db_add", "+=", "db")):
    OPS.add(
        _name,
        "db[O]",
        "dy[B,Y]",
        f"db[o] {_formula} sum over images and pixels of dy[pixel, o].",
        updates=_updates,
        flops=lambda d: d["B"] * d["Y"],
    )
OPS.add("transpose", "wt[O,K]", "w[K,O]", "wt = w^T.")
OPS.add(
    "pad",
    "y[B,Y]",
    "x[B,X]",
    "y is the image x with a border of zeros: y[top + iy, left + ix, c] = x[iy, ix, c], y has height + top + bottom rows.",
    params=f"{IMAGE} top bottom left right",
)
OPS.add(
    "crop",
    "x[B,X]",
    "y[B,Y]",
    "x[iy, ix, c] = y[top + iy, left + ix, c], the adjoint of `pad`; height and width are those of x.",
    params=f"{IMAGE} top bottom left right",
)
