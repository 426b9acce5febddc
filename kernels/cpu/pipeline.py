"""How Numba is asked to compile: each function of a kernel only to LLVM IR, the whole kernel once to machine code (`compiler.py`).

By itself Numba optimises every function that a kernel calls, with all that this one calls, makes machine code of it and wraps it for Python and
for C, although nobody ever calls it: a product that stands three calls deep went through LLVM five times, and compiling took twice as long.
`inline` and `strict` leave IR. What they decorate can be called from compiled code, their own or anybody's, not from Python.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import AnnotateTypes, IRLegalization, NativeLowering
from numba.core.typed_passes import NoPythonBackend as KeepResult

# The one fast-math set of all kernels: fused multiply-add may be formed, nothing else changes. No nnan, no ninf: NaN and infinity keep their
# meaning. No reassoc: sums have the order that is written.
FASTMATH = frozenset({"contract"})
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FASTMATH), "boundscheck": False}


class _Ir(JITCodeLibrary):
    """A function's IR and that of all that it calls, as they were written."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerToIr(NativeLowering):
    _name = "lower_to_ir"

    def run_pass(self, state: Any) -> bool:
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        state.library = _Ir(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        # Numba tells the compiled forms of a function apart by the built-in functions that Python would call.
        refuses: Any = {}.popitem
        state["cr"] = state["cr"]._replace(cfunc=refuses)
        state.targetctx.insert_user_function(refuses, state["cr"].fndesc, [state.library])
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerApart(_LowerToIr):
    _name = "lower_to_ir_apart"

    def run_pass(self, state: Any) -> bool:
        super().run_pass(state)
        state.library.get_function(state["cr"].fndesc.llvm_func_name).add_function_attribute("noinline")
        return True


class ToIr(CompilerBase):
    """Numba's pipeline up to LLVM IR: `njit(pipeline_class=ToIr)`."""

    lowering: type[_LowerToIr] = _LowerToIr

    def define_pipelines(self) -> list[PassManager]:
        """See Numba's documentation, "Customizing the Compiler"."""
        passes = DefaultPassBuilder.define_untyped_pipeline(self.state, "to_ir")
        passes.passes.extend(DefaultPassBuilder.define_typed_pipeline(self.state).passes)
        passes.add_pass(IRLegalization, "ensure IR is legal prior to lowering")
        passes.add_pass(AnnotateTypes, "annotate types")
        passes.add_pass(self.lowering, "lower to LLVM IR")
        passes.add_pass(KeepResult, "keep the result")
        passes.finalize()
        return [passes]


class ToIrApart(ToIr):
    """The same, and calls of the function stay calls."""

    lowering = _LowerApart


inline = njit(pipeline_class=ToIr, **OPTIONS)
# For what must round as NumPy does, to the last bit: not even fused multiply-add is formed.
strict = njit(
    pipeline_class=ToIr, **(OPTIONS | {"fastmath": set(FASTMATH - FASTMATH)})
)  # said, not left out: Numba would take the caller's
# For register tiles that LLVM would spoil if it saw what they are called with: it gives each row a pointer of its own, more than there are registers.
apart = njit(pipeline_class=ToIrApart, **OPTIONS)
