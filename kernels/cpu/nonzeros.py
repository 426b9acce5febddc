"""Which values of a row are not 0, and where they stand: 64 at a time, as the bits of a word.

Where the machine has an instruction that pushes the chosen lanes of a vector together (`MACHINE.packs_lanes`), whole vectors are stored, of which
the next ones overwrite the end: no branch depends on the data. Elsewhere the bits are walked through one by one. Never an instruction that
packs into memory: on Zen 4 and 5 that is a loop of microcode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .isa import MACHINE
from .simd import (
    f32,
    function,
    i1,
    i8,
    i16,
    i32,
    i64,
    inline,
    offset,
    stack_array,
    with_twin,
)

WORD = 64  # values looked at together
COLUMN_LANES = 32  # of the widest vectors that are packed
# What is taken out of rows lies on the stack: at most so much, so many features and so many rows; behind it the vector that is stored last.
ENTRIES, PIECE, GROUP = 1 << 15, 1024, 128
ROOM = ENTRIES + WORD
column_buffer = stack_array(ROOM, "uint16")
byte_buffer, float_buffer = stack_array(ROOM, "uint8"), stack_array(ROOM)
row_starts = stack_array(GROUP + 1, "int64")


def _emit_values(b: ir.IRBuilder, row: ir.Value, first: int = 0, n: int = WORD) -> ir.Value:
    """Values `first` .. `first + n - 1` of a row of bytes or floats."""
    kind = ir.VectorType(row.type.pointee, n)
    value = b.load(b.bitcast(b.gep(row, [i64(first)]), kind.as_pointer()))
    value.align = 1 if row.type.pointee == i8 else 4
    return value


def _twin_word(row: np.ndarray) -> np.int64:
    return np.packbits(row[:WORD] != 0, bitorder="little").view(np.int64)[0]


@with_twin(_twin_word)
def nonzero_word(context: Any, row: types.Type) -> Any:
    """Bit k tells whether `row[k]` is not 0, k < 64; NaN is not."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        values = _emit_values(b, args[0])
        zeros = ir.Constant(values.type, None)
        present = (b.icmp_unsigned if values.type.element == i8 else b.fcmp_unordered)("!=", values, zeros)
        return b.bitcast(present, i64)

    return types.int64(row), generate


@with_twin(lambda bits: int(bits).bit_count() if bits >= 0 else (int(bits) + (1 << WORD)).bit_count())
def count_ones(context: Any, bits: types.Type) -> Any:
    """How many bits are 1."""
    return types.int64(types.int64), lambda ctx, b, sig, args: b.call(function(b, i64, [i64], "llvm.ctpop.i64"), args)


@with_twin(lambda bits: (int(bits) & -int(bits)).bit_length() - 1)
def lowest_one(context: Any, bits: types.Type) -> Any:
    """The place of the lowest bit that is 1; some bit is."""
    return types.int64(types.int64), lambda ctx, b, sig, args: b.call(
        function(b, i64, [i64, i1], "llvm.cttz.i64"), [args[0], i1(1)]
    )


def _emit_packed(b: ir.IRBuilder, vector: ir.Value, bits: ir.Value, to: ir.Value) -> None:
    """Store the lanes of `vector` whose bits are 1 side by side from `to` on, and anything behind them."""
    n = vector.type.count
    chosen = b.bitcast(b.trunc(bits, ir.IntType(n)) if n < WORD else bits, ir.VectorType(i1, n))
    name = f"llvm.experimental.vector.compress.v{n}{'f' if vector.type.element == f32 else 'i'}{_width(vector)}"
    kind = vector.type
    packed = b.call(
        function(b, kind, [kind, chosen.type, kind], name), [vector, chosen, ir.Constant(kind, ir.Undefined)]
    )
    b.store(packed, b.bitcast(to, kind.as_pointer())).align = _width(vector) // 8


def _width(vector: ir.Value) -> int:
    return 32 if vector.type.element == f32 else vector.type.element.width


def _twin_pack(columns: np.ndarray, values: np.ndarray, row: np.ndarray, bits: int, first: int) -> None:
    places = [k for k in range(WORD) if int(bits) >> k & 1]
    columns[: len(places)] = [first + k for k in places]
    values[: len(places)] = row[places]


@with_twin(_twin_pack)
def pack_word(
    context: Any, columns: types.Type, values: types.Type, row: types.Type, bits: types.Type, first: Any
) -> Any:
    """`row[k]` and `first + k` for the bits k that are 1, side by side; 64 places of `columns` and `values` are overwritten."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        columns, values, row, bits, first = args
        value_lanes = WORD if row.type.pointee == i8 else 16
        _emit_packed_parts(b, columns, bits, COLUMN_LANES, lambda k: _emit_columns(b, first, k))
        _emit_packed_parts(b, values, bits, value_lanes, lambda k: _emit_values(b, row, k, value_lanes))
        return ctx.get_dummy_value()

    return types.void(columns, values, row, types.int64, types.intp), generate


def _emit_packed_parts(
    b: ir.IRBuilder, target: ir.Value, bits: ir.Value, lanes: int, part: Callable[[int], ir.Value]
) -> None:
    """The vectors `part(k)`, of so many lanes each, packed one behind the other."""
    at = i64(0)
    for k in range(0, WORD, lanes):
        some = b.lshr(bits, i64(k))
        _emit_packed(b, part(k), some, b.gep(target, [at]))
        if k + lanes < WORD:
            mine = b.and_(some, i64((1 << lanes) - 1))
            at = b.add(at, b.call(function(b, i64, [i64], "llvm.ctpop.i64"), [mine]))


def _emit_columns(b: ir.IRBuilder, first: ir.Value, k: int) -> ir.Value:
    kind = ir.VectorType(i16, COLUMN_LANES)
    undefined = ir.Constant(kind, ir.Undefined)
    start = b.insert_element(undefined, b.trunc(first, i16), i32(0))
    everywhere = b.shuffle_vector(start, undefined, ir.Constant(ir.VectorType(i32, COLUMN_LANES), [0] * COLUMN_LANES))
    return b.add(everywhere, ir.Constant(kind, list(range(k, k + COLUMN_LANES))))


if MACHINE.packs_lanes:

    @inline
    def _take(columns, values, at, row, bits, first):
        pack_word(offset(columns, at), offset(values, at), row, bits, first)
        return at + count_ones(bits)

else:

    @inline
    def _take(columns, values, at, row, bits, first):
        while bits != 0:
            k = lowest_one(bits)
            columns[at] = first + k
            values[at] = row[k]
            at += 1
            bits &= bits - 1
        return at


@inline
def count_row(row, n):
    """How many of `row[:n]` are not 0."""
    total = np.int64(0)
    whole = n - n % WORD
    for first in range(0, whole, WORD):
        total += count_ones(nonzero_word(offset(row, first)))
    for k in range(whole, n):
        total += np.int64(row[k] != 0)
    return total


@inline
def take_row(columns, values, row, n):
    """Write `row[k]` and k for all k < n <= PIECE whose value is not 0, ascending; returns how many. Up to 64 more places are overwritten."""
    at = np.int64(0)
    whole = n - n % WORD
    for first in range(0, whole, WORD):
        part = offset(row, first)
        at = _take(columns, values, at, part, nonzero_word(part), first)
    if whole and whole < n:  # the last 64, without those that have been looked at
        part = offset(row, n - WORD)
        at = _take(columns, values, at, part, nonzero_word(part) & (np.int64(-1) << (WORD - (n - whole))), n - WORD)
        return at
    for k in range(whole, n):
        columns[at] = k
        values[at] = row[k]
        at += np.int64(row[k] != 0)
    return at
