"""What the compiler made of the kernels: hand-written arithmetic, whole vectors, nothing borrowed."""

import re

import pytest

from fastmnist.kernels.contract import CONTRACT, JOBS

compiler = pytest.importorskip("fastmnist.kernels.cpu.compiler")
from fastmnist.kernels.cpu.isa import LANES, MACHINE  # noqa: E402
from fastmnist.kernels.cpu.registry import KERNELS  # noqa: E402
from fastmnist.kernels.cpu.tile import TILE_ROWS, TILE_VECTORS  # noqa: E402

# What a kernel may call outside itself: LLVM's own intrinsics, the C library's memory functions, a loss's logarithm and exponential.
ALLOWED = re.compile(r"llvm\.|memset$|memcpy$|memmove$|log$|exp$")


def _dtypes(name, first=True):
    pick = 0 if first else -1
    return tuple("float32" if o.dtypes[pick] == "float" else o.dtypes[pick] for o in CONTRACT[name].operands)


@pytest.fixture(scope="module")
def modules():
    return {name: compiler.entry_module(name, _dtypes(name)) for name in CONTRACT}


def test_every_op_of_the_contract_has_a_kernel():
    assert set(KERNELS) == {*CONTRACT, *JOBS}


def test_no_kernel_calls_a_library_for_its_arithmetic(modules):
    for name, module in modules.items():
        text = re.sub("gemm_(nn|nt|tn|tt)", "", str(module))  # our own
        assert not re.search("gemm|gemv|cblas", text, re.IGNORECASE), name
        outside = [f.name for f in module.functions if f.is_declaration]
        assert all(ALLOWED.match(f) for f in outside), (name, outside)


def test_no_kernel_allocates_or_touches_the_interpreter(modules):
    for name, module in modules.items():
        assert not re.search(r"\bcall\b.*@(NRT_|Py|numba_|malloc)", str(module)), name


@pytest.mark.parametrize(
    "name", ["linear_relu", "linear_dx", "linear_dw", "quad_linear_relu", "adam", "softmax_cross_entropy"]
)
def test_the_hot_loops_are_vectors(modules, name):
    assert f"<{LANES} x float>" in str(modules[name])
    assert f"llvm.fma.v{LANES}f32" in str(modules[name]) or not MACHINE.has_fma


@pytest.mark.skipif(not MACHINE.is_x86, reason="reads x86 assembly")
def test_the_accumulators_of_the_register_tile_do_not_spill():
    """The innermost loop of the widest tile: one fused multiply-add for each accumulator, and no store."""
    loops = _innermost_loops(compiler.assembly("linear", _dtypes("linear")))
    fmas = TILE_ROWS * TILE_VECTORS
    hot = [loop for loop in loops if sum("vfmadd" in line for line in loop) >= fmas] if MACHINE.lanes > 4 else []
    if MACHINE.lanes == 4:
        pytest.skip("SSE has no fused multiply-add to count")
    assert hot, "no loop holds all the accumulators"
    for loop in hot:
        assert not any(re.search(r"vmov\w+\s+%[xyz]mm\d+, .*\(%[er](sp|bp)", line) for line in loop), "\n".join(loop)


def _innermost_loops(assembly):
    """Lines between a label and a jump back to it, with no other label between."""
    loops, label, body = [], "", []
    for line in assembly.splitlines():
        if re.match(r"\.L\w+:", line):
            label, body = line.split(":")[0], []
        else:
            body.append(line)
            if re.match(r"\s+j\w+\s+" + re.escape(label) + r"$", line) and label:
                loops.append(body)
    return loops


def test_no_fast_math_but_contraction(modules):
    for name, module in modules.items():
        assert not re.search(
            r"\b(fast|nnan|ninf|reassoc|arcp|afn)\b f?(add|sub|mul|div)|f(add|sub|mul|div) (fast|nnan|ninf|reassoc)",
            str(module),
        ), name


def test_what_kernels_call_is_not_compiled_by_itself(modules):
    from fastmnist.kernels.cpu import matmul, pipeline

    results = matmul.product_nn.overloads.values()
    assert results
    for result in results:
        assert type(result.library) is pipeline._Ir
        with pytest.raises(TypeError):
            result.entry_point(1)


def test_functions_apart_are_called_and_the_others_inlined(modules):
    defined = {name: [f for f in modules[name].functions if not f.is_declaration] for name in ("conv2d", "adam")}
    assert len(defined["adam"]) == 1
    assert len(defined["conv2d"]) > 1


def test_a_kernel_with_another_signature_is_refused():
    from fastmnist.kernels.cpu.registry import kernel

    def add(total, part, R, Q, ld_part, ld_total):
        pass

    with pytest.raises(TypeError, match=r"add: the contract wants the parameters .*ld_total"):
        kernel(add)
