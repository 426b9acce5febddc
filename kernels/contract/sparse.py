"""First layer on compressed rows: zero pixels are skipped, exactly.

Row i of the data set is columns[indptr[i]:indptr[i+1]] with values[...] (multiplied by scale when read).
"""

from __future__ import annotations

from .matmul import product_flops
from .rows import PIXELS
from .table import Table

OPS = Table()

COMPRESSED = {"columns": ("uint16", "int32"), "values": ("uint8", "float")}

OPS.add(
    "count_nonzeros",
    "counts[B]",
    "source[B,I]",
    "counts[r] = number of values of source[r] that are not 0; NaN counts.",
    types={**PIXELS, "counts": ("int64",)},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 8.0 * d["B"],
)
OPS.add(
    "compress_rows",
    "columns[Z] values[Z]",
    "source[B,I] indptr[P]",
    """Row r's values that are not 0 go to values[indptr[r]:indptr[r+1]], their column numbers to columns[...], ascending; indptr says where each
    row begins and must leave room for exactly its nonzeros. Floats become bytes only where they are whole numbers from 0 to 255.""",
    types={**COMPRESSED, **PIXELS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 3.0 * d["Z"] + 8.0 * d["P"],
)
for _name, _formula in (("sparse_linear", "y = x w + b"), ("sparse_linear_relu", "y = max(x w + b, 0)")):
    OPS.add(
        _name,
        "y[B,O]",
        "indptr[P] columns[Z] values[Z] w[I,O] b[O] order[M] cursor[2]",
        f"{_formula}, where row r of x is the compressed row order[cursor[0] + r].",
        params="scale",
        types=COMPRESSED,
        flops=lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"],
        nbytes=lambda d: 4.0 * (d["B"] * d["O"] + d["I"] * d["O"]) + 3.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"],
    )
for _name, _formula in (("skipping_linear", "y = x w + b"), ("skipping_linear_relu", "y = max(x w + b, 0)")):
    OPS.add(
        _name,
        "y[B,O]",
        "source[N,I] w[I,O] b[O] order[M] cursor[2]",
        f"{_formula}, where x[r] = scale * source[order[cursor[0] + r]], of which only the values that are not 0 are multiplied.",
        params="scale",
        types=PIXELS,
        flops=lambda d: product_flops(d) * 0.2,
        nbytes=lambda d: 4.0 * (d["B"] * d["O"] + d["I"] * d["O"]) + 1.0 * d["B"] * d["I"],
    )
OPS.add(
    "sparse_linear_dw_add",
    "dw[I,O]",
    "indptr[P] columns[Z] values[Z] dy[B,O] order[M] cursor[2]",
    "dw += x^T dy, where row r of x is the compressed row order[cursor[0] + r]; rows are added in ascending r.",
    params="scale",
    updates="dw",
    types=COMPRESSED,
    flops=lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"],
    nbytes=lambda d: 4.0 * d["B"] * d["O"] + 3.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] + 8.0 * d["I"] * d["O"],
)
