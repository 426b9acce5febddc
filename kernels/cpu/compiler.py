"""From a kernel's Python source to machine code: the only file that asks Numba to compile.

Every op becomes one function `void entry(int64 *row)`, which unpacks its operands from a row of the table and calls the kernel; the walker
becomes a function of its own. Imported only when something is missing from the cache (`objects.py`).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core.compiler_lock import global_compiler_lock

from ..contract import find
from . import crew, walker
from .isa import MACHINE
from .pipeline import inline
from .registry import KERNELS
from .simd import address_to, bits_to_float, long_p

for _topic in (
    "rows",
    "matmul",
    "convolution",
    "pooled_convolution",
    "pooling",
    "batch_norm",
    "sparse",
    "quads",
    "blocks",
    "activations",
    "losses",
    "optimizers",
    "forest",
    "warping",
    "winograd",
):
    import_module(f".{_topic}", __package__)


def _entry(op_name: str, dtypes: tuple[str, ...]) -> Any:
    """A Python function `entry(row)` that unpacks a row of the table and calls the kernel."""
    op = find(op_name)
    scope: dict[str, Any] = {"kernel": inline(KERNELS[op_name]), "number": bits_to_float}
    arguments, word = [], 1
    for operand, dtype in zip(op.operands, dtypes, strict=True):
        scope[f"pointer_{operand.name}"] = address_to[dtype]
        arguments.append(f"pointer_{operand.name}(row[{word}])")
        word += 1
    for _ in op.params:
        arguments.append(f"number(row[{word}])")
        word += 1
    for _ in range(len(op.dims) + sum(len(operand.shape) == 2 for operand in op.operands)):
        arguments.append(f"row[{word}]")
        word += 1
    # Numba compiles a function of this exact shape to straight loads; there is no way to say "the next n words" in its language.
    exec(f"def entry(row):\n    kernel({', '.join(arguments)})", scope)
    return scope["entry"]


def compile_entry(op_name: str, dtypes: tuple[str, ...]) -> tuple[bytes, str]:
    """Object code of an op for operands of these dtypes, and its symbol."""
    return _object(_entry(op_name, dtypes), types.void(long_p))


def entry_module(op_name: str, dtypes: tuple[str, ...]) -> llvm.ModuleRef:
    """The optimised LLVM module of an op: for tests, and for who wants to see what the compiler made."""
    return _module(_entry(op_name, dtypes), types.void(long_p))[0]


def assembly(op_name: str, dtypes: tuple[str, ...]) -> str:
    """The machine code of an op as text."""
    return _target_machine().emit_assembly(entry_module(op_name, dtypes))


def compile_walker(name: str) -> tuple[bytes, str]:
    """Compile `walk` or `walk_recording`."""
    return _object(getattr(walker, name), _walker_signature())


def compile_crew(name: str) -> tuple[bytes, str]:
    """Compile `serve` or `share_out`."""
    n = types.int64
    return _object(getattr(crew, name), {"serve": n(long_p), "share_out": n(long_p, n, n)}[name])


def walker_module(name: str = "walk") -> llvm.ModuleRef:
    """The optimised LLVM module of the walker, for tests."""
    return _module(getattr(walker, name), _walker_signature())[0]


def _walker_signature() -> Any:
    n = types.int64
    return n(long_p, n, n, n, long_p)


def _object(function: Any, signature: Any) -> tuple[bytes, str]:
    module, symbol = _module(function, signature)
    return _target_machine().emit_object(module), symbol


def _module(function: Any, signature: Any) -> tuple[llvm.ModuleRef, str]:
    """Optimised LLVM module with one visible function of plain C convention.

    Numba's own C wrapper would drag in its run-time (exceptions, the interpreter's lock). Kernels do not raise, so a wrapper that ignores the
    status leaves code that needs nothing but libm and libc: it loads without Numba.
    """
    dispatcher = inline(function)
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature.args]
    inner, symbol = result.fndesc.llvm_func_name, f"fastmnist_{function.__name__}"
    arguments = [("i64" if a == types.int64 else "ptr") for a in signature.args]
    named = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(arguments))
    returns = "void" if signature.return_type == types.void else "i64"
    wrapper = f"""
define {returns} @{symbol}({named}) {{
  %result = alloca i64
  %exception = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %exception{", " + named if named else ""})
  %value = load i64, ptr %result
  ret {"void" if returns == "void" else "i64 %value"}
}}
declare i32 @"{inner}"(ptr, ptr{"".join(", " + kind for kind in arguments)})
"""
    with global_compiler_lock:
        ir = result.library._get_module_for_linking()
    module = llvm.parse_assembly(wrapper.strip())
    module.triple, module.data_layout = ir.triple, ir.data_layout
    module.link_in(ir, preserve=True)
    # What cannot be seen from outside may be inlined for good, dropped, and made for the arguments that it gets.
    for definition in [*module.functions, *module.global_variables]:
        if not definition.is_declaration and definition.name != symbol and not _stands_apart(definition):
            definition.linkage = llvm.Linkage.internal
    # Loops are vectorised, as Numba does it, and straight lines are not: the vectors are written by hand.
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization, tuning.slp_vectorization = True, False
    passes = llvm.create_pass_builder(_target_machine(), tuning)
    passes.getModulePassManager().run(module, passes)
    return module, symbol


def _stands_apart(definition: llvm.ValueRef) -> bool:
    return definition.is_function and any(b"noinline" in group for group in definition.attributes)


@cache
def _target_machine() -> llvm.TargetMachine:
    """For `MACHINE` and nothing else: Numba's own has all features of this processor, whatever `NUMBA_CPU_NAME` says."""
    options = {"reloc": "static"} if MACHINE.is_x86 else {}  # as Numba has it for code that is run where it was made
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=MACHINE.cpu_name, features=MACHINE.features, opt=3, codemodel="jitdefault", jit=True, **options
    )
