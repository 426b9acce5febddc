"""Ops that follow each other and are one kernel: fewer launches, less traffic; the same numbers to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..contract import CONTRACT
from . import update
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
        if fused := _update(facts, op, arrays, following, calls[i + 2 :]):
            result += fused
            i += 2
        else:
            result += launches(op, facts, arrays, params)
            i += 1
    return result


def _update(facts: Facts, op: str, arrays: Sequence[Array], step: Call, later: Sequence[Call]) -> list[Launch] | None:
    """A gradient of weights or biases and the optimizer's step that follows it, if nothing else reads the gradient."""
    if op not in ("linear_dw", "linear_db") or step[0] not in update.KINDS:
        return None
    if step[1][-3].address != arrays[0].address or _is_read(arrays[0], later):
        return None
    if op == "linear_dw":
        return update.update_weights(facts, arrays[1], arrays[2], step)
    return update.update_bias(facts, arrays[1], step)


def _is_read(array: Array, calls: Sequence[Call]) -> bool:
    """Whether any of the calls reads what lies at the array's address before another one overwrites it."""
    for op, arrays, _ in calls:
        n_outs = len(CONTRACT[op].outs)
        if any(operand.address == array.address for operand in arrays[n_outs:]):
            return True
        if any(operand.address == array.address for operand in arrays[:n_outs]):
            return op.endswith("add")
    return False


def decisions(facts: Facts, calls: Sequence[tuple[str, Sequence[tuple[int, ...]], str]]) -> list[str]:
    """For `explain`: what becomes of neighbouring ops.

    Parameters
    ----------
    facts : Facts
    calls : sequence of (op, shapes, label)
    """
    fused = []
    for (op, shapes, _), (step, _, label) in pairwise(calls):
        if op == "linear_dw" and step in update.KINDS:
            rows, columns = shapes[0]
            if update.tile_of(facts, rows, columns, shapes[1][0]):
                fused.append(label)
    how = "sums in float32" if facts.precision == "float32" else "on tensor cores, sums in float32"
    return [
        f"products in {facts.precision}, {how}",
        f"in one kernel with its gradient: {', '.join(fused) or 'no optimizer step'}",
    ]
