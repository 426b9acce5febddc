"""Ops that follow each other and are one kernel: fewer launches, less traffic; the same numbers to the bit."""

from __future__ import annotations

from collections.abc import Sequence

from . import matmul
from .launch import Array, Facts, Launch, launches

Call = tuple[str, Sequence[Array], Sequence[float]]


def plan(facts: Facts, calls: Sequence[Call]) -> list[Launch]:
    """The launches of a list of ops, in order, neighbours fused where a kernel can do both.

    Parameters
    ----------
    facts : Facts
    calls : sequence of (op, arrays, params)
        As `launches` takes them.
    """
    result: list[Launch] = []
    i = 0
    while i < len(calls):
        op, arrays, params = calls[i]
        following = calls[i + 1] if i + 1 < len(calls) else ("", (), ())
        if op == "linear_dx" and following[0] == "relu_backward" and arrays[0] == following[1][0] == following[1][1]:
            dx, dy, w = arrays
            result += matmul.product(facts, "nt", dx, dy, w, w.shape[1], kept=following[1][2])
            i += 2
        else:
            result += launches(op, facts, arrays, params)
            i += 1
    return result
