"""Launchers of rows.cu."""

from __future__ import annotations

import numpy as np

from .launch import Array, Facts, Launch, integers, launcher, leading, stream


@launcher
def advance(facts: Facts, cursor: Array, rows: float) -> list[Launch]:
    return [Launch("advance_kernel", (1,), (1,), (cursor, *integers(rows)))]


@launcher
def scatter_rows(facts: Facts, target: Array, p: Array, cursor: Array) -> list[Launch]:
    arguments = (target, p, cursor, *integers(*p.shape), *leading(target, p))
    return stream(facts, "scatter_rows_kernel", p.shape, *arguments)


@launcher
def gather_rows(facts: Facts, x: Array, source: Array, order: Array, cursor: Array, scale: float) -> list[Launch]:
    arguments = (x, source, order, cursor, np.float32(scale), *integers(*x.shape), *leading(x, source))
    return stream(facts, f"gather_rows_{source.dtype}_kernel", x.shape, *arguments)


@launcher
def add(facts: Facts, total: Array, part: Array) -> list[Launch]:
    arguments = (total, part, *integers(*total.shape), *leading(total, part))
    return stream(facts, "add_kernel", total.shape, *arguments)
