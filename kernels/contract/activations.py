"""Activations, dropout among them: y may be x itself (in place); the backward of gelu needs x, of the others y."""

from __future__ import annotations

from .table import Table

OPS = Table()

for _name, _y, _dx in (
    ("leaky_relu", "x if x > 0 else 0.01 x", "dy if y > 0 else 0.01 dy"),
    ("elu", "x if x > 0 else exp(x) - 1", "dy if y > 0 else dy (y + 1)"),
    ("sigmoid", "1 / (1 + exp(-x))", "dy y (1 - y)"),
    ("tanh", "tanh(x)", "dy (1 - y^2)"),
    ("relu", "max(x, 0)", "dy if y > 0 else 0"),
):
    OPS.add(_name, "y[B,O]", "x[B,O]", f"y = {_y}.", flops=lambda d: d["B"] * d["O"])
    OPS.add(f"{_name}_backward", "dx[B,O]", "dy[B,O] y[B,O]", f"dx = {_dx}.", flops=lambda d: d["B"] * d["O"])
OPS.add(
    "gelu",
    "y[B,O]",
    "x[B,O]",
    "y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2 (Hendrycks & Gimpel 2016).",
    flops=lambda d: d["B"] * d["O"],
)
OPS.add(
    "gelu_backward",
    "dx[B,O]",
    "dy[B,O] x[B,O]",
    "dx = dy (Phi(x) + x phi(x)), phi the normal density.",
    flops=lambda d: d["B"] * d["O"],
)
OPS.add(
    "dropout",
    "y[B,O] mask[B,O]",
    "x[B,O] key[2] cursor[2]",
    """mask = 0 with probability rate, else 1 / (1 - rate); y = x mask. Element (r, c) draws word c mod 4 of Philox4x32-10 (Salmon et al. 2011)
    with counter (c div 4, cursor[0] + row_offset + r, layer, 0) and key = key; it is dropped when word < rate 2^32. So the mask depends on the
    position in the epoch and not on batch size, threads or backend.""",
    params="rate layer row_offset column_offset",
    types={"key": ("uint32",)},
)
OPS.add("dropout_backward", "dx[B,O]", "dy[B,O] mask[B,O]", "dx = dy mask.", flops=lambda d: d["B"] * d["O"])
