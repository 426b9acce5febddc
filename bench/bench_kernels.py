"""Every op of the contract on shapes of MNIST's networks, forward and backward: verified against the oracle, then timed.

    pytest bench/bench_kernels.py --benchmark-only [-k conv2d] [--benchmark-max-time 0.1] [--benchmark-json FILE]

Random operands, those of the kernels' tests, which stay in the cache between calls; `bench_cold` empties the level-2 cache before each. `extra_info`
has FLOPs and bytes by the contract, GFLOP/s, GB/s, and the part of the roof where this machine's are known (`fastmnist info --measure`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_budget import determined, run_reference
from kernel_cases import Case, make_case
from kernel_sizes import is_image_op

import fastmnist.kernels.cpu as cpu
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu.caches import CACHES
from fastmnist.profiling.machine import known_roofs

# Batch, inputs, outputs of the default network's layers and of wider ones.
LAYERS = [(32, 784, 128), (32, 128, 64), (32, 64, 10), (256, 784, 128), (64, 500, 250)]
# Images, height, width, channels, rows of the window, filters: both layers of LeNet-5, the second of PyTorch's example.
IMAGES = [(32, 28, 28, 1, 5, 6), (32, 14, 14, 6, 5, 16), (32, 26, 26, 32, 3, 64)]
READ_FROM_MEMORY = ["gather_rows", "sparse_linear_relu", "skipping_linear_relu", "linear_relu", "linear_dw", "adam"]
TOLERANCE = 1e-5  # of the largest value
# Of those that the tests draw: values with which an op does all of its work.
PARAMETERS = {"alpha": 1.0, "beta": 0.0, "rate": 0.5, "label_smoothing": 0.1}


def _of_layer(op: str, batch: int, inputs: int, outputs: int) -> dict[str, int]:
    sizes = {"B": batch, "I": inputs, "O": outputs, "C": 10, "R": inputs, "Q": outputs}
    needed = {
        *CONTRACT[op].dims,
        *("I" if op == "sparse_quads" else ""),
    }  # whose features are not seen in its operands' shapes
    return {name: size for name, size in sizes.items() if name in needed}


def _of_images(
    op: str, images: int, height: int, width: int, channels: int, window: int, filters: int
) -> dict[str, int] | None:
    """Dimensions and geometry; None where the op does not take such images."""
    contract, made = CONTRACT[op], (height - window + 1, width - window + 1)
    if ("grey" in op and channels > 1) or ("V" in contract.dims and window != 3):
        return None
    of = {
        "height": height,
        "width": width,
        "channels": channels,
        "stride": 1,
        "kernel_height": window,
        "kernel_width": window,
    }
    of |= {"pool_height": 2, "pool_width": 2, "pool_stride": 2}
    sizes = {"B": images, "X": height * width * channels, "Y": made[0] * made[1] * filters, "O": filters}
    sizes |= {"K": window * window * channels, "V": 36 * channels}
    if "top" in contract.params:
        border = window // 2
        of |= dict.fromkeys(("top", "bottom", "left", "right"), border)
        sizes["Y"] = (height + 2 * border) * (width + 2 * border) * channels
    elif "pooled" in op:
        sizes["Y"] = (made[0] // 2) * (made[1] // 2) * filters
    elif "pool_height" in contract.params:  # of the convolution's output
        of |= {"height": made[0], "width": made[1], "channels": filters, "stride": 2}
        sizes |= {"X": made[0] * made[1] * filters, "Y": (made[0] // 2) * (made[1] // 2) * filters}
    return {name: size for name, size in {**sizes, **of}.items() if name in (*contract.dims, *contract.params)}


def _shapes(op: str) -> list[dict[str, int]]:
    """Each different one once."""
    if is_image_op(op) or {"K", "Y"} & set(CONTRACT[op].dims):
        found = [_of_images(op, *image) for image in IMAGES]
    else:
        found = [_of_layer(op, *layer) for layer in LAYERS]
    return [shape for i, shape in enumerate(found) if shape is not None and shape not in found[:i]]


def _name(shape: dict[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in shape.items() if len(name) == 1)


CASES = [pytest.param(op, shape, id=f"{op}, {_name(shape)}") for op in CONTRACT for shape in _shapes(op)]
COLD = [pytest.param(op, _shapes(op)[0], id=op) for op in READ_FROM_MEMORY]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("op", "shape"), CASES)
def bench_op(benchmark: Any, op: str, shape: dict[str, int], backend: str) -> None:
    """One op on one shape, its operands in the cache."""
    case, call = _prepared(op, shape, backend)
    benchmark.group = f"{op}, {_name(shape)}"  # pytest-benchmark looks at it when it starts
    with np.errstate(all="ignore"):
        benchmark(call)
    _describe(benchmark, case, backend)


@pytest.mark.parametrize(("op", "shape"), COLD)
def bench_cold(benchmark: Any, op: str, shape: dict[str, int]) -> None:
    """One call after another's data have filled the level-2 cache."""
    case, call = _prepared(op, shape, "numba")
    benchmark.group = f"{op}, {_name(shape)}"
    others = np.zeros(4 * CACHES.get(2, 1 << 20), np.uint8)
    benchmark.pedantic(call, setup=lambda: others.fill(1), rounds=50)
    _describe(benchmark, case, "numba, cold")


def _prepared(op: str, shape: dict[str, int], backend: str) -> tuple[Case, Callable[[], object]]:
    """Operands and the call that is timed: compiled code by its address, as executors call it. A wrong kernel gets no number."""
    case = make_case(op, shape, np.random.default_rng(0))
    case.params |= {name: value for name, value in PARAMETERS.items() if name in case.params}
    arrays, params = list(case.arrays.values()), list(case.params.values())
    if backend == "numpy":
        function = getattr(reference, op)
        return case, lambda: function(*arrays, *params)
    _verify(case)
    row = np.zeros(cpu.ROW_WORDS, np.int64)
    operands = [
        (a.ctypes.data, a.shape, a.strides[0] // a.itemsize if a.ndim == 2 else 0, a.dtype.name) for a in arrays
    ]
    cpu.encode(row, op, operands, params)
    entry, address = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0])), row.ctypes.data
    kept = case, row  # the addresses lead here
    return case, lambda _kept=kept: entry(address)


def _verify(case: Case) -> None:
    """Beside the oracle in float64. Finer budgets, on uglier shapes, are the tests' matter: sums are longer here than those that NumPy cuts."""
    arrays, exact = {name: a.copy() for name, a in case.arrays.items()}, run_reference(case, np.float64)
    cpu.call(case.op, *arrays.values(), **case.params)
    for name in case.out_names:
        mask = determined(case, name)
        ours, theirs = arrays[name][mask].astype(np.float64), exact[name][mask].astype(np.float64)
        allowed = TOLERANCE * max(1.0, np.abs(theirs).max(initial=0.0))
        assert np.abs(ours - theirs).max(initial=0.0) <= allowed, f"{case}: {name} is wrong"


def _describe(benchmark: Any, case: Case, provider: str) -> None:
    contract = CONTRACT[case.op]
    flops, nbytes = float(contract.flops(case.dims)), float(contract.nbytes(case.dims))
    benchmark.extra_info.update({"provider": provider, "FLOPs": flops, "bytes": nbytes})
    if benchmark.stats is None:  # --benchmark-disable
        return
    seconds, roofs = benchmark.stats.stats.median, known_roofs()
    benchmark.extra_info.update({"GFLOP/s": flops / seconds / 1e9, "GB/s": nbytes / seconds / 1e9})
    if roofs is not None and flops and nbytes:
        roof = roofs.roof(flops / nbytes, max(roofs.gflops) if provider == "numpy" else 1)
        benchmark.extra_info["% of roof"] = 100 * flops / seconds / 1e9 / roof
