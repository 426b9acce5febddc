"""The error of every op of the contract within the budget, whatever its sizes, strides and values; hypothesis draws them.

An op is covered by standing in the contract. One whose dimensions depend on each other is drawn from the sizes that `kernel_sizes.sizes` lists.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_budget import assert_within_budget
from kernel_cases import IN_PLACE, VALUES, _content, n_variants
from kernel_sizes import sizes

from fastmnist.kernels import cpu
from fastmnist.kernels.contract import CONTRACT

FREE = "BIOCRQ"  # dimensions of any size, each by itself
ROWS = st.integers(0, 70)  # none is a batch too
LENGTH = st.one_of(st.integers(1, 90), st.sampled_from([127, 128, 129, 255, 257]))


def _dims(op):
    """Strategy for an op's main dimensions."""
    listed = list(sizes(op))
    if not set(listed[0]) <= set(FREE):
        return st.sampled_from(listed)
    return st.fixed_dictionaries({name: ROWS if name == "B" else LENGTH for name in listed[0]})


def _judge(op, values, data):
    in_place = op in IN_PLACE and data.draw(st.booleans(), label="in_place")
    assert_within_budget(
        cpu.call,
        op,
        data.draw(_dims(op), label="dims"),
        values=values,
        strided="each",
        variant=data.draw(st.integers(0, n_variants(op) - 1), label="variant"),
        in_place=in_place,
        seed=data.draw(st.integers(0, 2**16), label="seed"),
    )


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("op", CONTRACT)
@settings(max_examples=4)
@given(data=st.data())
def test_the_error_is_within_the_budget(op, values, data):
    _judge(op, values, data)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("op", CONTRACT)
@settings(max_examples=100)
@given(data=st.data())
def test_the_error_is_within_the_budget_in_many_more_cases(op, values, data):
    _judge(op, values, data)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("op", [op for op in CONTRACT if "B" in CONTRACT[op].dims])
def test_an_empty_batch_is_no_work(op, values):
    """Nothing is written but sums over no rows, which are 0, and counts of no entries."""
    dims = next((d for d in sizes(op) if d.get("B") == 0), None)
    assert dims is not None, f"kernel_sizes.sizes({op!r}) has no empty batch"
    for variant in range(n_variants(op)):
        assert_within_budget(cpu.call, op, dims, values=values, strided="each", variant=variant)


def test_an_op_with_operands_of_a_new_kind_asks_for_values():
    with pytest.raises(LookupError, match=r"grow: .* no values for leaf \(int32\): add them"):
        _content("grow", "leaf", "int32", (3,), {}, "normal", np.random.default_rng(0))
