"""What the compiler made of the kernels: hand-written arithmetic, whole vectors, nothing borrowed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastmnist.kernels.contract import CONTRACT

compiler = pytest.importorskip("fastmnist.kernels.cpu.compiler")
from fastmnist.kernels.cpu.isa import LANES, MACHINE  # noqa: E402
from fastmnist.kernels.cpu.registry import KERNELS  # noqa: E402
from fastmnist.kernels.cpu.tile import TILE_ROWS, TILE_VECTORS  # noqa: E402

# What a kernel may call outside itself: LLVM's own intrinsics, the C library's memory functions, one logarithm.
ALLOWED = re.compile(r"llvm\.|memset$|memcpy$|memmove$|log$|syscall$|sched_yield$")


def _dtypes(name, first=True):
    pick = 0 if first else -1
    return tuple("float32" if o.dtypes[pick] == "float" else o.dtypes[pick] for o in CONTRACT[name].operands)


@pytest.fixture(scope="module")
def modules():
    return {name: compiler.entry_module(name, _dtypes(name)) for name in CONTRACT}


def test_every_op_of_the_contract_has_a_kernel():
    assert set(KERNELS) == set(CONTRACT)


def test_no_kernel_calls_a_library_for_its_arithmetic(modules):
    for name, module in modules.items():
        assert not re.search("gemm|gemv|cblas", str(module), re.IGNORECASE), name
        outside = [f.name for f in module.functions if f.is_declaration]
        assert all(ALLOWED.match(f) for f in outside), (name, outside)


def test_no_kernel_allocates_or_touches_the_interpreter(modules):
    for name, module in modules.items():
        assert not re.search(r"\bcall\b.*@(NRT_|Py|numba_|malloc)", str(module)), name


@pytest.mark.parametrize(
    "name", ["linear_relu", "linear_dx", "linear_dw", "sparse_linear_relu", "adam", "softmax_cross_entropy"]
)
def test_the_hot_loops_are_vectors(modules, name):
    assert f"<{LANES} x float>" in str(modules[name])
    assert f"llvm.fma.v{LANES}f32" in str(modules[name])


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


def test_a_kernel_with_another_signature_is_refused():
    from fastmnist.kernels.cpu.registry import kernel

    def add(total, part, R, Q, ld_part, ld_total):
        pass

    with pytest.raises(TypeError, match=r"add: the contract wants the parameters .*ld_total"):
        kernel(add)


@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])
@pytest.mark.skipif(not MACHINE.is_x86, reason="names of x86 processors")
def test_the_generator_serves_narrower_machines(cpu, tmp_path):
    """A product, a compressed product, a loss and Adam, on code for an older machine, against the oracle."""
    script = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from kernel_cases import assert_within_budget
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.isa import LANES
for op, dims in {
    "linear_relu": dict(B=17, I=33, O=65), "linear_dx": dict(B=17, I=33, O=65), "linear_dw": dict(B=17, I=33, O=65),
    "sparse_linear": dict(B=5, I=31, O=70), "softmax_cross_entropy": dict(B=7, C=10), "adam": dict(R=5, Q=37), "gelu": dict(B=3, O=37),
}.items():
    assert_within_budget(cpu.call, op, dims, strided=True)
print(LANES)
"""
    tests = Path(__file__).resolve().parent
    env = {**os.environ, "NUMBA_CPU_NAME": cpu, "FASTMNIST_CACHE_DIR": str(tmp_path)}
    arguments = [sys.executable, "-c", script, str(tests.parent), str(tests)]
    run = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == {"haswell": "8", "x86-64": "4"}[cpu]


ARM = """
import platform, re, sys
platform.machine = lambda: "aarch64"
sys.path.insert(0, sys.argv[1])
import llvmlite.binding as llvm
from fastmnist.kernels.cpu import compiler
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = "aarch64-unknown-linux-gnu"
text = str(compiler.entry_module("linear", ("float32",) * 4))
text = re.sub('target triple = ".*"', f'target triple = "{triple}"', text)
text = re.sub('target datalayout = ".*"', "", text)
text = re.sub('"target-(cpu|features)"="[^"]*"', "", text)
print(llvm.Target.from_triple(triple).create_target_machine(opt=3).emit_assembly(llvm.parse_assembly(text)))
"""


def test_the_generator_serves_arm(tmp_path):
    """The product's IR, made for 128-bit vectors and 32 registers, lowered for aarch64: fused multiply-adds, no spills."""
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "NUMBA_CPU_NAME": "generic", "FASTMNIST_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", ARM, root], env=env, capture_output=True, text=True, timeout=120)
    if "No available targets" in run.stderr or "unable to find target" in run.stderr.lower():
        pytest.skip("this llvmlite was built without the aarch64 target")
    assert run.returncode == 0, run.stderr
    blocks = re.split(r"\n\.L\w+:", run.stdout)
    fmas = [len(re.findall(r"fmla\s+v\d+\.4s", block)) for block in blocks]
    hot = blocks[fmas.index(max(fmas))]
    assert max(fmas) == 16  # 4 rows x 4 vectors, one for each accumulator
    assert not re.search(r"(str|stp|stur|ldr|ldp)\s+q\d+,.*\[sp", hot), hot
