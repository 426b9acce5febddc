"""First layer on a batch by quads of features: four neighbours at once, each row of the batch listed where one of them is not 0.

Quad g are the features 4 g ... 4 g + 3. It is in the batch's rows rows[g, :counts[g]], in ascending order, and entries[g, 4 t : 4 t + 4] are its
values in row rows[g, t]: 0 where the row has none, and where there is no such feature. What lies behind is unspecified. G = ceil(I / 4), J = 4 B.

The values of a quad that are 0 are multiplied like the others; rows of which all four are 0 are not.
"""

from __future__ import annotations

from .rows import PIXELS
from .sparse import COMPRESSED
from .table import Table

OPS = Table()

QUAD = 4
_QUADS = "counts[G] rows[G,B] entries[G,J]"
_TYPES = {"counts": ("int32",), "rows": ("int32",)}

OPS.add(
    "sparse_quads",
    _QUADS,
    "indptr[P] columns[Z] values[Z] order[M] cursor[2]",
    """The batch by quads of features, of the compressed rows order[cursor[0] + r]; values are multiplied by scale, and those that are stored but 0
    do not count.""",
    params="scale",
    types={**COMPRESSED, **_TYPES},
    nbytes=lambda d: 11.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] + 4.0 * d["G"],
)
OPS.add(
    "skipping_quads",
    _QUADS,
    "source[N,I] order[M] cursor[2]",
    "The batch by quads of features, of the rows source[order[cursor[0] + r]]; values are multiplied by scale.",
    params="scale",
    types={**PIXELS, **_TYPES},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 4.0 * d["B"] * d["I"] + 4.0 * d["G"],
)
for _name, _formula in (("quad_linear", "y = x w + b"), ("quad_linear_relu", "y = max(x w + b, 0)")):
    OPS.add(
        _name,
        "y[B,O]",
        f"{_QUADS} w[I,O] b[O]",
        f"{_formula}, x given by quads of features as `sparse_quads` leaves it.",
        types=_TYPES,
        flops=lambda d: 2.0 * d["I"] * d["O"] * d["B"] * 0.2,
    )
OPS.add(
    "quad_linear_dw",
    "dw[I,O]",
    f"{_QUADS} dy[B,O]",
    "dw = x^T dy, x given by quads of features as `sparse_quads` leaves it.",
    types=_TYPES,
    flops=lambda d: 2.0 * d["I"] * d["O"] * d["B"] * 0.2,
)
OPS.add(
    "quad_linear_dw_sgd",
    "w[I,O]",
    f"{_QUADS} dy[B,O] hyper[S,3] cursor[2]",
    "w -= step_size (x^T dy + l2 w): `quad_linear_dw` and `sgd` in one, the gradient is not stored.",
    updates="w",
    types=_TYPES,
    flops=lambda d: 2.0 * d["I"] * d["O"] * d["B"] * 0.2,
)
