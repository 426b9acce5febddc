"""What this machine can do at most, to measure kernels by: multiply-adds that wait for nothing, and a triad that streams through memory.

`multiply_adds(lanes)` runs `CHAINS` independent chains of c = a b + c in registers, enough of them to hide the latency of any processor's
multiply-add (some 4 cycles times 2 to 4 units). `triad()` is a[i] = b[i] + 3 c[i] (McCalpin's STREAM, 1995). Both are LLVM IR as text: a loop
that the compiler must not improve is clearer written out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import llvmlite.binding as llvm

from . import objects
from .isa import LANES, MACHINE

CHAINS = 16 if MACHINE.registers >= 32 else 12  # the two factors need registers too
UNROLLED = 4  # vectors that one turn of the triad's loop takes
TRIAD_ITEMS = UNROLLED * LANES  # arrays are a multiple of so many float32 long
TRIAD_BYTES = (
    12  # a float32 is read from b and from c, and one written to a; that its cache line is read before is not counted
)

Function = Callable[..., None]


def widths() -> tuple[int, ...]:
    """float32 lanes of the vectors that this machine has: 4, and twice as many up to the widest."""
    return tuple(lanes for lanes in (4, 8, 16) if lanes <= LANES)


def multiply_adds(lanes: int) -> Function:
    """`f(address, rounds)`: `rounds` times `CHAINS` multiply-adds of vectors of so many lanes; 2 `CHAINS` `lanes` FLOPs a round.

    The address is that of three such vectors, a, b and what becomes of the chains.
    """
    name = f"multiply_adds_{lanes}"
    n, p = ctypes.c_int64, ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, p, n)(_load(name, _multiply_adds_ir(name, lanes)))


def triad() -> Function:
    """`f(a, b, c, items, rounds)` on addresses of float32; `items` is a positive multiple of `TRIAD_ITEMS`."""
    n, p = ctypes.c_int64, ctypes.c_void_p
    return ctypes.CFUNCTYPE(None, p, p, p, n, n)(_load("triad", _triad_ir("triad")))


def _load(name: str, text: str) -> int:
    def compile_it() -> tuple[bytes, str]:
        from .compiler import _target_machine

        machine = _target_machine()
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        return machine.emit_object(module), f"fastmnist_{name}"

    return objects.load(name, compile_it)[0]


def _multiply_adds_ir(name: str, lanes: int) -> str:
    vector = f"<{lanes} x float>"
    if MACHINE.has_fma:
        step = [
            f"%d{k} = call {vector} @llvm.fma.v{lanes}f32({vector} %a, {vector} %b, {vector} %c{k})"
            for k in range(CHAINS)
        ]
    else:  # a product that does not change would leave the loop
        step = [f"%p{k} = fmul {vector} %a, %c{k}\n  %d{k} = fadd {vector} %p{k}, %b" for k in range(CHAINS)]
    chains = [f"%c{k} = phi {vector} [ %a, %entry ], [ %d{k}, %loop ]" for k in range(CHAINS)]
    sums = [f"%s{k + 1} = fadd {vector} %{f's{k}' if k else 'd0'}, %d{k + 1}" for k in range(CHAINS - 1)]
    body, phis, total = ("\n  ".join(lines) for lines in (step, chains, sums))
    return f"""
define void @fastmnist_{name}(ptr %memory, i64 %rounds) {{
entry:
  %second = getelementptr {vector}, ptr %memory, i64 1
  %third = getelementptr {vector}, ptr %memory, i64 2
  %a = load {vector}, ptr %memory, align 4
  %b = load {vector}, ptr %second, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {phis}
  {body}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %loop, label %end
end:
  {total}
  store {vector} %s{CHAINS - 1}, ptr %third, align 4
  ret void
}}
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
"""


def _triad_ir(name: str) -> str:
    vector = f"<{LANES} x float>"
    three = f"<{', '.join(['float 3.0'] * LANES)}>"
    body = "\n  ".join(
        f"""%at{k} = add i64 %i, {k * LANES}
  %pa{k} = getelementptr float, ptr %a, i64 %at{k}
  %pb{k} = getelementptr float, ptr %b, i64 %at{k}
  %pc{k} = getelementptr float, ptr %c, i64 %at{k}
  %x{k} = load {vector}, ptr %pb{k}, align 4
  %y{k} = load {vector}, ptr %pc{k}, align 4
  %z{k} = fmul {vector} %y{k}, {three}
  %w{k} = fadd contract {vector} %x{k}, %z{k}
  store {vector} %w{k}, ptr %pa{k}, align 4"""
        for k in range(UNROLLED)
    )
    return f"""
define void @fastmnist_{name}(ptr %a, ptr %b, ptr %c, i64 %items, i64 %rounds) {{
entry:
  br label %round
round:
  %r = phi i64 [ 0, %entry ], [ %next_round, %ended ]
  br label %loop
loop:
  %i = phi i64 [ 0, %round ], [ %next, %loop ]
  {body}
  %next = add i64 %i, {TRIAD_ITEMS}
  %more = icmp slt i64 %next, %items
  br i1 %more, label %loop, label %ended
ended:
  %next_round = add i64 %r, 1
  %another = icmp slt i64 %next_round, %rounds
  br i1 %another, label %round, label %end
end:
  ret void
}}
"""
