"""The table of ops: complete, consistent with the oracle, and its check teaches."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from kernel_cases import make_case, n_variants
from kernel_sizes import sizes

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, JOBS, check


@pytest.mark.parametrize("op", CONTRACT)
def test_oracle_has_the_contract_s_signature(op):
    contract = CONTRACT[op]
    expected = [*(operand.name for operand in contract.operands), *contract.params]
    assert list(inspect.signature(getattr(reference, op)).parameters) == expected


def test_oracle_has_no_op_that_the_contract_lacks():
    functions = {
        name
        for name, value in inspect.getmembers(reference, inspect.isfunction)
        if not name.startswith("_") and value.__module__.startswith(f"{reference.__name__}.")
    }
    assert functions - {"philox4x32"} == {*CONTRACT, *JOBS}


@pytest.mark.parametrize("op", CONTRACT)
def test_op_is_described(op):
    contract = CONTRACT[op]
    assert contract.name == op
    assert contract.doc.endswith(".")
    names = [operand.name for operand in contract.operands]
    assert len(set(names)) == len(names)
    assert set(contract.updates) <= {operand.name for operand in contract.outs}
    assert contract.outs


@pytest.mark.parametrize("op", CONTRACT)
def test_oracle_returns_none_and_check_finds_the_dims(op):
    rng = np.random.default_rng(0)
    for dims in sizes(op):
        for variant in range(n_variants(op)):
            case = make_case(op, dims, rng, variant=variant)
            assert check(op, *case.arrays.values()) == case.dims
            assert getattr(reference, op)(*case.arrays.values(), **case.params) is None


# Ops that move or count and do no floating-point arithmetic.
_NO_FLOPS = {
    "advance",
    "scatter_rows",
    "count_nonzeros",
    "compress_rows",
    "occupied_blocks",
    "pack_blocks",
    "sparse_quads",
    "skipping_quads",
    "transpose",
    "pad",
    "crop",
    "dropout",
    "dropout_backward",
}


@pytest.mark.parametrize("op", CONTRACT)
def test_costs_are_positive_and_grow_with_the_batch(op):
    contract = CONTRACT[op]
    small = dict.fromkeys(contract.dims, 12) | ({"P": 13} if "P" in contract.dims else {})
    assert contract.nbytes(small) > 0
    assert contract.flops(small) > 0 or op in _NO_FLOPS
    rows = next((d for d in "BR" if d in contract.dims), None)
    if rows:
        large = small | {rows: 24}
        assert contract.nbytes(large) > contract.nbytes(small)
        assert contract.flops(large) > contract.flops(small) or op in _NO_FLOPS
    empty = {d: 1 if d == "P" else 0 for d in contract.dims}
    assert contract.flops(empty) >= 0
    assert contract.nbytes(empty) >= 0


def test_cost_of_linear_by_hand():
    dims = {"B": 2, "I": 3, "O": 5}
    assert CONTRACT["linear"].flops(dims) == 2 * 2 * 3 * 5
    assert CONTRACT["linear"].nbytes(dims) == 4 * (2 * 5 + 2 * 3 + 3 * 5 + 5)
    # dw is read and written: 15 elements twice.
    assert CONTRACT["linear_dw_add"].nbytes(dims) == 4 * (2 * 15 + 6 + 10)


def _linear(dtype=np.float32):
    return [np.zeros(shape, dtype) for shape in ((2, 5), (2, 3), (3, 5), (5,))]


def test_check_names_an_unknown_op():
    with pytest.raises(ValueError, match=r"Unknown op 'liner'; known: .*\blinear\b"):
        check("liner", *_linear())


def test_check_counts_the_arrays():
    with pytest.raises(ValueError, match=r"linear takes 4 arrays \(y, x, w, b\); got 3"):
        check("linear", *_linear()[:3])


def test_check_names_the_operand_with_the_wrong_dtype():
    y, x, w, b = _linear()
    with pytest.raises(TypeError, match="linear: w must have dtype float32; got float64"):
        check("linear", y, x, w.astype(np.float64), b)
    with pytest.raises(TypeError, match="gather_rows: source must have dtype uint8 or float32; got int16"):
        check("gather_rows", x, np.zeros((4, 3), np.int16), np.zeros(4, np.int64), np.zeros(2, np.int64))


def test_check_lets_the_oracle_have_float64():
    assert check("linear", *_linear(np.float64), backend="numpy") == {"B": 2, "O": 5, "I": 3}
    with pytest.raises(TypeError, match="y must have dtype float32; got float64"):
        check("linear", *_linear(np.float64))


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (1, (3, 3), r"linear: x must have shape \(B, I\) with B = 2; got \(3, 3\)"),
        (2, (4, 5), r"linear: w must have shape \(I, O\) with I = 3; got \(4, 5\)"),
        (3, (6,), r"linear: b must have shape \(O\) with O = 5; got \(6,\)"),
        (3, (5, 1), r"linear: b must have shape \(O\); got \(5, 1\)"),
    ],
)
def test_check_names_the_operand_with_the_wrong_shape(index, shape, message):
    arrays = _linear()
    arrays[index] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        check("linear", *arrays)


def test_check_knows_fixed_sizes():
    with pytest.raises(ValueError, match=r"advance: cursor must have shape \(2\) with 2 = 2; got \(3,\)"):
        check("advance", np.zeros(3, np.int64))
