"""Reading the batch, and writing results back."""

from __future__ import annotations

from .table import Table

OPS = Table()

PIXELS = {"source": ("uint8", "float")}

OPS.add(
    "advance",
    "cursor[2]",
    "",
    "cursor[0] += rows; cursor[1] += 1: on to the next batch.",
    params="rows",
    updates="cursor",
)
OPS.add(
    "scatter_rows",
    "target[M,C]",
    "p[B,C] cursor[2]",
    "target[cursor[0] + r] = p[r].",
    updates="target",
    nbytes=lambda d: 8.0 * d["B"] * d["C"],
)
OPS.add(
    "gather_rows",
    "x[B,I]",
    "source[N,I] order[M] cursor[2]",
    "x[r] = scale * source[order[cursor[0] + r]].",
    params="scale",
    types=PIXELS,
    flops=lambda d: d["B"] * d["I"],
    nbytes=lambda d: 5.0 * d["B"] * d["I"],
)
