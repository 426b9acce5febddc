"""Matrix products, and the fully connected layer."""

from __future__ import annotations

from .table import Dims, Table

OPS = Table()


def product_flops(d: Dims) -> float:
    """Multiplications and additions of a product."""
    return 2.0 * d["B"] * d["I"] * d["O"]


for _name, _a, _b, _formula in (
    ("nn", "a[B,I]", "b[I,O]", "a b"),
    ("nt", "a[B,I]", "b[O,I]", "a b^T"),
    ("tn", "a[I,B]", "b[I,O]", "a^T b"),
    ("tt", "a[I,B]", "b[O,I]", "a^T b^T"),
):
    OPS.add(
        f"gemm_{_name}",
        "c[B,O]",
        f"{_a} {_b}",
        f"c = alpha {_formula} + beta c (Dongarra et al. 1990, level 3 BLAS); with beta 0 c is not read, with alpha 0 a and b are not.",
        params="alpha beta",
        updates="c",
        flops=product_flops,
    )

# The fully connected layer.
OPS.add("linear", "y[B,O]", "x[B,I] w[I,O] b[O]", "y = x w + b.", flops=product_flops)
OPS.add("linear_relu", "y[B,O]", "x[B,I] w[I,O] b[O]", "y = max(x w + b, 0).", flops=product_flops)
OPS.add("linear_dx", "dx[B,I]", "dy[B,O] w[I,O]", "dx = dy w^T.", flops=product_flops)
OPS.add(
    "linear_dx_add",
    "dx[B,I]",
    "dy[B,O] w[I,O]",
    "dx += dy w^T: the next panel of columns of w.",
    updates="dx",
    flops=product_flops,
)
# The layer below ends with a ReLU, whose output is y: its derivative is taken where dx is stored.
OPS.add("linear_dx_relu", "dx[B,I]", "dy[B,O] w[I,O] y[B,I]", "dx = dy w^T where y > 0, else 0.", flops=product_flops)
OPS.add(
    "linear_dx_add_relu",
    "dx[B,I]",
    "dy[B,O] w[I,O] y[B,I]",
    "dx = dx + dy w^T where y > 0, else 0: the last panel of columns of w.",
    updates="dx",
    flops=product_flops,
)
OPS.add("linear_dw", "dw[I,O]", "x[B,I] dy[B,O]", "dw = x^T dy.", flops=product_flops)
OPS.add("linear_dw_add", "dw[I,O]", "x[B,I] dy[B,O]", "dw += x^T dy.", updates="dw", flops=product_flops)
OPS.add(
    "linear_dw_sgd",
    "w[I,O]",
    "x[B,I] dy[B,O] hyper[S,3] cursor[2]",
    "w -= step_size (x^T dy + l2 w): `linear_dw` and `sgd` in one, the gradient is not stored.",
    updates="w",
    flops=product_flops,
)
OPS.add("linear_db", "db[O]", "dy[B,O]", "db = column sums of dy.", flops=lambda d: d["B"] * d["O"])
OPS.add("linear_db_add", "db[O]", "dy[B,O]", "db += column sums of dy.", updates="db", flops=lambda d: d["B"] * d["O"])
