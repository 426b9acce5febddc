"""The compiled kernels by name: `@kernel` puts a function in, checked against the contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ..contract import find

KERNELS: dict[str, Callable] = {}


def kernel(function: Callable) -> Callable:
    """Register `function` as the compiled implementation of the op of its name.

    Its parameters must be, in this order: the contract's operands (pointers), its params (float64), its dims (int64), and `ld_<name>` for each
    two-dimensional operand (int64, in elements). It is compiled when an executor first asks for its address.

    Raises
    ------
    TypeError
        The signature is not the contract's.
    """
    op = find(function.__name__)
    expected = [
        *(operand.name for operand in op.operands),
        *op.params,
        *op.dims,
        *(f"ld_{operand.name}" for operand in op.operands if len(operand.shape) == 2),
    ]
    actual = list(inspect.signature(function).parameters)
    if actual != expected:
        raise TypeError(f"{op.name}: the contract wants the parameters {expected}; got {actual}.")
    KERNELS[op.name] = function
    return function
