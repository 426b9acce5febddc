"""Vector functions over their whole range, intrinsics against their twins, and the kernels without a compiler."""

import math
import os
import re
import subprocess
import sys
from inspect import signature
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


def _worst(exact, inside):
    """A compiled loop that finds the largest error of `y = f(x)` in ulp of the exact result, and the x where it is.

    Beyond the largest float32 lies 2^128, which an infinite result stands for; below the smallest normal number its ulp counts. Elsewhere NaN
    and numbers for each other are infinitely wrong.
    """

    @njit(error_model="numpy")
    def search(x, y):
        worst, at = 0.0, np.float32(np.nan)
        for i in range(len(x)):
            if not inside(x[i]):
                continue
            want, got = exact(np.float64(x[i])), np.float64(y[i])
            if math.isnan(want) or math.isnan(got):
                error = 0.0 if math.isnan(want) and math.isnan(got) else math.inf
            else:
                want, got = min(max(want, -(2.0**128)), 2.0**128), min(max(got, -(2.0**128)), 2.0**128)
                unit = 2.0 ** (min(math.frexp(max(abs(want), 2.0**-126))[1], 128) - 24)
                error = abs(got - want) / unit
            if error > worst:
                worst, at = error, x[i]
        return worst, at

    return search


CHUNK = 2**24
everywhere = njit(lambda x: True)
FUNCTIONS = {  # exact value in float64; where the function is meant to be called
    "exp": (njit(lambda x: math.exp(x)), everywhere),
    "expm1": (njit(lambda x: math.expm1(x)), njit(lambda x: not x > 0)),
    "log": (njit(lambda x: math.log(x)), njit(lambda x: 1.1754944e-38 <= x <= 3.4028235e38)),
    "log1p": (njit(lambda x: math.log1p(x)), njit(lambda x: 0 <= x <= 1)),
    "sigmoid": (njit(lambda x: 1 / (1 + math.exp(-x))), everywhere),
    "tanh": (njit(lambda x: math.tanh(x)), everywhere),
    "normal_cdf": (njit(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5))), everywhere),
    "normal_density": (njit(lambda x: math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)), everywhere),
}


def _assert_error_as_stated(name, step):
    """Every `step`-th of the 2^32 float32 patterns, so about as many in each binade; the bound is the docstring's."""
    function = getattr(mathematics, name)
    stated = float(re.search(r"Error at most ([\d.]+) ulp", function.py_func.__doc__)[1])
    apply, search = _mapped(function), _worst(*FUNCTIONS[name])
    worst, at = 0.0, np.float32(np.nan)
    for start in range(0, 2**32, CHUNK * step):
        patterns = np.arange(start, min(start + CHUNK * step, 2**32), step, dtype=np.int64).astype(np.uint32)
        x = np.resize(patterns, -(-len(patterns) // LANES) * LANES).view(np.float32)
        y = apply(x)
        worst, at = max((worst, at), search(x, y), key=lambda pair: pair[0])
    assert worst <= stated, f"{name}({at!r}) is off by {worst:.2f} ulp; its docstring says {stated}"
    assert worst > stated / 2, f"{name} is better than its docstring says: {worst:.2f} ulp at {at!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_of_each_function_is_what_its_docstring_states(name):
    _assert_error_as_stated(name, step=997)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "step"), [("exp", 1), *((name, 31) for name in FUNCTIONS if name != "exp")])
def test_the_error_of_each_function_over_more_of_its_range(name, step):
    """For exp over all float32 numbers there are."""
    _assert_error_as_stated(name, step)


def test_every_function_states_its_error():
    public = {
        name
        for name, value in vars(mathematics).items()
        if hasattr(value, "py_func") and not name.startswith("_") and len(signature(value.py_func).parameters) == 1
    }
    assert public == set(FUNCTIONS)


def test_exp_beyond_its_range():
    x = np.resize(np.float32([89, 1000, np.inf, -104, -1000, -np.inf, np.nan, 0]), LANES * 2)
    expected = np.resize(np.float32([np.inf, np.inf, np.inf, 0, 0, 0, np.nan, 1]), LANES * 2)
    np.testing.assert_array_equal(_mapped(mathematics.exp)(x), expected)


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
import kernel_sizes
from kernel_budget import assert_within_budget
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
sizes = {"B": 3, "I": 18, "O": 21, "C": 5, "R": 3, "Q": 19, "K": 18}
for op in CONTRACT:
    # Of images all sizes: which tile is used, and how, follows from them.
    every = [{d: sizes[d] for d in CONTRACT[op].dims if d in sizes}] if not {"Y", "V"} & set(CONTRACT[op].dims) else kernel_sizes.sizes(op)
    for dims in every:
        for variant in range(kernel_cases.n_variants(op)):
            assert_within_budget(interpret, op, dims, strided=True, variant=variant)
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
