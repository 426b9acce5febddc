"""Other machines than this one: which vectors a processor gets, and that every kernel is right, or at least lowered well, for them.

Code for an older x86 processor and the portable fall-back run here, each in a process of its own with an empty cache; code for 64-bit ARM is
lowered and read.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu import isa, simd

TESTS = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(not simd.JIT, reason="Numba is switched off"),
    pytest.mark.timeout(1200),  # compiles everything, several times; seconds on an idle machine
]
on_x86 = pytest.mark.skipif(isa.MACHINE.architecture != "x86_64", reason="names of x86 processors")

# What the C library may be asked for: by kernels memory, logarithm and exponential of losses, by the walker the time and to sleep, on a futex or
# a while.
C_LIBRARY = {"memset", "memcpy", "memmove", "log", "exp"}
WAITING = {"clock_gettime", "syscall", "usleep"}


# --- which vectors ----------------------------------------------------------------------------------------------------


@on_x86
@pytest.mark.parametrize(
    ("name", "simd", "lanes", "registers"),
    [
        ("generic", "SSE2, without FMA", 4, 16),
        ("x86-64", "SSE2, without FMA", 4, 16),
        ("nehalem", "SSE2, without FMA", 4, 16),
        ("sandybridge", "SSE2, without FMA", 4, 16),
        ("haswell", "AVX2 and FMA", 8, 16),
        ("x86-64-v3", "AVX2 and FMA", 8, 16),
        ("znver3", "AVX2 and FMA", 8, 16),
        ("alderlake", "AVX2 and FMA", 8, 16),
        ("skylake-avx512", "AVX-512", 16, 32),
        ("icelake-server", "AVX-512", 16, 32),
        ("sapphirerapids", "AVX-512", 16, 32),
        ("graniterapids", "AVX-512", 16, 32),
        ("znver4", "AVX-512", 16, 32),
        ("znver5", "AVX-512", 16, 32),
        ("no-such-processor", "SSE2, without FMA", 4, 16),
    ],
)
def test_the_vectors_follow_from_the_processors_name(monkeypatch, name, simd, lanes, registers):
    monkeypatch.setenv("NUMBA_CPU_NAME", name)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    machine = isa.detect()
    assert (machine.cpu_name, machine.simd, machine.lanes, machine.registers) == (name, simd, lanes, registers)
    assert machine.has_fma is (lanes > 4)
    assert machine.is_known


@on_x86
def test_features_of_the_environment_count(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "znver4")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "-avx512f")
    assert isa.detect().lanes == 8
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "-fma")
    assert isa.detect().lanes == 4


def test_this_machine_is_taken_as_it_is_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    for name in ("", "host"):
        monkeypatch.setenv("NUMBA_CPU_NAME", name)
        machine = isa.detect()
        assert machine.cpu_name == llvm.get_host_cpu_name()
        assert machine.features == llvm.get_host_cpu_features().flatten()


@pytest.mark.parametrize(
    ("architecture", "simd", "registers", "known"),
    [("aarch64", "NEON", 32, True), ("arm64", "NEON", 32, True), ("riscv64", "no vector unit", 16, False)],
)
def test_other_architectures(monkeypatch, architecture, simd, registers, known):
    monkeypatch.setattr(isa.platform, "machine", lambda: architecture)
    machine = isa.detect()
    assert simd in machine.simd
    assert (machine.lanes, machine.registers, machine.is_known) == (4, registers, known)
    assert not machine.is_x86


# --- code that runs here ----------------------------------------------------------------------------------------------


def _python(arguments, tmp_path, **variables):
    """Run Python with an empty kernel cache; returns its output."""
    environment = {
        **os.environ,
        "FASTMNIST_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
        # Not set, Numba would add all features of this machine to the named one, in what the tests themselves compile.
        "NUMBA_CPU_FEATURES": "",
        **variables,
    }
    run = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    return run.stdout


# Each intrinsic and each tile at least once; the long test has all ops.
SOME = """
from kernel_budget import assert_within_budget
from kernel_sizes import sizes
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.isa import MACHINE
for op, dims in {
    "linear_relu": dict(B=17, I=33, O=65), "linear_dx": dict(B=17, I=33, O=65), "linear_dw": dict(B=17, I=33, O=65),
    "linear_dx_relu": dict(B=17, I=33, O=65),
    "sparse_linear": dict(B=5, I=31, O=70), "sparse_quads": dict(B=17, I=31), "skipping_quads": dict(B=17, I=131),
    "quad_linear": dict(B=5, I=31, O=70),
    "quad_linear_dw": dict(B=5, I=31, O=70), "skipping_linear": dict(B=20, I=150, O=70),
    "softmax_cross_entropy": dict(B=7, C=10), "binary_cross_entropy": dict(B=7, C=10),
    "adam": dict(R=5, Q=37), "gelu": dict(B=3, O=37), "tanh": dict(B=3, O=37), "elu": dict(B=3, O=37),
}.items():
    for values in ("normal", "huge", "special"):
        assert_within_budget(cpu.call, op, dims, strided=True, values=values)
for op in ("conv2d", "conv2d_dx", "max_pool", "block_linear"):
    for dims in list(sizes(op))[::6]:
        assert_within_budget(cpu.call, op, dims, strided=True)
print(MACHINE.lanes, MACHINE.has_fma)
"""


@on_x86
@pytest.mark.parametrize(("name", "lanes", "has_fma"), [("haswell", 8, True), ("x86-64", 4, False)])
def test_some_kernels_on_older_processors(name, lanes, has_fma, tmp_path):
    assert _python(["-c", SOME], tmp_path, NUMBA_CPU_NAME=name).split() == [str(lanes), str(has_fma)]


ALL = [
    "test_kernels.py", "test_kernel_errors.py", "test_simd.py", "test_machine_code.py", "test_executors.py", "test_forest_kernels.py",
    "test_image_layers.py", "test_sparse.py",
]  # fmt: skip


@pytest.mark.long
@on_x86
@pytest.mark.parametrize("name", ["haswell", "x86-64"])
def test_all_kernels_on_older_processors(name, tmp_path):
    """The same tests that this machine's code passes, the executors' included."""
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / file) for file in ALL)]
    output = _python(arguments, tmp_path, NUMBA_CPU_NAME=name)
    assert int(re.search(r"(\d+) passed", output)[1]) > 5 * len(CONTRACT)


UNKNOWN = """
import platform
platform.machine = lambda: "riscv64"  # before anything asks
import numpy as np
from click.testing import CliRunner
from fastmnist import MLPClassifier
from fastmnist.cli import main
from fastmnist.evaluation.explanation import explain
from fastmnist.kernels.cpu.isa import MACHINE
assert not MACHINE.is_known and MACHINE.lanes == 4 and not MACHINE.futex_number

rng = np.random.default_rng(0)
X = (rng.random((600, 40)) * (rng.random((600, 40)) < 0.3)).astype(np.float32)
y = (X @ rng.normal(size=(40, 5))).argmax(axis=1)
train = lambda backend: MLPClassifier((50,), batch_size=32, max_iter=5, random_state=0, backend=backend, n_threads=2).fit(X, y)
ours, oracle = train("numba"), train("numpy")
np.testing.assert_allclose(ours.loss_curve_, oracle.loss_curve_, rtol=1e-5)
for a, b in zip(ours.coefs_, oracle.coefs_):
    np.testing.assert_allclose(a, b, atol=2e-5)
print("ONE", ours.backend_reason_)
print("TWO", explain(MLPClassifier((50,), backend="numba"), X, y).reason)
print("THREE", CliRunner().invoke(main, ["info"], env={"COLUMNS": "300"}).output)
"""


@on_x86
def test_a_machine_without_vectors_that_we_know_trains_and_says_so(tmp_path):
    """The portable fall-back, forced: as on another architecture, compiled for the oldest 64-bit processor."""
    output = _python(["-c", UNKNOWN], tmp_path, NUMBA_CPU_NAME="generic")
    reason, explained, info = (re.sub(r"\s+", " ", part) for part in re.split("ONE|TWO|THREE", output)[1:])
    for text in (reason, explained, info):
        assert "no vector unit that fastmnist knows (riscv64): portable code, correct but slow" in text
    for text in (reason, explained):
        assert "backend='numpy' may be faster here" in text


# --- code that is read ------------------------------------------------------------------------------------------------

# Arguments: an architecture, a folder, ops or "walk". What this process' generator makes of each: of an op for x86 the assembly, else LLVM IR.
WRITE = """
import platform, sys
from pathlib import Path
architecture, folder = sys.argv[1], Path(sys.argv[2])
platform.machine = lambda: architecture
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu import compiler
make = compiler.assembly if architecture == "x86_64" else compiler.entry_module
for name in sys.argv[3:]:
    if name == "walk":
        text = compiler.walker_module()
    else:
        operands = CONTRACT[name].operands
        text = make(name, tuple("float32" if o.dtypes[0] == "float" else o.dtypes[0] for o in operands))
    (folder / name).write_text(str(text))
"""
# Innermost loops of the register tiles: op, and how many accumulators its widest one has with 32 and with 16 registers.
TILES = {
    "gemm_nn": (16, 8),
    "linear": (16, 8),
    "linear_dx": (16, 8),
    "linear_dx_relu": (16, 8),
    "linear_dw": (16, 8),
    "sparse_linear": (4, 4),  # one bank of four vectors, two of two
    "skipping_linear": (4, 4),
    "quad_linear_dw": (16, 8),  # four features
}
# The convolutions' with 16 registers. Its last vector is always a masked one, whose lanes are loaded one by one on ARM: no loop of a single block.
WINDOW_TILE = {"conv2d": 10}
MASKED = "vmaskmovps"


def _loops(assembly):
    """Bodies of the loops of one block: from a label to the first jump back to it."""
    found, label, body = [], "", []
    for line in assembly.splitlines():
        if match := re.match(r"(\.?L\w+):", line):
            label, body = match[1], []
        else:
            body.append(line)
            if label and re.match(rf"\s+[a-z].*\s{re.escape(label)}$", line):
                found.append(body)
                label, body = "", []
    return found


def _outside(assembly):
    """Names that calls refer to and the text does not define."""
    called = set(re.findall(r"\n\s+(?:bl|callq?|call\s+|tail)\s+\*?([A-Za-z_][\w.]*)", assembly))
    called |= set(re.findall(r"movabsq\s+\$([A-Za-z_][\w.]*)", assembly))
    return called - set(re.findall(r"\n([A-Za-z_][\w.]*):", assembly))


# One or two ops of each topic besides the tiles; the long test has all.
OF_EACH_TOPIC = ["conv2d", "max_pool", "batch_norm", "softmax_cross_entropy", "adam", "gelu", "dropout"]


@pytest.fixture(scope="module")
def arm(request, tmp_path_factory):
    """LLVM IR and assembly of ops and of the walker for 64-bit ARM."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    try:
        target = llvm.Target.from_triple(triple).create_target_machine(opt=3)
    except RuntimeError:
        pytest.skip("this llvmlite was built without the aarch64 target")
    folder = tmp_path_factory.mktemp("arm")
    names = [*getattr(request, "param", (*TILES, *OF_EACH_TOPIC)), "walk"]
    _python(["-c", WRITE, "aarch64", str(folder), *names], folder, NUMBA_CPU_NAME="generic")
    result = {}
    for name in names:
        text = (folder / name).read_text()
        bare = re.sub(r'target (triple|datalayout) = ".*"', "", text)
        result[name] = text, target.emit_assembly(llvm.parse_assembly(f'target triple = "{triple}"\n{bare}'))
    return result


@pytest.mark.parametrize("arm", [pytest.param(tuple(CONTRACT), id="all", marks=pytest.mark.long)], indirect=True)
def test_every_kernel_is_lowered_for_arm(arm):
    _assert_lowered_for_arm(arm)


def test_kernels_of_each_topic_are_lowered_for_arm(arm):
    _assert_lowered_for_arm(arm)


def _assert_lowered_for_arm(arm):
    """Vector multiply-adds stay vector multiply-adds, and nothing but the C library is called."""
    for name, (ir, assembly) in arm.items():
        assert _outside(assembly) <= (WAITING if name == "walk" else C_LIBRARY), (name, _outside(assembly))
        if "call <4 x float> @llvm.fma.v4f32(" in ir:
            assert re.search(r"\bfmla\s+v\d+\.4s", assembly), name


@pytest.mark.parametrize("op", TILES)
def test_the_register_tiles_do_not_spill_on_arm(arm, op):
    _assert_no_spills(arm[op][1], r"\bfmla\s+v\d+\.4s", TILES[op][0], r"\[sp\b")


@pytest.fixture(scope="module")
def avx2(tmp_path_factory):
    """Assembly of the tiles and of other loops of vectors for AVX2, by op."""
    folder = tmp_path_factory.mktemp("avx2")
    names = [*TILES, *WINDOW_TILE, "softmax", "adam"]
    _python(["-c", WRITE, "x86_64", str(folder), *names], folder, NUMBA_CPU_NAME="haswell")
    return {name: (folder / name).read_text() for name in names}


@pytest.mark.parametrize("op", [*TILES, *WINDOW_TILE])
@on_x86
def test_the_register_tiles_do_not_spill_on_avx2(avx2, op):
    """Whole tiles. With an index a place on the stack is no spilled register, but the table of scaled bytes."""
    accumulators = WINDOW_TILE[op] if op in WINDOW_TILE else TILES[op][1]
    without = None if op in WINDOW_TILE else MASKED
    _assert_no_spills(avx2[op], r"\bvfmadd\d+ps\s.*%ymm\d", accumulators, r"\(%rsp\)", without)


@pytest.mark.parametrize("op", [*TILES, *WINDOW_TILE])
@on_x86
def test_ragged_edges_use_a_mask_that_lasts_on_avx2(avx2, op):
    """One comparison at most makes it; packed from two halves it took a third of such a loop."""
    loops = [body for body in _loops(avx2[op]) if any(MASKED in line for line in body)]
    assert loops or op == "gemm_nn"
    for body in loops:
        assert not any("vpack" in line for line in body), "\n".join(body)


@on_x86
def test_code_for_avx2_has_nothing_newer(avx2):
    """Numba's own target would have all features of this machine, whatever the name."""
    for name, assembly in avx2.items():
        assert re.search(r"vfmadd\d+ps\s.*%ymm", assembly), name
        assert not re.search(r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b", assembly), name
        assert _outside(assembly) <= C_LIBRARY, (name, _outside(assembly))


def _assert_no_spills(assembly, multiply_add, accumulators, stack, without=None):
    """Of loops with so many multiply-adds, or more where they are unrolled."""
    hot = [
        body
        for body in _loops(assembly)
        if sum(bool(re.search(multiply_add, line)) for line in body) >= accumulators
        and not (without and any(without in line for line in body))
    ]
    assert hot, f"no loop has {accumulators} multiply-adds"
    for body in hot:
        assert not any(re.search(stack, line) for line in body), "\n".join(body)
