"""Vector functions over their whole range, intrinsics against their twins, and the kernels without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from fastmnist.kernels.cpu import mathematics, simd
from fastmnist.kernels.cpu.isa import LANES

pytestmark = pytest.mark.skipif(not simd.JIT, reason="Numba is switched off")
floats_at = simd.address_to["float32"]


def _mapped(f):
    """A compiled loop that applies a vector function to an array whose length is a multiple of LANES."""

    @njit
    def run(x_address, y_address, n):
        x, y = floats_at(x_address), floats_at(y_address)
        for i in range(0, n, LANES):
            simd.store(y, i, f(simd.load(x, i)))

    def apply(x):
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        run(x.ctypes.data, y.ctypes.data, len(x))
        return y

    return apply


def _ulps(got, exact):
    """Error in units in the last place of the exact float32 result."""
    unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(got.astype(np.float64) - exact) / unit


def _every_float(lo, hi, step=499):
    """Every `step`-th float32 between lo and hi of one sign, and both ends."""
    a, b = (np.float32(v).view(np.int32) for v in (lo, hi))
    bits = np.arange(min(a, b), max(a, b), step, dtype=np.int64).astype(np.int32)
    x = np.concatenate([bits.view(np.float32), np.float32([lo, hi])])
    return np.resize(x, -(-len(x) // LANES) * LANES)


@pytest.mark.parametrize(
    ("name", "exact", "lo", "hi", "ulps"),
    [
        ("exp", np.exp, -87.33, -1e-38, 1.0),
        ("exp", np.exp, 1e-38, 88.72, 1.0),
        ("exp", np.exp, -103.9, -87.34, 1.0),  # gradual underflow
        ("expm1", np.expm1, -20.0, -1e-38, 3.0),
        ("log", np.log, 1.2e-38, 3e38, 2.0),
        ("log1p", np.log1p, 1e-38, 1.0, 2.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), -87.0, -1e-38, 4.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 1e-38, 100.0, 2.0),
        ("tanh", np.tanh, 1e-38, 30.0, 2.0),
        ("tanh", np.tanh, -30.0, -1e-38, 2.0),
    ],
)
def test_the_error_of_each_function_is_what_is_stated(name, exact, lo, hi, ulps):
    x = _every_float(lo, hi)
    got = _mapped(getattr(mathematics, name))(x)
    error = _ulps(got, exact(x.astype(np.float64)))
    worst = int(error.argmax())
    assert not (error[worst] > ulps), f"{name}({x[worst]!r}) = {got[worst]!r} is off by {error[worst]:.2f} ulp"


def test_exp_beyond_its_range():
    x = np.resize(np.float32([89, 1000, np.inf, -104, -1000, -np.inf, np.nan, 0]), LANES * 2)
    expected = np.resize(np.float32([np.inf, np.inf, np.inf, 0, 0, 0, np.nan, 1]), LANES * 2)
    np.testing.assert_array_equal(_mapped(mathematics.exp)(x), expected)


def test_normal_cdf_keeps_its_left_tail():
    from scipy.special import ndtr

    x = np.resize(np.linspace(-12, 12, 4096, dtype=np.float32), 4096)
    exact = ndtr(x.astype(np.float64))
    got = _mapped(mathematics.normal_cdf)(x)
    assert not (np.abs(got - exact).max() > 2e-7)
    # exp(-x^2 / 2) amplifies the rounding of x^2 / 2 by up to 72 at the far end.
    assert not ((np.abs(got - exact) / exact).max() > 2e-5)


def test_masked_loads_and_stores_touch_the_lanes_they_name():
    @njit
    def copy(x_address, y_address, n):
        x, y = floats_at(x_address), floats_at(y_address)
        simd.store_n(y, 0, simd.load_n(x, 0, n) + simd.splat(np.float32(1)), n)

    x = np.arange(LANES, dtype=np.float32)
    for n in (-1, 0, 1, LANES - 1, LANES, LANES + 9):
        y = np.full(LANES, -5, np.float32)
        copy(x.ctypes.data, y.ctypes.data, n)
        kept = max(0, min(n, LANES))
        assert (y[:kept] == x[:kept] + 1).all()
        assert (y[kept:] == -5).all()


PLAIN = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import warnings
import numpy as np
import kernel_cases
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu import compiler, simd
from fastmnist.kernels.cpu.registry import KERNELS
assert not simd.JIT

def flat(array):
    if array.ndim == 1:
        return array
    span = (array.shape[0] - 1) * array.strides[0] // array.itemsize + array.shape[1] if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (span,), (array.itemsize,))

def interpret(op, *arrays, **params):
    "What a row of the table does, without a compiler: flat pointers, then params, sizes and leading dimensions."
    contract = CONTRACT[op]
    dims = contract.bind_dims([a.shape for a in arrays])
    strides = [a.strides[0] // a.itemsize for a in arrays if a.ndim == 2]
    KERNELS[op](*map(flat, arrays), *(params[p] for p in contract.params), *dims.values(), *strides)

warnings.simplefilter("ignore")
sizes = {"B": 3, "I": 18, "O": 21, "C": 5, "R": 3, "Q": 19}
for op in CONTRACT:
    dims = {d: sizes[d] for d in CONTRACT[op].dims if d in sizes}
    for variant in range(kernel_cases.n_variants(op)):
        kernel_cases.assert_within_budget(interpret, op, dims, strided=True, variant=variant)
print(len(CONTRACT))
"""


def test_every_kernel_is_right_in_plain_python():
    """The twins of the intrinsics, and that the kernels above them can be read and stepped through as Python."""
    tests = Path(__file__).resolve().parent
    run = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tests.parent), str(tests)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout) > 30
