"""Kernels on MNIST's shapes: verified against the oracle, then timed. `pytest bench/bench_kernels.py --benchmark-only`.

`extra_info` of each record has GFLOP/s and GB/s of the contract's counts. Data are random; operands stay in cache between rounds (warm figures).
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import fastmnist.kernels.cpu as cpu
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT

# Batch, inputs, outputs of the default network's layers and of the wide one's.
LAYERS = [(32, 784, 128), (32, 128, 64), (32, 64, 10), (256, 784, 128), (64, 500, 250)]
FLOATS = np.random.default_rng(0)


def _array(*shape: int) -> np.ndarray:
    return FLOATS.standard_normal(shape, dtype=np.float32)


def _operands(op: str, dims: dict[str, int]) -> list[np.ndarray]:
    sizes = {**dims, "R": dims["I"], "Q": dims["O"], "S": 1}
    arrays = []
    for operand in CONTRACT[op].operands:
        if operand.name == "cursor":
            arrays.append(np.zeros(2, np.int64))
        elif operand.name == "v":
            arrays.append(np.abs(_array(sizes["R"], sizes["Q"])))
        else:
            arrays.append(_array(*(sizes[d] if not d.isdecimal() else int(d) for d in operand.shape)))
    return arrays


@pytest.mark.parametrize("dims", LAYERS, ids=lambda d: "x".join(map(str, d)))
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("op", ["linear_relu", "linear_dx", "linear_dw", "adam", "sgd", "tanh", "gelu"])
def bench_op(benchmark, op: str, backend: str, dims: tuple[int, int, int]) -> None:
    """One op on one layer."""
    contract = CONTRACT[op]
    arrays = _operands(op, dict(zip("BIO", dims, strict=True)))
    params = dict.fromkeys(contract.params, 0.9) | {k: 1e-8 for k in contract.params if k == "epsilon"}
    _verify(op, arrays, params)
    if backend == "numpy":
        function = getattr(reference, op)
        benchmark(lambda: function(*arrays, *params.values()))
    else:
        row = np.zeros(cpu.ROW_WORDS, np.int64)
        operands = [(a.ctypes.data, a.shape, a.strides[0] // 4 if a.ndim == 2 else 0, a.dtype.name) for a in arrays]
        cpu.encode(row, op, operands, list(params.values()))
        entry, address = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0])), row.ctypes.data
        benchmark(lambda: entry(address))
    benchmark.group = f"{op} {'x'.join(map(str, dims))}"
    sizes = contract.bind_dims([a.shape for a in arrays])
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["GFLOP/s"] = contract.flops(sizes) / seconds / 1e9
    benchmark.extra_info["GB/s"] = contract.nbytes(sizes) / seconds / 1e9


def _verify(op: str, arrays: list[np.ndarray], params: dict[str, float]) -> None:
    """A wrong kernel gets no number."""
    exact = [a.astype(np.float64) if a.dtype == np.float32 else a.copy() for a in arrays]
    ours = [a.copy() for a in arrays]
    getattr(reference, op)(*exact, *params.values())
    cpu.call(op, *ours, **params)
    for i in range(len(CONTRACT[op].outs)):
        assert not (np.abs(ours[i] - exact[i]).max() > 1e-5 * max(1, np.abs(exact[i]).max()))
