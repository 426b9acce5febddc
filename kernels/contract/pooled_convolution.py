"""A convolution whose output goes through max pooling alone.

The pixels that were not chosen have no gradient, and are not looked at.
"""

from __future__ import annotations

from .convolution import IMAGE, WINDOW, convolution_flops
from .table import Table

OPS = Table()

_POOLED = f"{IMAGE} {WINDOW} pool_height pool_width pool_stride"
_CHOSEN = (
    "(ay, ax) is the place argmax[py, px, o] of the pooling window: ay = py pool_stride + argmax // pool_width, "
    "ax = px pool_stride + argmax % pool_width"
)
for _name, _formula, _updates in (("conv2d_pooled_dwt", "=", ""), ("conv2d_pooled_dwt_add", "+=", "dwt")):
    OPS.add(
        _name,
        "dwt[O,K]",
        "x[B,X] dy[B,Y] argmax[B,Y]",
        f"dwt[o, (i, j, c)] {_formula} sum over images, py, px of x[ay stride + i, ax stride + j, c] dy[py, px, o], where dy is not 0; "
        f"{_CHOSEN}.",
        params=_POOLED,
        updates=_updates,
        types={"argmax": ("uint8",)},
        flops=convolution_flops,
    )
OPS.add(
    "conv2d_pooled_dx",
    "dx[B,X]",
    "dy[B,Y] argmax[B,Y] wt[O,K]",
    f"""dx[iy, ix, c] = sum over i, j, py, px, o with iy = ay stride + i, ix = ax stride + j of dy[py, px, o] wt[o, (i, j, c)], where dy is not 0;
    {_CHOSEN}.""",
    params=_POOLED,
    types={"argmax": ("uint8",)},
    flops=convolution_flops,
)
OPS.add(
    "conv2d_grey_pooled",
    "y[B,Y] argmax[B,Y]",
    "x[B,X] w[K,O] b[O]",
    """y, argmax = max_pool of 2 x 2 pixels, 2 apart, of conv2d_relu(x, w, b) of images of one channel with stride 1. NaN in a window makes y NaN, and
    argmax unspecified.""",
    params="height width kernel_height kernel_width",
    types={"argmax": ("uint8",)},
    flops=lambda d: 8.0 * d["B"] * d["Y"] * d["K"],
)
