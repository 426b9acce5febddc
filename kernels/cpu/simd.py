"""Vectors as a Numba type, and the few intrinsics that kernels are written with.

A kernel is ordinary Python over pointers and vectors: `a = load(p, i)`, `store(q, i, fma(a, b, c))`. A vector holds `LANES` float32 values and
compiles to one register; `+ - * /`, comparisons, `where`, `fma` and the others are each one instruction. `load_n` and `store_n` touch only the
first n lanes: the tail of a row needs no scalar loop, and nothing outside it is read or written.

Every intrinsic has a plain-Python twin, used when Numba is switched off (`NUMBA_DISABLE_JIT=1`): a vector is then a NumPy array of `LANES`
values, a pointer the rest of a one-dimensional array from where it points.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .isa import LANES, MACHINE
from .pipeline import FASTMATH, OPTIONS, apart, inline, strict  # noqa: F401 (kernels have them from here, with the rest of their language)

f32, f64 = ir.FloatType(), ir.DoubleType()
i1, i8, i16, i32, i64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
vector_ir = ir.VectorType(f32, LANES)
lanes_ir = ir.VectorType(i32, LANES)
mask_ir = ir.VectorType(i1, LANES)
JIT = not config.DISABLE_JIT


class VectorType(types.Type):
    """`LANES` float32 values."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


class MaskType(types.Type):
    """`LANES` booleans: the result of comparing vectors."""

    def __init__(self) -> None:
        super().__init__(name=f"maskx{LANES}")


vector, mask = VectorType(), MaskType()
float_p = types.CPointer(types.float32)
int_p = types.CPointer(types.int32)
byte_p = types.CPointer(types.uint8)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type) -> None:
        super().__init__(dmm, fe_type, vector_ir)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type) -> None:
        super().__init__(dmm, fe_type, mask_ir)


def _binary(op: Callable, emit: Callable, result: types.Type = vector) -> None:
    """Teach Numba an operator on two vectors."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            if args == (vector, vector):
                return signature(result, vector, vector)
            return None

    lower_builtin(op, vector, vector)(lambda context, builder, sig, args: emit(builder, *args))


_binary(operator.add, lambda b, x, y: b.fadd(x, y))
_binary(operator.sub, lambda b, x, y: b.fsub(x, y))
_binary(operator.mul, lambda b, x, y: b.fmul(x, y))
_binary(operator.truediv, lambda b, x, y: b.fdiv(x, y))
_binary(operator.gt, lambda b, x, y: b.fcmp_ordered(">", x, y), mask)
_binary(operator.lt, lambda b, x, y: b.fcmp_ordered("<", x, y), mask)
_binary(operator.eq, lambda b, x, y: b.fcmp_ordered("==", x, y), mask)


# --- helpers that write IR (also used by tile.py) ---------------------------------------------------------------------------------------


def function(builder: ir.IRBuilder, result: ir.Type, arguments: list[ir.Type], name: str) -> ir.Function:
    """Declare an LLVM intrinsic or a C function."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def emit_fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """`x * y + z` with one rounding, or two where one would be a call of the C library (`Machine.has_fma`)."""
    if not MACHINE.has_fma:
        return b.fadd(b.fmul(x, y), z)
    return b.call(function(b, vector_ir, [vector_ir] * 3, f"llvm.fma.v{LANES}f32"), [x, y, z])


def emit_load(b: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """A whole vector, unaligned."""
    value = b.load(b.bitcast(pointer, vector_ir.as_pointer()))
    value.align = 4
    return value


def emit_store(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
    """A whole vector, unaligned."""
    b.store(value, b.bitcast(pointer, vector_ir.as_pointer())).align = 4


def emit_splat(b: ir.IRBuilder, scalar: ir.Value, ty: ir.VectorType = vector_ir) -> ir.Value:
    """The scalar in every lane."""
    undefined = ir.Constant(ty, ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, scalar, i32(0)), undefined, ir.Constant(lanes_ir, [0] * LANES))


def emit_constant(value: float) -> ir.Constant:
    """A float32 constant in every lane."""
    return ir.Constant(vector_ir, [float(np.float32(value))] * LANES)


def emit_lane_mask(b: ir.IRBuilder, n: ir.Value) -> ir.Value:
    """Lanes 0 .. n - 1, for an int64 n of any size."""
    # Compared as int32, the width of the lanes: of int64 AVX2 would pack two halves into one mask, in every step of a loop.
    some = b.select(b.icmp_signed(">", n, i64(0)), n, i64(0))
    few = b.trunc(b.select(b.icmp_signed("<", some, i64(LANES)), some, i64(LANES)), i32)
    return b.icmp_signed("<", ir.Constant(lanes_ir, list(range(LANES))), emit_splat(b, few, lanes_ir))


def emit_masked_load(b: ir.IRBuilder, pointer: ir.Value, lanes: ir.Value) -> ir.Value:
    """The masked lanes, 0 elsewhere; memory behind the others is not touched."""
    p = vector_ir.as_pointer()
    load = function(b, vector_ir, [p, i32, mask_ir, vector_ir], f"llvm.masked.load.v{LANES}f32.p0")
    return b.call(load, [b.bitcast(pointer, p), i32(4), lanes, emit_constant(0)])


def emit_masked_store(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, lanes: ir.Value) -> None:
    """Store the masked lanes only."""
    p = vector_ir.as_pointer()
    store = function(b, ir.VoidType(), [vector_ir, p, i32, mask_ir], f"llvm.masked.store.v{LANES}f32.p0")
    b.call(store, [value, b.bitcast(pointer, p), i32(4), lanes])


def with_twin(twin: Callable) -> Callable[[Callable], Any]:
    """Decorate the typing function of an intrinsic; `twin` takes its place when Numba is switched off."""

    def decorate(typing: Callable) -> Any:
        return intrinsic(typing) if JIT else twin

    return decorate


def _vector_intrinsic(arguments: tuple[types.Type, ...], result: types.Type, emit: Callable, twin: Callable) -> Any:
    """An intrinsic of fixed types whose code is `emit(builder, *args)`."""
    if not JIT:
        return twin

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: list) -> Any:
        value = emit(builder, *args)
        return context.get_dummy_value() if value is None else value

    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    sig = result(*arguments)
    scope: dict[str, Any] = {"sig": sig, "generate": generate}
    # Numba's typing callback must have as many parameters as the intrinsic; a lambda made from text is the shortest way to any number.
    return intrinsic(
        eval(f"lambda context, {names}: (sig, generate)" if names else "lambda context: (sig, generate)", scope)
    )


# --- pointers ---------------------------------------------------------------------------------------------------------------------------


@with_twin(lambda p, n: p[n:])
def offset(context: Any, p: types.Type, n: types.Type) -> Any:
    """`p + n` elements."""
    return p(p, types.intp), lambda ctx, b, sig, args: b.gep(args[0], [args[1]])


def _address_to(target: types.Type) -> Any:
    element = {
        types.float32: f32,
        types.int32: i32,
        types.int64: i64,
        types.uint8: i8,
        types.uint16: i16,
        types.uint32: i32,
        types.float64: f64,
    }[target.dtype]
    return _vector_intrinsic((types.int64,), target, lambda b, a: b.inttoptr(a, element.as_pointer()), lambda a: a)


POINTERS: dict[str, types.CPointer] = {
    name: types.CPointer(getattr(types, name))
    for name in ("float32", "float64", "int32", "int64", "uint8", "uint16", "uint32")
}
# int64 address -> typed pointer, by dtype name.
address_to = {name: _address_to(pointer) for name, pointer in POINTERS.items()}
bits_to_float = _vector_intrinsic(
    (types.int64,), types.float64, lambda b, a: b.bitcast(a, f64), lambda a: np.int64(a).view(np.float64)
)


def stack_array(n: int, dtype: str = "float32") -> Any:
    """An intrinsic that returns n values on the stack, 64-byte aligned: scratch without allocation."""
    element = {"float32": f32, "float64": f64, "int32": i32, "int64": i64, "uint8": i8, "uint16": i16}[dtype]

    def emit(b: ir.IRBuilder) -> ir.Value:
        with b.goto_entry_block():
            memory = b.alloca(ir.ArrayType(element, n))
            memory.align = 64
        return b.bitcast(memory, element.as_pointer())

    return _vector_intrinsic((), POINTERS[dtype], emit, lambda: np.zeros(n, dtype))


# --- vectors ----------------------------------------------------------------------------------------------------------------------------


def _twin_load_n(p: np.ndarray, i: int, n: int) -> np.ndarray:
    value = np.zeros(LANES, np.float32)
    n = max(min(n, LANES), 0)
    value[:n] = p[i : i + n]
    return value


def _twin_store(p: np.ndarray, i: int, v: np.ndarray) -> None:
    p[i : i + LANES] = v


def _twin_store_n(p: np.ndarray, i: int, v: np.ndarray, n: int) -> None:
    n = max(min(n, LANES), 0)
    p[i : i + n] = v[:n]


def _twin_fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    if not MACHINE.has_fma:
        return x * y + z
    return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32)


load = _vector_intrinsic(
    (float_p, types.intp), vector, lambda b, p, i: emit_load(b, b.gep(p, [i])), lambda p, i: p[i : i + LANES].copy()
)
store = _vector_intrinsic(
    (float_p, types.intp, vector), types.void, lambda b, p, i, v: emit_store(b, v, b.gep(p, [i])), _twin_store
)
load_n = _vector_intrinsic(
    (float_p, types.intp, types.intp),
    vector,
    lambda b, p, i, n: emit_masked_load(b, b.gep(p, [i]), emit_lane_mask(b, n)),
    _twin_load_n,
)
store_n = _vector_intrinsic(
    (float_p, types.intp, vector, types.intp),
    types.void,
    lambda b, p, i, v, n: emit_masked_store(b, v, b.gep(p, [i]), emit_lane_mask(b, n)),
    _twin_store_n,
)
splat = _vector_intrinsic(
    (types.float32,), vector, lambda b, x: emit_splat(b, x), lambda x: np.full(LANES, x, np.float32)
)
fma = _vector_intrinsic((vector, vector, vector), vector, emit_fma, _twin_fma)
where = _vector_intrinsic(
    (mask, vector, vector), vector, lambda b, m, x, y: b.select(m, x, y), lambda m, x, y: np.where(m, x, y)
)
sqrt = _vector_intrinsic(
    (vector,), vector, lambda b, x: b.call(function(b, vector_ir, [vector_ir], f"llvm.sqrt.v{LANES}f32"), [x]), np.sqrt
)
absolute = _vector_intrinsic(
    (vector,), vector, lambda b, x: b.call(function(b, vector_ir, [vector_ir], f"llvm.fabs.v{LANES}f32"), [x]), np.abs
)
first_lanes = _vector_intrinsic((types.intp,), mask, emit_lane_mask, lambda n: np.arange(LANES) < n)
only_lane = _vector_intrinsic(
    (types.intp,),
    mask,
    lambda b, n: b.icmp_signed(
        "==", ir.Constant(ir.VectorType(i64, LANES), list(range(LANES))), emit_splat(b, n, ir.VectorType(i64, LANES))
    ),
    lambda n: np.arange(LANES) == n,
)


def _emit_first(b: ir.IRBuilder, m: ir.Value) -> ir.Value:
    bits = ir.IntType(LANES)
    count = function(b, bits, [bits, i1], f"llvm.cttz.i{LANES}")
    return b.zext(b.call(count, [b.bitcast(m, bits), i1(0)]), i64)


# Index of the first true lane; LANES if there is none.
first_true = _vector_intrinsic((mask,), types.intp, _emit_first, lambda m: int(np.argmax(m)) if m.any() else LANES)


def _emit_mask_bits(b: ir.IRBuilder, m: ir.Value) -> ir.Value:
    return b.zext(b.bitcast(m, ir.IntType(LANES)), i64)


# One bit for each lane, the first lane's the lowest.
mask_bits = _vector_intrinsic(
    (mask,), types.int64, _emit_mask_bits, lambda m: np.dot(m.astype(np.int64), 1 << np.arange(LANES))
)


def _shuffled(index: list[int]) -> Any:
    """An intrinsic of two vectors: the lanes of both, counted on from the first to the second, in this order."""
    return _vector_intrinsic(
        (vector, vector),
        vector,
        lambda b, x, y: b.shuffle_vector(x, y, ir.Constant(lanes_ir, index)),
        lambda x, y: np.concatenate([x, y])[index],
    )


# Lanes 0, 2, 4, ... of both; the first half of both.
even_lanes = _shuffled(list(range(0, 2 * LANES, 2)))
lower_halves = _shuffled([*range(LANES // 2), *range(LANES, LANES + LANES // 2)])


def _emit_sum(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """Halves are added to each other: a fixed tree, whatever the machine."""
    width = LANES
    while width > 1:
        half = width // 2
        indices = [[ir.Constant(i32, i + side * half) for i in range(half)] for side in (0, 1)]
        low, high = (b.shuffle_vector(v, v, ir.Constant(ir.VectorType(i32, half), index)) for index in indices)
        v, width = b.fadd(low, high), half
    return b.extract_element(v, i32(0))


def _twin_sum(v: np.ndarray) -> np.float32:
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


reduce_add = _vector_intrinsic((vector,), types.float32, _emit_sum, _twin_sum)
reduce_max = _vector_intrinsic(
    (vector,),
    types.float32,
    lambda b, v: b.call(function(b, f32, [vector_ir], f"llvm.vector.reduce.fmax.v{LANES}f32"), [v]),
    lambda v: np.fmax.reduce(v),
)


@inline
def fill_zeros(p, n):
    """`p[:n] = 0`."""
    for i in range(0, n, LANES):
        store_n(p, i, splat(np.float32(0)), n - i)


# --- sums in double precision -------------------------------------------------------------------------------------------------------------


def _emit_add_products(b: ir.IRBuilder, p: ir.Value, v: ir.Value, factor: ir.Value) -> None:
    kind = ir.VectorType(f64, LANES)
    place = b.bitcast(p, kind.as_pointer())
    product = b.fmul(b.fpext(v, kind), emit_splat(b, b.fpext(factor, f64), kind))  # of two floats: exact
    total = b.load(place)
    total.align = b.store(b.fadd(total, product), place).align = 8


def _twin_add_products(p: np.ndarray, v: np.ndarray, factor: np.float32) -> None:
    p[:LANES] += v.astype(np.float64) * np.float64(factor)


# p[:LANES] += v * factor, in float64.
add_products = _vector_intrinsic(
    (POINTERS["float64"], vector, types.float32), types.void, _emit_add_products, _twin_add_products
)

# --- bytes: small whole numbers of a vector, kept in a quarter of the memory --------------------------------------------------------------

_bytes_ir = ir.VectorType(i8, LANES)


def _emit_load_bytes(b: ir.IRBuilder, p: ir.Value, i: ir.Value, n: ir.Value) -> ir.Value:
    kind = _bytes_ir.as_pointer()
    masked_load = function(b, _bytes_ir, [kind, i32, mask_ir, _bytes_ir], f"llvm.masked.load.v{LANES}i8.p0")
    zeros = ir.Constant(_bytes_ir, [0] * LANES)
    return b.uitofp(
        b.call(masked_load, [b.bitcast(b.gep(p, [i]), kind), i32(1), emit_lane_mask(b, n), zeros]), vector_ir
    )


def _emit_store_bytes(b: ir.IRBuilder, p: ir.Value, i: ir.Value, v: ir.Value, n: ir.Value) -> None:
    kind = _bytes_ir.as_pointer()
    masked_store = function(b, ir.VoidType(), [_bytes_ir, kind, i32, mask_ir], f"llvm.masked.store.v{LANES}i8.p0")
    small = b.trunc(b.fptosi(v, lanes_ir), _bytes_ir)
    b.call(masked_store, [small, b.bitcast(b.gep(p, [i]), kind), i32(1), emit_lane_mask(b, n)])


def _twin_load_bytes(p: np.ndarray, i: int, n: int) -> np.ndarray:
    return _twin_load_n(p.astype(np.float32), i, n)


def _twin_store_bytes(p: np.ndarray, i: int, v: np.ndarray, n: int) -> None:
    _twin_store_n(p, i, v.astype(np.uint8), n)


load_bytes_n = _vector_intrinsic((byte_p, types.intp, types.intp), vector, _emit_load_bytes, _twin_load_bytes)
store_bytes_n = _vector_intrinsic(
    (byte_p, types.intp, vector, types.intp), types.void, _emit_store_bytes, _twin_store_bytes
)

# --- lanes that each go their own way ----------------------------------------------------------------------------------------------------


def _emit_gather(b: ir.IRBuilder, p: ir.Value, index: ir.Value) -> ir.Value:
    wide = ir.VectorType(i64, LANES)
    distance = b.shl(b.sext(b.fptosi(index, lanes_ir), wide), ir.Constant(wide, [2] * LANES))
    addresses = b.add(emit_splat(b, b.ptrtoint(p, i64), wide), distance)
    pointers = ir.VectorType(f32.as_pointer(), LANES)
    gather_ = function(b, vector_ir, [pointers, i32, mask_ir, vector_ir], f"llvm.masked.gather.v{LANES}f32.v{LANES}p0")
    everywhere = ir.Constant(mask_ir, [1] * LANES)
    return b.call(gather_, [b.inttoptr(addresses, pointers), i32(4), everywhere, emit_constant(0)])


# p[index] for each lane; `index` holds whole numbers from 0 to 2^24 as floats.
gather = _vector_intrinsic((float_p, vector), vector, _emit_gather, lambda p, index: p[index.astype(np.int64)])
# Without what stands behind the point, of values below 2^31.
truncate = _vector_intrinsic((vector,), vector, lambda b, x: b.sitofp(b.fptosi(x, lanes_ir), vector_ir), np.trunc)
lane_numbers = _vector_intrinsic(
    (), vector, lambda b: ir.Constant(vector_ir, [float(i) for i in range(LANES)]), lambda: np.arange(LANES, dtype="f4")
)

_EXPONENT_BIAS = 127
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits of a float32


def _emit_scale_by_power(b: ir.IRBuilder, x: ir.Value, n: ir.Value) -> ir.Value:
    """X * 2^n, n an integer carried as `n + _MAGIC`; in two halves, so that |n| may reach 252."""
    magic = ir.Constant(lanes_ir, [int(np.float32(_MAGIC).view(np.int32))] * LANES)
    integer = b.sub(b.bitcast(n, lanes_ir), magic)
    half = b.ashr(integer, ir.Constant(lanes_ir, [1] * LANES))
    for part in (half, b.sub(integer, half)):
        biased = b.add(part, ir.Constant(lanes_ir, [_EXPONENT_BIAS] * LANES))
        x = b.fmul(x, b.bitcast(b.shl(biased, ir.Constant(lanes_ir, [23] * LANES)), vector_ir))
    return x


def _twin_scale_by_power(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.ldexp(x, np.nan_to_num(n - np.float32(_MAGIC)).astype(np.int32)).astype(np.float32)


scale_by_power = _vector_intrinsic((vector, vector), vector, _emit_scale_by_power, _twin_scale_by_power)


def _emit_exponent(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    bits = b.lshr(b.bitcast(x, lanes_ir), ir.Constant(lanes_ir, [23] * LANES))
    return b.sitofp(b.sub(bits, ir.Constant(lanes_ir, [_EXPONENT_BIAS - 1] * LANES)), vector_ir)


def _emit_mantissa(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    bits = b.and_(b.bitcast(x, lanes_ir), ir.Constant(lanes_ir, [0x007FFFFF] * LANES))
    return b.bitcast(b.or_(bits, ir.Constant(lanes_ir, [0x3F000000] * LANES)), vector_ir)


# x = mantissa * 2^exponent with 0.5 <= mantissa < 1, for positive normal x.
exponent = _vector_intrinsic((vector,), vector, _emit_exponent, lambda x: np.frexp(x)[1].astype(np.float32))
mantissa = _vector_intrinsic((vector,), vector, _emit_mantissa, lambda x: np.frexp(x)[0].astype(np.float32))


def emit_prefetch(b: ir.IRBuilder, p: ir.Value) -> None:
    """Ask for the cache line of an address, which may lie anywhere."""
    prefetch_ = function(b, ir.VoidType(), [i8.as_pointer(), i32, i32, i32], "llvm.prefetch.p0")
    b.call(prefetch_, [b.bitcast(p, i8.as_pointer()), i32(0), i32(3), i32(1)])


TILE = 16  # bytes on each side of a transposed tile
_tile_bytes_ir = ir.VectorType(i8, TILE)


def _twin_transpose(target: np.ndarray, stride: int, source: np.ndarray, starts: np.ndarray) -> None:
    for c in range(TILE):
        for r in range(TILE):
            target[c * stride + r] = source[starts[r] + c]


def emit_transposed(b: ir.IRBuilder, lines: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square: line r interleaved with line r + n / 2, for all r, log2(n) times; each doubles the width of what lies together."""
    n = len(lines)
    for _ in range(n.bit_length() - 1):
        mixed = []
        for low, high in zip(lines[: n // 2], lines[n // 2 :], strict=True):
            for start in (0, n // 2):
                index = [i32(lane) for k in range(start, start + n // 2) for lane in (k, n + k)]
                mixed.append(b.shuffle_vector(low, high, ir.Constant(ir.VectorType(i32, n), index)))
        lines = mixed
    return lines


def _emit_transpose(b: ir.IRBuilder, target: ir.Value, stride: ir.Value, source: ir.Value, starts: ir.Value) -> None:
    lines = []
    for r in range(TILE):
        line = b.load(b.bitcast(b.gep(source, [b.load(b.gep(starts, [i64(r)]))]), _tile_bytes_ir.as_pointer()))
        line.align = 1
        lines.append(line)
    for c, line in enumerate(emit_transposed(b, lines)):
        b.store(line, b.bitcast(b.gep(target, [b.mul(stride, i64(c))]), _tile_bytes_ir.as_pointer())).align = 1


# target[c * stride + r] = source[starts[r] + c] for c, r < TILE.
transpose_tile = _vector_intrinsic(
    (POINTERS["uint8"], types.int64, POINTERS["uint8"], POINTERS["int64"]), types.void, _emit_transpose, _twin_transpose
)


def _emit_transpose_lanes(b: ir.IRBuilder, target: ir.Value, source: ir.Value) -> None:
    lines = emit_transposed(b, [emit_load(b, b.gep(source, [i64(r * LANES)])) for r in range(LANES)])
    for c, line in enumerate(lines):
        emit_store(b, line, b.gep(target, [i64(c * LANES)]))


def _twin_transpose_lanes(target: np.ndarray, source: np.ndarray) -> None:
    square = LANES * LANES
    target[:square] = source[:square].reshape(LANES, LANES).T.ravel()


# target[c * LANES + r] = source[r * LANES + c] for c, r < LANES.
transpose_lanes = _vector_intrinsic((float_p, float_p), types.void, _emit_transpose_lanes, _twin_transpose_lanes)


@with_twin(lambda p, n: None)
def prefetch(context: Any, p: types.Type, n: types.Type) -> Any:
    """Ask for the cache line of `p[n]`."""

    def generate(ctx: Any, b: ir.IRBuilder, sig: Any, args: list) -> Any:
        emit_prefetch(b, b.gep(args[0], [args[1]]))
        return ctx.get_dummy_value()

    return types.void(p, types.intp), generate


# --- threads: atomics, waiting, floating-point mode -------------------------------------------------------------------------------------

long_p = types.CPointer(types.int64)


def _twin_add(p: np.ndarray, v: int) -> int:
    old = int(p[0])
    p[0] += v
    return old


atomic_add = _vector_intrinsic(
    (long_p, types.int64), types.int64, lambda b, p, v: b.atomic_rmw("add", p, v, "seq_cst"), _twin_add
)


def _twin_exchange(p: np.ndarray, v: int) -> int:
    old, p[0] = int(p[0]), v
    return old


atomic_exchange = _vector_intrinsic(
    (long_p, types.int64), types.int64, lambda b, p, v: b.atomic_rmw("xchg", p, v, "seq_cst"), _twin_exchange
)
atomic_load = _vector_intrinsic(
    (long_p,), types.int64, lambda b, p: b.load_atomic(p, "acquire", 8), lambda p: int(p[0])
)


def _emit_pause(b: ir.IRBuilder) -> None:
    if MACHINE.is_x86:
        b.call(function(b, ir.VoidType(), [], "llvm.x86.sse2.pause"), [])


pause = _vector_intrinsic((), types.void, _emit_pause, lambda: None)

FUTEX_WAIT, FUTEX_WAKE = 128, 129  # private to the process
LONGEST_SLEEP = 20_000_000  # ns: a sleeper looks around so often, whether it was woken or not
SHORT_SLEEP = 50  # us: where nobody can wake a sleeper


def _two_longs(b: ir.IRBuilder, *values: int) -> ir.Value:
    """C's `struct timespec` on the stack."""
    with b.goto_entry_block():
        memory = b.alloca(ir.ArrayType(i64, 2))
    pointer = b.bitcast(memory, i64.as_pointer())
    for i, value in enumerate(values):
        b.store(i64(value), b.gep(pointer, [i64(i)]))
    return pointer


def _emit_futex(b: ir.IRBuilder, p: ir.Value, op: int, value: ir.Value, timeout: ir.Value) -> None:
    """Linux' futex on the low half of `p[0]`, through libc's `syscall`, which the loader finds by name."""
    call = cgutils.get_or_insert_function(b.module, ir.FunctionType(i64, [i64], var_arg=True), "syscall")
    b.call(call, [i64(MACHINE.futex_number), b.ptrtoint(p, i64), i64(op), value, timeout, i64(0), i64(0)])


def _emit_sleep(b: ir.IRBuilder, p: ir.Value, value: ir.Value) -> None:
    if MACHINE.futex_number:
        _emit_futex(b, p, FUTEX_WAIT, value, b.ptrtoint(_two_longs(b, 0, LONGEST_SLEEP), i64))
    elif MACHINE.system == "Windows":
        b.call(function(b, ir.VoidType(), [i32], "Sleep"), [i32(1)])  # milliseconds
    else:
        b.call(function(b, i32, [i32], "usleep"), [i32(SHORT_SLEEP)])


def _emit_wake(b: ir.IRBuilder, p: ir.Value) -> None:
    if MACHINE.futex_number:
        _emit_futex(b, p, FUTEX_WAKE, i64(1 << 30), i64(0))


# Sleep while `p[0] == value`, at most until the next look around; wake all that sleep on `p`.
sleep_while = _vector_intrinsic((long_p, types.int64), types.void, _emit_sleep, lambda p, value: None)
wake_all = _vector_intrinsic((long_p,), types.void, _emit_wake, lambda p: None)


def _emit_nanoseconds(b: ir.IRBuilder) -> ir.Value:
    now = _two_longs(b)
    if MACHINE.system == "Windows":
        b.call(function(b, i32, [i64.as_pointer()], "QueryPerformanceCounter"), [now])
        return b.mul(b.load(now), i64(100))  # ticks of 100 ns on every Windows since 10
    b.call(function(b, i32, [i32, i64.as_pointer()], "clock_gettime"), [i32(MACHINE.monotonic_clock), now])
    return b.add(b.mul(b.load(now), i64(1_000_000_000)), b.load(b.gep(now, [i64(1)])))


# A clock that all threads share, some 25 ns a reading.
nanoseconds = _vector_intrinsic((), types.int64, _emit_nanoseconds, time.monotonic_ns)


def _emit_cycles(b: ir.IRBuilder) -> ir.Value:
    """The cycle counter; other machines than x86 keep theirs from user programs, and get the clock."""
    return b.call(function(b, i64, [], "llvm.readcyclecounter"), []) if MACHINE.is_x86 else _emit_nanoseconds(b)


cycles = _vector_intrinsic((), types.int64, _emit_cycles, time.monotonic_ns)


def _mxcsr(name: str) -> Callable:
    def emit(b: ir.IRBuilder, p: ir.Value) -> None:
        if MACHINE.is_x86:
            b.call(function(b, ir.VoidType(), [i8.as_pointer()], name), [b.bitcast(p, i8.as_pointer())])

    return emit


# x86's floating-point control: other machines keep denormals, which costs them time and nothing else.
read_float_mode = _vector_intrinsic((int_p,), types.void, _mxcsr("llvm.x86.sse.stmxcsr"), lambda p: None)
write_float_mode = _vector_intrinsic((int_p,), types.void, _mxcsr("llvm.x86.sse.ldmxcsr"), lambda p: None)
FLUSH_DENORMALS = 0x8040  # FTZ and DAZ
_words = ir.ArrayType(i32, 2)


def _emit_words(b: ir.IRBuilder) -> ir.Value:
    with b.goto_entry_block():
        memory = b.alloca(_words)
    return b.bitcast(memory, i32.as_pointer())


two_words = _vector_intrinsic((), int_p, _emit_words, lambda: np.zeros(2, np.int32))


# --- calling an op by its address -------------------------------------------------------------------------------------------------------


def _emit_call(b: ir.IRBuilder, address: ir.Value, row: ir.Value) -> None:
    entry = ir.FunctionType(ir.VoidType(), [i64.as_pointer()])
    b.call(b.inttoptr(address, entry.as_pointer()), [row])


def _no_twin(address: int, row: np.ndarray) -> None:
    raise NotImplementedError("Without Numba there are no addresses to call.")


call_address = _vector_intrinsic((types.int64, long_p), types.void, _emit_call, _no_twin)
