"""A layer of few outputs on rows in occupied blocks.

Features stand in F slots, 16 to a block: slot s holds feature features[s], or none (-1). Of each row those blocks are stored that are not
all 0, one behind the other from values[indptr[i]] on, 16 values each, 0 in empty slots; bit k of word v of bitmap[i] says whether block
64 v + k is among them, W = ceil(F / 1024). Weights lie block by block: w[(k O + o) 16 + j] is that of slot j of block k for output o, E = F O.
"""

from __future__ import annotations

from .rows import PIXELS
from .table import Table

BLOCK = 16  # slots

OPS = Table()

_BLOCKS = {"bitmap": ("int64",), "features": ("int32",), "starts": ("int64",), "values": ("uint8", "float")}
OPS.add(
    "occupied_blocks",
    "bitmap[B,W]",
    "source[B,I] features[F]",
    "Which blocks of row r are not all 0; NaN is not 0. Bits behind the last block are 0.",
    types={**PIXELS, **_BLOCKS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 8.0 * d["B"] * d["W"],
)
OPS.add(
    "pack_blocks",
    "values[Z]",
    "source[B,I] features[F] bitmap[B,W] starts[B]",
    """Row r's blocks that bitmap[r] names go to values from starts[r] on, in any order of the rows; the rest of values is left as it is. Floats
    become bytes only where they are whole numbers from 0 to 255.""",
    types={**PIXELS, **_BLOCKS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 1.0 * d["Z"] + 8.0 * d["B"],
)
_block_flops = lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"]  # noqa: E731
_block_traffic = lambda d: d["B"] * (d["Z"] / max(d["P"] - 1, 1) + 8.0 * d["W"] + 4.0 * d["O"])  # noqa: E731
OPS.add(
    "block_linear",
    "y[B,O]",
    "indptr[P] bitmap[N,W] values[Z] w[E] b[O] order[M] cursor[2]",
    "y = x w + b, where row r of x are the blocks of row order[cursor[0] + r], multiplied by scale.",
    params="scale",
    types=_BLOCKS,
    flops=_block_flops,
    nbytes=lambda d: _block_traffic(d) + 4.0 * d["E"],
)
OPS.add(
    "block_linear_dw_add",
    "dw[E]",
    "indptr[P] bitmap[N,W] values[Z] dy[B,O] order[M] cursor[2]",
    "dw += x^T dy, x as in `block_linear`; 64 rows at a time are summed in ascending r, then added to dw.",
    params="scale",
    updates="dw",
    types=_BLOCKS,
    flops=_block_flops,
    nbytes=lambda d: _block_traffic(d) + 8.0 * d["E"],
)
