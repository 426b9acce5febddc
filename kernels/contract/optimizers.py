"""Optimizers: one stream over weights, moments and gradient.

hyper[cursor[1]] = (step size, decoupled decay, l2): g = dw + l2 w; w is multiplied by 1 - decay before the step.
"""

from __future__ import annotations

from .table import Table

OPS = Table()

OPS.add(
    "sgd",
    "w[R,Q]",
    "dw[R,Q] hyper[S,3] cursor[2]",
    "w -= step_size (dw + l2 w), with (step_size, decay, l2) = hyper[cursor[1]].",
    updates="w",
    flops=lambda d: 4.0 * d["R"] * d["Q"],
    nbytes=lambda d: 12.0 * d["R"] * d["Q"],
)
for _name, _formula in (("momentum", "w += velocity"), ("nesterov", "w += momentum velocity - step_size g")):
    OPS.add(
        _name,
        "w[R,Q] velocity[R,Q]",
        "dw[R,Q] hyper[S,3] cursor[2]",
        f"g = dw + l2 w; velocity = momentum velocity - step_size g; {_formula}.",
        params="momentum",
        updates="w velocity",
        flops=lambda d: 6.0 * d["R"] * d["Q"],
        nbytes=lambda d: 20.0 * d["R"] * d["Q"],
    )
OPS.add(
    "adam",
    "w[R,Q] m[R,Q] v[R,Q]",
    "dw[R,Q] hyper[S,3] cursor[2]",
    """g = dw + l2 w; m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; w = w - decay w - step_size m / (sqrt(v) + epsilon).
    step_size holds the bias correction lr sqrt(1 - beta_2^t) / (1 - beta_1^t) (Kingma & Ba 2015, section 2).""",
    params="beta_1 beta_2 epsilon",
    updates="w m v",
    flops=lambda d: 14.0 * d["R"] * d["Q"],
    nbytes=lambda d: 28.0 * d["R"] * d["Q"],
)
OPS.add("add", "total[R,Q]", "part[R,Q]", "total += part.", updates="total", flops=lambda d: d["R"] * d["Q"])
